"""What a job is told when it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.settings import Settings


@dataclass(frozen=True, slots=True)
class JobContext:
    """Given to a job function that has a parameter named ``context``.

    Attributes:
        job_id: The job's ID in the job file.
        instant: The instant that this run belongs to; for start and shutdown the moment itself. In UTC.
        started_at: When the application started; for a job with ``once: process`` when this process did. In UTC.
        settings: The merged settings at the beginning of the run.
        config_dir: The config directory.
        state_dir: Where state is kept; ``None`` where no directory can be written.
        clock: Where the time comes from.
        logger: Lifebeat's logger.
        timeout: How long the run may take; ``None`` for as long as it likes.
        read_settings: The merged settings as they are now, for a second look.
        background: Runs a function in a daemon thread of that name, unless one of that name is at work.
        later: Runs a function after some time, on the scheduler; a second call under the same name replaces the first.
        agree_on_id: Gives the instance ID that all machines agree on, made if there is none; ``None`` where config and
            state decide.
    """

    job_id: str
    instant: datetime
    started_at: datetime
    settings: Settings
    config_dir: Path
    state_dir: Path | None
    clock: Clock
    logger: logging.Logger
    timeout: timedelta | None
    read_settings: Callable[[], Settings]
    background: Callable[[str, Callable[[], None]], None]
    later: Callable[[str, timedelta, Callable[[], None]], None]
    agree_on_id: Callable[[], str | None] | None = None

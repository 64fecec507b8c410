"""What a job gets when it runs, and what a job module may offer beside its jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.log import Logger
    from lifebeat.settings.table import Settings


@dataclass(frozen=True, slots=True)
class Consent:
    """Whether telemetry may record and send: the one answer that all parts read.

    Attributes:
        state: ``on``; ``off``, as a layer says so; or ``paused``, as a mistake has to be fixed first: nothing is made,
            recorded, sent or deleted meanwhile.
        reason: Why, in words for people.
        source: The layer, file and line, or notice that decided.
    """

    state: Literal["on", "off", "paused"]
    reason: str
    source: str

    @property
    def is_on(self) -> bool:
        """Return whether anything may be recorded and sent."""
        return self.state == "on"

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})"


@dataclass(frozen=True, slots=True)
class JobContext:
    """Given to a job function that has a parameter named ``context``.

    Attributes:
        job_id: The job's ID in the job file.
        instant: The instant that this run belongs to; for start and shutdown the moment itself. In UTC.
        started_at: When the application started; for a job with ``once: process`` when this process did. In UTC.
        uptime: How long ago that was, by boot time: right although the wall clock was set.
        settings: The merged settings at the beginning of the run.
        instance_id: The random ID of the installation; ``None`` where there is none yet.
        config_dir: The config directory.
        state_dir: Where state is kept; ``None`` where no directory can be written.
        clock: Where the time comes from.
        logger: Lifebeat's logger.
        timeout: How long the run may take; ``None`` for no limit.
        read_settings: Returns the merged settings as they are now.
        read_consent: Returns whether telemetry may record and send now.
        background: Runs a function in a daemon thread of that name, unless one of that name is at work.
        later: Runs a function after some time, on the scheduler; a second call under the same name replaces the first.
    """

    job_id: str
    instant: datetime
    started_at: datetime
    uptime: timedelta
    settings: Settings
    instance_id: str | None
    config_dir: Path
    state_dir: Path | None
    clock: Clock
    logger: Logger
    timeout: timedelta | None
    read_settings: Callable[[], Settings]
    read_consent: Callable[[], Consent]
    background: Callable[[str, Callable[[], None]], object]
    later: Callable[[str, timedelta, Callable[[], None]], None]


class JobModule(Protocol):
    """What a job module may offer beside its jobs; ``lifebeat`` reaches telemetry through this and the job file only.

    All of it is optional.
    """

    def status(self, context: JobContext) -> dict[str, Any]:
        """Return what an operator wants to know."""
        ...

    def preview(self, context: JobContext, name: str | None = None) -> list[str]:
        """Return the exact bytes that would be sent now, of all events or of the one called ``name``."""
        ...

    def request_preview(self, context: JobContext, name: str | None = None) -> str:
        """Return whole requests as they would be sent now, headers included."""
        ...

    def describe(self, context: JobContext) -> str:
        """Return the page for the application's own users: what is sent, where, how often, how to turn it off."""
        ...

    def contract(self, context: JobContext) -> str:
        """Return what the application can send, as JSON that changes only when that does."""
        ...

    def accept(self, context: JobContext) -> list[str]:
        """Agree to everything that this version wants to send, and return what is new in it."""
        ...

    def warnings(self, context: JobContext) -> list[str]:
        """Return what is sent otherwise than it was set."""
        ...

    def flush(self, context: JobContext, timeout: timedelta | None) -> int:
        """Deliver what is pending within ``timeout``, and return how many events were delivered."""
        ...

    def entries(self, context: JobContext, limit: int) -> list[dict[str, Any]]:
        """Return the latest recorded events, newest first, each with what became of it."""
        ...

    def withdrawn(self, context: JobContext) -> None:
        """Forget what is pending: its jobs were turned off."""
        ...

    def leaving(self, context: JobContext) -> None:
        """Deliver what is pending, within time: the application stops, or this process of it on its machine."""
        ...

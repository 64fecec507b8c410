"""What a job function gets, for a test that calls it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat.errors import ConfigError
from lifebeat.lifecycle.application import Application
from lifebeat.log import get_logger
from lifebeat.settings.source import ConfigSource
from lifebeat.testing.clock import FakeClock
from lifebeat.testing.environment import telemetry_allowed

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from lifebeat.clock import Clock
    from lifebeat.context import JobContext

_SETTINGS = {
    "appName": "notes",
    "appVersion": "1.4.2",
    "telemetryApiKey": "phc_test",
    "telemetryHost": "http://127.0.0.1:9",  # where nothing listens
    "telemetryInstanceId": "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11",
}


def make_context(
    directory: str | os.PathLike[str],
    *,
    clock: Clock | None = None,
    job_id: str = "job",
    instant: datetime | None = None,
    uptime: timedelta | None = None,
    timeout: timedelta | None = None,
    **settings: Any,
) -> JobContext:
    """Return what a job function gets, as in a run of an application that has a config directory of its own.

    What the job sends is sent before it goes on, and to this machine only; what the environment says is left out.

    Args:
        directory: The config directory, such as pytest's ``tmp_path``; the state is below it.
        clock: Where the time comes from; ``None`` for a ``FakeClock`` at 2026-01-01T00:00:00Z.
        job_id: The job's ID.
        instant: The instant of the run; ``None`` for the clock's time.
        uptime: How long the application has run; ``None`` for no time at all.
        timeout: How long the run may take; ``None`` for no limit.
        settings: Settings by their names in files, such as ``telemetryHost=server.url``.

    Raises:
        ConfigError: A setting is not valid.
    """
    source = ConfigSource(
        Path(directory), arguments=_SETTINGS | settings, environ=telemetry_allowed({}), modules={"_pytest": None}
    )
    application = Application(source, allow=(), clock=clock or FakeClock(), logger=get_logger())
    if problems := source.read().problems:
        raise ConfigError(*problems)
    return application.context(job_id, instant=instant, uptime=uptime, timeout=timeout, background=_at_once)


def _at_once(_name: str, work: Callable[[], None]) -> None:
    work()

"""What an application runs, as config says it now: for the processes that run it and for commands that look."""

from __future__ import annotations

import importlib
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lifebeat import clock as clocks
from lifebeat import consent, installation, record, steering
from lifebeat.context import JobContext
from lifebeat.errors import ConfigError
from lifebeat.history import History
from lifebeat.jobfile import reader as jobfile
from lifebeat.schedule.instants import SECOND, to_datetime
from lifebeat.storage import state_dir as statedir
from lifebeat.storage import threads
from lifebeat.storage.safe_file import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime
    from pathlib import Path
    from types import ModuleType

    from lifebeat.clock import Clock, Moment
    from lifebeat.context import Consent
    from lifebeat.jobfile.spec import JobFile, JobSpec
    from lifebeat.log import Logger
    from lifebeat.settings.source import ConfigSource


class Application:
    """One application's settings, job file, consent, state and identity.

    Args:
        source: Where the settings come from.
        allow: The modules that the job file may name, besides ``lifebeat_jobs``.
        clock: Where the time comes from.
        logger: Where to say what must be said.
    """

    def __init__(self, source: ConfigSource, *, allow: Sequence[str], clock: Clock, logger: Logger) -> None:
        self.source = source
        self.allow = tuple(allow)
        self.clock = clock
        self.logger = logger
        self._loaded: tuple[object, JobFile] | None = None
        self._said: set[str] = set()
        self._present: set[Path] = set()

    def files(self) -> list[Path]:
        """Return the files that the plan is made from; they need not exist."""
        return [*self.source.files(), self.source.job_file]

    def watched(self) -> list[Path]:
        """Return the files that a running process follows: those of the plan, and what was ordered for its jobs."""
        state = self.state_dir(create=False)
        return [*self.files(), *([] if state is None else [state / record.FILE_NAME])]

    def load(self, *, import_disabled: bool = False) -> JobFile:
        """Return the job file as it is now, with the overlay and the settings on it; while it is gone, as it was."""
        settings, own = self.source.read(), self.source.job_file
        if self._loaded is not None and own in self._present and not _has_content(own):
            return self._loaded[1]
        state = ([fingerprint(path) for path in self.files()], settings, import_disabled)
        if self._loaded is None or self._loaded[0] != state:
            found = jobfile.load(
                jobfile.job_file(self.source.config_dir),
                settings,
                overlay=self.source.overlay,
                allow=self.allow,
                import_disabled=import_disabled,
            )
            self._loaded = (state, found)
        return self._loaded[1]

    def gone(self) -> list[Path]:
        """Return the files that were there and are missing or empty now: that is no edit."""
        there = {path for path in self.files() if _has_content(path)}
        gone = sorted(self._present - there)
        self._present |= there
        return gone

    def check(self) -> JobFile:
        """Return the job file for a host: a fault in telemetry's jobs pauses telemetry, one in the host's own raises.

        Raises:
            ConfigError: The host's own jobs have a fault.
        """
        found = self.load()
        if found.host_problems:
            raise ConfigError(*found.host_problems)
        for problem in dict.fromkeys((*self.source.read().problems, *found.problems)):
            self.say_once(f"problem:{problem}", f"telemetry is paused until this is fixed: {problem}")
        for warning in self.source.read().warnings:
            self.say_once(f"warning:{warning}", str(warning))
        return found

    def consent(self) -> Consent:
        """Return whether telemetry may record and send now."""
        return consent.decide(self.source.read(), self.load())

    def state_dir(self, *, create: bool) -> Path | None:
        """Return where state is kept; ``None`` where no directory can be written."""
        settings = self.source.read()
        found = statedir.state_dir(
            setting=settings.state_dir,
            environ=self.source.environ,
            config_dir=self.source.config_dir,
            app_name=settings.app_name,
            create=create,
        )
        if found.path is None:
            self.say_once("state_dir", f"no directory for state: {found.reason}")
        return found.path

    @property
    def dies_with_container(self) -> str | None:
        """Return a warning where the state is gone when the container is replaced; ``None`` where it stays."""
        found = self.state_dir(create=False)
        if found is None or not statedir.dies_with_container(found, self.source.environ):
            return None
        return (
            f"the state directory {str(found)!r} is gone when this container is replaced, and each replacement counts "
            "as a new installation; mount a volume there, or set telemetryStateDir to a directory on one"
        )

    def instance_id(self) -> str | None:
        """Return the ID of the installation if there is one; makes nothing."""
        return installation.known_id(self.source.read(), self.state_dir(create=False))

    def seed(self) -> str:
        """Return what phases and jitter are made from: the ID, or where there is none something that stays here."""
        return self.instance_id() or self._machine

    @cached_property
    def _machine(self) -> str:
        return installation.seed(self.source.config_dir)

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return to_datetime(int(self.clock.time() * SECOND))

    def context(
        self,
        job_id: str,
        *,
        instant: datetime | None = None,
        started: Moment | None = None,
        uptime: timedelta | None = None,
        timeout: timedelta | None = None,
        background: Callable[[str, Callable[[], None]], object] = threads.start,
        later: Callable[[str, timedelta, Callable[[], None]], None] = lambda name, delay, work: None,  # noqa: ARG005 - nothing runs later here
    ) -> JobContext:
        """Return what a job gets; for commands that look, as if the application had started just now."""
        settings, state = self.source.read(), self.state_dir(create=False)
        if started is None:
            started = clocks.now(self.clock)
        if uptime is None:
            uptime = timedelta(seconds=clocks.seconds_since(started, self.clock))
        return JobContext(
            job_id=job_id,
            instant=instant or self.now(),
            started_at=to_datetime(int(started.wall * SECOND)),
            uptime=uptime,
            settings=settings,
            instance_id=installation.known_id(settings, state),
            config_dir=self.source.config_dir,
            state_dir=state,
            clock=self.clock,
            logger=self.logger,
            timeout=timeout,
            read_settings=self.source.read,
            read_consent=self.consent,
            background=background,
            later=later,
        )

    def may_run(self, job_id: str, at: datetime) -> bool:
        """Return whether a job is not paused; what came in its pause is not run after it either."""
        ordered = steering.read(self.state_dir(create=False)).get(job_id)
        return ordered is None or not any(map(ordered.is_paused, (at.timestamp(), self.clock.time())))

    def history(self) -> History:
        """Return where runs are remembered; for who has opted out no file is made, and one that is there is used."""
        return History(
            self.state_dir(create=False),
            clock=self.clock,
            kept=lambda: self.source.read().run_history,
            may_make=lambda: not (self.source.read().opted_out or self.load().opted_out),
            warn=lambda message: self.say_once("history", message),
        )

    def say_once(self, key: str, message: str) -> None:
        """Write one warning for each ``key`` in a process's life."""
        if key not in self._said:
            self._said.add(key)
            self.logger.warning("%s", message)


def _has_content(path: Path) -> bool:
    found = fingerprint(path)
    return found is not None and not (isinstance(found, bytes) and not found.strip())


def offers(specs: Iterable[JobSpec], name: str) -> list[Callable[..., Any]]:
    """Return the functions called ``name`` that the modules of jobs offer beside the jobs (``context.JobModule``)."""
    return [getattr(module, name) for module in _modules(specs) if hasattr(module, name)]


def _modules(specs: Iterable[JobSpec]) -> list[ModuleType]:
    names = dict.fromkeys(spec.run.partition(":")[0] for spec in specs)
    return [importlib.import_module(name) for name in names]

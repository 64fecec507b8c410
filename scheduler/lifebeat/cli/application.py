"""The application that a command speaks of, as it is known from outside: its settings, jobs, state and consent."""

from __future__ import annotations

import difflib
import importlib
import os
import stat
import sys
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from lifebeat import consent, installation
from lifebeat.clock import SystemClock
from lifebeat.context import JobContext
from lifebeat.errors import LifebeatError
from lifebeat.jobfile import reader
from lifebeat.log import get_logger
from lifebeat.schedule.instants import SECOND, to_datetime
from lifebeat.settings.source import ConfigSource, config_dir
from lifebeat.settings.table import BY_NAME

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lifebeat.context import Consent, JobModule
    from lifebeat.errors import Problem
    from lifebeat.installation import Record
    from lifebeat.jobfile.spec import JobFile
    from lifebeat.settings.table import Settings

TELEMETRY = "lifebeat_jobs.telemetry"
NOBODY_YET = "host argument (no application has run here yet; what it passes in code is not known)"


class Application:
    """What a command knows of the application; looking at it changes nothing.

    Args:
        args: The options that all commands share.
        environ: The environment.
        remember: Whether an opt-out that is seen is put down, by a command that changes something anyway.
    """

    def __init__(
        self, args: argparse.Namespace, environ: Mapping[str, str] = os.environ, *, remember: bool = False
    ) -> None:
        self.clock = SystemClock()
        self.logger = get_logger()
        self.source = source_of(args, environ)
        self.record = None if args.arguments else self._read_record()
        if self.record is not None:
            self.source = source_of(args, {**self.record.environment, **environ}, self.record)
        began = self.record.started[0] if self.record else None
        self.source.earlier_opt_out = consent.EarlierOptOut(self.source, self.clock, remember=remember, began=began)
        allowed = self.record.allow if self.record else args.arguments.get("allow", ())
        self.allow: tuple[str, ...] = (*allowed, *args.allow)

    def _read_record(self) -> Record | None:
        return installation.read_record(installation.state_dir(self.source, self.source.read()))

    @property
    def config_dir(self) -> Path:
        """The config directory."""
        return self.source.config_dir

    @cached_property
    def settings(self) -> Settings:
        """The merged settings."""
        return self.source.read()

    @cached_property
    def jobs(self) -> JobFile:
        """The job file, with the overlay and the settings on it."""
        return self.read_jobs()

    def forget(self) -> None:
        """Read everything again when it is asked for: a command has changed it."""
        for name in ("settings", "jobs", "consent", "state_dir", "instance_id", "seed"):
            self.__dict__.pop(name, None)

    def read_jobs(self, *, import_disabled: bool = False) -> JobFile:
        """Return the job file; with ``import_disabled`` the functions of jobs that are off are looked at too."""
        return reader.load(
            reader.job_file(self.config_dir),
            self.settings,
            overlay=self.source.overlay,
            allow=self.allow,
            import_disabled=import_disabled,
        )

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong in settings and jobs."""
        return tuple(dict.fromkeys((*self.settings.problems, *self.jobs.problems)))

    @cached_property
    def consent(self) -> Consent:
        """Whether telemetry may record and send."""
        return consent.decide(self.settings, self.jobs)

    @cached_property
    def state_dir(self) -> Path | None:
        """Where state is kept; ``None`` where no directory can be written."""
        return installation.state_dir(self.source, self.settings)

    @cached_property
    def unseen(self) -> str | None:
        """Why this user cannot see the state; ``None`` if it can be seen, or there is none."""
        places = [self.config_dir, *([self.state_dir] if self.state_dir else [])]
        return next(filter(None, map(_hidden, places)), None)

    @cached_property
    def instance_id(self) -> str | None:
        """The installation's ID; ``None`` where there is none yet."""
        return installation.known_id(self.settings, self.state_dir)

    @cached_property
    def seed(self) -> str:
        """What phases and jitter are made from."""
        return self.instance_id or installation.seed(self.config_dir)

    @property
    def telemetry(self) -> JobModule:
        """What the telemetry job module offers beside its jobs; imported when a command asks for it."""
        _ = self.jobs  # their modules may declare events
        return cast("JobModule", importlib.import_module(TELEMETRY))

    def context(self, command: str) -> JobContext:
        """Return what a job of this application would be given now."""
        now = to_datetime(int(self.clock.time() * SECOND))
        return JobContext(
            job_id=command,
            instant=now,
            started_at=now,
            uptime=timedelta(0),
            settings=self.settings,
            instance_id=self.instance_id,
            config_dir=self.config_dir,
            state_dir=self.state_dir,
            clock=self.clock,
            logger=self.logger,
            timeout=None,
            read_settings=self.source.read,
            read_consent=lambda: consent.decide(self.source.read(), self.jobs),
            background=_in_nobody,
            later=_never,
        )


def _hidden(directory: Path) -> str | None:
    try:
        found = directory.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{directory}: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return f"{directory}: is not a directory"
    if os.access(directory, os.R_OK | os.X_OK):
        return None
    return f"{directory}: this user may not read it; run the command as its owner"


def _in_nobody(name: str, work: Callable[[], None]) -> None:
    """Start nothing: a command does its work itself."""


def _never(name: str, delay: timedelta, work: Callable[[], None]) -> None:
    """Promise nothing: a command is over before."""


def source_of(
    args: argparse.Namespace, environ: Mapping[str, str] = os.environ, record: Record | None = None
) -> ConfigSource:
    """Return where the settings come from that the shared options describe.

    Args:
        args: The options that all commands share, with the arguments of the application whose command this is.
        environ: The environment.
        record: What the application's latest process was told; ``None`` where none is known.

    Raises:
        LifebeatError: An option names no setting, or the working directory is gone.
    """
    given = args.arguments
    directory = config_dir(args.config or given.get("config_dir"), environ)
    if not directory.is_absolute():
        try:
            os.getcwd()  # noqa: PTH109 - only whether there is one
        except OSError as error:
            raise LifebeatError(
                f"the working directory cannot be used ({error.strerror}); name the config directory: --config /..."
            ) from None
    return ConfigSource(
        directory,
        arguments=record.arguments if record else {key.name: given.get(key.attribute) for key in BY_NAME.values()},
        arguments_label=record.label if record else "host argument" if given else NOBODY_YET,
        command_line=_assignments(args.set),
        environ=environ,
        modules=sys.modules,
        deployment=args.deployment,
    )


def _assignments(written: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in written:
        key, equals, value = one.partition("=")
        check_known(key)
        if not equals:
            raise LifebeatError(f"--set {one!r}: expected KEY=VALUE, such as telemetryHeartbeatInterval=6h")
        values[key] = value
    return values


def check_known(key: str) -> None:
    """Let the names of settings pass.

    Raises:
        LifebeatError: There is no setting of that name; which one may be meant.
    """
    if key not in BY_NAME:
        near = difflib.get_close_matches(key, list(BY_NAME), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(BY_NAME)}"
        raise LifebeatError(f"there is no setting {key!r} ({hint})")

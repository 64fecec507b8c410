"""The application that a command speaks of, as it is known from outside: its settings, jobs, state and consent."""

from __future__ import annotations

import importlib
import os
import stat
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from lifebeat import consent, record
from lifebeat.clock import SystemClock
from lifebeat.errors import LifebeatError
from lifebeat.lifecycle import application as lifecycle
from lifebeat.log import get_logger
from lifebeat.settings.source import ConfigSource, config_dir
from lifebeat.settings.table import BY_NAME
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from lifebeat.context import Consent, JobContext, JobModule
    from lifebeat.errors import Problem
    from lifebeat.record import Record
    from lifebeat.settings.table import Settings

TELEMETRY = "lifebeat_jobs.telemetry"
PATIENCE = timedelta(seconds=2)
NOBODY_YET = "host argument (no application has run here yet; what it passes in code is not known)"


class Application(lifecycle.Application):
    """What a command knows of the application; looking at it changes nothing.

    Args:
        args: The options that all commands share.
        environ: The environment.
        remember: Whether an opt-out that is seen is put down, by a command that changes something anyway.

    Attributes:
        record: The arguments of the application's latest process; ``None`` where none has run, or it is not used.
    """

    def __init__(
        self, args: argparse.Namespace, environ: Mapping[str, str] = os.environ, *, remember: bool = False
    ) -> None:
        source, clock = source_of(args, environ), SystemClock()
        self.record = None if args.arguments else _record_of(source)
        if self.record is not None:
            source = source_of(args, {**self.record.environment, **environ}, self.record)
            source.agree(self.record.agreed)
        began = self.record.started[0] if self.record else None
        source.earlier_opt_out = consent.EarlierOptOut(source, clock, remember=remember, began=began)
        known = self.record.allow if self.record else allowed(args)
        super().__init__(source, allow=(*known, *args.allow), clock=clock, logger=get_logger())

    @property
    def config_dir(self) -> Path:
        """Return the config directory."""
        return self.source.config_dir

    @property
    def settings(self) -> Settings:
        """Return the merged settings as they are now."""
        return self.source.read()

    def context(self, job_id: str, *, timeout: timedelta | None = PATIENCE, **options: Any) -> JobContext:
        """Return what a job gets, for a command that waits for no other process for longer than ``timeout``."""
        return super().context(job_id, timeout=timeout, **options)

    @property
    def is_unknown(self) -> bool:
        """Return whether no application has run here, and this command is not an application's own."""
        return self.source.arguments_label == NOBODY_YET

    def consent(self) -> Consent:
        """Return whether telemetry may record and send, as the application itself answers.

        Its own modules need not be importable here, nor allowed where it is not known what it allows: an application
        that runs has checked its own jobs.
        """
        found = self.load()
        words = ("run: there is no module",) if self.record else ("is not allowed",) if self.is_unknown else ()
        theirs = {one for one in found.host_problems if any(word in one.message for word in words)}
        found = found._replace(problems=tuple(one for one in found.problems if one not in theirs))
        return consent.decide(self.settings, found)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong in settings and jobs."""
        return tuple(dict.fromkeys((*self.settings.problems, *self.load().problems)))

    def state_dir(self, *, create: bool) -> Path | None:
        """Return where state is kept, also where it is another user's; ``None`` where there is none."""
        return super().state_dir(create=True) if create else record.state_dir(self.source, self.settings, looking=True)

    @property
    def unseen(self) -> str | None:
        """Why this user cannot see the state; ``None`` if it can be seen, or there is none."""
        state = self.state_dir(create=False)
        return next(filter(None, map(_hidden, (self.config_dir, *([state] if state else [])))), None)

    @property
    def telemetry(self) -> JobModule:
        """Return what the telemetry job module offers beside its jobs; imported when a command asks for it."""
        self.load()  # the modules of jobs may declare events
        return cast("JobModule", importlib.import_module(TELEMETRY))


class Attached(Application):
    """What a handle runs in this very process, seen as commands see it.

    Args:
        application: What the handle runs.
    """

    def __init__(self, application: lifecycle.Application) -> None:
        self.record = _record_of(application.source)
        lifecycle.Application.__init__(
            self, application.source, allow=application.allow, clock=application.clock, logger=application.logger
        )


def _record_of(source: ConfigSource) -> Record | None:
    return record.read(record.state_dir(source, source.read(), looking=True))


def allowed(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the modules that the application's own command allows."""
    modules = args.arguments.get("allow", ())
    return (modules,) if isinstance(modules, str) else tuple(modules)


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


def source_of(
    args: argparse.Namespace, environ: Mapping[str, str] = os.environ, record: Record | None = None
) -> ConfigSource:
    """Return where the settings come from that the shared options describe.

    Args:
        args: The options that all commands share, with the arguments of the application whose command this is.
        environ: The environment.
        record: The arguments of the application's latest process; ``None`` where none is known.

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
        hint = did_you_mean(key, BY_NAME) or f" (there are: {', '.join(BY_NAME)})"
        raise LifebeatError(f"there is no setting {key!r}{hint}")

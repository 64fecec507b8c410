"""What runs the jobs that an application's processes share: this machine's processes among themselves, or an engine.

One seam. Jobs with ``once: process`` and a process's own start and stop stay on the process's scheduler; a job with
``once: application`` is given to the engine, which calls it once for each of its instants in one of all processes.
Nothing of an engine is imported unless it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from lifebeat.errors import ConfigError, LifebeatError, Problem

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping

    from lifebeat.clock import Clock
    from lifebeat.engines.postgres import Installation
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.life import Lifecycle
    from lifebeat.once.claims import Arrival
    from lifebeat.once.protocol import Coordinator
    from lifebeat.schedule.instants import Instants

Claim = Callable[[], bool]
Run = Callable[[datetime, Claim], None]
"""Run a job for its instant, if the claim holds; the claim is asked last, when nothing else can prevent the run."""


class EngineUnavailable(LifebeatError):
    """The engine's server cannot be reached; what the application shares waits until it can."""


class Engine(Protocol):
    """Where jobs with ``once: application`` are scheduled, and who of the application's processes is in."""

    @property
    def is_ready(self) -> bool:
        """Whether shared jobs can be added yet; the life is told when that changes."""
        ...

    def open(self, ready: Callable[[], None]) -> None:
        """The life has started; ``ready`` is called when shared jobs can be added, now or from another thread."""
        ...

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run, *, make_up: bool) -> None:
        """Have ``run`` called once for each instant; with ``make_up`` for the latest one before now as well.

        That one only if the job has run before and nobody has run it for that instant. A job of the same ID is
        replaced.
        """
        ...

    def remove(self, job_id: str) -> None:
        """Take a job away; a run that is under way goes on."""
        ...

    def seed(self) -> str | None:
        """What phases are made from while there is no instance ID; ``None`` leaves it to the machine.

        Raises:
            EngineUnavailable: It cannot be asked.
        """
        ...

    def agree_on_id(self, candidate: str) -> str | None:
        """The installation's ID: the candidate if there was none; ``None`` leaves it to config and state.

        Raises:
            EngineUnavailable: It cannot be asked.
        """
        ...

    def join(self, timeout: float) -> Arrival | None:
        """Come in, within ``timeout`` seconds; ``None`` if this process counts as an application of its own.

        Raises:
            EngineUnavailable: It cannot be told now: ask again.
        """
        ...

    def leave(self, timeout: float) -> bool:
        """Go out, within ``timeout`` seconds; whether this was the last process, so that the end is its to tell."""
        ...

    def drain(self, timeout: float) -> bool:
        """Start nothing more, and wait for what runs, at most ``timeout`` seconds; says whether nothing runs."""
        ...

    def close(self) -> None:
        """Give back what was opened. Nothing of the engine's runs afterwards."""
        ...


def choose_coordinator(
    name: str, database: str | None, *, where: str
) -> Callable[[Clock, logging.Logger], Coordinator] | None:
    """Return what makes the coordinator of that engine; ``None`` for the processes of one machine.

    Args:
        name: ``apscheduler`` or ``procrastinate``.
        database: The database's URL, for those that need one.
        where: Where the name was written, for the error.

    Raises:
        ConfigError: There is no such engine, or what it needs is missing.
    """
    if name == "apscheduler":
        return None
    if name == "celery":
        raise _fault(where, "'celery' runs in Celery's own workers: lifebeat.engines.celery.attach(app, …)")
    if name != "procrastinate":
        raise _fault(where, f"{name!r} is not an engine; expected 'apscheduler' or 'procrastinate'")
    if not database:
        raise _fault(where, "'procrastinate' needs a database: --database URL, or better LIFEBEAT_DATABASE")
    try:
        from lifebeat.engines.procrastinate import ProcrastinateCoordinator
        from lifebeat.engines.procrastinate.database import conninfo
    except ImportError as error:
        message = f"'procrastinate' is not installed ({error}): pip install 'lifebeat[procrastinate]'"
        raise _fault(where, message) from error
    try:
        conninfo(database)
    except Exception:  # noqa: BLE001 - psycopg's own, which is not to be imported here; its text may quote the password
        raise _fault(where, "the database's URL cannot be read; such as postgresql://user@host/name") from None
    return lambda clock, logger: ProcrastinateCoordinator(database, clock=clock, logger=logger)


def choose(name: str, database: str | None, *, where: str) -> Callable[[Lifecycle], Engine] | None:
    """What makes the engine of that name for ``lifebeat run``; ``None`` for the processes of one machine.

    Args:
        name: ``apscheduler`` or ``procrastinate``.
        database: The database's URL, for those that need one.
        where: Where the name was written.

    Raises:
        ConfigError: There is no such engine, or what it needs is missing.
    """
    if name == "apscheduler":
        return None
    if name == "celery":
        raise _fault(where, "'celery' runs in Celery's own worker and beat: lifebeat.engines.celery.attach(app, …)")
    if name != "procrastinate":
        raise _fault(where, f"{name!r} is not an engine; there are: apscheduler, procrastinate")
    if not database:
        raise _fault(where, "'procrastinate' needs a database: --database URL, or better LIFEBEAT_DATABASE")
    return _on_postgresql(database, where)


def installation(environ: Mapping[str, str]) -> Installation | None:
    """What all machines share, for commands beside the running processes; ``None`` where the environment names none."""
    database = environ.get("LIFEBEAT_DATABASE", "").strip()
    if environ.get("LIFEBEAT_ENGINE", "").strip() != "procrastinate" or not database:
        return None
    _on_postgresql(database, "environment (LIFEBEAT_ENGINE)")
    from lifebeat.engines.postgres import Installation

    return Installation(database)


def _on_postgresql(database: str, where: str) -> Callable[[Lifecycle], Engine]:
    try:
        import psycopg.conninfo

        from lifebeat.engines.procrastinate import ProcrastinateEngine
    except ImportError as error:
        raise _fault(
            where, f"'procrastinate' is not installed ({error}): pip install 'lifebeat[procrastinate]'"
        ) from error
    try:
        psycopg.conninfo.conninfo_to_dict(database)
    except psycopg.ProgrammingError as error:
        # Its text may quote the password.
        raise _fault(where, "the database's URL cannot be read; such as postgresql://user@host/name") from error
    return lambda life: ProcrastinateEngine(life, database)


def _fault(where: str, message: str) -> ConfigError:
    return ConfigError(Problem(where, message))

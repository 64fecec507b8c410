"""What coordinates the processes of several machines: an existing engine, used as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifebeat.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.clock import Clock
    from lifebeat.log import Logger
    from lifebeat.once.protocol import Coordinator


def choose(name: str, database: str | None, *, where: str) -> Callable[[Clock, Logger], Coordinator] | None:
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


def _fault(where: str, message: str) -> ConfigError:
    return ConfigError(Problem(where, message))

"""What coordinates the processes of several machines: an existing engine, used as it is."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.settings.source import variable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifebeat.handle import MakeCoordinator

_SERVERS = {"procrastinate": "PostgreSQL", "celery": "Redis"}


def choose(name: str, database: str | None, *, where: str) -> MakeCoordinator | None:
    """Return what makes the coordinator of that engine; ``None`` for the processes of one machine.

    Args:
        name: ``apscheduler``, ``procrastinate``, or ``celery``, whose workers bring their own: here it is for processes
            beside them, such as a web application's.
        database: The engine's server, as a URL.
        where: Where the name was written, for the error.

    Raises:
        ConfigError: There is no such engine, or what it needs is missing.
    """
    if name == "apscheduler":
        return None
    if name not in _SERVERS:
        raise _fault(where, f"{name!r} is not an engine; expected 'apscheduler', 'procrastinate' or 'celery'")
    if not database:
        raise _fault(where, f"{name!r} needs a {_SERVERS[name]}: --database URL, or better LIFEBEAT_DATABASE")
    return _on_postgresql(database, where) if name == "procrastinate" else _on_redis(database, where)


def look(environ: Mapping[str, str], app_name: str | None) -> dict[str, Any] | None:
    """Return how the engine that the environment names stands; ``None`` if it names none.

    The keys are ``engine``, ``reachable``, ``reason`` if it is not, and else ``members``, ``waiting`` and
    ``last_run``.
    """
    name, url = (variable(environ, f"LIFEBEAT_{key}") for key in ("ENGINE", "DATABASE"))
    if name not in _SERVERS:
        return None
    found: dict[str, Any] = {"engine": name, "reachable": False}
    try:
        choose(name, url, where="environment (LIFEBEAT_ENGINE)")
        if name == "procrastinate":
            from lifebeat.engines.procrastinate.database import look as look_at
        else:
            from lifebeat.engines.celery import look as look_at
        return found | look_at(url, app_name or "") | {"reachable": True}
    except LifebeatError as error:
        return found | {"reason": str(error)}


def _on_redis(url: str, where: str) -> MakeCoordinator:
    if not (find_spec("celery") and find_spec("redis")):
        raise _fault(where, "'celery' is not installed: pip install 'lifebeat[celery]'")
    if not url.startswith(("redis:", "rediss:", "redis+socket:")):
        raise _fault(where, "the server's URL is not that of a Redis; expected such as redis://host:6379/0")
    from lifebeat.engines import celery

    return lambda application: celery.beside_workers(application, url)


def _on_postgresql(database: str, where: str) -> MakeCoordinator:
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
    return lambda application: ProcrastinateCoordinator(database, clock=application.clock, logger=application.logger)


def _fault(where: str, message: str) -> ConfigError:
    return ConfigError(Problem(where, message))

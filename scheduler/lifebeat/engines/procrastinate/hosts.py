"""Hosts that have a Procrastinate app: their workers' lives are the application's, and carry out its shared jobs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Unpack

import psycopg
import psycopg.conninfo

from lifebeat.embedding import HostArguments, attach_application
from lifebeat.engines.procrastinate.coordinator import ProcrastinateCoordinator
from lifebeat.engines.procrastinate.database import QUEUE
from lifebeat.engines.procrastinate.worker import register
from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.log import get_logger
from lifebeat.once.protocol import UnknownJob
from lifebeat.registration.registry import background_scheduler
from lifebeat.settings.source import variable
from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    import procrastinate

    from lifebeat.handle import Lifebeat
    from lifebeat.lifecycle.application import Application


def attach(
    app: procrastinate.App, *, database: str | None = None, queue: str = QUEUE, **arguments: Unpack[HostArguments]
) -> Lifebeat:
    """Put Lifebeat on a host's Procrastinate app. A process that only defers tasks is none of the application's.

    Args:
        app: The host's app. Call this where its tasks are defined, so that every worker does.
        database: The database's URL; ``None`` for ``LIFEBEAT_DATABASE``, or the one that the app is connected to.
        queue: The queue of the runs, ``lifebeat`` if not given. A worker that names its queues must name this one too.
        arguments: ``app_name`` and ``app_version``, and the others of ``lifebeat.attach``.

    Returns:
        The handle.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault, or the URL cannot be read.
    """
    url = database or variable(os.environ, "LIFEBEAT_DATABASE") or None
    if url is not None:
        _check(url)
    made: list[ProcrastinateCoordinator] = []

    def make(application: Application) -> ProcrastinateCoordinator:
        clock, logger = application.clock, application.logger
        known = url or _database_of(app)
        made[:] = [ProcrastinateCoordinator(known, clock=clock, logger=logger, queue=queue, has_worker=False)]
        return made[0]

    def bring(row: int, job_id: str, instant: int) -> None:
        if not made:
            raise UnknownJob("telemetry is off here, and the application has no jobs of its own in the job file")
        made[0].bring(row, job_id, instant)

    scheduler = background_scheduler()
    handle = attach_application(scheduler, arguments, make_coordinator=make)
    register(app, queue, bring, get_logger())

    def stop() -> None:
        if scheduler.running:
            scheduler.shutdown(wait=False)

    # For as long as the process lives: it is the connector that learns first that a worker begins, and that it stops.
    watched: Any = _Watched(app.connector, scheduler.start, stop)
    watched.replacing = app.replace_connector(watched)
    watched.replacing.__enter__()
    return handle


class _Watched:
    """A connector as it is, that tells when a worker begins to listen and when it ceases.

    Procrastinate has no hook for either. It begins to listen when a worker starts, and gives it up first of all when
    the worker stops, before it waits for what still runs.
    """

    def __init__(self, connector: Any, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self._connector = connector
        self._begin = begin
        self._end = end
        self.replacing: object = None  # kept, as it would end without a reference

    # Read-only, so that it passes for what it stands for.
    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._connector.__class__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connector, name)

    def get_worker_connector(self) -> Any:
        """Return the connector that Django's worker uses in the place of the app's, watched as well."""
        return _Watched(self._connector.get_worker_connector(), self._begin, self._end)

    async def listen_notify(self, *args: Any, **options: Any) -> None:
        """Listen, and tell."""
        # No daemons: a stop is bounded, and the interpreter waits for it.
        threads.start("life", self._begin, daemon=False)
        try:
            await self._connector.listen_notify(*args, **options)
        finally:
            threads.start("life", self._end, daemon=False)


def _check(database: str) -> None:
    try:
        psycopg.conninfo.conninfo_to_dict(database)
    except psycopg.ProgrammingError:
        # Its text may quote the password.
        message = "'database' cannot be read; expected such as postgresql://user@host/name"
        raise ConfigError(Problem("lifebeat.engines.procrastinate.attach", message)) from None


def _database_of(app: procrastinate.App) -> str:
    pool: Any = getattr(app.connector, "pool", None)
    try:
        options: dict[str, Any] = pool.kwargs or {}
        return psycopg.conninfo.make_conninfo(pool.conninfo, **options)
    except (AttributeError, TypeError, psycopg.ProgrammingError):
        raise LifebeatError(
            "the app's connector does not name its database; pass it: attach(app, database=URL, …)"
        ) from None

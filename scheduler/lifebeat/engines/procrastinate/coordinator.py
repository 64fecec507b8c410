"""Many machines on PostgreSQL: a claim puts a run into Procrastinate's queue, and its workers carry it out.

Every process offers the instants of shared jobs as its own clock says. Procrastinate's own claim puts the run into its
queue in the same statement, so that neither is ever there without the other.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lifebeat.clock import Moment, now
from lifebeat.engines.procrastinate import membership
from lifebeat.engines.procrastinate.database import QUEUE
from lifebeat.engines.procrastinate.worker import TASK, Worker
from lifebeat.once.protocol import Joined, Unavailable, Unfinished

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import procrastinate
    import psycopg

    from lifebeat.clock import Clock
    from lifebeat.engines.procrastinate.database import Connector
    from lifebeat.log import Logger
    from lifebeat.once.protocol import Exchange, RunInstant

T = TypeVar("T")

ASKING = 8.0
_POLL = 0.25


class ProcrastinateCoordinator:
    """One process's part of an application on PostgreSQL: a ``once.protocol.Coordinator``.

    Args:
        database: A connection URL or string, as libpq takes it.
        clock: For lengths and moments of this machine.
        logger: Where to say what happens.
        queue: The queue of the runs.
        has_worker: Whether this process works the queue off; not where a host's own worker does.
    """

    def __init__(
        self,
        database: str,
        *,
        clock: Clock,
        logger: Logger,
        queue: str = QUEUE,
        has_worker: bool = True,
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._me = membership.Me()
        self._worker = Worker(database, queue, self._me, logger, own=has_worker)
        self._joined: Joined | None = None
        self._has_asked = False

    def start(self, run: RunInstant, exchange: Exchange) -> None:
        """Get ready; nothing is connected before something is asked."""
        self._worker.start(run, exchange)

    def bring(self, row: int, job_id: str, instant: int) -> None:
        """Run what a host's worker has taken from the queue."""
        self._worker.bring(row, job_id, instant)

    def join(self, timeout: float) -> Joined:
        """Join; this takes a while where a member is overdue and may be dead or only cut off."""
        until = time.monotonic() + timeout
        self._has_asked = True
        while self._joined is None:
            left = until - time.monotonic()
            found = self._ask(lambda connection: membership.join(connection, self._me), max(left, 0.05))
            if found is not None:
                self._worker.remember(found.run)
                _, orders = self._ask(lambda connection: membership.renew(connection, self._me), ASKING)
                if news := self._worker.exchange(orders):
                    self._ask(partial(membership.order, orders=news), ASKING)
                self._joined = self._as_joined(found)
            elif left < _POLL:
                raise Unavailable("PostgreSQL: waiting to see whether the processes of before still run")
            else:
                time.sleep(_POLL)
        return self._joined

    def agree(self, candidate: str) -> str:
        """Return the instance ID that all machines agree on."""
        agreed = self._ask(lambda connection: membership.agree(connection, candidate), ASKING)
        self._worker.remember(None, agreed)
        return agreed

    def claim(self, job_id: str, instant: int) -> bool:
        """Claim an instant and put it into the queue; false, as the engine's workers run it."""

        async def defer(app: procrastinate.App) -> None:
            run = app.configure_task(TASK, queue=self._queue, task_kwargs={"job": job_id, "timestamp": instant}).job
            await app.job_manager.defer_periodic_job(run, periodic_id=job_id, defer_timestamp=instant)

        self._worker.ask(defer, ASKING)
        return False

    def skip(self, job_id: str, instant: int) -> None:
        """Count an instant as done without a run."""
        self._ask(lambda connection: membership.begin(connection, job_id, instant, row=None), ASKING)

    def latest(self, job_id: str) -> int | None:
        """Return the latest instant claimed for a job."""

        async def look(app: procrastinate.App) -> int | None:
            rows = await app.job_manager.list_jobs_async(queue=self._queue, task=TASK)
            queued = [int(str(row.task_kwargs["timestamp"])) for row in rows if row.task_kwargs["job"] == job_id]
            async with cast("Connector", app.connector).transaction() as connection:
                began = await membership.latest(connection, job_id)
            return max(queued if began is None else [*queued, began], default=None)

        return self._worker.ask(look, ASKING)

    def drain(self, timeout: float) -> bool:
        """Take no more runs from the queue and wait for those that are under way here.

        The others are told that this process is leaving: should it be killed before it has, that was an end.
        """
        until = time.monotonic() + timeout
        if self._joined is not None:
            self._me.is_leaving = True
            with contextlib.suppress(Unavailable):
                self._ask(lambda connection: membership.renew(connection, self._me), timeout / 4)
        return self._worker.drain(max(until - time.monotonic(), 0.0))

    def leave(self, timeout: float) -> Moment | None:
        """Leave, and return when, if this was the last process on any machine."""
        if not self._has_asked:  # a join whose answer was lost is one all the same
            return None

        async def leave(app: procrastinate.App) -> bool:
            async with self._worker.renewing, cast("Connector", app.connector).transaction() as connection:
                self._worker.forget()
                return await membership.leave(connection, self._me)

        until = time.monotonic() + timeout
        while True:
            try:
                last = self._worker.ask(leave, max(until - time.monotonic(), 0.05))
                break
            except Unavailable:
                if until - time.monotonic() < _POLL:
                    raise
                time.sleep(_POLL)
        self._joined, self._has_asked, self._me.is_leaving = None, False, False
        return now(self._clock) if last else None

    def finish(self, timeout: float) -> None:
        """Do nothing: the run has ended as its last process left."""

    def close(self) -> None:
        """Give back connections and the thread; returns at once."""
        self._worker.close()

    def _ask(self, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]], timeout: float) -> T:
        async def transact(app: procrastinate.App) -> T:
            async with cast("Connector", app.connector).transaction() as connection:
                return await work(connection)

        return self._worker.ask(transact, timeout)

    def _as_joined(self, found: membership.Found) -> Joined:
        def moment(at: float) -> Moment:
            """Return a moment of the server: how long ago it was comes from this machine's clock for lengths."""
            return Moment(at, self._clock.monotonic() - (found.now - at), self._clock.boot_id())

        former, unfinished = found.unfinished, None
        if former is not None:
            unfinished = Unfinished(former.id, moment(former.started), moment(former.left or found.now))
        is_first = found.run.starter == self._me.key
        return Joined(is_first, moment(found.run.started), found.run.id, unfinished)

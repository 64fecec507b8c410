"""A process's part in the engine: one thread with an event loop, Procrastinate's own worker in it, and a row renewed.

What fails is given up whole, and made again: application, connections and worker. The former worker ends what it
runs meanwhile, since Procrastinate waits for that without a limit and shared jobs must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import procrastinate
from procrastinate.jobs import Status

from lifebeat.engines.procrastinate import membership
from lifebeat.engines.procrastinate.database import FAILURES, QUERY_TIMEOUT, Connector, reason, within
from lifebeat.once.protocol import Busy, Unavailable, UnknownJob
from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from procrastinate.jobs import Job

    from lifebeat.log import Logger
    from lifebeat.once.protocol import Exchange, RunInstant

T = TypeVar("T")

TASK = "lifebeat.run"
CONCURRENCY = 10
RETRY_AFTER = 3
ATTEMPTS = 20
POLL = 2.5
SETTLED_AFTER = 60.0
KEPT_HOURS = 24
_NAME = "lifebeat"
_OPENING = 8.0
# A session that was cut is replaced within a moment, and worth waiting for; an outage is not.
_PATIENCE = 3.0
_MANY = 4
_WAITS = (0.2, 0.5, 1.0, 2.0)


class Worker:
    """One process's part; any thread may call it.

    Attributes:
        exchange: Takes the orders of all machines, and gives those of this one.
        renewing: Held while this process's row is renewed, and while it is deleted.

    Args:
        database: A connection URL or string, as libpq takes it.
        queue: The queue of the runs.
        me: This process as a member.
        logger: Where to say what happens.
        own: Whether runs are worked off here; not where a host's own worker does.
    """

    def __init__(self, database: str, queue: str, me: membership.Me, logger: Logger, *, own: bool) -> None:
        self._database = database
        self._queue = queue
        self._me = me
        self._logger = logger
        self._own = own
        self._run: RunInstant | None = None
        self.exchange: Exchange = lambda _: {}
        self._instance_id: str | None = None
        self._application: membership.Run | None = None
        self._app: procrastinate.App | None = None
        self._ready = threading.Event()
        self._failure: str | None = None
        self._failures = 0
        self._starting = threading.Lock()
        self._has_begun = False
        self._draining = False
        self._in_hand = InHand()
        self._loop = asyncio.new_event_loop()
        self._failed = asyncio.Event()
        self._closed = asyncio.Event()
        self.renewing = asyncio.Lock()
        self._workers: set[asyncio.Task[None]] = set()
        self._endings: set[asyncio.Task[None]] = set()

    def start(self, run: RunInstant, exchange: Exchange) -> None:
        """Get ready; nothing is connected before something is asked."""
        self._run, self.exchange = run, exchange

    def ask(self, work: Callable[[procrastinate.App], Awaitable[T]], timeout: float) -> T:
        """Do something in the database within ``timeout`` seconds.

        Raises:
            Unavailable: It cannot be done now; whether it was done is not known.
        """
        with self._starting:
            if not self._has_begun:
                self._has_begun = threads.start("engine", self._work)
        until = time.monotonic() + timeout
        app = self._app if self._ready.wait(min(timeout, _PATIENCE if self._failures < _MANY else 0)) else None
        if app is None or self._closed.is_set():
            raise Unavailable(f"PostgreSQL: {self._failure or 'not connected yet'}")
        asking = within(max(until - time.monotonic(), 0.05), work(app))
        try:
            return asyncio.run_coroutine_threadsafe(asking, self._loop).result(timeout + 1)
        except FAILURES as error:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._failed.set)
            raise Unavailable(f"PostgreSQL: {reason(error)}") from error
        except RuntimeError as error:  # the loop has ended
            asking.close()
            raise Unavailable("PostgreSQL: this process has left") from error

    def remember(self, run: membership.Run | None, instance_id: str | None = None) -> None:
        """Remember what to put back into tables that were made again."""
        self._application = run or self._application
        self._instance_id = instance_id or self._instance_id

    def forget(self) -> None:
        """Leave: the row of this process is not renewed any more."""
        self._application = None

    def drain(self, timeout: float) -> bool:
        """Take nothing more, and wait for what runs; return whether all has ended."""
        self._draining = True
        until = time.monotonic() + timeout
        if self._has_begun:
            with contextlib.suppress(RuntimeError, TimeoutError):
                asyncio.run_coroutine_threadsafe(self._stop_workers(), self._loop).result(timeout)
        return self._in_hand.is_empty(max(until - time.monotonic(), 0.0))

    def close(self) -> None:
        """End the thread; returns at once."""
        self._draining = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._closed.set)

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        # What it would say about an outage is said by us, once.
        logging.getLogger(f"procrastinate.worker.{_NAME}").setLevel(logging.CRITICAL)
        # Such as an end that Procrastinate could not note, which is noted later.
        self._loop.set_exception_handler(lambda _, what: self._logger.debug("engine: %s", what))
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                await self._serve_once()
            except (*FAILURES, Unavailable) as error:
                self._failure = reason(error)
            except Exception as error:
                self._failure = reason(error)
                self._logger.exception("the engine failed; will retry")
            self._failures = 1 if time.monotonic() - began > _OPENING else self._failures + 1
            with contextlib.suppress(TimeoutError):
                await within(_WAITS[min(self._failures, len(_WAITS)) - 1], self._closed.wait())
        await asyncio.wait({asyncio.ensure_future(self._stop_workers()), *self._endings}, timeout=_OPENING)

    async def _serve_once(self) -> None:
        self._failed.clear()
        connector = Connector(self._database)
        app = procrastinate.App(connector=connector)
        register(app, self._queue, self.bring, self._logger)
        waits: list[asyncio.Task[Any]] = []
        worker: asyncio.Task[None] | None = None
        try:
            await within(_OPENING, connector.probe())
            await within(_OPENING, app.open_async())
            await within(_OPENING, self._prepare(app, connector))
            self._app, self._failure = app, None
            self._ready.set()
            if self._own and not self._draining:
                worker = self._start_worker(app)
                waits = [asyncio.create_task(self._until_retired(connector, worker))]
            waits += [
                asyncio.create_task(self._keep(app, connector)),
                asyncio.create_task(self._failed.wait()),
                asyncio.create_task(self._closed.wait()),
            ]
            ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()
        finally:
            self._ready.clear()
            self._app = None
            for one in waits:
                one.cancel()
            self._retire(app, worker)

    async def _prepare(self, app: procrastinate.App, connector: Connector) -> None:
        async with connector.pool.connection() as connection, connection.transaction():
            await membership.lock(connection)
            if not await app.check_connection_async():
                if not self._own:
                    raise Unavailable("the database has no tables of Procrastinate: procrastinate schema --apply")
                await app.schema_manager.apply_schema_async()
            await membership.prepare(connection)
        if self._application is not None:
            async with connector.transaction() as connection:
                await membership.restore(connection, self._application, self._instance_id)
                await membership.renew(connection, self._me)

    def _start_worker(self, app: procrastinate.App) -> asyncio.Task[None]:
        worker = asyncio.create_task(
            app.run_worker_async(
                queues=[self._queue],
                name=_NAME,
                concurrency=CONCURRENCY,
                fetch_job_polling_interval=POLL,
                delete_jobs="successful",
                install_signal_handlers=False,
            )
        )
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)
        return worker

    async def _until_retired(self, connector: Connector, worker: asyncio.Task[None]) -> None:
        retired = asyncio.ensure_future(connector.retired.wait())
        await asyncio.wait({retired, worker}, return_when=asyncio.FIRST_COMPLETED)
        if self._draining:
            await self._closed.wait()
            return
        if worker.done() and not worker.cancelled():
            worker.result()
        raise Unavailable("the worker's connections failed")

    def _retire(self, app: procrastinate.App, worker: asyncio.Task[None] | None) -> None:
        async def end() -> None:
            if worker is not None:
                await asyncio.wait({worker})
            await app.close_async()

        if worker is not None:
            worker.cancel()  # once: a second time would make it leave its runs behind
        ending = asyncio.create_task(end())
        self._endings.add(ending)  # which no one waits for
        ending.add_done_callback(self._endings.discard)

    async def _stop_workers(self) -> None:
        for worker in self._workers:
            if not worker.cancelling():
                worker.cancel()
        while self._workers:
            await asyncio.wait(self._workers)

    async def _keep(self, app: procrastinate.App, connector: Connector) -> None:
        """Renew this process's row; now and then do what one has to do for all."""
        began = time.monotonic()
        while True:
            if self._application is not None:
                self._me.rows = self._in_hand.as_dict()
                is_on_duty = await within(membership.RENEW_EVERY, self._renew(connector))
                self._in_hand.settle(self._me.rows)
                # After an outage all look dead; those who live have that long to say that they do.
                if is_on_duty and time.monotonic() - began >= membership.RETURNING:
                    await within(_OPENING, self._revive(app, connector))
            await asyncio.sleep(membership.RENEW_EVERY)

    async def _renew(self, connector: Connector) -> bool:
        async with self.renewing, connector.pool.connection() as connection:
            if self._application is None:
                return False
            is_on_duty, orders = await membership.renew(connection, self._me)
            await membership.order(connection, self.exchange(orders))
            return is_on_duty

    async def _revive(self, app: procrastinate.App, connector: Connector) -> None:
        """Have the runs of dead workers run again, and note the ends that a worker could not note."""
        jobs = app.job_manager
        stalled = await jobs.get_stalled_jobs(
            queue=self._queue, task_name=TASK, seconds_since_heartbeat=self._me.gone_after
        )
        if stalled:
            async with connector.transaction() as connection:
                members = await membership.others(connection, self._me)
            living = [one.value for one in members if not one.is_seen_dead and not one.is_overdue(self._me.gone_after)]
            running, ended = (
                {row for value in (*living, self._me.rows) for row in value.get(which, ())}
                for which in ("running", "ended")
            )
            for job in stalled:
                if job.id in ended:
                    await jobs.finish_job(job, Status.SUCCEEDED, delete_job=True)
                elif job.id not in running:
                    await jobs.retry_job(job)
        await jobs.delete_old_jobs(KEPT_HOURS, queue=self._queue, include_failed=True)
        async with connector.transaction() as connection:
            await membership.forget(connection)

    # -- runs --------------------------------------------------------------------------------------------------------

    def bring(self, row: int, job_id: str, instant: int) -> None:
        """Run what has come from the queue.

        Raises:
            Busy: Not now, but later or elsewhere.
            UnknownJob: Not here.
        """
        if self._draining or self._run is None:
            raise Busy("this process is stopping")

        async def begin(app: procrastinate.App) -> bool:
            async with cast("Connector", app.connector).pool.connection() as connection:
                return await membership.begin(connection, job_id, instant, row)

        with self._in_hand.hold(row) as begins:
            if begins and self.ask(begin, QUERY_TIMEOUT):
                self._run(job_id, instant)


class InHand:
    """The rows of the queue that run here, and those that have ended and may not be known to have."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._ended: dict[int, float | None] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, row: int) -> Generator[bool]:
        """Have a run in hand; false if it has ended here before.

        Raises:
            Busy: It is under way here: others thought that this process was dead.
        """
        with self._changed:
            if row in self._running:
                raise Busy(f"run {row} is under way")
            begins = row not in self._ended
            self._running.add(row)
        ended = True
        try:
            yield begins
        except (Busy, UnknownJob, Unavailable):
            ended = False
            raise
        finally:
            with self._changed:
                self._running.discard(row)
                if ended:
                    self._ended[row] = None
                self._changed.notify_all()

    def as_dict(self) -> dict[str, list[int]]:
        """Return what to tell the others."""
        with self._changed:
            return {"running": sorted(self._running), "ended": sorted(self._ended)}

    def settle(self, told: dict[str, list[int]]) -> None:
        """Forget what the others have known for long enough."""
        now = time.monotonic()
        with self._changed:
            for row in told["ended"]:
                since = self._ended.get(row)
                if since is None:
                    self._ended[row] = now
                elif now - since > SETTLED_AFTER:
                    del self._ended[row]

    def is_empty(self, timeout: float) -> bool:
        """Return whether nothing runs, or nothing does any more within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)


def register(app: procrastinate.App, queue: str, bring: Callable[[int, str, int], None], logger: Logger) -> None:
    """Tell a Procrastinate app the task by which runs come back to us."""

    async def lifebeat_run(context: procrastinate.JobContext, *, job: str, timestamp: int) -> None:
        assert context.job.id is not None
        try:
            await in_thread(partial(bring, context.job.id, job, timestamp), job)
        except (Busy, UnknownJob, Unavailable):
            raise
        except BaseException:  # a job that calls sys.exit() does not end the worker
            logger.exception("job %s failed", job)

    app.task(name=TASK, queue=queue, pass_context=True, retry=_Retry(logger))(lifebeat_run)


class _Retry(procrastinate.BaseRetryStrategy):
    """Have another process try, for a minute; one that is only busy may be so for longer."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> procrastinate.RetryDecision | None:
        if isinstance(exception, UnknownJob) and job.attempts >= ATTEMPTS:
            self._logger.error("giving up on job %s: no process has it in its job file", job.task_kwargs["job"])
        elif isinstance(exception, (Busy, UnknownJob, Unavailable)):
            return procrastinate.RetryDecision(retry_in={"seconds": RETRY_AFTER})
        return None


async def in_thread(work: Callable[[], None], name: str) -> None:
    """Run something in a daemon thread of its own: one that hangs holds up neither a pool nor the interpreter's end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[BaseException | None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(error)

    def target() -> None:
        found: BaseException | None = None
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the run is awaited
            found = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(end, found)

    if not threads.start(name, target):
        raise Busy("no thread can be started")
    if (error := await done) is not None:
        raise error

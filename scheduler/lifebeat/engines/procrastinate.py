"""Many machines on PostgreSQL: Procrastinate's workers run what the application shares.

No leader: every process looks at its own clock, and the row (job, instant) that one of them inserts is the claim. The
same statement puts the run into Procrastinate's queue, so that neither is ever there without the other. Whoever was
killed in the middle of a run leaves it to be run again by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.postgres import Installation
from lifebeat.engines.timetable import Due, Timetable
from lifebeat.errors import LifebeatError
from lifebeat.schedule import SECOND, to_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import procrastinate
    import psycopg

    from lifebeat.engines import Run
    from lifebeat.jobfile import JobSpec
    from lifebeat.lifecycle import Lifecycle
    from lifebeat.roster import Arrival
    from lifebeat.schedule import Instants

TASK = "lifebeat.run"
QUEUE = "lifebeat"
CONCURRENCY = 10
LOOK_EVERY = 3.0
UPKEEP_EVERY = 10.0
HEARTBEAT = 5.0
# A worker that has not been heard of for so long is dead, and its runs are others'. A frozen one that comes back later
# than that may end a run that another has run again.
STALLED = 20.0
KEPT_CLAIMS = 100
KEPT_HOURS = 24
PATIENCE = 3
ATTEMPTS = 20
WAITS = (0.5, 1.0, 2.0, 5.0)
MEANT_FOR_THE_QUEUE = """
WITH due AS (
    SELECT job, instant FROM unnest(%(jobs)s::text[], %(instants)s::bigint[]) AS one(job, instant)
    ORDER BY job, instant),
taken AS (
    INSERT INTO lifebeat_claims (job, instant) SELECT job, instant FROM due ON CONFLICT DO NOTHING
    RETURNING job, instant)
SELECT procrastinate_defer_jobs_v1(array_agg(
    ROW(%(queue)s, %(task)s, 0, NULL, NULL, jsonb_build_object('job', job, 'instant', instant), NULL)
    ::procrastinate_job_to_defer_v1)) AS ids
FROM taken HAVING count(*) > 0
"""
# A job that nobody has ever seen starts from now: its latest instant counts as run.
SEEN = """
INSERT INTO lifebeat_claims (job, instant)
SELECT one.job, one.instant FROM unnest(%(jobs)s::text[], %(instants)s::bigint[]) AS one(job, instant)
WHERE NOT EXISTS (SELECT FROM lifebeat_claims AS claims WHERE claims.job = one.job)
ORDER BY job ON CONFLICT DO NOTHING
"""
FORGET = """
DELETE FROM lifebeat_claims AS claims USING (
    SELECT job, instant, row_number() OVER (PARTITION BY job ORDER BY instant DESC) AS age FROM lifebeat_claims) AS old
WHERE old.job = claims.job AND old.instant = claims.instant AND old.age > %(kept)s
"""


class NotHere(Exception):  # noqa: N818 - it says what is so
    """This process cannot run the job, or not any more; another may."""


class ProcrastinateEngine:
    """One process's part.

    Args:
        life: The life whose shared jobs these are.
        database: A connection URL or string, as libpq takes it.
        app: A host's Procrastinate app, whose worker is the host's; ``None`` for a worker of our own.
        queue: The queue of the runs.
    """

    def __init__(
        self, life: Lifecycle, database: str, *, app: procrastinate.App | None = None, queue: str = QUEUE
    ) -> None:
        self._life = life
        self._database = database
        self._host_app = app
        self._queue = queue
        self._installation = Installation(database)
        self._timetable = Timetable()
        self._runs: dict[str, Run] = {}
        self._unseen: list[Due] = []
        self._ready: Callable[[], None] | None = None
        self.is_ready = False
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None
        self._worker: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._working: asyncio.Task[None] | None = None
        self._is_well = True

    # -- what the life asks --------------------------------------------------------------------------------------

    def open(self, ready: Callable[[], None]) -> None:
        """Look for the database in a thread; once it is there, shared jobs can be added."""
        self._ready = ready
        self._keeper = threading.Thread(target=self._keep, name="lifebeat-engine", daemon=True)
        self._keeper.start()

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run, *, make_up: bool) -> None:
        """Put the job on the timetable, from the latest instant on if that may have been missed."""
        now = self._now()
        since = now
        if make_up:
            latest = instants.latest(now)
            if latest is not None and latest + jitter(latest) > now:
                latest = instants.latest(latest - 1)
            since = now if latest is None else latest - 1
            self._unseen.append(Due(spec.id, 0 if latest is None else latest))
        self._runs[spec.id] = run
        self._timetable.put(spec, instants, jitter, since=since)
        self._wake()

    def remove(self, job_id: str) -> None:
        """Take a job away."""
        self._runs.pop(job_id, None)
        self._timetable.remove(job_id)

    def seed(self) -> str:
        """The same on every machine."""
        return self._installation.seed()

    def agree_on_id(self, candidate: str) -> str:
        """The same on every machine."""
        return self._installation.agree_on_id(candidate)

    def join(self, timeout: float) -> Arrival:  # noqa: ARG002 - the connection's own limits hold
        """Come in."""
        return self._installation.join()

    def leave(self, timeout: float) -> bool:
        """Go out; false if it cannot be told in time whether this was the last."""
        found: list[bool] = []

        def ask() -> None:
            with contextlib.suppress(EngineUnavailable):
                found.append(self._installation.leave())

        thread = threading.Thread(target=ask, name="lifebeat-leave", daemon=True)
        thread.start()
        thread.join(timeout)
        return found == [True]

    def drain(self, timeout: float) -> bool:
        """Let the worker end what it runs. A host's own worker is drained by the host."""
        self._ended.set()
        if self._loop is not None and self._working is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._working.cancel)
        if self._worker is None:
            return True
        self._worker.join(timeout)
        return not self._worker.is_alive()

    def close(self) -> None:
        """Drop the session."""
        self._ended.set()
        self._is_well = True
        threading.Thread(target=self._installation.close, name="lifebeat-close", daemon=True).start()

    # -- the session ---------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._ended.is_set():
            try:
                self._look()
            except EngineUnavailable as error:
                self._is_ill(str(error))
            except LifebeatError as error:
                self._life.say_once("engine", str(error))
            except Exception:
                self._life.logger.exception("the engine failed; it is tried again")
            self._ended.wait(LOOK_EVERY)

    def _look(self) -> None:
        if self.is_ready:
            self._installation.keep()
        else:
            self._installation.open(check=self._check)
            self._open_app()
            self.is_ready = True
            if self._ready is not None:
                self._ready()
        self._get_well()

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """That Procrastinate's tables are there and new enough; our own worker makes them if there are none."""
        found = connection.execute(
            "SELECT to_regclass('procrastinate_jobs') IS NOT NULL, "
            "to_regproc('procrastinate_defer_jobs_v1') IS NOT NULL AND "
            "to_regproc('procrastinate_fetch_job_v2') IS NOT NULL"
        ).fetchone()
        there, fits = found or (False, False)
        if there and not fits:
            raise LifebeatError(
                "the database has the tables of an older Procrastinate, and shared jobs wait; apply its migrations: "
                "https://procrastinate.readthedocs.io/en/stable/howto/production/migrations.html"
            )
        if there:
            return
        if self._host_app is not None:
            raise LifebeatError(
                "the database has no tables of Procrastinate, and shared jobs wait; make them: procrastinate schema "
                "--apply"
            )
        from procrastinate.schema import SchemaManager  # noqa: PLC0415 - only where there are no tables

        connection.execute(SchemaManager.get_schema().encode())

    def _is_ill(self, reason: str) -> None:
        if self._is_well and not self._ended.is_set():
            self._is_well = False
            self._life.logger.warning("%s; what the application shares waits, the process's own jobs go on", reason)

    def _get_well(self) -> None:
        if not self._is_well:
            self._is_well = True
            self._life.logger.info("PostgreSQL is there again; what the application shares goes on")

    # -- the worker ----------------------------------------------------------------------------------------------

    def _open_app(self) -> None:
        if self._host_app is None:
            self._worker = threading.Thread(
                target=lambda: asyncio.run(self._work()), name="lifebeat-worker", daemon=True
            )
            self._worker.start()

    async def _work(self) -> None:
        """Our own worker, and again after every failure until the end."""
        self._loop, self._working = asyncio.get_running_loop(), asyncio.current_task()
        failures = 0
        while not self._ended.is_set():
            try:
                await self._work_once()
            except asyncio.CancelledError:
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the worker has to come back
                self._is_ill(f"PostgreSQL: {error}")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(WAITS[min(failures, len(WAITS) - 1)])
            failures += 1

    async def _work_once(self) -> None:
        app = make_app(self._database)
        self.register(app)
        async with app.open_async():
            sending = asyncio.create_task(self.send(app))
            try:
                await app.run_worker_async(
                    queues=[self._queue],
                    name="lifebeat",
                    concurrency=CONCURRENCY,
                    install_signal_handlers=False,
                    delete_jobs="successful",
                    update_heartbeat_interval=HEARTBEAT,
                    stalled_worker_timeout=STALLED,
                )
            finally:
                sending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await sending

    def register(self, app: procrastinate.App) -> None:
        """Tell a Procrastinate app the task by which runs come back to us."""
        from procrastinate import RetryStrategy  # noqa: PLC0415 - only with this engine

        retry = RetryStrategy(max_attempts=ATTEMPTS, wait=PATIENCE, retry_exceptions=[NotHere])
        app.task(name=TASK, queue=self._queue, retry=retry)(self._run)

    def _run(self, *, job: str, instant: int) -> None:
        claimed: list[bool] = []

        def claim() -> bool:  # the row in the queue is it
            claimed.append(True)
            return True

        run = self._runs.get(job)
        if run is None or self._ended.is_set():
            raise NotHere(job)
        run(to_datetime(instant), claim)
        if not claimed:
            raise NotHere(job)

    # -- what is due ---------------------------------------------------------------------------------------------

    async def send(self, app: procrastinate.App) -> None:
        """Put what is due into the queue, for ever."""
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        upkeep = asyncio.create_task(self._keep_up(app))
        failures = 0
        try:
            while not self._ended.is_set():
                try:
                    await self._send_due(app)
                    failures = 0
                except Exception as error:  # noqa: BLE001 - a host's worker must not end because of us
                    self._is_ill(f"PostgreSQL: {error}")
                    await asyncio.sleep(WAITS[min(failures, len(WAITS) - 1)])
                    failures += 1
        finally:
            upkeep.cancel()

    async def _send_due(self, app: procrastinate.App) -> None:
        assert self._changed is not None  # noqa: S101 - made by `send`
        self._changed.clear()
        unseen, self._unseen = self._unseen, []
        due = self._timetable.due(self._now())
        try:
            if unseen:
                await app.connector.execute_query_async(SEEN, **_columns(unseen))
                unseen = []
            if due:
                await app.connector.execute_query_async(
                    MEANT_FOR_THE_QUEUE, **_columns(due), queue=self._queue, task=TASK
                )
        except BaseException:
            self._unseen += unseen
            self._timetable.give_back(due)
            raise
        following = self._timetable.next()
        left = LOOK_EVERY if following is None else min((following - self._now()) / SECOND, LOOK_EVERY)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(left, 0.001))

    async def _keep_up(self, app: procrastinate.App) -> None:
        """What one process does for all: dead workers' runs are run again, old rows go."""
        while True:
            await asyncio.sleep(UPKEEP_EVERY)
            with contextlib.suppress(Exception):  # what fails now is done next time
                if await asyncio.to_thread(self._installation.leads):
                    for job in await app.job_manager.get_stalled_jobs(
                        queue=self._queue, task_name=TASK, seconds_since_heartbeat=STALLED
                    ):
                        await app.job_manager.retry_job(job)
                    await app.connector.execute_query_async(FORGET, kept=KEPT_CLAIMS)
                    await app.job_manager.delete_old_jobs(KEPT_HOURS, queue=self._queue, include_failed=True)

    def _wake(self) -> None:
        if self._loop is not None and self._changed is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._changed.set)

    def _now(self) -> int:
        return int(self._life.clock.time() * SECOND)


def make_app(database: str) -> procrastinate.App:
    """A Procrastinate app on that database, for a worker of our own."""
    import procrastinate  # noqa: PLC0415 - only with this engine

    connector = procrastinate.PsycopgConnector(conninfo=database, min_size=1, max_size=4, timeout=5.0)
    return procrastinate.App(connector=connector)


def _columns(due: Sequence[Due]) -> dict[str, Any]:
    return {"jobs": [one.job_id for one in due], "instants": [one.instant for one in due]}

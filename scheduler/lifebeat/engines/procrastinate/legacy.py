"""Many machines on PostgreSQL: Procrastinate's workers run what the application shares.

No leader: every process looks at its own clock, and the row (job, instant) that one of them inserts is the claim. The
same statement puts the run into Procrastinate's queue, so that neither is ever there without the other. Whoever was
killed in the middle of a run leaves it to be run again by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.dispatch import LOOK_EVERY, TASK, Dispatch
from lifebeat.engines.inhand import InHand, NotHere, NotNow, Row
from lifebeat.engines.ownworker import OwnWorker, make_app
from lifebeat.engines.postgres import Installation
from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.schedule.instants import MICROSECOND, SECOND, to_datetime

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Mapping, Sequence

    import procrastinate
    import psycopg
    from procrastinate import BaseRetryStrategy, RetryDecision
    from procrastinate.jobs import Job

    from lifebeat.engines import Run
    from lifebeat.handle import Lifebeat
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.life import Lifecycle
    from lifebeat.once.claims import Arrival
    from lifebeat.schedule.instants import Instants

T = TypeVar("T")
QUEUE = "lifebeat"
PATIENCE = 3
GIVES_UP = 60.0
POLL = 0.2


@dataclass(frozen=True, slots=True)
class _Job:
    spec: JobSpec
    jitter: Callable[[int], int]
    run: Run


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
        self._dispatch = Dispatch(
            self._installation,
            life.clock,
            queue,
            lambda reason: self._is_ill("queue", reason),
            lambda: self._is_well("queue"),
        )
        self._jobs: dict[str, _Job] = {}
        self._in_hand = InHand()
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, int] = {}
        self._lock = threading.Lock()
        self._ready: Callable[[], None] | None = None
        self.is_ready = False
        self._seed: str | None = None
        self._follows = False
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None
        self._worker: OwnWorker | None = None
        self._ills: set[str] = set()

    # -- what the life asks --------------------------------------------------------------------------------------

    def open(self, ready: Callable[[], None]) -> None:
        """Look for the database in a thread; once it is there, shared jobs can be added."""
        self._ready = ready
        self._keeper = threading.Thread(target=self._keep, name="lifebeat-engine", daemon=True)
        self._keeper.start()

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run, *, make_up: bool) -> None:
        """Put the job on the timetable, from the latest instant on if that may have been missed."""
        self._jobs[spec.id] = _Job(spec, jitter, run)
        # On another grid nobody has run the latest instant, and nobody has missed it.
        self._dispatch.put(spec, instants, jitter, make_up=make_up and not self._follows)

    def remove(self, job_id: str) -> None:
        """Take a job away."""
        self._jobs.pop(job_id, None)
        self._waiting.pop(job_id, None)
        self._dispatch.remove(job_id)

    def seed(self) -> str:
        """The same on every machine."""
        self._seed = None  # where it cannot be told now, the life is told when it can
        self._seed = self._installation.seed()
        return self._seed

    def agree_on_id(self, candidate: str) -> str:
        """The same on every machine."""
        self._seed = agreed = self._installation.agree_on_id(candidate)
        return agreed

    def join(self, timeout: float) -> Arrival:
        """Come in."""
        return _within(timeout, self._installation.join, "lifebeat-join")

    def leave(self, timeout: float) -> bool:
        """Go out; false if it cannot be told in time whether this was the last."""
        try:
            return _within(timeout, self._installation.leave, "lifebeat-leave")
        except EngineUnavailable:
            return False

    def drain(self, timeout: float) -> bool:
        """Let the worker end what it runs. A host's own worker is drained by the host."""
        self._ended.set()
        return self._worker is None or self._worker.drain(timeout)

    def close(self) -> None:
        """Drop the session."""
        self._ended.set()
        threading.Thread(target=self._installation.close, name="lifebeat-close", daemon=True).start()

    # -- the session ---------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._ended.is_set():
            try:
                self._look()
            except EngineUnavailable as error:
                self._is_ill("session", str(error))
                if self._worker is not None:
                    self._worker.retire()
            except LifebeatError as error:
                self._life.say_once("engine", str(error))
            except Exception:
                self._life.logger.exception("the engine failed; it is tried again")
            self._ended.wait(LOOK_EVERY)
        self._see_off()

    def _look(self) -> None:
        if self.is_ready:
            seed = self._installation.keep()
            self._installation.work(self._in_hand.tell)
            self._begin_again()
            if seed != self._seed:
                self._follow(seed)
        else:
            self._installation.open(check=self.check)
            self._open_app()
            self._begin_again()
            self._seed = self._installation.seed()
            self.is_ready = True
            if self._ready is not None:
                self._ready()

    def _begin_again(self) -> None:
        self._is_well("session")
        if self._worker is not None:
            self._worker.resume()

    def _follow(self, seed: str | None) -> None:
        """There is an instance ID by now: phases are made from it, and the instants move."""
        self._seed, self._follows = seed, True
        try:
            if self._ready is not None:
                self._ready()
        finally:
            self._follows = False

    def _see_off(self) -> None:
        """The process has left. What it runs yet is not a dead one's."""
        session = Installation(self._database)
        while not self._in_hand.is_empty(LOOK_EVERY):
            with contextlib.suppress(EngineUnavailable):
                session.work(self._in_hand.tell)
        session.close()

    def check(self, connection: psycopg.Connection[Any]) -> None:
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
        from procrastinate.schema import SchemaManager

        connection.execute(SchemaManager.get_schema().encode())

    def _is_ill(self, part: str, reason: str) -> None:
        with self._lock:
            begins = not self._ills
            self._ills.add(part)
        if begins and not self._ended.is_set():
            self._life.logger.warning("%s; what the application shares waits, the process's own jobs go on", reason)

    def _is_well(self, part: str) -> None:
        with self._lock:
            ends = self._ills == {part}
            self._ills.discard(part)
        if ends and not self._ended.is_set():
            self._life.logger.info("PostgreSQL is there again; what the application shares goes on")

    # -- the worker ----------------------------------------------------------------------------------------------

    def _open_app(self) -> None:
        if self._host_app is None and self._worker is None:
            self._worker = OwnWorker(
                self._make_app,
                self._queue,
                self.send,
                ill=self._worker_is_ill,
                well=lambda: self._is_well("worker"),
                logger=self._life.logger,
            )
            self._worker.start()

    def _make_app(self) -> procrastinate.App:
        app = make_app(self._database)
        _register(app, self._queue, self.run, self._life.logger)
        return app

    def _worker_is_ill(self, reason: str) -> None:
        self._is_ill("worker", reason)
        self._is_ill("queue", reason)  # which is sent by that worker's connections

    async def send(self, app: Any) -> None:
        """Put what is due into the queue of an app that is open, until cancelled."""
        await self._dispatch.run(app)

    def run(self, row: Row, job_id: str, instant: int) -> None:
        """Run what has come back from the queue.

        Raises:
            NotHere: This process cannot.
        """
        with self._in_hand.hold(row) as begins:
            if self._ended.is_set():
                raise NotNow(job_id)
            job = self._jobs.get(job_id)
            if job is None:
                raise NotHere(job_id)
            if begins and not self._is_too_late(job, instant):
                with self._place(job.spec, instant) as free:
                    if free:
                        self._call(job, instant)

    def _is_too_late(self, job: _Job, instant: int) -> bool:
        late = int(self._life.clock.time() * SECOND) - instant - job.jitter(instant)
        is_too_late = job.spec.misfire_grace is not None and late * MICROSECOND > job.spec.misfire_grace
        if is_too_late:
            self._life.logger.warning("the run of job %s was missed by %.1f s", job.spec.id, late / SECOND)
        return is_too_late

    @contextlib.contextmanager
    def _place(self, spec: JobSpec, instant: int) -> Generator[bool]:
        """Have one more run of the job under way; false if it need not be, as it coalesces with one that waits.

        Raises:
            NotNow: As many as may be are under way here.
        """
        with self._lock:
            free = self._running[spec.id] < spec.max_instances
            if not free:
                self._wait(spec, instant)
            self._running[spec.id] += free
        try:
            yield free
        finally:
            with self._lock:
                self._running[spec.id] -= free

    def _wait(self, spec: JobSpec, instant: int) -> None:
        latest = self._waiting[spec.id] = max(instant, self._waiting.get(spec.id, instant))
        if instant == latest or not spec.coalesce:
            raise NotNow(f"job {spec.id}: {spec.max_instances} under way")
        self._life.logger.warning(
            "the run of job %s at %s was left out: max_instances (%s) are under way, and a later one waits",
            spec.id,
            to_datetime(instant),
            spec.max_instances,
        )

    def _call(self, job: _Job, instant: int) -> None:
        claimed: list[bool] = []

        def claim() -> bool:  # the row in the queue is it
            claimed.append(True)
            return True

        try:
            job.run(to_datetime(instant), claim)
        except EngineUnavailable as error:
            raise NotNow(str(error)) from error
        except BaseException as error:  # a job that calls sys.exit() does not end the worker
            if self._host_app is None:  # whose worker logs it
                self._life.logger.exception("job %s failed", job.spec.id)
            raise LifebeatError(f"job {job.spec.id} failed") from error
        if not claimed:
            raise NotHere(job.spec.id)


def _within(timeout: float, ask: Callable[[], T], name: str) -> T:
    """What is told within so many seconds."""
    found: list[T] = []
    failed: list[EngineUnavailable] = []

    def keep() -> None:
        try:
            found.append(ask())
        except EngineUnavailable as error:
            failed.append(error)

    thread = threading.Thread(target=keep, name=name, daemon=True)
    thread.start()
    thread.join(timeout)
    if not found:
        raise failed[0] if failed else EngineUnavailable("PostgreSQL: it did not answer in time")
    return found[0]


def attach(
    app: procrastinate.App,
    *,
    app_name: str,
    app_version: str,
    release_version: str | None = None,
    api_key: str | None = None,
    host: str | None = None,
    enabled: bool | None = None,
    config_dir: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    database: str | None = None,
    queue: str = QUEUE,
) -> Lifebeat:
    """Put Lifebeat on a host's Procrastinate app: its workers' lives are the application's.

    A process that only defers tasks is none of them. As with ``lifebeat.attach``, telemetry never makes this raise and
    ``None`` leaves a setting to the other layers of config.

    Args:
        app: The host's app. Call this where its tasks are defined, so that every worker does.
        app_name: The application's name; for log lines, never sent.
        app_version: The application's version.
        release_version: The release that is running; the version where not given.
        api_key: The PostHog project key.
        host: The URL of the PostHog to send to.
        enabled: False turns telemetry off; true cannot turn it on against another layer.
        config_dir: The config directory; ``None`` for ``LIFEBEAT_CONFIG_DIR``, systemd's, or ``./config``.
        allow: The modules that the job file may name, besides ``lifebeat_jobs``.
        database: The database's URL; ``None`` for the one of the app's connector.
        queue: The queue of the runs. A worker that names its queues must name this one too.

    Returns:
        The handle.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault, or the database cannot be told from the app.
    """
    from apscheduler.schedulers.background import BackgroundScheduler

    from lifebeat.embedding import attach_on

    conninfo = _checked(database) if database else _conninfo_of(app)
    engines: list[ProcrastinateEngine] = []

    def make_engine(life: Lifecycle) -> ProcrastinateEngine:
        engines[:] = [ProcrastinateEngine(life, conninfo, app=app, queue=queue)]
        return engines[0]

    scheduler = BackgroundScheduler(timezone="UTC")
    handle = attach_on(
        scheduler,
        {
            "appName": app_name,
            "appVersion": app_version,
            "releaseVersion": release_version,
            "telemetryApiKey": api_key,
            "telemetryHost": host,
            "telemetryEnabled": enabled,
        },
        config_dir=config_dir,
        allow=allow,
        make_engine=make_engine,
    )
    logger = logging.getLogger("lifebeat")
    _register(app, queue, lambda row, job, instant: _current(engines).run(row, job, instant), logger)
    worker = HostWorker(app, scheduler, lambda: engines[0] if engines else None)
    registry: Any = app.periodic_registry
    registry.periodic_tasks = {**registry.periodic_tasks, (TASK, "lifebeat"): worker}
    return handle


class HostWorker:
    """How we learn that a host's worker starts and stops: it asks its periodic tasks, of which this looks like one.

    Procrastinate has no hook for that. It never defers anything for this one, since there never was an instant.
    """

    configure_kwargs: Mapping[str, Any] = {}
    cron = "never"
    periodic_id = "lifebeat"

    def __init__(self, app: Any, scheduler: Any, engine: Callable[[], ProcrastinateEngine | None]) -> None:
        self.task = app.tasks[TASK]
        self._app = app
        self._scheduler = scheduler
        self._engine = engine
        self._deferrer: asyncio.Task[Any] | None = None

    @property
    def croniter(self) -> HostWorker:
        """Procrastinate asks for it in the worker's loop, first when the worker has started."""
        deferrer = asyncio.current_task()
        if deferrer is not self._deferrer and deferrer is not None:
            self._deferrer = deferrer
            deferrer.add_done_callback(lambda _: self._begin(self._stop))
            self._begin(self._scheduler.start)
            self._sending = asyncio.create_task(self._send())
            deferrer.add_done_callback(lambda _: self._sending.cancel())
        return self

    def set_current(self, start_time: float) -> None:
        """There is nothing to set."""

    def get_prev(self, ret_type: type[float] = float) -> float:
        """It was last due in 1970, which is too late to run."""
        return ret_type(0)

    def get_next(self, ret_type: type[float] = float, start_time: float | None = None) -> float:
        """It is never due; the worker is to look again in an hour."""
        return ret_type((start_time or time.time()) + 3600)

    def _begin(self, work: Callable[[], None]) -> None:
        # Not a daemon: a stop is bounded, and the interpreter waits for it.
        threading.Thread(target=work, name="lifebeat-life", daemon=False).start()

    def _stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def _send(self) -> None:
        while True:
            engine = self._engine()
            if engine is not None and engine.is_ready:
                await engine.send(self._app)
            await asyncio.sleep(POLL)


def _current(engines: list[ProcrastinateEngine]) -> ProcrastinateEngine:
    if not engines:
        raise NotHere("telemetry is off here, and the application has no jobs of its own in the job file")
    return engines[0]


def _checked(database: str) -> str:
    import psycopg.conninfo

    try:
        psycopg.conninfo.conninfo_to_dict(database)
    except psycopg.ProgrammingError:
        # Its text may quote the password.
        message = "'database' cannot be read; such as postgresql://user@host/name"
        raise ConfigError(Problem("lifebeat.engines.procrastinate.attach", message)) from None
    return database


def _conninfo_of(app: procrastinate.App) -> str:
    """The database of the app's connector."""
    given: dict[str, Any] = getattr(app.connector, "_pool_args", {})
    import psycopg.conninfo

    try:
        return psycopg.conninfo.make_conninfo(given["conninfo"], **given.get("kwargs", {}))
    except (KeyError, TypeError, psycopg.ProgrammingError):
        message = "the database cannot be told from the app's connector; give it: attach(app, database=URL, …)"
        raise ConfigError(Problem("lifebeat.engines.procrastinate.attach", message)) from None


def _register(app: Any, queue: str, run: Callable[[Row, str, int], None], logger: logging.Logger) -> None:
    """Tell a Procrastinate app the task by which runs come back to us."""

    def lifebeat_run(context: Any, *, job: str, instant: int) -> None:
        run(Row(context.job.id, context.job.attempts), job, instant)

    app.task(name=TASK, queue=queue, pass_context=True, retry=retry_of(logger))(lifebeat_run)


def retry_of(logger: logging.Logger) -> BaseRetryStrategy:
    """Another process is to try, for a minute; whoever is only busy may be so for longer."""
    from procrastinate import BaseRetryStrategy, RetryDecision

    tried = _Tried()

    class Retry(BaseRetryStrategy):
        def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
            if not isinstance(exception, NotHere):
                return None
            if not isinstance(exception, NotNow) and tried.since(job.id) > GIVES_UP:
                logger.error("a run of job %s is given up: nobody knows the job", job.task_kwargs["job"])
                return None
            return RetryDecision(retry_in={"seconds": PATIENCE})

    return Retry()


class _Tried:
    """Since when this process has been asked in vain for a run."""

    def __init__(self) -> None:
        self._first: dict[int | None, float] = {}

    def since(self, row: int | None) -> float:
        """For how many seconds."""
        now = time.monotonic()
        # What was not asked for again has gone to another.
        self._first = {one: at for one, at in self._first.items() if now - at < 2 * GIVES_UP}
        return now - self._first.setdefault(row, now)

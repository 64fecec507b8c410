"""Many machines on PostgreSQL: Procrastinate's workers run what the application shares.

No leader: every process looks at its own clock, and the row (job, instant) that one of them inserts is the claim. The
same statement puts the run into Procrastinate's queue, so that neither is ever there without the other. Whoever was
killed in the middle of a run leaves it to be run again by another.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.dispatch import LOOK_EVERY, STALLED, TASK, WAITS, Dispatch
from lifebeat.engines.postgres import Installation
from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.schedule import to_datetime

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    import procrastinate
    import psycopg

    from lifebeat.engines import Run
    from lifebeat.handle import Lifebeat
    from lifebeat.jobfile import JobSpec
    from lifebeat.lifecycle import Lifecycle
    from lifebeat.roster import Arrival
    from lifebeat.schedule import Instants

QUEUE = "lifebeat"
CONCURRENCY = 10
HEARTBEAT = 5.0
PATIENCE = 3
ATTEMPTS = 20
POLL = 0.2


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
        self._dispatch = Dispatch(self._installation, life.clock, queue, self._is_ill)
        self._runs: dict[str, Run] = {}
        self._ready: Callable[[], None] | None = None
        self.is_ready = False
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None
        self._worker: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
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
        self._runs[spec.id] = run
        self._dispatch.put(spec, instants, jitter, make_up=make_up)

    def remove(self, job_id: str) -> None:
        """Take a job away."""
        self._runs.pop(job_id, None)
        self._dispatch.remove(job_id)

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
            self._installation.open(check=self.check)
            self._open_app()
            self.is_ready = True
            if self._ready is not None:
                self._ready()
        self._get_well()

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
        _register(app, self._queue, self.run)
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

    async def send(self, app: Any) -> None:
        """Put what is due into the queue of an app that is open, until cancelled."""
        await self._dispatch.run(app)

    def run(self, job: str, instant: int) -> None:
        """Run what has come back from the queue.

        Raises:
            NotHere: This process cannot.
        """
        claimed: list[bool] = []

        def claim() -> bool:  # the row in the queue is it
            claimed.append(True)
            return True

        run = self._runs.get(job)
        if run is None or self._ended.is_set():
            raise NotHere(job)
        try:
            run(to_datetime(instant), claim)
        except EngineUnavailable as error:
            raise NotHere(str(error)) from error
        if not claimed:
            raise NotHere(job)


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
    from apscheduler.schedulers.background import BackgroundScheduler  # noqa: PLC0415 - only with this engine

    from lifebeat.embedding import attach_on  # noqa: PLC0415 - only with this engine

    conninfo = database or _conninfo_of(app)
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
    _register(app, queue, lambda job, instant: _current(engines).run(job, instant))
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


def _conninfo_of(app: procrastinate.App) -> str:
    """The database of the app's connector."""
    given: dict[str, Any] = getattr(app.connector, "_pool_args", {})
    import psycopg.conninfo  # noqa: PLC0415 - only with this engine

    try:
        return psycopg.conninfo.make_conninfo(given["conninfo"], **given.get("kwargs", {}))
    except (KeyError, TypeError, psycopg.ProgrammingError):
        message = "the database cannot be told from the app's connector; give it: attach(app, database=URL, …)"
        raise ConfigError(Problem("lifebeat.engines.procrastinate.attach", message)) from None


def _register(app: Any, queue: str, run: Callable[[str, int], None]) -> None:
    """Tell a Procrastinate app the task by which runs come back to us."""
    from procrastinate import RetryStrategy  # noqa: PLC0415 - only with this engine

    retry = RetryStrategy(max_attempts=ATTEMPTS, wait=PATIENCE, retry_exceptions=[NotHere])

    def lifebeat_run(*, job: str, instant: int) -> None:
        run(job, instant)

    app.task(name=TASK, queue=queue, retry=retry)(lifebeat_run)


def make_app(database: str) -> procrastinate.App:
    """A Procrastinate app on that database, for a worker of our own."""
    import procrastinate  # noqa: PLC0415 - only with this engine

    connector = procrastinate.PsycopgConnector(conninfo=database, min_size=1, max_size=4, timeout=5.0)
    return procrastinate.App(connector=connector)

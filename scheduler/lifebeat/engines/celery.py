"""Many machines on Celery with RedBeat, for those who have it: beat sends what the application shares, workers run it.

A worker's main process is the application's: it lives Lifebeat's life, with the jobs that are the process's own and the
start and stop of the application on this machine. The pool's children, or its threads, run what comes as a task.
"""

from __future__ import annotations

import logging
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lifebeat.clock import SystemClock
from lifebeat.embedding import attach_on
from lifebeat.engines.timetable import Due
from lifebeat.errors import ConfigError, Problem
from lifebeat.schedule.instants import SECOND
from lifebeat.settings.source import ConfigSource
from lifebeat.settings.source import config_dir as find_config_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lifebeat.clock import Clock
    from lifebeat.engines import Engine
    from lifebeat.engines.guest import Guest
    from lifebeat.engines.redis import Outage, Shared
    from lifebeat.engines.worker import WorkerEngine
    from lifebeat.handle import Lifebeat
    from lifebeat.lifecycle.life import Lifecycle
    from lifebeat.lifecycle.watch import Watch
    from lifebeat.once.files import Presence

TASK = "lifebeat.run"
SCHEDULER = "lifebeat.engines.beat:Scheduler"
LOOP = 5
LOCK_TIMEOUT = 15
RESEND_AFTER = 60
LOOK_EVERY = 1.0
_CELERYS_OWN = "celery.beat:PersistentScheduler"
_FOR_REDBEAT = ("retry_period",)
_WITH_BROKERS_OPTIONS = ("sentinel:", "redis-sentinel:", "redis-cluster:")
_PATIENCE = {"socket_connect_timeout": 5, "socket_timeout": 5}


def attach(
    app: Any,
    *,
    app_name: str,
    app_version: str,
    release_version: str | None = None,
    api_key: str | None = None,
    host: str | None = None,
    enabled: bool | None = None,
    config_dir: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
) -> Lifebeat:
    """Put Lifebeat on a Celery app: its workers' lives are the application's, and its beat sends what is due.

    Call this where the app is made, so that every worker and every beat does. A process that only sends tasks is not
    changed by it. As with ``lifebeat.attach``, telemetry never makes this raise and ``None`` leaves a setting to the
    other layers of config.

    Args:
        app: The host's ``celery.Celery``.
        app_name: The application's name; for log lines, never sent.
        app_version: The application's version.
        release_version: The release that is running; the version where not given.
        api_key: The PostHog project key.
        host: The URL of the PostHog to send to.
        enabled: False turns telemetry off; true cannot turn it on against another layer.
        config_dir: The config directory; ``None`` for ``LIFEBEAT_CONFIG_DIR``, systemd's, or ``./config``.
        allow: The modules that the job file may name, besides ``lifebeat_jobs``.

    Returns:
        The handle.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    there: Attachment | None = getattr(app, "lifebeat", None)
    if there is not None:
        logging.getLogger("lifebeat").warning("attach() was called twice for an app; the first call holds")
        return there.handle
    arguments = {
        "appName": app_name,
        "appVersion": app_version,
        "releaseVersion": release_version,
        "telemetryApiKey": api_key,
        "telemetryHost": host,
        "telemetryEnabled": enabled,
    }
    return Attachment(app, arguments, config_dir=config_dir, allow=allow).handle


def attachment_of(app: Any) -> Attachment:
    """Lifebeat on that app.

    Raises:
        ConfigError: It is not there.
    """
    there: Attachment | None = getattr(app, "lifebeat", None)
    if there is None:
        message = "the app has no Lifebeat; call lifebeat.engines.celery.attach(app, …) where it is made"
        raise ConfigError(Problem(f"Celery app {app.main!r}", message))
    return there


class Attachment:
    """Lifebeat on one app, in whatever process this is.

    Args:
        app: The host's ``celery.Celery``.
        arguments: What the host says, by the keys' names in files.
        config_dir: The config directory; ``None`` for where it is looked for.
        allow: The modules that the job file may name.
        clock: Where beat and the pool's children have the time from.
    """

    def __init__(
        self,
        app: Any,
        arguments: Mapping[str, Any],
        *,
        config_dir: str | os.PathLike[str] | None = None,
        allow: Sequence[str] = (),
        clock: Clock | None = None,
    ) -> None:
        from apscheduler.schedulers.background import BackgroundScheduler

        from lifebeat.engines.worker import Began

        self.app = app
        self.clock = clock or SystemClock()
        self._arguments = dict(arguments)
        self._config_dir = config_dir
        self._allow = tuple(allow)
        self._began = Began()
        self._scheduler: Any = BackgroundScheduler(timezone="UTC")
        self._client: Any = None
        self._main: tuple[int, WorkerEngine] | None = None
        self._child: tuple[int, _Child] | None = None
        self.handle = attach_on(
            self._scheduler, arguments, config_dir=config_dir, allow=allow, make_engine=self._make_engine
        )
        app.lifebeat = self
        _define_task(app, self.run)
        _follow(app, self)
        _prepare(app)

    # -- a worker's life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The worker has its pool. Where there is nothing to do, no thread is started either."""
        if not self.is_idle():
            self._scheduler.start()

    def stop(self) -> None:
        """The worker has ended its last task."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _make_engine(self, life: Lifecycle) -> Engine:
        from lifebeat.engines.apscheduler import LocalEngine
        from lifebeat.engines.guest import Timers
        from lifebeat.engines.worker import WorkerEngine

        house = LocalEngine(
            Timers(),
            find_house=_House(life).find,
            clock=life.clock,
            say_once=life.say_once,
            await_opening=lambda _: None,
        )
        engine = WorkerEngine(life, self.shared, began=self._began, house=house, patience=self.resend_after / SECOND)
        self._main = (os.getpid(), engine)
        return engine

    # -- a task ----------------------------------------------------------------------------------------------------

    def run(self, batch: Sequence[tuple[str, int]]) -> None:
        """Run what has come as a task, in this process: a job and its instant, or several.

        Args:
            batch: Each job with its instant, in microseconds since the epoch.
        """
        engine, errors = self._engine_here(), list[Exception]()
        for job_id, instant in batch:
            try:
                engine.run(Due(job_id, instant))
            except Exception as error:
                if len(batch) == 1:
                    raise
                errors.append(error)
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(batch)} jobs failed", errors)

    def _engine_here(self) -> WorkerEngine:
        if self._main is not None and self._main[0] == os.getpid():
            return self._main[1]
        if self._child is None or self._child[0] != os.getpid():
            self._child = (os.getpid(), _Child(self))
        return self._child[1].engine_now()

    def make_child_engine(self, life: Lifecycle) -> WorkerEngine:
        """The engine of a process of the pool."""
        from lifebeat.engines.worker import WorkerEngine

        return WorkerEngine(life, self.shared, began=self._began, house=None, patience=self.resend_after / SECOND)

    # -- what is the same in beat and in a pool's child -------------------------------------------------------------

    def make_guest(self, make_engine: Callable[[Lifecycle], Engine], *, watching: bool) -> Guest:
        """A life of the shared jobs."""
        from lifebeat.engines.guest import Guest

        logger = logging.getLogger("lifebeat")
        return Guest(
            self._source(),
            allow=self._allow,
            clock=self.clock,
            logger=logger,
            watching=watching,
            make_engine=make_engine,
        )

    def is_idle(self) -> bool:
        """Whether there is nothing to do: telemetry is off, the job file is the shipped one, and nothing waits."""
        return self.handle.is_idle()

    def _source(self) -> ConfigSource:
        directory = find_config_dir(self._config_dir, os.environ)
        return ConfigSource(directory, arguments=self._arguments, environ=os.environ, modules=sys.modules)

    # -- Redis -----------------------------------------------------------------------------------------------------

    @cached_property
    def shared(self) -> Shared:
        """What all processes share."""
        from lifebeat.engines.redis import Shared

        return Shared(self.redis, self._prefix())

    @property
    def resend_after(self) -> int:
        """After how many microseconds a task is taken for lost: ``lifebeat_resend_after`` of the app's config."""
        return int(self.app.conf.get("lifebeat_resend_after", RESEND_AFTER) * SECOND)

    def redis(self) -> Any:
        """RedBeat's client, without its endless patience."""
        if self._client is None:
            import redbeat.schedulers

            schedulers: Any = redbeat.schedulers  # which ships no types
            client = schedulers.get_redis(self.app)
            self._client = getattr(client, "wrapped_connection", client)
        return self._client

    def outage(self) -> Outage:
        """Who says that Redis is away."""
        from lifebeat.engines.redis import Outage

        return Outage(logging.getLogger("lifebeat"))

    def _prefix(self) -> str:
        given = self.app.conf.get("redbeat_key_prefix")
        return f"{given}lifebeat:" if given else f"lifebeat:{self.app.main or self._arguments['appName']}:"


class _Child:
    """A process of a worker's pool: knows the shared jobs, and looks at their file now and then."""

    def __init__(self, attachment: Attachment) -> None:
        from lifebeat.engines.guest import Timers
        from lifebeat.lifecycle.watch import Watch

        engines: list[WorkerEngine] = []

        def make_engine(life: Lifecycle) -> WorkerEngine:
            engines.append(attachment.make_child_engine(life))
            return engines[-1]

        life = attachment.make_guest(make_engine, watching=False)
        life.start(Timers())
        self._clock = attachment.clock
        self._engine = engines[0]
        self._watch: Watch = Watch(life.files, life.reload)
        self._looked = self._clock.monotonic()

    def engine_now(self) -> WorkerEngine:
        """The engine, with the jobs as the file has them."""
        if self._clock.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = self._clock.monotonic()
            self._watch.look()
        return self._engine


class _House:
    """The register of this machine's processes."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life
        self._found: Presence | None = None

    def find(self) -> Presence | None:
        """It; ``None`` where it cannot be kept."""
        if self._found is None and (state := self._life.state_dir(create=True)) is not None:
            from lifebeat.once.files import Presence

            self._found = Presence(state, clock=self._life.clock)
        return self._found


def _define_task(app: Any, run: Callable[[Sequence[tuple[str, int]]], None]) -> None:
    """The task by which runs come. A worker that dies of one gives it to another."""

    def lifebeat_run(batch: list[tuple[str, int]]) -> None:
        run(batch)

    app.task(
        name=TASK,
        shared=False,
        ignore_result=True,
        acks_late=True,
        acks_on_failure_or_timeout=True,
        reject_on_worker_lost=True,
        rate_limit=None,
    )(lifebeat_run)


def _follow(app: Any, attachment: Attachment) -> None:
    """Be told of the life of workers. It begins when the pool's children are forked, and needs no broker."""
    import celery.bootsteps
    import celery.signals

    step: Any = celery.bootsteps.StartStopStep
    signals: Any = celery.signals

    class LifebeatStep(step):  # type: ignore[misc]  # Celery ships no types
        requires = ("celery.worker.components:Pool",)
        label = "Lifebeat"

        def start(self, _: Any) -> None:
            attachment.start()

        def stop(self, _: Any) -> None:
            """The pool has tasks to end yet."""

        terminate = stop

    def stopped(sender: Any, **_: Any) -> None:
        if sender.app is app:
            attachment.stop()

    def beating(sender: Any, **_: Any) -> None:
        if sender.app is app:
            _check_beat(sender.scheduler)

    app.steps["worker"].add(LifebeatStep)
    signals.worker_shutdown.connect(stopped, weak=False)
    signals.beat_init.connect(beating, weak=False)


def _check_beat(scheduler: Any) -> None:
    from lifebeat.engines.beat import Scheduler

    if not isinstance(scheduler, Scheduler):
        logging.getLogger("lifebeat").warning(
            "beat's scheduler is %s, which does not know the job file: jobs with once: application do not run; "
            "start beat with: -S %s",
            type(scheduler).__name__,
            SCHEDULER,
        )


def _prepare(app: Any) -> None:
    """Set what the host has not set, when its configuration is known."""
    if app.configured:
        _configure(app.conf)
    else:
        app.on_after_configure.connect(_on_configured, weak=False)


def _on_configured(source: Any, **_: Any) -> None:
    _configure(source)


def _configure(conf: Any) -> None:
    if conf.get("beat_scheduler") == _CELERYS_OWN:
        conf.beat_scheduler = SCHEDULER
    if not conf.get("beat_max_loop_interval"):
        conf.beat_max_loop_interval = LOOP
    if conf.get("redbeat_lock_timeout") is None:
        conf.redbeat_lock_timeout = LOCK_TIMEOUT
    broker = conf.broker_url or ""
    if conf.get("redbeat_redis_url") is None and broker.startswith("redis"):
        # Two spellings of a socket: Celery's and that of Redis's own client.
        conf.redbeat_redis_url = broker.replace("redis+socket:", "unix:").replace("virtual_host=", "db=")
    conf.redbeat_redis_options = {**_PATIENCE, **_redis_options(conf, broker)}


def _redis_options(conf: Any, broker: str) -> dict[str, Any]:
    """The host's for RedBeat; or of those for the broker what RedBeat would use itself."""
    given: dict[str, Any] | None = conf.get("redbeat_redis_options")
    if given is not None:
        return given
    brokers: dict[str, Any] = conf.get("broker_transport_options") or {}
    if (conf.get("redbeat_redis_url") or broker).startswith(_WITH_BROKERS_OPTIONS):
        return brokers
    return {name: brokers[name] for name in _FOR_REDBEAT if name in brokers}

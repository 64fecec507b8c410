"""A worker: its main process lives the application's life, and whichever process of its pool gets a task runs it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from typing import TYPE_CHECKING, Any

from lifebeat import clock as clocks
from lifebeat.embedding import application_of, attach_application, source_of
from lifebeat.engines.celery.connection import Redis, Sender
from lifebeat.engines.celery.coordinator import CeleryCoordinator
from lifebeat.engines.celery.shared import GONE_AFTER, REDELIVERY, Due, Shared
from lifebeat.installation import KEY, known_id
from lifebeat.lifecycle import plan as plans
from lifebeat.log import get_logger
from lifebeat.once.protocol import Busy, Unavailable, UnknownJob
from lifebeat.registration.registry import background_scheduler
from lifebeat.schedule.instants import MICROSECOND, SECOND, jitter_of, to_datetime
from lifebeat.storage import forks, threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from lifebeat.embedding import HostArguments
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.application import Application

TASK = "lifebeat.run"
ASK_AGAIN = 5  # seconds
MOST_UNKNOWN = 12
MOST_ATTEMPTS = 3
NOT_CONSUMED = (
    "this worker does not consume the queue %r, so it neither claims nor runs jobs with `once: application`; "
    "one that does has to run too, or route the task %r to a queue that this one consumes"
)


class Attachment:
    """Lifebeat on one app, in whatever process this is.

    Args:
        app: The host's ``celery.Celery``.
        arguments: What the host says of itself.
        redis: The Redis for claims; ``None`` for ``lifebeat_redis_url`` of the app's config, or the broker.
    """

    def __init__(self, app: Any, arguments: HostArguments, redis: str | None = None) -> None:
        self.app = app
        self._arguments = arguments
        self._redis = Redis(app, lambda: redis or app.conf.get("lifebeat_redis_url"))
        self._sender = Sender(app)
        self._coordinator: tuple[int, CeleryCoordinator] | None = None
        self._child: tuple[int, _Child] | None = None
        self._scheduler: Any = background_scheduler()
        self.handle = attach_application(self._scheduler, arguments, make_coordinator=self._make_coordinator)
        _define_task(app, self.run)
        _follow(app, self)

    # -- a worker's life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin the life: the worker has its pool. Where there is nothing to do, no thread is started either."""
        if self.handle.is_idle():
            return
        self._scheduler.start()
        if not self._consumes():
            get_logger().warning(NOT_CONSUMED, self._queue(), TASK)

    def stop(self) -> None:
        """End the life: the worker has ended its last task."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
            self._sender.close()

    def _make_coordinator(self, application: Application) -> CeleryCoordinator:
        made = CeleryCoordinator(
            self._shared(application),
            clock=application.clock,
            logger=application.logger,
            hand_over=lambda due: self._sender.send(TASK, due),
            may_claim=self._consumes,
        )
        self._coordinator = (os.getpid(), made)
        return made

    def _shared(self, application: Application) -> Shared:
        conf = self.app.conf
        options: dict[str, Any] = conf.broker_transport_options or {}
        return Shared(
            self._redis,
            lambda: application.source.read().app_name or "",
            gone_after=conf.get("lifebeat_gone_after", GONE_AFTER),
            redelivery=float(options.get("visibility_timeout") or REDELIVERY),
        )

    def _queue(self) -> Any:
        return getattr(self.app.amqp.router.route({}, TASK).get("queue"), "name", None)

    def _consumes(self) -> bool:
        queue = self._queue()
        return queue is None or queue in self.app.amqp.queues.consume_from

    # -- a task ----------------------------------------------------------------------------------------------------

    def run(self, task: Any, due: Due) -> None:
        """Run an instant that has come as a task, in this process, unless it has run or is under way elsewhere."""
        if self._child is None or self._child[0] != os.getpid():
            application = application_of(source_of(self._arguments), self._arguments)
            self._child = (os.getpid(), _Child(application, self._shared(application)))
        child, run = self._child[1], self._child[1].call
        if self._coordinator is not None and self._coordinator[0] == os.getpid():
            run = self._coordinator[1].run_here  # a pool without processes: the life is here
        try:
            run_once(child.shared, due, task.request.id, coalesce=child.find(due.job_id).coalesce, run=run)
        except UnknownJob as error:
            if task.request.retries >= MOST_UNKNOWN:
                get_logger().warning("giving up on job %s: no process has it in its job file", due.job_id)
            else:
                raise deliver_again(task) from error
        except (Busy, Unavailable) as error:
            raise deliver_again(task) from error


def deliver_again(task: Any) -> Exception:
    """Return what has a task delivered again: in some seconds, or at once where the broker does not take it.

    Celery would drop it then.
    """
    from celery.exceptions import Reject

    reject: Any = Reject
    try:
        found: Exception = task.retry(countdown=ASK_AGAIN, max_retries=None, throw=False)
    except reject as error:
        found = reject(error, requeue=True)
    return found


def run_once(shared: Shared, due: Due, delivery: str, *, coalesce: bool, run: Callable[[Due], None]) -> None:
    """Run an instant that a queue has delivered, unless it has run, or another delivery of it is under way.

    Raises:
        UnknownJob: This process does not know the job, or may not run it; another may.
        Busy: Later it can.
        Unavailable: Redis cannot be asked.
        Exception: What the job raises.
    """
    attempt = shared.begin(due, delivery, coalesce=coalesce)
    if not attempt:
        return
    try:
        if attempt > MOST_ATTEMPTS:
            get_logger().error("giving up on job %s: its process died %d times in a run", due.job_id, MOST_ATTEMPTS)
        else:
            run(due)
    except (Busy, UnknownJob):
        shared.put_back(due)
        raise
    except Exception:
        _end(shared, due)
        raise
    _end(shared, due)


def _end(shared: Shared, due: Due) -> None:
    """Note the end, also where Redis comes back within a minute: the broker may deliver it once more then."""
    for _ in range(MOST_UNKNOWN):
        with contextlib.suppress(Unavailable):
            shared.end(due)
            return
        time.sleep(ASK_AGAIN)


class _Child:
    """A process that is given tasks: it reads the job file when one comes.

    Args:
        application: What it runs.
        shared: What is in Redis.
    """

    def __init__(self, application: Application, shared: Shared) -> None:
        with forks.guard:
            from lifebeat.lifecycle.runner import Runner

        self.shared = shared
        self._application = application
        self._later: dict[str, object] = {}
        self._runner = Runner(
            application, application.history(), event_loop=lambda: None, background=threads.start, later=self._run_later
        )

    def find(self, job_id: str) -> JobSpec:
        """Return the job, if this process may run it.

        Raises:
            UnknownJob: It may not.
        """
        is_on = self._application.consent().is_on
        for spec in self._application.load().specs:
            if spec.id == job_id and spec.enabled and (is_on or not spec.is_telemetry):
                return spec
        raise UnknownJob(f"job {job_id}: not in the plan of this process")

    def call(self, due: Due) -> None:
        """Run a job in this process of a pool."""
        spec, application = self.find(due.job_id), self._application
        self._know_id()
        late = int(application.clock.time() * SECOND) - due.instant
        if spec.jitter:
            late -= jitter_of(spec.id, application.seed(), due.instant, spec.jitter)
        if spec.misfire_grace is not None and late * MICROSECOND > spec.misfire_grace:
            application.logger.warning("job %s: the run was missed by %.1f s", spec.id, late / SECOND)
            return
        instant, started = to_datetime(due.instant), self.shared.started() or clocks.now(application.clock)
        by_hand = plans.make([spec], application.seed())[spec.id].is_by_hand(due.instant)
        if by_hand or application.may_run(spec.id, instant):
            self._runner.call(spec, instant, started, by_hand=by_hand)

    def _know_id(self) -> None:
        """Know the instance ID that all processes have agreed on, where config does not give it."""
        application = self._application
        settings = application.source.read()
        if settings.instance_id is None and application.consent().is_on:
            known = known_id(settings, application.state_dir(create=False))
            application.source.agree({KEY: self.shared.agree(known or str(uuid.uuid4()))})

    def _run_later(self, name: str, delay: timedelta, work: Callable[[], None]) -> None:
        token = self._later[name] = object()

        def wait() -> None:
            time.sleep(delay.total_seconds())
            if self._later.get(name) is token:
                work()

        threads.start(name, wait)


def _define_task(app: Any, run: Callable[[Any, Due], None]) -> None:
    """Define the task by which runs come; a worker that dies of one gives it back to the broker."""

    def lifebeat_run(self: Any, job_id: str, instant: int) -> None:
        run(self, Due(job_id, instant))

    app.task(
        bind=True,
        name=TASK,
        shared=False,
        ignore_result=True,
        acks_late=True,
        acks_on_failure_or_timeout=True,
        reject_on_worker_lost=True,
        rate_limit=None,
    )(lifebeat_run)


def _follow(app: Any, attachment: Attachment) -> None:
    """Follow the lives of workers: they begin when the pool's children are forked, and need no broker for that."""
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
            """Do nothing yet: the pool has tasks to end."""

        terminate = stop

    def stopped(sender: Any, **_: Any) -> None:
        if sender.app is app:
            attachment.stop()

    app.steps["worker"].add(LifebeatStep)
    signals.worker_shutdown.connect(stopped, weak=False)

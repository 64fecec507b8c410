"""``JobSpec`` to APScheduler: jobs in a job store and an executor of Lifebeat's own, and one listener.

The host's job store never sees these jobs and a full pool of the host's never delays them. Everything is registered
when the scheduler has started, so that a host which configures its scheduler after ``attach`` loses nothing.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from apscheduler.events import (
    EVENT_ALL_JOBS_REMOVED,
    EVENT_SCHEDULER_SHUTDOWN,
    EVENT_SCHEDULER_STARTED,
)
from apscheduler.jobstores.base import BaseJobStore, ConflictingIdError, JobLookupError

from lifebeat.registration.executor import DaemonExecutor, on_event_loop

if TYPE_CHECKING:
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.registration.alarm import Leave
    from lifebeat.registration.triggers import InstantTrigger
    from lifebeat.schedule.instants import Instants

ALIAS = "lifebeat"

Run = Callable[[datetime], None]


class Registry:
    """One APScheduler scheduler, seen as the place where jobs are registered.

    Args:
        scheduler: Any APScheduler 3 scheduler.
        started: Called when it has started, and at once if it is running already.
        stopped: Called when it has stopped.
        handle: What the host was given for it.
    """

    def __init__(
        self, scheduler: Any, *, started: Callable[[], None], stopped: Callable[[], None], handle: Any = None
    ) -> None:
        self.handle = handle
        self._scheduler = scheduler
        self._started = started
        self._stopped = stopped
        self._executor = DaemonExecutor()
        self._store = Store()
        self._jobs: dict[str, dict[str, Any]] = {}
        self._hold: Any = None

    def listen(self) -> None:
        """Follow the scheduler's life from here on."""
        mask = EVENT_SCHEDULER_STARTED | EVENT_SCHEDULER_SHUTDOWN | EVENT_ALL_JOBS_REMOVED
        self._scheduler.add_listener(self._on_event, mask)
        if self._scheduler.running:
            self._on_started()

    def unlisten(self) -> None:
        """Leave the scheduler as if nothing had ever been there."""
        self._scheduler.remove_listener(self._on_event)
        self._let_go_of_hub()
        if self._scheduler.running:
            self._scheduler.remove_jobstore(ALIAS)
            self._scheduler.remove_executor(ALIAS, shutdown=False)

    @property
    def is_running(self) -> bool:
        """Whether the scheduler runs."""
        return bool(self._scheduler.running)

    @property
    def is_loop_bound(self) -> bool:
        """Whether the scheduler runs on an event loop, which must not be held up."""
        return on_event_loop() or type(self._scheduler).__module__.rpartition(".")[2] not in {"background", "blocking"}

    @property
    def event_loop(self) -> Any:
        """The asyncio loop that the scheduler runs on; ``None`` if it runs in threads."""
        loop = getattr(self._scheduler, "_eventloop", None)
        return loop or getattr(getattr(self._scheduler, "_ioloop", None), "asyncio_loop", None)

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run) -> None:
        """Register a job with instants; one of the same ID is replaced."""
        from lifebeat.registration.triggers import InstantTrigger

        trigger = InstantTrigger(instants, jitter, coalesce=spec.coalesce)
        trigger.misfire_grace = spec.misfire_grace
        self._add(
            spec.id,
            _Firing(run, trigger),
            trigger=trigger,
            coalesce=spec.coalesce,
            max_instances=spec.max_instances,
            misfire_grace_time=_whole_seconds(spec.misfire_grace),
        )

    def add_once(self, job_id: str, delay: timedelta, run: Run) -> None:
        """Run something once, after ``delay``, however late; while the scheduler is paused it waits."""
        from lifebeat.registration.triggers import OnceTrigger

        moment = datetime.now(tz=UTC) + delay

        def once(fired: datetime) -> None:
            self.remove(job_id)
            run(fired)

        self._add(
            job_id,
            once,
            trigger=OnceTrigger(moment),
            next_run_time=moment,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )

    def _add(self, job_id: str, run: Run, **options: Any) -> None:
        # APScheduler checks that a function can be called with its arguments; the executor gives the real moment.
        self._jobs[job_id] = {"func": run, "args": (None,), "name": job_id, **options}
        self._register(job_id)

    def _register(self, job_id: str) -> None:
        if not self._scheduler.running:
            return
        try:
            self._scheduler.add_job(
                id=_prefixed(job_id), jobstore=ALIAS, executor=ALIAS, replace_existing=True, **self._jobs[job_id]
            )
        except RuntimeError:
            if self.event_loop is None or not self.event_loop.is_closed():  # a closed one runs nothing, and may be so
                raise

    def remove(self, job_id: str) -> None:
        """Take a job away; a run that is under way goes on."""
        self._jobs.pop(job_id, None)
        try:
            self._scheduler.remove_job(_prefixed(job_id), jobstore=ALIAS)
        except (JobLookupError, KeyError):
            return

    def next_run(self, job_id: str) -> datetime | None:
        """When a job runs next; ``None`` if it does not."""
        job = self._scheduler.get_job(_prefixed(job_id), jobstore=ALIAS)
        return job.next_run_time if job else None

    def drain(self, timeout: float) -> bool:
        """Wait until no job of ours runs, for at most ``timeout`` seconds; says whether none does."""
        return self._executor.drain(timeout)

    def responds(self, timeout: float) -> bool:
        """Whether the scheduler asks what is due when it is woken, within ``timeout`` seconds."""
        if not self._scheduler.running:
            return False
        asked = threading.Event()
        self._store.waiting.append(asked)
        self._scheduler.wakeup()
        return asked.wait(timeout)

    def attend(self, descriptor: int, told: Callable[[], None]) -> Leave | None:
        """Have the scheduler wait for a descriptor beside its own instants.

        Args:
            descriptor: What to wait for.
            told: Called in the scheduler's thread or loop each time that it can be read, which ``told`` has to do.

        Returns:
            What ends that, and calls what it is given when the descriptor may be closed; ``None`` if this scheduler
            cannot wait for one.
        """
        from lifebeat.registration import alarm

        if self.event_loop is not None:
            return alarm.attend_on_loop(self.event_loop, descriptor, told)
        return alarm.attend(self._scheduler, descriptor, told)

    def shut_down(self) -> None:
        """Stop the scheduler, if it is running, without waiting for its jobs."""
        if not self._scheduler.running:
            return
        try:
            self._scheduler.shutdown(wait=False)
        except Exception:
            # In the middle of its start it has no thread yet to wait for, and ends all the same.
            if self._scheduler.running:
                raise

    def _on_event(self, event: Any) -> None:
        if event.code == EVENT_SCHEDULER_STARTED:
            self._on_started()
        elif event.code == EVENT_SCHEDULER_SHUTDOWN:
            self._jobs.clear()
            self._let_go_of_hub()
            self._on_stopped()
        elif event.alias in {None, ALIAS} and self._scheduler.running:
            for job_id in list(self._jobs):  # a host that removes its own jobs does not mean these
                self._register(job_id)

    def _hold_hub(self) -> None:
        """Keep gevent from giving up, while its scheduler waits for a lock that one of our threads has just now."""
        if self._hold is None and type(self._scheduler).__module__.rpartition(".")[2] == "gevent":
            import gevent

            hub: Any = gevent.get_hub()
            self._hold = hub.loop.async_()
            self._hold.start(lambda: None)

    def _let_go_of_hub(self) -> None:
        if self._hold is not None:
            self._hold.stop()
            self._hold.close()
            self._hold = None

    def _on_started(self) -> None:
        self._hold_hub()
        _add_plugin(self._scheduler.add_executor, self._executor)
        _add_plugin(self._scheduler.add_jobstore, self._store)
        self._started()

    def _on_stopped(self) -> None:
        if self.is_loop_bound:
            # Not a daemon: the interpreter waits for it at exit, and it is bounded.
            threading.Thread(target=self._stopped, name="lifebeat-stop", daemon=False).start()
        else:
            if self._executor.is_awaited:
                self._executor.drain(None)
            self._stopped()


class _Firing:
    """What APScheduler calls when a job fires: its run, for the instant."""

    __slots__ = ("_run", "_trigger")
    # APScheduler asks whether it can be called with one argument; without this a third of its time goes into that.
    __signature__ = Signature([Parameter("fired", Parameter.POSITIONAL_ONLY)])

    def __init__(self, run: Run, trigger: InstantTrigger) -> None:
        self._run = run
        self._trigger = trigger

    def __call__(self, fired: datetime) -> None:
        self._run(self._trigger.instant_of(fired))


class Store(BaseJobStore):  # type: ignore[misc]  # APScheduler ships no types
    """Our jobs in memory, by the time of their next run. Tells who waits for it that it was asked.

    APScheduler's own looks for a job's place in Python, which takes longer the more jobs there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[threading.Event] = []
        self._order: list[tuple[float, str]] = []
        self._jobs: dict[str, tuple[float, Any]] = {}

    def lookup_job(self, job_id: str) -> Any:
        return self._jobs.get(job_id, (0.0, None))[1]

    def get_due_jobs(self, now: datetime) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # APScheduler ships no types
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.set()
        moment, due = now.timestamp(), 0
        while due < len(self._order) and self._order[due][0] <= moment:
            due += 1
        return [self._jobs[job_id][1] for _, job_id in self._order[:due]]

    def get_next_run_time(self) -> datetime | None:  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        return self._jobs[self._order[0][1]][1].next_run_time if self._order else None

    def get_all_jobs(self) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
        return [self._jobs[job_id][1] for _, job_id in self._order]

    def add_job(self, job: Any) -> None:
        if job.id in self._jobs:
            raise ConflictingIdError(job.id)
        moment = math.inf if job.next_run_time is None else job.next_run_time.timestamp()
        self._jobs[job.id] = moment, job
        insort(self._order, (moment, job.id))

    def update_job(self, job: Any) -> None:
        self.remove_job(job.id)
        self.add_job(job)

    def remove_job(self, job_id: str) -> None:
        if job_id not in self._jobs:
            raise JobLookupError(job_id)
        moment, _ = self._jobs.pop(job_id)
        del self._order[bisect_left(self._order, (moment, job_id))]

    def remove_all_jobs(self) -> None:
        self._order.clear()
        self._jobs.clear()

    def shutdown(self) -> None:
        self.remove_all_jobs()


def handle_of(scheduler: Any) -> Any:
    """The handle of the Lifebeat that is on a scheduler; ``None`` if there is none."""
    owners = (getattr(callback, "__self__", None) for callback, _ in scheduler._listeners)  # noqa: SLF001 - there is no other way to ask
    return next((owner.handle for owner in owners if isinstance(owner, Registry)), None)


def background_scheduler() -> Any:
    """Return a scheduler with a thread of its own, for hosts that have none."""
    from apscheduler.schedulers.background import BackgroundScheduler

    return BackgroundScheduler(timezone="UTC")


def _prefixed(job_id: str) -> str:
    return f"{ALIAS}:{job_id}"


def _add_plugin(add: Callable[[Any, str], None], plugin: Any) -> None:
    try:
        add(plugin, ALIAS)
    except ValueError:  # it is there from the scheduler's former life, and was started with it
        return


def _whole_seconds(span: timedelta | None) -> int | None:
    """What APScheduler shows; it takes nothing finer, and our executor goes by the span itself."""
    return None if span is None else max(math.ceil(span.total_seconds()), 1)

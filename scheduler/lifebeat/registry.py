"""``JobSpec`` to APScheduler: jobs in a job store and an executor of Lifebeat's own, and one listener.

The host's job store never sees these jobs and a full pool of the host's never delays them. Everything is registered
when the scheduler has started, so that a host which configures its scheduler after ``attach`` loses nothing.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from apscheduler.events import (
    EVENT_ALL_JOBS_REMOVED,
    EVENT_SCHEDULER_SHUTDOWN,
    EVENT_SCHEDULER_STARTED,
)
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.triggers.base import BaseTrigger

from lifebeat.executor import DaemonExecutor, on_event_loop
from lifebeat.schedule import Instants, to_datetime, to_instant

if TYPE_CHECKING:
    from lifebeat.jobfile import JobSpec

ALIAS = "lifebeat"
NEVER = timedelta(days=36500)
REMEMBERED = 100  # delayed runs whose instant is known while they wait for a thread

Run = Callable[[datetime], None]


class InstantTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """The instants of a job as APScheduler asks for them, each with its jitter on top."""

    def __init__(self, instants: Instants, jitter: Callable[[int], int], *, coalesce: bool) -> None:
        self._instants = instants
        self._jitter = jitter
        self._coalesce = coalesce
        self._fires: dict[int, int] = {}
        self.misfire_grace: timedelta | None = None

    def get_next_fire_time(  # pyright: ignore[reportIncompatibleMethodOverride]  # APScheduler ships no types
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """The next run; after a sleep straight to the latest instant, where missed runs become one."""
        at = to_instant(now)
        if previous_fire_time is None:
            return self._first(at)
        fired = to_instant(previous_fire_time)
        following = self._instants.after(self._fires.get(fired, fired))
        if following is not None and self._coalesce and following < at:
            following = self._instants.latest(at) or following
        return self._fire(following)

    def instant_of(self, fired: datetime) -> datetime:
        """The instant that a run belongs to."""
        at = to_instant(fired)
        return to_datetime(self._fires.get(at, at))

    def _first(self, at: int) -> datetime | None:
        latest = self._instants.latest(at)
        if latest is not None and latest + self._jitter(latest) >= at:
            return self._fire(latest)
        return self._fire(self._instants.after(at))

    def _fire(self, instant: int | None) -> datetime | None:
        if instant is None:
            return None
        delay = self._jitter(instant)
        if delay:
            self._fires[instant + delay] = instant
            while len(self._fires) > REMEMBERED:
                del self._fires[next(iter(self._fires))]
        return to_datetime(instant + delay)


class OnceTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """One moment, after which the job is removed by its own run.

    APScheduler removes a job that has no next run while it goes through the due ones, and fails with a traceback in its
    thread if the scheduler is being shut down just then; so there always is a next run, which never comes.
    """

    def __init__(self, moment: datetime) -> None:
        self._moment = moment
        self.misfire_grace: timedelta | None = None

    def get_next_fire_time(  # pyright: ignore[reportIncompatibleMethodOverride]  # APScheduler ships no types
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """The moment, and then a time that never comes."""
        return self._moment if previous_fire_time is None else now + NEVER


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
        self._jobs: dict[str, dict[str, Any]] = {}

    def listen(self) -> None:
        """Follow the scheduler's life from here on."""
        mask = EVENT_SCHEDULER_STARTED | EVENT_SCHEDULER_SHUTDOWN | EVENT_ALL_JOBS_REMOVED
        self._scheduler.add_listener(self._on_event, mask)
        if self._scheduler.running:
            self._on_started()

    def unlisten(self) -> None:
        """Leave the scheduler as if nothing had ever been there."""
        self._scheduler.remove_listener(self._on_event)
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
        trigger = InstantTrigger(instants, jitter, coalesce=spec.coalesce)
        trigger.misfire_grace = spec.misfire_grace
        self._add(
            spec.id,
            lambda fired: run(trigger.instant_of(fired)),
            trigger=trigger,
            coalesce=spec.coalesce,
            max_instances=spec.max_instances,
            misfire_grace_time=_whole_seconds(spec.misfire_grace),
        )

    def add_once(self, job_id: str, delay: timedelta, run: Run) -> None:
        """Run something once, after ``delay``, however late; while the scheduler is paused it waits."""
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
        if self._scheduler.running:
            self._scheduler.add_job(
                id=_prefixed(job_id), jobstore=ALIAS, executor=ALIAS, replace_existing=True, **self._jobs[job_id]
            )

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

    def shut_down(self) -> None:
        """Stop the scheduler, if it is running, without waiting for its jobs."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _on_event(self, event: Any) -> None:
        if event.code == EVENT_SCHEDULER_STARTED:
            self._on_started()
        elif event.code == EVENT_SCHEDULER_SHUTDOWN:
            self._jobs.clear()
            self._on_stopped()
        elif event.alias in {None, ALIAS} and self._scheduler.running:
            for job_id in list(self._jobs):  # a host that removes its own jobs does not mean these
                self._register(job_id)

    def _on_started(self) -> None:
        _add_plugin(self._scheduler.add_executor, self._executor)
        _add_plugin(self._scheduler.add_jobstore, MemoryJobStore())
        self._started()

    def _on_stopped(self) -> None:
        if self.is_loop_bound:
            # Not a daemon: the interpreter waits for it at exit, and it is bounded.
            threading.Thread(target=self._stopped, name="lifebeat-stop", daemon=False).start()
        else:
            if self._executor.is_awaited:
                self._executor.drain(None)
            self._stopped()


def handle_of(scheduler: Any) -> Any:
    """The handle of the Lifebeat that is on a scheduler; ``None`` if there is none."""
    owners = (getattr(callback, "__self__", None) for callback, _ in scheduler._listeners)  # noqa: SLF001 - there is no other way to ask
    return next((owner.handle for owner in owners if isinstance(owner, Registry)), None)


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

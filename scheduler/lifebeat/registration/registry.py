"""``JobSpec`` to APScheduler: jobs in a job store and an executor of Lifebeat's own, and one listener.

The host's job store never sees these jobs and a full pool of the host's never delays them. Everything is registered
when the scheduler has started, so that a host which configures its scheduler after ``attach`` loses nothing.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Any

from apscheduler.events import (
    EVENT_ALL_JOBS_REMOVED,
    EVENT_JOB_MAX_INSTANCES,
    EVENT_JOB_MISSED,
    EVENT_SCHEDULER_SHUTDOWN,
    EVENT_SCHEDULER_STARTED,
)
from apscheduler.jobstores.base import JobLookupError

from lifebeat.registration.executor import ALIAS, DaemonExecutor
from lifebeat.registration.store import Store, running_loop
from lifebeat.schedule.triggers import in_words

if TYPE_CHECKING:
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.registration.triggers import InstantTrigger
    from lifebeat.schedule.instants import Instants

Run = Callable[[datetime], BaseException | None]
"""Run for a moment; return what a job of the host's raised, which has been said, and raise what is not foreseen."""
_attached: weakref.WeakValueDictionary[int, Registry] = weakref.WeakValueDictionary()


class Registry:
    """One APScheduler scheduler, seen as the place where jobs are registered.

    Args:
        scheduler: Any APScheduler 3 scheduler.
        started: Called when it has started, and at once if it is running already.
        stopped: Called when it has stopped; the argument says whether on an event loop, which must not be held up.
        passed_over: Called with a job's ID and its instant where APScheduler did not run it, and whether that was since
            it was too late, and not since as many runs as may be were under way.
        handle: What the host was given for it.
    """

    def __init__(
        self,
        scheduler: Any,
        *,
        started: Callable[[], None],
        stopped: Callable[[bool], None],
        passed_over: Callable[[str, datetime, bool], None] = lambda job_id, instant, late: None,  # noqa: ARG005
        handle: Any = None,
    ) -> None:
        self.handle = handle
        self._scheduler = scheduler
        self._started = started
        self._stopped = stopped
        self._passed_over = passed_over
        self._executor = DaemonExecutor()
        self._store = Store()
        self._jobs: dict[str, dict[str, Any]] = {}
        self._hub_hold: Any = None

    # -- the scheduler -----------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """Follow the scheduler's life from here on."""
        _attached[id(self._scheduler)] = self
        mask = EVENT_SCHEDULER_STARTED | EVENT_SCHEDULER_SHUTDOWN | EVENT_ALL_JOBS_REMOVED
        mask |= EVENT_JOB_MAX_INSTANCES | EVENT_JOB_MISSED
        self._scheduler.add_listener(self._on_event, mask)
        if self._scheduler.running:
            self._on_started()

    def unlisten(self) -> None:
        """Leave the scheduler as if nothing had ever been there."""
        _attached.pop(id(self._scheduler), None)
        self._scheduler.remove_listener(self._on_event)
        self._release_hub()
        if self._scheduler.running:
            self._scheduler.remove_jobstore(ALIAS)
            self._scheduler.remove_executor(ALIAS, shutdown=False)

    @property
    def is_running(self) -> bool:
        """Return whether the scheduler runs."""
        return bool(self._scheduler.running)

    @property
    def is_loop_bound(self) -> bool:
        """Return whether the scheduler runs on an event loop, which must not be held up."""
        return running_loop() is not None or _kind(self._scheduler) not in {"background", "blocking"}

    @property
    def event_loop(self) -> Any:
        """Return the asyncio loop that the scheduler runs on; ``None`` if it runs in threads."""
        return self._store.loop

    def responds(self, timeout: float) -> bool:
        """Return whether the scheduler asks what is due when it is woken, within ``timeout`` seconds."""
        if not self._scheduler.running:
            return False
        asked = threading.Event()
        self._store.waiting.append(asked)
        self._scheduler.wakeup()
        return asked.wait(timeout)

    def drain(self, timeout: float | None, *, hosts: bool | None = None, but: int | None = None) -> bool:
        """Wait until no job of ours runs, as ``DaemonExecutor.drain`` does."""
        return self._executor.drain(timeout, hosts=hosts, but=but)

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

    # -- jobs --------------------------------------------------------------------------------------------------------

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run) -> None:
        """Register a job with instants; one of the same ID is replaced."""
        from lifebeat.registration.triggers import InstantTrigger

        trigger = InstantTrigger(
            instants, jitter, coalesce=spec.coalesce, misfire_grace=spec.misfire_grace, words=in_words(spec.trigger)
        )
        self._add(spec.id, _Firing(run, trigger, is_hosts=not spec.is_telemetry), trigger=trigger, **_options(spec))

    def change(self, spec: JobSpec) -> None:
        """Give a registered job the options of an edited spec; its instants and its next run stay."""
        job = self._jobs[spec.id]
        job["trigger"].coalesce, job["trigger"].misfire_grace = spec.coalesce, spec.misfire_grace
        job.update(_options(spec))
        if self._scheduler.running:
            self._scheduler.modify_job(_prefixed(spec.id), ALIAS, **_options(spec))

    def add_once(self, job_id: str, delay: timedelta, run: Run, *, is_hosts: bool = False) -> None:
        """Run something once, after ``delay``, however late; while the scheduler is paused it waits.

        Args:
            job_id: Its name; something of the same name is replaced.
            delay: After how long.
            run: What to run, with the moment.
            is_hosts: Whether it is the host's own, so that ``shutdown(wait=True)`` waits for it.
        """
        from lifebeat.registration.triggers import OnceTrigger

        moment = datetime.now(tz=UTC) + delay

        def once(fired: datetime) -> BaseException | None:
            self.remove(job_id)
            return run(fired)

        work: Any = once
        work.is_hosts = is_hosts
        self._add(
            job_id,
            work,
            trigger=OnceTrigger(moment),
            next_run_time=moment,
            coalesce=True,
            max_instances=2,  # a run may ask for another one of its name, which would be skipped while it is under way
            misfire_grace_time=None,
        )

    def remove(self, job_id: str) -> None:
        """Take a job away; a run that is under way goes on."""
        self._jobs.pop(job_id, None)
        try:
            self._scheduler.remove_job(_prefixed(job_id), jobstore=ALIAS)
        except (JobLookupError, KeyError):
            return

    def next_run(self, job_id: str) -> datetime | None:
        """Return when a job runs next; ``None`` if it does not."""
        job = self._scheduler.get_job(_prefixed(job_id), jobstore=ALIAS)
        return job.next_run_time if job else None

    def look_again(self, *, set_back: bool) -> None:
        """Have the scheduler look at the clock again, which was set, or whose machine slept.

        Args:
            set_back: Whether the clock went back, so that what is to come lies earlier than the scheduler thinks.
        """
        if not self._scheduler.running:
            return
        for job_id, job in list(self._jobs.items()) if set_back else ():
            if "next_run_time" not in job:
                following = job["trigger"].get_next_fire_time(None, datetime.now(tz=UTC))
                self._scheduler.modify_job(_prefixed(job_id), ALIAS, next_run_time=following)
        self._scheduler.wakeup()

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

    # -- events ------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Any) -> None:
        if event.code == EVENT_SCHEDULER_STARTED:
            self._on_started()
        elif event.code == EVENT_SCHEDULER_SHUTDOWN:
            self._jobs.clear()
            self._release_hub()
            self._on_stopped()
        elif event.code in {EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED}:
            if event.jobstore == ALIAS:
                self._on_passed_over(event)
        elif event.alias in {None, ALIAS} and self._scheduler.running:
            for job_id in list(self._jobs):  # a host that removes its own jobs does not mean these
                self._register(job_id)

    def _on_passed_over(self, event: Any) -> None:
        job_id = event.job_id.removeprefix(f"{ALIAS}:")
        trigger: Any = self._jobs.get(job_id, {}).get("trigger")
        late = event.code == EVENT_JOB_MISSED
        times: list[datetime] = [event.scheduled_run_time] if late else event.scheduled_run_times
        for fired in times if hasattr(trigger, "instant_of") else ():
            self._passed_over(job_id, trigger.instant_of(fired), late)

    def _on_started(self) -> None:
        self._hold_hub()
        _add_plugin(self._scheduler.add_executor, self._executor)
        _add_plugin(self._scheduler.add_jobstore, self._store)
        self._started()

    def _on_stopped(self) -> None:
        on_loop = self.is_loop_bound
        if not on_loop and self._executor.is_awaited:  # the host asked to wait for its jobs, however long they take
            self._executor.drain(None, hosts=True, but=threading.get_ident())
        self._stopped(on_loop)

    def _hold_hub(self) -> None:
        """Keep gevent from giving up, while its scheduler waits for a lock that one of our threads has just now."""
        if self._hub_hold is None and _kind(self._scheduler) == "gevent":
            import gevent

            hub: Any = gevent.get_hub()
            self._hub_hold = hub.loop.async_()
            self._hub_hold.start(lambda: None)

    def _release_hub(self) -> None:
        if self._hub_hold is not None:
            self._hub_hold.stop()
            self._hub_hold.close()
            self._hub_hold = None


class _Firing:
    """What APScheduler calls when a job fires: its run, for the instant."""

    __slots__ = ("_run", "_trigger", "is_hosts")
    # APScheduler asks whether it can be called with one argument; without this a third of its time goes into that.
    __signature__ = Signature([Parameter("fired", Parameter.POSITIONAL_ONLY, default=None)])

    def __init__(self, run: Run, trigger: InstantTrigger, *, is_hosts: bool) -> None:
        self._run = run
        self._trigger = trigger
        self.is_hosts = is_hosts

    def __call__(self, fired: datetime | None = None) -> BaseException | None:
        """Run for this moment; called by another than the executor, as by a page that runs jobs by hand."""
        return self._run(self._trigger.instant_of(fired or datetime.now(tz=UTC)))


def handle_of(scheduler: Any) -> Any:
    """Return the handle of the Lifebeat that is on a scheduler; ``None`` if there is none."""
    registry = _attached.get(id(scheduler))
    return None if registry is None else registry.handle


def handles() -> list[Any]:
    """Return the handles of all that is attached to a scheduler of this process."""
    return [registry.handle for registry in list(_attached.values()) if registry.handle is not None]


def background_scheduler() -> Any:
    """Return a scheduler with a thread of its own, for hosts that have none."""
    from apscheduler.schedulers.background import BackgroundScheduler

    return BackgroundScheduler(timezone="UTC")


def _kind(scheduler: Any) -> str:
    """Return which of APScheduler's schedulers it is or is made from: background, asyncio, gevent, …."""
    modules = (one.__module__ for one in type(scheduler).__mro__)
    known = (one for one in modules if one.startswith("apscheduler.schedulers."))
    return next(known, "").rpartition(".")[2]


def _options(spec: JobSpec) -> dict[str, Any]:
    # APScheduler takes whole seconds only and shows them; our executor goes by the trigger's own.
    grace = None if spec.misfire_grace is None else max(math.ceil(spec.misfire_grace.total_seconds()), 1)
    return {"coalesce": spec.coalesce, "max_instances": spec.max_instances, "misfire_grace_time": grace}


def _prefixed(job_id: str) -> str:
    return f"{ALIAS}:{job_id}"


def _add_plugin(add: Callable[[Any, str], None], plugin: Any) -> None:
    try:
        add(plugin, ALIAS)
    except ValueError:  # it is there from the scheduler's former life, and was started with it
        return

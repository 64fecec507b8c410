"""One process's part in an application's life, from the scheduler's start to its stop.

start:   register the process's own jobs → in the background: make the ID, join (again until it works)
joined:  what an earlier run left unfinished → start jobs if first → register shared jobs, make up for missed ones
edit:    read and check → apply whole, or refuse whole and say so
stop:    one deadline → drain → start jobs that never ran → leave → shutdown jobs if last → close
"""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lifebeat import clock as clocks
from lifebeat import installation
from lifebeat.clock import Deadline
from lifebeat.lifecycle import plan as plans
from lifebeat.lifecycle.application import offers
from lifebeat.lifecycle.runner import Runner
from lifebeat.once.alone import Alone
from lifebeat.once.protocol import Busy, CannotCoordinate, Unavailable, UnknownJob
from lifebeat.schedule.instants import MICROSECOND, SECOND, AtShutdown, AtStart, instants_of, to_datetime, to_instant
from lifebeat.storage import forks, threads
from lifebeat.storage import state_dir as statedir

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lifebeat.jobfile.spec import JobFile, JobSpec
    from lifebeat.lifecycle.application import Application
    from lifebeat.lifecycle.plan import Plan, Planned
    from lifebeat.lifecycle.watch import Watch
    from lifebeat.once.protocol import Coordinator, Joined
    from lifebeat.schedule.instants import Instants

AT_ONCE = timedelta(0)
ASK_AGAIN = timedelta(seconds=2)
BEGIN = ":begin"  # no job of a file is called so
JOIN_TIMEOUT = 15.0
MARGIN = 0.15  # seconds that a stop may last beyond its deadline, for threads to be woken
LOOP_WAIT = 0.5  # seconds that a stop may hold up an event loop
LEAVE_SHARE = 0.5  # of what is left of a stop's time
REMEMBERED_RUNS = 10_000


class Scheduler(Protocol):
    """What a life needs of the scheduler that it lives on."""

    @property
    def event_loop(self) -> Any: ...
    def add(
        self,
        spec: JobSpec,
        instants: Instants,
        jitter: Callable[[int], int],
        run: Callable[[datetime], None],
        words: str = "",
    ) -> None: ...
    def change(self, spec: JobSpec) -> None: ...
    def add_once(
        self, job_id: str, delay: timedelta, run: Callable[[datetime], None], *, is_hosts: bool = False
    ) -> None: ...
    def remove(self, job_id: str) -> None: ...
    def look_again(self, *, set_back: bool) -> None: ...
    def drain(self, timeout: float | None, *, hosts_only: bool = False, but: int | None = None) -> bool: ...


class Life:
    """One life; a scheduler that starts again gets another.

    Args:
        application: What it runs.
        scheduler: What it lives on.
        coordinator: What the processes agree on.
        shares_id: Whether the coordinator decides about the instance ID, over several machines.
        watch: Looks for edited config and for clocks that were set; ``None`` for a host that looks itself.
    """

    def __init__(
        self,
        application: Application,
        scheduler: Scheduler,
        coordinator: Coordinator,
        *,
        shares_id: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.application = application
        self.finished = threading.Event()
        self._scheduler = scheduler
        self._coordinator = coordinator
        self._shares_id = shares_id
        self._watch = watch
        self._lock = threading.RLock()
        self._stage: Literal["alive", "stopping", "over"] = "alive"
        self._deadline: Deadline | None = None
        self._started = clocks.now(application.clock)
        self._joined: Joined | None = None
        self._specs: list[JobSpec] = []
        self._plan: Plan = {}
        self._begun: set[str] = set()
        self._ran: dict[tuple[str, int], None] = {}
        self._running: Counter[str] = Counter()
        self._busy: set[str] = set()
        self._outage = False
        self._runner = Runner(
            application, event_loop=lambda: scheduler.event_loop, background=self._background, later=self._later
        )
        forks.in_child(self.forget)

    @property
    def is_alive(self) -> bool:
        """Whether it has not been stopped."""
        return self._stage == "alive"

    # -- start -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register the process's own jobs, and let the rest follow in the background."""
        atexit.register(self.stop)
        with self._lock:
            self._coordinator.start(self.run_claimed)
            self._apply(self.application.load())
            self._withdraw()
        if self._watch is not None:
            self._watch.start(self.edited, self.clock_changed)

    def _begin(self, _: datetime) -> None:
        """Make the ID and join, again until it works; then do what was waiting for that."""
        try:
            self._make_id()
            joined = self._join(JOIN_TIMEOUT) if self._has_shared(self.application.load()) else None
        except Unavailable as error:
            self._begin_outage(error)
            self._add_once(BEGIN, ASK_AGAIN, self._begin)
            return
        self._end_outage()
        self._put_on_record()
        if joined is not None:
            self._report_unfinished(joined)
            if joined.first:
                self._run_start_jobs()
        with self._lock:
            if self._stage == "alive":
                self._apply(self.application.load(), make_up=True)

    def _make_id(self) -> None:
        """Make the instance ID where telemetry is on and has none: phases are made from it."""
        application = self.application
        if not application.consent().is_on:
            return
        settings, state = application.source.read(), application.state_dir(create=True)
        if settings.instance_id is not None:
            return
        known = installation.known_id(settings, state)
        if self._shares_id:
            agreed = self._coordinator.agree(known or installation.new_id())
            application.source.agree({installation.KEY: agreed})
        elif known is None:
            installation.make_id(settings, application.source.config_dir, state)

    def _put_on_record(self) -> None:
        """Write down what this process was told, so that commands beside it know it too; while telemetry is on."""
        application = self.application
        state = application.state_dir(create=True) if application.consent().is_on else None
        if state is not None:
            warning = installation.write_record(
                state, application.source, allow=application.allow, clock=application.clock
            )
            if warning is not None:
                application.say_once("record", warning)

    def _join(self, timeout: float) -> Joined:
        try:
            joined = self._coordinator.join(timeout)
        except CannotCoordinate as error:
            self.application.say_once(
                "coordinate", f"processes cannot be coordinated, so each reports for itself: {error}"
            )
            joined = self._stand_alone()
        with self._lock:
            self._joined = joined
        return joined

    def _stand_alone(self) -> Joined:
        """Go on as an application of one process: who stands alone ends alone."""
        self._coordinator = Alone(self.application.clock)
        return self._coordinator.join(0.0)

    def _report_unfinished(self, joined: Joined) -> None:
        """Run the shutdown jobs of an earlier run that was left to successors who never came."""
        earlier = joined.unfinished
        if earlier is None:
            return
        uptime = timedelta(seconds=max(clocks.between(earlier.started, earlier.left), 0.0))
        instant = to_datetime(int(earlier.left.wall * SECOND))
        for spec in self._wanted(self.application.load()):
            if isinstance(spec.trigger, AtShutdown) and plans.is_shared(spec):
                self._runner.call(spec, instant, earlier.started, uptime=uptime)

    def _run_start_jobs(self) -> None:
        """Run the shared start jobs: telemetry's here, before any heartbeat; a host's may take hours."""
        for spec in self._wanted(self.application.load()):
            if isinstance(spec.trigger, AtStart) and plans.is_shared(spec):
                if spec.is_telemetry:
                    self._run_start_job(spec, self.application.now())
                else:
                    self._add_once(spec.id, AT_ONCE, partial(self._run_start_job, spec), is_hosts=True)

    def _run_start_job(self, spec: JobSpec, moment: datetime) -> None:
        with self._lock:
            if spec.id in self._begun:
                return
            self._begun.add(spec.id)
        self._runner.call(spec, moment, self._started_of(spec))

    # -- the plan ----------------------------------------------------------------------------------------------------

    def _wanted(self, found: JobFile) -> list[JobSpec]:
        """Return the jobs that may run: telemetry's only while telemetry is on, whatever the file says."""
        is_on = self.application.consent().is_on
        return [spec for spec in found.specs if spec.enabled and (is_on or not spec.is_telemetry)]

    def _has_shared(self, found: JobFile) -> bool:
        return any(map(plans.is_shared, self._wanted(found)))

    def _apply(self, found: JobFile, *, make_up: bool = False) -> None:
        """Register what is new or changed, remove what is gone, leave the rest alone. Under the lock."""
        specs, application = self._wanted(found), self.application
        has_id = application.instance_id() is not None or not application.consent().is_on
        ready = [spec for spec in specs if self._is_ready(spec, has_id=has_id)]
        after = plans.make(ready, application.seed())
        changes = plans.compare(self._plan, after)
        for spec in changes.removed:
            self._scheduler.remove(spec.id)
        for planned in changes.changed:
            if plans.has_instants(planned.spec):
                self._scheduler.change(planned.spec)
        before, self._plan, self._specs = self._plan, after, specs
        for planned in changes.registered:
            self._register(planned, is_first=not before or make_up, make_up=make_up)
        if len(ready) < len(specs):
            self._scheduler.add_once(BEGIN, AT_ONCE, self._begin)

    def _is_ready(self, spec: JobSpec, *, has_id: bool) -> bool:
        """Return whether what a job needs is there: the ID for its phase, and for a shared job the membership."""
        if plans.is_shared(spec):
            return self._joined is not None
        return has_id or not plans.depends_on_seed(spec)

    def _register(self, planned: Planned, *, is_first: bool, make_up: bool) -> None:
        spec = planned.spec
        if isinstance(spec.trigger, AtStart):
            if is_first and not plans.is_shared(spec):
                run = partial(self._run_start_job, spec)
                self._scheduler.add_once(spec.id, AT_ONCE, run, is_hosts=not spec.is_telemetry)
            return
        instants = instants_of(spec.trigger, job_id=spec.id, seed=planned.seed, started_at=self._started.wall)
        if instants is None:
            return
        jitter = plans.jitter(spec, planned.seed)
        self._scheduler.add(spec, instants, jitter, partial(self._fire, spec.id))
        if make_up and plans.is_shared(spec):
            self._scheduler.add_once(f"{spec.id}:missed", AT_ONCE, partial(self._make_up, spec, instants, jitter))

    def _make_up(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], _: datetime) -> None:
        """Run the latest instant that came while no process was there, if one did."""
        now = int(self.application.clock.time() * SECOND)
        due = instants.latest(now)
        if due is not None and due + jitter(due) > now:
            due = instants.latest(due - 1)
        if due is None or spec.id not in self._plan:
            return
        try:
            last = self._coordinator.latest(spec.id)
            if last is None:
                self._coordinator.skip(spec.id, due)
        except Unavailable as error:
            self._begin_outage(error)
            self._add_once(f"{spec.id}:missed", ASK_AGAIN, partial(self._make_up, spec, instants, jitter))
            return
        if last is not None and last < due and not _is_too_late(spec, now - due):
            self._fire(spec.id, to_datetime(due))

    # -- run ---------------------------------------------------------------------------------------------------------

    def _fire(self, job_id: str, at: datetime) -> None:
        """Run a job for its instant, if it is this process's to run."""
        planned, instant = self._plan.get(job_id), to_instant(at)
        if planned is None or self._stage != "alive":
            return
        spec = planned.spec
        if not plans.is_shared(spec):
            if self._is_new(job_id, instant):
                self._runner.call(spec, at, self._started)
            return
        try:
            is_ours = self._coordinator.claim(job_id, instant)
        except Unavailable as error:
            self._begin_outage(error)
            self._add_once(f"{job_id}:again", ASK_AGAIN, lambda _: self._fire(job_id, at))
            return
        self._end_outage()
        if is_ours:
            try:
                self._runner.call(spec, at, self._started_of(spec))
            finally:
                with contextlib.suppress(Unavailable):  # a coordinator notes it when it can
                    self._coordinator.end(job_id, instant)

    def run_claimed(self, job_id: str, instant: int) -> None:
        """Run what an engine's queue has brought to this process.

        Raises:
            UnknownJob: The plan has no such job.
            Busy: As many runs of it as may be are under way here, or the process stops.
        """
        planned = self._plan.get(job_id)
        if self._stage != "alive":
            raise Busy(f"job {job_id}: this process stops")
        if planned is None:
            raise UnknownJob(f"job {job_id}: not in the plan of this process")
        spec = planned.spec
        late = int(self.application.clock.time() * SECOND) - instant - plans.jitter(spec, planned.seed)(instant)
        if _is_too_late(spec, late):
            self.application.logger.warning("job %s: the run was missed by %.1f s", job_id, late / SECOND)
            return
        with self._lock:
            if self._running[job_id] >= spec.max_instances:
                raise Busy(f"job {job_id}: {spec.max_instances} under way")
            self._running[job_id] += 1
        try:
            self._runner.call(spec, to_datetime(instant), self._started_of(spec))
        finally:
            with self._lock:
                self._running[job_id] -= 1

    def _is_new(self, job_id: str, instant: int) -> bool:
        """Return whether the process has not run an instant yet: a clock that is set back shows it once more."""
        with self._lock:
            if (job_id, instant) in self._ran:
                return False
            self._ran[job_id, instant] = None
            while len(self._ran) > REMEMBERED_RUNS:
                del self._ran[next(iter(self._ran))]
            return True

    def _started_of(self, spec: JobSpec) -> clocks.Moment:
        """Return when the application started; for a job of the process when the process did."""
        return self._joined.started if self._joined is not None and plans.is_shared(spec) else self._started

    def _background(self, name: str, work: Callable[[], None]) -> None:
        with self._lock:
            if name in self._busy:
                return
            self._busy.add(name)

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._busy.discard(name)

        if not threads.start(f"{name}", run):  # what waits is on disk
            with self._lock:
                self._busy.discard(name)

    def _later(self, name: str, delay: timedelta, work: Callable[[], None]) -> None:
        self._add_once(name, delay, lambda _: work())

    def _add_once(
        self, name: str, delay: timedelta, run: Callable[[datetime], None], *, is_hosts: bool = False
    ) -> None:
        with self._lock:
            if self._stage == "alive":
                self._scheduler.add_once(name, delay, run, is_hosts=is_hosts)

    def _begin_outage(self, reason: Exception) -> None:
        with self._lock:
            begins, self._outage = not self._outage, True
        if begins:
            self.application.logger.warning(
                "jobs with `once: application` are paused, others keep running; will retry: %s", reason
            )

    def _end_outage(self) -> None:
        with self._lock:
            ends, self._outage = self._outage, False
        if ends:
            self.application.logger.info("jobs with `once: application` are resumed")

    def forget(self) -> None:
        """In a forked child: this life is the parent's."""
        atexit.unregister(self.stop)
        self._lock = threading.RLock()
        self._stage = "over"
        self.finished.set()

    # -- change ------------------------------------------------------------------------------------------------------

    def edited(self) -> None:
        """Apply edited config whole, or refuse it whole and say so; the old plan goes on then."""
        application = self.application
        with self._lock:
            if self._stage != "alive":
                return
            settings, found = application.source.read(), application.load()
            problems = list(dict.fromkeys((*settings.problems, *found.problems)))
            for problem in problems:
                application.logger.error("edited config is not applied: %s", problem)
            before, old_id = self._plan, self._instance_id
            if not problems or settings.opted_out:
                self._apply(found)
                self._withdraw(before)
                words = plans.in_words(before, self._plan)
                if words:
                    application.logger.info("edited config is applied: %s", words)
            if old_id is not None and application.instance_id() not in {old_id, None}:
                self._begin_another_installation()

    @property
    def _instance_id(self) -> str | None:
        seeds = {planned.seed for planned in self._plan.values() if planned.seed}
        return next(iter(seeds), None)

    def _begin_another_installation(self) -> None:
        """The ID was rotated: what runs from here on is another installation, with an uptime of its own."""
        self._started = clocks.now(self.application.clock)
        if self._joined is not None:
            self._joined = replace(self._joined, started=self._started)

    def clock_changed(self, by: float) -> None:
        """Look at the plan again: the wall clock was set by so many seconds, or the machine slept."""
        if self._stage == "alive":
            self._scheduler.look_again(set_back=by < 0)

    def _withdraw(self, before: Plan | None = None) -> None:
        """Tell the modules of jobs that were turned off, so that nothing of theirs goes on."""
        application = self.application
        if application.consent().state != "off":
            return
        if before is not None and not any(planned.spec.is_telemetry for planned in before.values()):
            return
        specs = [spec for spec in application.load().specs if spec.is_telemetry]
        context = application.context("withdrawn")
        if context.state_dir is None or not (context.state_dir / statedir.OUTBOX_FILE).exists():
            return  # nothing is pending, and off makes no thread
        for withdrawn in offers(specs, "withdrawn"):
            self._background("withdrawn", partial(withdrawn, context))

    # -- stop --------------------------------------------------------------------------------------------------------

    def stop(self, on_loop: bool = False) -> None:
        """Stop within ``telemetryShutdownTimeout``, from whatever thread; on an event loop the rest goes on beside it.

        Args:
            on_loop: Whether an event loop is held up meanwhile.
        """
        me = threading.get_ident()
        if self._take_over():
            if threads.start("stop", partial(self._finish, me, on_loop=on_loop)):
                self.finished.wait(LOOP_WAIT if on_loop else self._longest_wait())
            else:
                self._finish(me, on_loop=on_loop)
        elif self._deadline is not None and not threading.current_thread().name.startswith("lifebeat-"):
            # Whoever comes second waits, such as the interpreter's exit; nobody of ours waits for himself.
            self.finished.wait(LOOP_WAIT if on_loop else self._longest_wait())

    def _take_over(self) -> bool:
        """Return whether the stop is the caller's, and not under way or over already."""
        timeout = self.application.source.read().shutdown_timeout.total_seconds()
        deadline = Deadline(self.application.clock, timeout)
        locked = self._lock.acquire(timeout=timeout / 4)  # an edit is being read from a slow disk just now
        try:
            if self._stage != "alive":
                return False
            self._stage, self._deadline = "stopping", deadline
            return True
        finally:
            if locked:
                self._lock.release()

    def _longest_wait(self) -> float:
        """Return how long the stop may take yet: telemetry's time, or that of the host's own shutdown jobs."""
        assert self._deadline is not None
        hosts = [spec for spec in self._specs if _is_hosts_end(spec) and spec.timeout is not None]
        own = sum(spec.timeout.total_seconds() for spec in hosts if spec.timeout is not None)
        return self._deadline.left + own + MARGIN

    def _finish(self, caller: int, *, on_loop: bool) -> None:
        assert self._deadline is not None
        try:
            if self._watch is not None:
                self._watch.stop()
            self._scheduler.drain(0.0 if on_loop else self._deadline.left / 2, but=caller)
            self._coordinator.drain(self._deadline.left / 2)
            last = self._end_membership()
            self._run_shutdown_jobs(last=last)
        except Exception:
            self.application.logger.exception("the stop failed")
        finally:
            self._coordinator.close()
            self._stage = "over"
            self.finished.set()
            atexit.unregister(self.stop)

    def _end_membership(self) -> bool:
        """Run the start jobs that never ran, leave, and return whether this was the last process."""
        assert self._deadline is not None
        if self._joined is None and any(map(plans.is_shared, self._specs)):
            self._join_late()
        for spec in self._specs:
            first = self._joined is not None and self._joined.first
            if isinstance(spec.trigger, AtStart) and (first or not plans.is_shared(spec)):
                self._quietly(spec, partial(self._run_start_job, spec, self.application.now()))
        if self._joined is None:
            return False
        try:
            return self._coordinator.leave(self._deadline.left * LEAVE_SHARE)
        except (Unavailable, CannotCoordinate) as error:
            self.application.logger.warning("the end of the application may stay unreported: %s", error)
            return False

    def _join_late(self) -> None:
        """Join at the stop, in a life that was too short or could not before; on one machine alone, if need be."""
        assert self._deadline is not None
        try:
            self._make_id()
            self._join(self._deadline.left / 4)
        except Unavailable:
            if not self._shares_id:
                self._joined = self._stand_alone()

    def _run_shutdown_jobs(self, *, last: bool) -> None:
        """Run telemetry's within the deadline, and beside them the host's, each within its own time."""
        assert self._deadline is not None
        ends = [spec for spec in self._specs if isinstance(spec.trigger, AtShutdown)]
        mine = [spec for spec in ends if last or not plans.is_shared(spec)]
        telemetry = [spec for spec in mine if spec.is_telemetry]
        others = [spec for spec in ends if spec.is_telemetry and spec not in mine and self._shares_id]
        done = threading.Event()

        def work() -> None:
            try:
                for spec in telemetry:
                    self._quietly(spec, partial(self._call_end, spec))
                for leaving in offers(others, "leaving"):
                    leaving(self.application.context("leaving", timeout=timedelta(seconds=self._left())))
            finally:
                done.set()

        hosts = [spec for spec in mine if not spec.is_telemetry]
        if not hosts or not threads.start("shutdown", work):
            work()
        for spec in hosts:
            self._quietly(spec, partial(self._call_end, spec))
        done.wait(self._left())

    def _call_end(self, spec: JobSpec) -> None:
        timeout = spec.timeout
        if spec.is_telemetry:
            left = timedelta(seconds=max(self._left(), 0.05))
            timeout = left if timeout is None else min(timeout, left)
        self._runner.call(spec, self.application.now(), self._started_of(spec), timeout=timeout)

    def _left(self) -> float:
        return 0.0 if self._deadline is None else self._deadline.left

    def _quietly(self, spec: JobSpec, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            self.application.logger.exception("job %s failed", spec.id)


def _is_too_late(spec: JobSpec, late: int) -> bool:
    return spec.misfire_grace is not None and late * MICROSECOND > spec.misfire_grace


def _is_hosts_end(spec: JobSpec) -> bool:
    return isinstance(spec.trigger, AtShutdown) and not spec.is_telemetry

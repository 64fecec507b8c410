"""One process's part in an application's life, from the scheduler's start to its stop.

start:   register the process's own jobs → in the background: make the ID, join (again until it works)
joined:  what an earlier run left unfinished → start jobs if first → register shared jobs, make up for missed ones
edit:    read and check → apply whole, or refuse whole and say so
stop:    one deadline → drain → start jobs that never ran → leave → shutdown jobs if last → deliver → close
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat import clock as clocks
from lifebeat import steering
from lifebeat.clock import Deadline
from lifebeat.history import LeftBehind
from lifebeat.jobfile.targets import is_ctrl_c
from lifebeat.lifecycle import plan as plans
from lifebeat.lifecycle.application import offers
from lifebeat.lifecycle.ending import Ending, beyond_deadline
from lifebeat.lifecycle.failures import Failures
from lifebeat.lifecycle.membership import Membership
from lifebeat.lifecycle.runner import Runner
from lifebeat.once.protocol import Busy, Unavailable, UnknownJob
from lifebeat.schedule.instants import MICROSECOND, SECOND, to_datetime, to_instant
from lifebeat.schedule.triggers import AtShutdown, AtStart, instants_of
from lifebeat.storage import forks, safe_file, threads
from lifebeat.storage import state_dir as statedir

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from datetime import datetime

    from lifebeat.errors import Problem
    from lifebeat.history import Outcome
    from lifebeat.jobfile.spec import JobFile, JobSpec
    from lifebeat.lifecycle.application import Application
    from lifebeat.lifecycle.plan import Plan, Planned
    from lifebeat.lifecycle.scheduler import Scheduler
    from lifebeat.lifecycle.watch import Watch
    from lifebeat.once.protocol import Coordinator, Joined
    from lifebeat.schedule.instants import Instants

AT_ONCE = timedelta(0)
ASK_AGAIN = timedelta(seconds=2)
BEGIN = ":begin"  # no job of a file is called so
JOIN_TIMEOUT = 15.0
REMEMBERED_RUNS = 10_000


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
        self._scheduler = scheduler
        self._membership = Membership(application, coordinator, shares_id=shares_id)
        self._watch = watch
        self._lock = threading.RLock()
        self._ending: Ending | None = None
        self._is_over = False
        self._is_beginning = False
        self._has_begun = False  # joined, if there is anything to share, and the start jobs have run
        self._started = clocks.now(application.clock)
        self._specs: list[JobSpec] = []
        self._plan: Plan = {}
        self._begun: set[str] = set()
        self._ran: dict[tuple[str, int], None] = {}
        self._running: Counter[str] = Counter()
        self._calling: Counter[str] = Counter()  # of those that are under way, claims apart
        self._ordered: dict[str, int] = {}
        self._refused: JobFile | None = None  # the edit that is not applied, which was said
        self._busy: set[str] = set()
        self._finalizers: list[Any] = []
        self.history = application.history()
        self._runner = Runner(
            application,
            self.history,
            event_loop=lambda: scheduler.event_loop,
            background=self._background,
            later=self._later,
        )
        self._failures = Failures(self._runner, application.logger)
        forks.in_child(self.forget)

    @property
    def is_alive(self) -> bool:
        """Return whether it has not been stopped."""
        return self._ending is None and not self._is_over

    # -- start -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register the process's own jobs, and let the rest follow in the background."""
        self._at_exit()
        with self._lock:
            self._membership.start(self.run_claimed)
            self.application.gone()  # what is there now may go
            self._apply(self.application.load())
            self._withdraw()
        if self._watch is not None and self._has_work:
            self._watch.start(self.edited, self.clock_changed)

    @property
    def _has_work(self) -> bool:
        """Return whether there is anything to run or to watch for: off makes no thread."""
        return bool(self._specs) or self.application.consent().state != "off"

    def _at_exit(self) -> None:
        """Stop at the interpreter's exit, and where a child of ``multiprocessing`` or billiard ends without one."""
        atexit.register(self.stop)
        for name in ("multiprocessing.util", "billiard.util"):
            if (util := sys.modules.get(name)) is not None:
                self._finalizers.append(util.Finalize(None, self.stop, exitpriority=0))

    def _begin(self, _: datetime) -> None:
        """Make the ID and join, again until it works; then do what was waiting for that."""
        membership = self._membership
        was_in = membership.joined is not None
        try:
            membership.make_id()
            joined = membership.join(JOIN_TIMEOUT) if self._has_shared(self.application.load()) else None
        except Unavailable as error:
            membership.begin_outage(error)
            self._add_once(BEGIN, ASK_AGAIN, self._begin)
            return
        membership.end_outage()
        membership.put_on_record()
        if joined is not None and not was_in:
            self._report_unfinished(joined)
            if joined.first:
                self._run_start_jobs()
        with self._lock:
            self._is_beginning, self._has_begun = False, True
            if self.is_alive:
                self._apply(self.application.load(), make_up=True)

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

    def _run_start_job(self, spec: JobSpec, moment: datetime) -> BaseException | None:
        with self._lock:
            if spec.id in self._begun:
                return None
            self._begun.add(spec.id)
        return self._call_unless_paused(spec, moment)

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
        self._follow_orders()
        if len(ready) < len(specs) and not self._is_beginning:
            self._is_beginning = True
            self._scheduler.add_once(BEGIN, AT_ONCE, self._begin)

    def _is_ready(self, spec: JobSpec, *, has_id: bool) -> bool:
        """Return whether what a job needs is there: the ID for its phase, and for a shared job the membership."""
        if plans.is_shared(spec):
            return self._has_begun and self._membership.joined is not None
        return has_id or self._has_begun or not (spec.is_telemetry or plans.depends_on_seed(spec))

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

    def _make_up(
        self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], _: datetime
    ) -> BaseException | None:
        """Run the latest instant that came while no process was there, if one did."""
        now = int(self.application.clock.time() * SECOND)
        due = instants.latest(now)
        if due is not None and due + jitter(due) > now:
            due = instants.latest(due - 1)
        if due is None or spec.id not in self._plan:
            return None
        try:
            last = self._membership.latest_or_skip(spec.id, due)
        except Unavailable as error:
            self._membership.begin_outage(error)
            self._add_once(f"{spec.id}:missed", ASK_AGAIN, partial(self._make_up, spec, instants, jitter))
            return None
        if last is None or last >= due:
            return None
        if _is_too_late(spec, now - due):
            self.pass_over(spec.id, to_datetime(due), late=True)
            return None
        return self._fire(spec.id, to_datetime(due))

    # -- run ---------------------------------------------------------------------------------------------------------

    def _fire(self, job_id: str, at: datetime, *, by_hand: bool = False) -> BaseException | None:
        """Run a job for its instant, if it is this process's to run; return what went wrong in it."""
        planned = self._plan.get(job_id)
        if planned is None or not self.is_alive or not (by_hand or self.application.may_run(job_id, at)):
            return None
        with self._under_way(planned.spec) as has_room:
            if has_room:
                return self._run_if_ours(planned.spec, at, by_hand=by_hand)
        self.pass_over(job_id, at, late=False, by_hand=by_hand)
        return None

    def _run_if_ours(self, spec: JobSpec, at: datetime, *, by_hand: bool) -> BaseException | None:
        job_id, instant = spec.id, to_instant(at)
        if not plans.is_shared(spec):
            return self.call(spec, at, by_hand=by_hand) if self._is_new(job_id, instant) else None
        is_ours = self._membership.claim(job_id, instant)
        if is_ours is None:
            self._ask_again(spec, at, by_hand=by_hand)
        return self.call(spec, at, by_hand=by_hand) if is_ours else None

    def _ask_again(self, spec: JobSpec, at: datetime, *, by_hand: bool) -> None:
        name = f"{spec.id}:again" if spec.coalesce and not by_hand else f"{spec.id}:again:{to_instant(at)}"
        self._add_once(name, ASK_AGAIN, lambda _: self._fire(spec.id, at, by_hand=by_hand))

    @contextlib.contextmanager
    def _under_way(self, spec: JobSpec) -> Generator[bool]:
        """Have a run under way; false if as many as may be are, planned or by hand."""
        with self._lock:
            if has_room := self._running[spec.id] < spec.max_instances:
                self._running[spec.id] += 1
        try:
            yield has_room
        finally:
            with self._lock:
                self._running[spec.id] -= has_room

    def run_claimed(self, job_id: str, instant: int) -> BaseException | None:
        """Run what an engine's queue has brought to this process.

        While as many runs as may be are under way, a job that coalesces is skipped if a later instant follows, as
        APScheduler does: put back, the instants of a job that is slower than its interval would queue up for good.

        Raises:
            UnknownJob: The plan has no such job.
            Busy: As many runs of it as may be are under way here, or the process stops.
        """
        planned = self._plan.get(job_id)
        if not self.is_alive:
            raise Busy(f"job {job_id}: this process stops")
        if planned is None:
            raise UnknownJob(f"job {job_id}: not in the plan of this process")
        spec = planned.spec
        late = int(self.application.clock.time() * SECOND) - instant - plans.jitter(spec, planned.seed)(instant)
        if _is_too_late(spec, late):
            self.application.logger.warning("job %s: the run was missed by %.1f s", job_id, late / SECOND)
            self.pass_over(job_id, to_datetime(instant), late=True)
            return None
        by_hand = planned.is_by_hand(instant)
        if not (by_hand or self.application.may_run(job_id, to_datetime(instant))):
            return None
        with self._under_way(spec) as has_room:
            if has_room:
                return self.call(spec, to_datetime(instant), by_hand=by_hand)
        instants = instants_of(spec.trigger, job_id=job_id, seed=planned.seed, started_at=self._started.wall)
        is_last = instants is None or instants.after(instant) is None
        if by_hand or not spec.coalesce or not self._is_full(spec) or is_last:
            raise Busy(f"job {job_id}: {spec.max_instances} under way")
        self.application.logger.warning("job %s: a run was skipped, as one is still running", job_id)
        self.pass_over(job_id, to_datetime(instant), late=False)
        return None

    def pass_over(self, job_id: str, instant: datetime, late: bool, *, by_hand: bool = False) -> None:
        """Remember that an instant was not run: it came too late, or as many runs as may be were under way.

        Where one of these was only a claim, which takes seconds in an outage and may lead to no run here, ask again.
        """
        planned = self._plan.get(job_id)
        if planned is not None and not late and plans.is_shared(planned.spec) and not self._is_full(planned.spec):
            self._ask_again(planned.spec, instant, by_hand=by_hand)
        elif planned is not None:
            shared, reason = plans.is_shared(planned.spec), None if late else "as many as may be were running"
            outcome: Outcome = "missed" if late else "skipped"
            self.history.pass_over(job_id, to_instant(instant), outcome, reason, shared=shared, by_hand=by_hand)

    def _is_full(self, spec: JobSpec) -> bool:
        return self._calling[spec.id] >= spec.max_instances

    def _is_new(self, job_id: str, instant: int) -> bool:
        """Return whether the process has not run an instant yet: a clock that is set back shows it once more."""
        with self._lock:
            if (job_id, instant) in self._ran:
                return False
            self._ran[job_id, instant] = None
            while len(self._ran) > REMEMBERED_RUNS:
                del self._ran[next(iter(self._ran))]
            return True

    def call(
        self,
        spec: JobSpec,
        instant: datetime,
        timeout: timedelta | None = None,
        attempt: int = 1,
        *,
        by_hand: bool = False,
    ) -> BaseException | None:
        """Run a job in this thread; a run that failed is repeated as ``retry:`` says.

        Args:
            spec: The job.
            instant: The instant of the run.
            timeout: How long it may take; ``None`` for the job's own timeout.
            attempt: How many times it has been called for that instant, this one included.
            by_hand: Whether it was ordered by hand.

        Returns:
            What a host's job has raised, which has been said; ``None`` if it ended well.
        """
        joined = self._membership.joined
        started = joined.started if joined is not None and plans.is_shared(spec) else self._started
        failed: BaseException | None = None
        with self._lock:
            self._calling[spec.id] += 1
        try:
            self._runner.call(spec, instant, started, timeout=timeout, attempt=attempt, by_hand=by_hand)
        except BaseException as error:  # logged and returned: neither sys.exit() nor a cancelled task ends a thread
            if is_ctrl_c(error):
                raise
            failed = error
            if spec.retry is not None and attempt < spec.retry.attempts and not isinstance(error, LeftBehind):
                wait = spec.retry.wait * 2 ** (attempt - 1)
                again = partial(self._call_again, spec, instant, attempt + 1, by_hand)
                self._add_once(f"{spec.id}:retry", wait, again, is_hosts=True)
        finally:
            with self._lock:
                self._calling[spec.id] -= 1
        self._failures.note(spec, instant, started, failed)
        return failed

    def _call_again(
        self, spec: JobSpec, instant: datetime, attempt: int, by_hand: bool, _: datetime
    ) -> BaseException | None:
        may_run = spec.id in self._plan and (by_hand or self.application.may_run(spec.id, instant))
        return self.call(spec, instant, attempt=attempt, by_hand=by_hand) if may_run else None

    def _call_unless_paused(
        self, spec: JobSpec, instant: datetime, timeout: timedelta | None = None
    ) -> BaseException | None:
        return self.call(spec, instant, timeout) if self.application.may_run(spec.id, instant) else None

    # -- orders ------------------------------------------------------------------------------------------------------

    def follow_orders(self) -> None:
        """Run what was ordered by hand, once, and forget what was ordered for jobs that are gone."""
        with self._lock:
            if self.is_alive:
                self._follow_orders()

    def _follow_orders(self) -> None:
        application, now = self.application, self.application.clock.time()
        state, found = application.state_dir(create=False), application.load()
        if not found.problems:
            steering.forget(state, {spec.id for spec in found.specs})
        for job_id, ordered in steering.read(state).items():
            planned, instant = self._plan.get(job_id), ordered.start
            if planned is None or instant is None or self._ordered.get(job_id) == instant:
                continue
            self._ordered[job_id] = instant
            # A process that starts later runs no order that was each process's own.
            since = now - steering.START_WITHIN if plans.is_shared(planned.spec) else self._started.wall
            if instant / SECOND >= since:
                run = partial(self._start_by_hand, job_id, instant)
                self._add_once(f"{job_id}:{instant}", AT_ONCE, run, is_hosts=True)

    def _start_by_hand(self, job_id: str, instant: int, _: datetime) -> BaseException | None:
        return self._fire(job_id, to_datetime(instant), by_hand=True)

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

        if not threads.start(name, run, wait=False):  # what waits is on disk
            with self._lock:
                self._busy.discard(name)

    def _later(self, name: str, delay: timedelta, work: Callable[[], None]) -> None:
        self._add_once(name, delay, lambda _: work())

    def _add_once(
        self, name: str, delay: timedelta, run: Callable[[datetime], BaseException | None], *, is_hosts: bool = False
    ) -> None:
        with self._lock:
            if self.is_alive:
                self._scheduler.add_once(name, delay, run, is_hosts=is_hosts)

    def forget(self) -> None:
        """Forget this life in a forked child: it is the parent's."""
        atexit.unregister(self.stop)
        self._lock = threading.RLock()
        self._is_over = True

    # -- change ------------------------------------------------------------------------------------------------------

    def edited(self) -> None:
        """Apply edited config whole, or refuse it whole and say so; the old plan goes on then."""
        application = self.application
        with self._lock:
            if not self.is_alive:
                return
            settings, found = application.source.read(), application.load()
            problems = list(dict.fromkeys((*settings.problems, *found.problems)))
            self._say_refused(problems, found)
            for path in application.gone():
                application.logger.warning(
                    "%s is gone or empty; its last settings stay in force until it is back", path
                )
            before, old_id = self._plan, self._instance_id
            if not problems or settings.opted_out:
                own = tuple(spec for spec in self._specs if not spec.is_telemetry)
                self._apply(found._replace(specs=own) if problems else found)  # off holds at once, the rest as it was
                self._withdraw(before)
                words = plans.in_words(before, self._plan)
                if self._refused is not None and not problems:
                    words, self._refused = words or "it is right again, and nothing changed", None
                if words:
                    application.logger.info("edited config is applied: %s", words)
            else:
                self._follow_orders()
            if old_id is not None and application.instance_id() not in {old_id, None}:
                self._begin_another_installation()

    def _say_refused(self, problems: list[Problem], found: JobFile) -> None:
        """Say why an edit is not applied, in one line; a look that finds the same files, for an order, says nothing."""
        if problems and found is not self._refused:
            more = f" (and {len(problems) - 1} more, see: lifebeat check)" if problems[1:] else ""
            self.application.logger.error("edited config is not applied: %s", f"{problems[0]}{more}")
            self._refused = found

    @property
    def _instance_id(self) -> str | None:
        seeds = {planned.seed for planned in self._plan.values() if planned.seed}
        return next(iter(seeds), None)

    def _begin_another_installation(self) -> None:
        """Go on as another installation, with an uptime of its own: the ID was rotated."""
        self._started = clocks.now(self.application.clock)
        if self._membership.joined is not None:
            self._membership.joined = replace(self._membership.joined, started=self._started)

    def clock_changed(self, by: float) -> None:
        """Look at the plan again: the wall clock was set by so many seconds, or the machine slept."""
        if self.is_alive:
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
        if context.state_dir is None or not safe_file.exists(context.state_dir / statedir.DATABASE_FILE):
            return  # nothing is pending, and off makes no thread
        for withdrawn in offers(specs, "withdrawn"):
            self._background("withdrawn", partial(withdrawn, context))

    # -- stop --------------------------------------------------------------------------------------------------------

    def stop(self, on_loop: bool = False, deadline: Deadline | None = None) -> bool:
        """Stop within ``telemetryShutdownTimeout``, from whatever thread; on an event loop the rest goes on beside it.

        Args:
            on_loop: Whether an event loop is held up meanwhile.
            deadline: Until when it has time; ``None`` for ``telemetryShutdownTimeout`` from now.

        Returns:
            Whether it is over, or has taken as long as it may.
        """
        ending, is_mine = self._end(deadline)
        if ending is None:
            return True
        if is_mine:
            run = partial(self._finish, ending, threading.get_ident(), on_loop=on_loop)
            if not self._has_work or not threads.start("stop", run, timeout=max(ending.deadline.left / 4, 0.05)):
                run()
        elif threading.current_thread().name.startswith("lifebeat-"):
            return False  # a second caller waits, such as the interpreter's exit, but no thread of ours for itself
        if on_loop:
            return ending.wait_on_loop()
        if not ending.wait():
            ending.say_overdue()
        return True

    def wait(self, timeout: float | None) -> bool:
        """Wait until a stop is over, at most ``timeout`` seconds or as long as it may take; return whether it is."""
        ending = self._ending
        return ending is None or ending.wait(timeout)

    def _end(self, deadline: Deadline | None) -> tuple[Ending | None, bool]:
        """Return the ending, and whether it is the caller's to run; ``None`` where there is no life."""
        if deadline is None:
            timeout = self.application.source.read().shutdown_timeout.total_seconds()
            deadline = Deadline(self.application.clock, timeout)
        locked = self._lock.acquire(timeout=deadline.left / 4)  # an edit is being read from a slow disk just now
        try:
            if self._is_over or self._ending is not None:
                return self._ending, False
            self._ending = Ending(
                application=self.application,
                scheduler=self._scheduler,
                membership=self._membership,
                specs=self._specs,
                history=self.history,
                run_start_job=self._run_start_job,
                call=self._call_unless_paused,
                deadline=deadline,
                until=Deadline(self.application.clock, deadline.left + beyond_deadline(self._specs)),
            )
            return self._ending, True
        finally:
            if locked:
                self._lock.release()

    def _finish(self, ending: Ending, caller: int, *, on_loop: bool) -> None:
        if self._watch is not None:
            self._watch.stop()
        ending.run(caller, on_loop=on_loop)
        atexit.unregister(self.stop)
        for finalizer in self._finalizers:
            finalizer.cancel()


def _is_too_late(spec: JobSpec, late: int) -> bool:
    return spec.misfire_grace is not None and late * MICROSECOND > spec.misfire_grace

"""The stop of a life, against one deadline: drain → start jobs that never ran → leave → shutdown jobs → deliver."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from lifebeat.lifecycle.application import offers
from lifebeat.lifecycle.plan import is_shared
from lifebeat.schedule.instants import SECOND, to_datetime
from lifebeat.schedule.triggers import AtShutdown, AtStart
from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lifebeat.clock import Deadline, Moment
    from lifebeat.history import History
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.application import Application
    from lifebeat.lifecycle.membership import Membership
    from lifebeat.lifecycle.scheduler import Scheduler

MARGIN = 0.05  # seconds beyond the deadline for threads to be woken, and as many to say that it took too long
LEAVE_SHARE = 0.5  # of what is left of a stop's time
LOOP_WAIT = 0.5  # seconds that a stop may hold up an event loop, if the end is on record by then
LOOP_SHARE = 0.3  # of them, to wait for runs, and for others


@dataclass(frozen=True, slots=True)
class Ending:
    """The stop of one life.

    Attributes:
        application: What has run.
        scheduler: What it ran on.
        membership: The process's part in the application.
        specs: The jobs that might run.
        history: Where runs are remembered.
        run_start_job: Runs a start job, unless it has run.
        call: Runs a job.
        deadline: Until when telemetry has time; the host's own shutdown jobs have their own.
        until: Until when anybody waits for the end of the stop.
        recorded: Set when the end is on record, if it is this process's to report.
        finished: Set when all is done.
    """

    application: Application
    scheduler: Scheduler
    membership: Membership
    specs: list[JobSpec]
    history: History
    run_start_job: Callable[[JobSpec, datetime], object]
    call: Callable[[JobSpec, datetime, timedelta | None], object]
    deadline: Deadline
    until: Deadline
    recorded: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    def wait(self, at_most: float | None = None) -> bool:
        """Wait until all is done, as long as anybody may or ``at_most`` so many seconds; return whether it is."""
        left = self.until.left
        return self.finished.wait(left if at_most is None else min(at_most, left))

    def wait_on_loop(self) -> bool:
        """Wait for half a second, and until the end is on record: then the server may end the process at once."""
        if not self.wait(LOOP_WAIT):
            self.recorded.wait(self.until.left)
        return self.finished.is_set()

    def say_overdue(self) -> None:
        """Say that the end may stay unreported; beside the caller, whose log may be what takes long."""

        def say() -> None:
            self.application.say_once(
                "overdue", "the stop took longer than telemetryShutdownTimeout; its shutdown event may be lost"
            )

        threads.within(MARGIN, "say", say)

    def run(self, caller: int, *, on_loop: bool) -> None:
        """Do all of it, in a thread whose caller waits no longer than it may.

        Args:
            caller: The thread that stops the scheduler, which may be one of our jobs, and is not waited for.
            on_loop: Whether an event loop is held up, whose own jobs cannot end meanwhile.
        """
        try:
            if on_loop:
                self.scheduler.drain(min(self.deadline.left / 2, LOOP_SHARE), hosts=False, but=caller)
            else:
                self.scheduler.drain(self.deadline.left / 2, but=caller)
            self.membership.drain(self.deadline.left / 2)
            if self.membership.joined is None:
                self.membership.join_late(self.deadline.left / 4, shared=any(map(is_shared, self.specs)))
            self._run_start_jobs()
            leaving = self.deadline.left * LEAVE_SHARE
            left = self.membership.leave(min(leaving, LOOP_SHARE) if on_loop else leaving)
            self._run_shutdown_jobs(left)
        except Exception:
            self.application.logger.exception("the stop failed")
        finally:
            self.recorded.set()
            self.history.close(self.deadline.left)
            self.membership.close()
            self.finished.set()

    def _run_start_jobs(self) -> None:
        """Run the start jobs of a life that was too short, or paused all along."""
        joined = self.membership.joined
        for spec in self.specs:
            if isinstance(spec.trigger, AtStart) and (not is_shared(spec) or (joined is not None and joined.first)):
                self._quietly(spec, partial(self.run_start_job, spec, self.application.now()))

    def _run_shutdown_jobs(self, left: Moment | None) -> None:
        """Record the end and deliver within the deadline, and run the host's jobs meanwhile, each in its own time."""
        ends = [spec for spec in self.specs if isinstance(spec.trigger, AtShutdown)]
        mine = [spec for spec in ends if left is not None or not is_shared(spec)]
        hosts = [spec for spec in mine if not spec.is_telemetry]
        at = self.application.now() if left is None else to_datetime(int(left.wall * SECOND))
        done = threading.Event()

        def work() -> None:
            try:
                for spec in mine:
                    if spec.is_telemetry:
                        self._quietly(spec, partial(self._call, spec, at))
                if left is not None:
                    self.membership.finish(self.deadline.left)
                self.recorded.set()
                for spec in ends:
                    if spec.is_telemetry and (spec in mine or self.membership.shares_id):
                        self._quietly(spec, partial(self._deliver, spec))
            finally:
                self.recorded.set()
                done.set()

        if not hosts or not threads.start("shutdown", work, timeout=self.deadline.left / 4):
            work()
        self.recorded.wait(self.deadline.left)  # an end that stays unreported is the next start's, with its jobs
        for spec in hosts:
            self._quietly(spec, partial(self._call, spec, at))
        done.wait(self.deadline.left)

    def _deliver(self, spec: JobSpec) -> None:
        """Deliver what is pending; also where others go on, on machines that may not have it on their disk."""
        for leaving in offers([spec], "leaving"):
            leaving(self.application.context("leaving", timeout=self._time_of(spec)))

    def _call(self, spec: JobSpec, at: datetime) -> None:
        self.call(spec, at, self._time_of(spec))

    def _time_of(self, spec: JobSpec) -> timedelta | None:
        if not spec.is_telemetry:
            return spec.timeout
        left = timedelta(seconds=max(self.deadline.left, 0.05))
        return left if spec.timeout is None else min(spec.timeout, left)

    def _quietly(self, spec: JobSpec, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception:
            self.application.logger.exception("job %s failed", spec.id)


def beyond_deadline(specs: list[JobSpec]) -> float:
    """Return for how many seconds after telemetry's deadline a stop may go on, for the host's own shutdown jobs."""
    ends = [spec for spec in specs if isinstance(spec.trigger, AtShutdown) and not spec.is_telemetry]
    return MARGIN + sum(spec.timeout.total_seconds() for spec in ends if spec.timeout is not None)

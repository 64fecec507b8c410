"""Celery's workers: each run comes as a task, and whoever claims its instant runs it."""

from __future__ import annotations

import contextlib
import mmap
import struct
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.claims import Claims
from lifebeat.engines.redis import DAY, KEPT_LONGEST, Agreement, Claim, Shared
from lifebeat.once.claims import Arrival
from lifebeat.schedule.instants import MICROSECOND, SECOND, to_datetime

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from lifebeat.engines import Run
    from lifebeat.engines.apscheduler import LocalEngine
    from lifebeat.engines.timetable import Due
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.life import Lifecycle
    from lifebeat.schedule.instants import Instants

JOIN_TIMEOUT = 1.0
PASS_ON = 2.0
ASK_AGAIN = 2.0


class Began:
    """When the application started on this machine, told by a worker to the children that it forks."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 8)  # shared with those that are forked later

    def tell(self, at: float) -> None:
        """It started at that time, in seconds since the epoch."""
        self._page[:] = struct.pack("d", at)

    @property
    def at(self) -> float | None:
        """When it started; ``None`` if nobody has told."""
        (at,) = struct.unpack("d", self._page[:])
        return at or None


@dataclass(frozen=True, slots=True)
class _Job:
    spec: JobSpec
    instants: Instants
    jitter: Callable[[int], int]
    run: Run

    def kept(self, instant: int) -> float:
        """How long it has to be remembered that an instant has run, in seconds: past the time of the next but one."""
        following = self.instants.after(instant)
        gap = KEPT_LONGEST if following is None else (following - instant) / SECOND
        return min(max(2 * gap, DAY), KEPT_LONGEST)


class WorkerEngine(Agreement):
    """One process that runs tasks, or whose children do.

    Args:
        life: The life whose shared jobs these are.
        shared: What is in Redis.
        began: Where it is told when the application started.
        house: Who of this machine's processes is in; ``None`` in a pool's child, whose parent is.
        patience: Seconds that a run may take beyond its job's timeout before another process may have it.
    """

    def __init__(
        self, life: Lifecycle, shared: Shared, *, began: Began, house: LocalEngine | None, patience: float
    ) -> None:
        super().__init__(life, shared)
        self._began = began
        self._house = house
        self._patience = patience
        self._claims = Claims(shared, patience)
        self._jobs: dict[str, _Job] = {}
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = threading.Event()

    # -- what the life asks ----------------------------------------------------------------------------------------

    def open(self, ready: Callable[[], None]) -> None:
        """Agree as soon as Redis is there; a worker's start is not held up by it, a task in a pool's child waits."""
        if self._house is None:
            super().open(ready)
            return
        self._ready = ready
        self.join(JOIN_TIMEOUT)  # the pool's children must know when the application started before a task comes
        threading.Thread(target=self._keep_asking, name="lifebeat-engine", daemon=True).start()

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run, *, make_up: bool) -> None:  # noqa: ARG002 - beat makes up
        """Know the job; when it is due a task says."""
        self._jobs[spec.id] = _Job(spec, instants, jitter, run)

    def remove(self, job_id: str) -> None:
        """Know it no more."""
        self._jobs.pop(job_id, None)

    def join(self, timeout: float) -> Arrival | None:
        """Come in, among the processes of this machine."""
        if self._house is None:
            at = self._began.at
            return None if at is None else Arrival(first=False, started_at=at, run="")
        arrival = self._house.join(timeout)
        self._began.tell(self.life.clock.time() if arrival is None else arrival.started_at)
        return arrival

    def leave(self, timeout: float) -> bool:
        """Go out, among the processes of this machine."""
        return self._house is not None and self._house.leave(timeout)

    def drain(self, timeout: float) -> bool:
        """Wait for what runs in this process."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running.total(), timeout)

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _keep_asking(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(EngineUnavailable):
                self.agree()
                return
            self._closed.wait(ASK_AGAIN)

    # -- a task ----------------------------------------------------------------------------------------------------

    def run(self, due: Due) -> None:
        """Run an instant, if it is ours; where this process cannot, another is asked again."""
        try:
            self.agree()
            job = self._jobs.get(due.job_id)
            if job is None or self._closed.is_set():
                self._pass_on(due)
            else:
                self._run(job, due)
        except EngineUnavailable as error:  # beat sends it again
            self.outage.begins(error)
        else:
            self.outage.ends()

    def _run(self, job: _Job, due: Due) -> None:
        late = self._now() - due.instant - job.jitter(due.instant)
        if job.spec.misfire_grace is not None and late * MICROSECOND > job.spec.misfire_grace:
            self.life.logger.warning("the run of job %s was missed by %.1f s", job.spec.id, late / SECOND)
            self.shared.end(due, kept=job.kept(due.instant))
            return
        with self._place(job.spec) as free:
            if free:
                self._claim_and_run(job, due)
            else:
                self._pass_on(due)

    def _claim_and_run(self, job: _Job, due: Due) -> None:
        found: list[Claim] = []

        def claim() -> bool:
            found.append(self._claims.take(due, job.spec.timeout))
            return found == [Claim.OURS]

        try:
            job.run(to_datetime(due.instant), claim)
        except EngineUnavailable:  # it is asked again
            raise
        except Exception:
            with contextlib.suppress(EngineUnavailable):
                self._end(job, due, found)
            raise
        else:
            self._end(job, due, found)
        finally:
            if found == [Claim.OURS]:
                self._claims.release(due)

    def _end(self, job: _Job, due: Due, found: list[Claim]) -> None:
        if found == [Claim.OURS]:
            self._claims.end(due, kept=job.kept(due.instant))
        elif not found:
            self._pass_on(due)

    @contextlib.contextmanager
    def _place(self, spec: JobSpec) -> Generator[bool]:
        """Whether one more run of the job may be under way in this process, and then it is."""
        with self._changed:
            free = self._running[spec.id] < spec.max_instances
            self._running[spec.id] += free
        try:
            yield free
        finally:
            with self._changed:
                self._running[spec.id] -= free
                self._changed.notify_all()

    def _pass_on(self, due: Due) -> None:
        """Have it sent again soon; and ever later, since with another job file nobody may know the job."""
        self.shared.ask_again([due], self._now(), int(min(PASS_ON, self._patience) * SECOND))

    def _now(self) -> int:
        return int(self.life.clock.time() * SECOND)

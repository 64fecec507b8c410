"""Which instants of which jobs are due: what an engine asks whose own idea of a period is not a fixed grid."""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lifebeat.schedule.instants import MICROSECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.schedule.instants import Instants


class Due(NamedTuple):
    """A job's instant, in microseconds since the epoch."""

    job_id: str
    instant: int


@dataclass(slots=True)
class _Row:
    instants: Instants
    jitter: Callable[[int], int]
    coalesce: bool
    misfire_grace: int | None
    number: int


class Timetable:
    """The jobs of one process and the instants to come, for any thread. Times are microseconds since the epoch.

    It remembers how far it has come, not what others did: who may run an instant is for a claim to say.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._heap: list[tuple[int, int, str, int]] = []
        self._lock = threading.Lock()
        self._numbers = 0

    def put(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], *, since: int) -> None:
        """A job whose instants later than ``since`` are to come; one of the same ID is replaced."""
        grace = None if spec.misfire_grace is None else spec.misfire_grace // MICROSECOND
        with self._lock:
            self._numbers += 1
            self._rows[spec.id] = row = _Row(instants, jitter, spec.coalesce, grace, self._numbers)
            self._push(spec.id, row, instants.after(since))

    def remove(self, job_id: str) -> None:
        """A job of which nothing more is to come."""
        with self._lock:
            self._rows.pop(job_id, None)

    def next(self) -> int | None:
        """When something is due next; ``None`` if nothing ever is."""
        with self._lock:
            self._drop_replaced()
            return self._heap[0][0] if self._heap else None

    def due(self, now: int) -> list[Due]:
        """What is due and was not told before; of what was missed only the latest where the job coalesces."""
        found: list[Due] = []
        with self._lock:
            while self._heap and self._heap[0][0] <= now:
                fire, instant, job_id, number = heapq.heappop(self._heap)
                row = self._rows.get(job_id)
                if row is not None and row.number == number:
                    self._take(found, Due(job_id, instant), row, fire, now)
        return found

    def give_back(self, due: list[Due]) -> None:
        """What was told and could not be used; it is told again, or what has followed it where the job coalesces."""
        with self._lock:
            earliest: dict[str, int] = {}
            for job_id, instant in due:
                earliest[job_id] = min(instant, earliest.get(job_id, instant))
            for job_id, instant in earliest.items():
                if (row := self._rows.get(job_id)) is not None:
                    self._numbers += 1
                    row.number = self._numbers
                    self._push(job_id, row, instant)

    def _take(self, found: list[Due], due: Due, row: _Row, fire: int, now: int) -> None:
        latest = row.instants.latest(now) if row.coalesce else None
        if latest is not None and latest > due.instant:
            # Straight to the latest, or to the one before while the latest waits for its jitter.
            if (later := latest + row.jitter(latest)) > now:
                before = row.instants.latest(latest - 1)
                latest = due.instant if before is None else max(before, due.instant)
                later = latest + row.jitter(latest)
            due, fire = Due(due.job_id, latest), later
        if row.misfire_grace is None or now - fire <= row.misfire_grace:
            found.append(due)
        self._push(due.job_id, row, row.instants.after(due.instant))

    def _push(self, job_id: str, row: _Row, instant: int | None) -> None:
        if instant is not None:
            heapq.heappush(self._heap, (instant + row.jitter(instant), instant, job_id, row.number))

    def _drop_replaced(self) -> None:
        while self._heap:
            _, _, job_id, number = self._heap[0]
            row = self._rows.get(job_id)
            if row is not None and row.number == number:
                return
            heapq.heappop(self._heap)

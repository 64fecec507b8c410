"""One machine: every process's own APScheduler fires, and whoever claims the instant first runs the job."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from lifebeat.errors import LifebeatError
from lifebeat.schedule.instants import SECOND, to_datetime, to_instant

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lifebeat.clock import Clock
    from lifebeat.engines import Run
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.once.files import Arrival, Presence
    from lifebeat.schedule.instants import Instants

T = TypeVar("T")
AT_ONCE = timedelta(0)


class Scheduler(Protocol):
    """What this engine needs of the process's scheduler."""

    def add(
        self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Callable[[datetime], None]
    ) -> None: ...
    def add_once(self, job_id: str, delay: timedelta, run: Callable[[datetime], None]) -> None: ...
    def remove(self, job_id: str) -> None: ...


class LocalEngine:
    """The processes of one machine, which share a state directory.

    Args:
        scheduler: The process's own.
        find_house: The application's register of processes; ``None`` where it cannot be kept, and every process counts
            as an application of its own.
        clock: Where the time comes from.
        say_once: Says a line for a key, once.
        await_opening: Returns when the jobs that run before this one at a start have run: the first of all makes the
            instance ID, which gives the instants.
    """

    is_ready = True

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        find_house: Callable[[], Presence | None],
        clock: Clock,
        say_once: Callable[[str, str], None],
        await_opening: Callable[[JobSpec], None],
    ) -> None:
        self._scheduler = scheduler
        self._house = find_house
        self._clock = clock
        self._say_once = say_once
        self._await_opening = await_opening
        self._added: dict[str, tuple[Instants, Callable[[int], int], Run]] = {}

    def open(self, ready: Callable[[], None]) -> None:
        """Nothing has to be opened."""

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run, *, make_up: bool) -> None:
        """Every process fires; the claim decides."""
        self._scheduler.add(spec, instants, jitter, lambda at: run(at, partial(self._claim, spec.id, to_instant(at))))
        self._added[spec.id] = (instants, jitter, run)
        if make_up:
            self._scheduler.add_once(f"{spec.id}:missed", AT_ONCE, partial(self._make_up, spec))

    def remove(self, job_id: str) -> None:
        """Take a job away."""
        self._added.pop(job_id, None)
        self._scheduler.remove(job_id)

    def seed(self) -> None:
        """It is the machine's."""

    def agree_on_id(self, candidate: str) -> None:
        """It is kept in config or state."""

    def join(self, timeout: float) -> Arrival | None:
        """Come in."""
        house = self._house()
        return None if house is None else self._try(lambda: house.join(timeout=timeout), None)

    def leave(self, timeout: float) -> bool:
        """Go out."""
        house = self._house()
        return house is None or self._try(lambda: bool(house.leave(timeout=timeout)), default=True)

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - they are the scheduler's runs, and it is asked
        """Nothing runs here."""
        return True

    def close(self) -> None:
        """Nothing was opened."""

    def _make_up(self, spec: JobSpec, _: datetime) -> None:
        """Run the latest instant that came while no process was there, if one did."""
        self._await_opening(spec)
        if spec.id not in self._added:
            return
        instants, jitter, run = self._added[spec.id]
        now = int(self._clock.time() * SECOND)
        due = instants.latest(now)
        if due is not None and due + jitter(due) > now:
            due = instants.latest(due - 1)
        last = self._last_claim(spec)
        if due is None or (last is not None and last >= due):
            return
        late = timedelta(microseconds=now - due)
        wanted = last is not None and (spec.misfire_grace is None or late <= spec.misfire_grace)
        if wanted:
            run(to_datetime(due), partial(self._claim, spec.id, due))
        else:
            self._claim(spec.id, due)

    def _claim(self, job_id: str, instant: int) -> bool:
        house = self._house()
        return house is None or self._try(lambda: house.claim(job_id, instant / SECOND), default=True)

    def _last_claim(self, spec: JobSpec) -> int | None:
        house = self._house()
        last = None if house is None else self._try(lambda: house.last_claim(spec.id), None)
        return None if last is None else round(last * SECOND)

    def _try(self, ask: Callable[[], T], default: T) -> T:
        try:
            return ask()
        except LifebeatError as error:
            self._say_once("presence", f"each process counts as an application of its own: {error}")
            return default

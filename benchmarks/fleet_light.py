"""An instance of which a million fit: Lifebeat's own delivery, an outbox in memory and a PostHog that is a function.

That the outbox in memory and the few lines here do what the real ones do is checked by ``fleet_whole``.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from fleet_life import NEVER, Instance, World
from fleet_scenario import BEGINNING, Scenario

from lifebeat_jobs.delivery import Delivery, begin_boot, until_next_attempt
from lifebeat_jobs.outbox import LONGEST_BACKOFF, Entry, Outbox, Waiting
from lifebeat_jobs.privacy import Machine

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from lifebeat.once.files import Presence
    from lifebeat_jobs.answers import Answer

NOBODY = Machine((), frozenset())
KINDS = ("startup", "heartbeat", "shutdown")
AFTER = 12 * 3600


@dataclass(slots=True)
class Tally:
    """What arrived, by the second, and what became of the events.

    Attributes:
        requests: Requests, whatever the answer.
        refused: Those of them that were not answered with 200.
        taken: Events that PostHog has, by kind, repeats included.
        recorded: How many events were recorded.
        lost: How many of them never arrived.
        repeated: How many arrived more than once.
        lags: How long after PostHog was back, in seconds, each event arrived that it had kept waiting.
    """

    requests: array[int]
    refused: array[int]
    taken: dict[str, array[int]]
    recorded: int = 0
    lost: int = 0
    repeated: int = 0
    lags: array[float] = field(default_factory=lambda: array("d"))

    @classmethod
    def over(cls, seconds: float) -> Tally:
        """Nothing yet, for so long."""

        def blank() -> array[int]:
            return array("I", bytes(4 * (int(seconds) + AFTER)))

        return cls(blank(), blank(), {kind: blank() for kind in KINDS})

    def add(self, other: Tally) -> None:
        """Count what another process has counted."""
        for ours, theirs in zip(self._rows(), other._rows(), strict=True):
            ours[:] = array("I", map(int.__add__, ours, theirs))
        self.recorded += other.recorded
        self.lost += other.lost
        self.repeated += other.repeated
        self.lags.extend(other.lags)

    def _rows(self) -> list[array[int]]:
        return [self.requests, self.refused, *self.taken.values()]


class Queue(Outbox):
    """What an outbox does, without a file."""

    def __init__(self, world: World) -> None:  # the base class's would make a store
        self.rows: dict[str, Entry] = {}
        self.waits: list[Entry] = []
        self._notes: dict[str, str] = {}
        self._clock = world.clock

    def record(self, uuid: str, event: str, body: str) -> None:
        now = self._clock.time()
        self.waits.append(Entry(uuid, event, body, now, "waiting", 0, now, None, None, None))

    def due(self, limit: int, *, early: bool = False, skip: int = 0) -> list[Entry]:
        now = self._clock.time()
        return [one for one in self.waits if early or _due(one, now) <= now][skip : skip + limit]

    def is_waiting(self, uuid: str) -> bool:
        return any(one.uuid == uuid for one in self.waits)

    def delivered(self, uuids: Iterable[str], status: int) -> None:
        gone, now = set(uuids), self._clock.time()
        for one in self.waits:
            if one.uuid in gone:
                self.rows[one.uuid] = one._replace(
                    state="delivered", attempts=one.attempts + 1, next_attempt=None, status=status, finished_at=now
                )
        self.waits = [one for one in self.waits if one.uuid not in gone]

    def postponed(self, uuids: Iterable[str], *, until: float, answer: str, status: int | None) -> None:
        late = set(uuids)
        self.waits = [
            one._replace(attempts=one.attempts + 1, next_attempt=until, answer=answer, status=status)
            if one.uuid in late
            else one
            for one in self.waits
        ]

    def waiting(self) -> Waiting:
        now = self._clock.time()
        return Waiting(len(self.waits), next_attempt=min((_due(one, now) for one in self.waits), default=None))

    def note(self, key: str) -> str | None:
        return self._notes.get(key)

    @contextlib.contextmanager
    def sending(self) -> Generator[bool]:
        yield True

    def set_note(self, key: str, value: str) -> None:
        self._notes[key] = value


class Going(Delivery):
    """A delivery of what are no real events, and are not looked at."""

    def _next(self) -> list[Entry]:
        return self.outbox.due(self.batch, early=True)


def _due(one: Entry, now: float) -> float:
    due = one.next_attempt or 0.0
    return now if due > now + LONGEST_BACKOFF else due


class Register:
    """What a register of processes says about claims, without a file."""

    def __init__(self) -> None:
        self._claimed: set[float] = set()

    def claim(self, job_id: str, instant: float) -> bool:  # noqa: ARG002 - there is one job
        """Whether the instant is the caller's to run."""
        is_new = instant not in self._claimed
        self._claimed.add(instant)
        return is_new

    def last_claim(self, job_id: str) -> float | None:  # noqa: ARG002 - there is one job
        """The latest instant claimed."""
        return max(self._claimed, default=None)


class Light(Instance):
    """An instance in memory, which counts into a tally."""

    def __init__(self, world: World, number: int, tally: Tally) -> None:
        super().__init__(world, number)
        self.house = cast("Presence", Register())
        self.queue = Queue(world)
        self._context = world.context(Path(), world.settings)
        self._tally = tally
        self._made = 0
        self._arrived: Counter[str] = Counter()

    def live(self) -> None:
        super().live()
        self._tally.recorded += self._made
        self._tally.lost += self._made - len(self._arrived)
        self._tally.repeated += self._arrived.total() - len(self._arrived)

    def begin(self) -> None:
        self._boot()
        super().begin()

    def startup(self) -> None:
        self._record("startup")
        self.deliver()

    def heartbeat(self) -> None:
        self._record("heartbeat")
        self.deliver()

    def shutdown(self) -> None:
        self._record("shutdown")
        self._go(leaving=True)

    def deliver(self) -> None:
        self._go()
        again = until_next_attempt(self._context, self.queue)
        self.alarm = NEVER if again is None else self.world.clock.now + again.total_seconds()

    def _boot(self) -> None:
        self.world.clock.boots = self.boots
        begin_boot(self.queue, self.world.clock, self.draw)

    def _record(self, kind: str) -> None:
        self._made += 1
        self.queue.record(str(self._made), kind, str(self._made))

    def _go(self, *, leaving: bool = False) -> None:
        self._boot()
        Going(self._context, self.queue, draw=self.draw, machine=NOBODY, leaving=leaving, reach=lambda: self._ask).run()

    def _ask(self, bodies: list[str], *_: object) -> Answer:
        second = int(self.world.clock.now - BEGINNING)
        answer, takes = self.world.scenario.answer(self.world.clock.now, self.number)
        self._tally.requests[second] += 1
        self._tally.refused[second] += not answer.delivered
        if takes:
            for one in [one for one in self.queue.waits if one.body in bodies]:
                self._take(one, second)
        return answer

    def _take(self, one: Entry, second: int) -> None:
        self._tally.taken[one.event][second] += 1
        self._arrived[one.uuid] += 1
        if one.attempts and self._arrived[one.uuid] == 1 and second >= self.world.scenario.outage_end:
            self._tally.lags.append(second - self.world.scenario.outage_end)


def simulated(scenario: Scenario, numbers: Iterable[int]) -> Tally:
    """These instances' days."""
    world, tally = World(scenario), Tally.over(scenario.end)
    for number in numbers:
        Light(world, number, tally).live()
    return tally

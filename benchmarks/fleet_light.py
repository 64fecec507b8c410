"""An instance of which a million fit: Lifebeat's own waits, in place of an outbox a list, of PostHog a function.

That this is what the real outbox and delivery do is checked by ``fleet_whole``, to the second and the attempt.
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fleet_life import NEVER, Instance
from fleet_scenario import BEGINNING, Scenario

from lifebeat_jobs.delivery import AFTER_BOOT, pause

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        """Return one with nothing in it yet, for so long."""

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


@dataclass(slots=True)
class Waiting:
    """An event.

    Attributes:
        kind: Its name.
        attempts: How often it was sent.
        due: When it may be sent again.
        arrived: How often PostHog has it.
        delivered: When it was delivered; ``None`` while it waits.
    """

    kind: str
    attempts: int = 0
    due: float = 0.0
    arrived: int = 0
    delivered: float | None = None


class Light(Instance):
    """An instance in memory, which counts into a tally."""

    def __init__(self, scenario: Scenario, number: int, tally: Tally) -> None:
        super().__init__(scenario, number)
        self.events: list[Waiting] = []
        self._waits: list[Waiting] = []
        self._tally = tally
        self._boot: str | None = None
        self._held_until = self._failing_until = 0.0

    def live(self) -> None:
        super().live()
        before = 0 if self.scenario.is_new(self.number) else 1  # its startup before the days began
        self._tally.recorded += len(self.events) - before
        self._tally.lost += sum(not one.arrived for one in self.events)
        self._tally.repeated += sum(max(one.arrived - 1, 0) for one in self.events)

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
        if not self._waits:
            self.alarm = NEVER
            return
        until = max(min(one.due for one in self._waits), self._held_until, self._failing_until)
        self.wake(max(until - self.clock.now, 1.0))

    def _record(self, kind: str) -> None:
        self.events.append(Waiting(kind, due=self.clock.now))
        self._waits.append(self.events[-1])

    def _go(self, *, leaving: bool = False) -> None:
        now, boot = self.clock.now, self.clock.boot_id()
        if boot != self._boot:
            self._held_until = now + (0.0 if self._boot is None else random.random() * AFTER_BOOT)
            self._boot = boot
        if (now < self._held_until and not leaving) or all(one.due > now for one in self._waits):
            return
        answer, takes = self.scenario.answer(now, self.number)
        self._count(answered=answer.delivered, takes=takes)
        for one in self._waits:
            one.attempts += 1
        if answer.delivered:
            for one in self._waits:
                one.delivered = now
            self._waits = []
            self._failing_until = 0.0
            return
        self._failing_until = now + pause(answer, max(one.attempts for one in self._waits) - 1)
        for one in self._waits:
            one.due = self._failing_until

    def _count(self, *, answered: bool, takes: bool) -> None:
        second = int(self.clock.now - BEGINNING)
        if second >= 0:
            self._tally.requests[second] += 1
            self._tally.refused[second] += not answered
        if takes:
            for one in self._waits:
                self._take(one, second)

    def _take(self, one: Waiting, second: int) -> None:
        one.arrived += 1
        if second >= 0:
            self._tally.taken[one.kind][second] += 1
        if one.attempts and one.arrived == 1 and second >= self.scenario.outage_end:
            self._tally.lags.append(second - self.scenario.outage_end)


def simulated(scenario: Scenario, numbers: Iterable[int]) -> Tally:
    """Return what these instances' days were like."""
    tally = Tally.over(scenario.end)
    for number in numbers:
        Light(scenario, number, tally).live()
    return tally

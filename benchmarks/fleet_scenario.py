"""What happens to the fleet, and when. Times are seconds since the simulation's start, if nothing else is said."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from lifebeat.schedule.instants import spread
from lifebeat_jobs.answers import Answer

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
BEGINNING = 1_772_323_200.0  # 2026-03-01T00:00:00Z
What = Literal["start", "stop", "cut"]
Step = tuple[float, What]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet's two days.

    Attributes:
        instances: How many there are at the end.
        end: When the days are over; what waits then is still delivered.
        installed: Which share is started for the first time, at any moment of the two days.
        restarted: Which share is stopped and started again, for a release.
        release: When that begins.
        rollout: How long it takes.
        downtime: How long an instance is down for it.
        outage: When PostHog is away: refuses connections, then answers 503, then loses answers, a third of it each.
        outage_end: When it is back.
        region: Which share loses its power, with no chance to say so.
        cut: When.
        power: When they have it again, and start within the same minute.
    """

    instances: int = 1_000_000
    end: float = 2 * DAY
    installed: float = 0.01
    restarted: float = 0.30
    release: float = 30 * HOUR
    rollout: float = 10 * MINUTE
    downtime: float = 20.0
    outage: float = 36 * HOUR
    outage_end: float = 37 * HOUR
    region: float = 0.20
    cut: float = 41 * HOUR
    power: float = 42 * HOUR

    def life(self, number: int) -> list[Step]:
        """What happens to an instance, and when, in seconds since the Unix epoch."""
        name = instance_id(number)
        steps: list[Step] = []
        if self.is_new(number):
            steps.append((_share(name, "first start") * self.end, "start"))
        began = steps[0][0] if steps else 0.0
        if _share(name, "restarted") < self.restarted:
            stop = self.release + _share(name, "stop") * self.rollout
            steps.extend([(stop, "stop"), (stop + self.downtime, "start")])
        if self.is_cut(number):
            steps.extend([(self.cut, "cut"), (self.power + _share(name, "power") * MINUTE, "start")])
        return [(BEGINNING + at, what) for at, what in steps if at >= began]

    def is_new(self, number: int) -> bool:
        """Whether an instance is started for the first time in these days."""
        return _share(instance_id(number), "installed") < self.installed

    def is_cut(self, number: int) -> bool:
        """Whether an instance is in the region that loses its power."""
        return _share(instance_id(number), "region") < self.region

    def answer(self, now: float, number: int) -> tuple[Answer, bool]:
        """What PostHog answers an instance, and whether it takes the events; the two may differ."""
        if not self.outage <= now - BEGINNING < self.outage_end:
            return Answer(200, "delivered", delivered=True), True
        match int(3 * (now - BEGINNING - self.outage) / (self.outage_end - self.outage)):
            case 0:
                return Answer(None, "ConnectionRefusedError: Connection refused"), False
            case 1:
                return Answer(503, "HTTP 503"), False
            case _:
                return Answer(None, "no answer"), number % 2 == 0


@lru_cache(maxsize=1)
def instance_id(number: int) -> str:
    """The ID of an instance."""
    digest = hashlib.blake2b(number.to_bytes(8), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def _share(name: str, what: str) -> float:
    """A number from 0 to 1, evenly spread over instances, for something that happens to some of them."""
    return spread(f"{what}:{name}", 1 << 53) / (1 << 53)

"""A fleet of installations over 60 days, whose numbers are known because they are counted while it is made."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lifebeat_jobs import events

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2027, 3, 15, 13, 30, tzinfo=UTC)
BEGIN = NOW - timedelta(days=60)
DAY = timedelta(days=1)
VERSIONS = ("1.0.0", "1.1.0", "2.0.0")
PLATFORMS = ("linux", "darwin", "win32")
PYTHONS = ("3.11.7", "3.12.4", "3.13.1", "3.13.2")


@dataclass
class Row:
    """One event as it is stored."""

    uuid: str
    event: str
    timestamp: datetime
    distinct_id: str
    properties: str


@dataclass
class Truth:
    """What the queries must find.

    Attributes:
        rows: The events, each as often as it was delivered.
        last_heard: When each installation was last heard of.
        active: The installations by the day on which they were heard of.
        latest: The version, platform and Python of each installation when it was last heard of.
        uptime: The whole days of the last heartbeat of each installation, and when that was.
        outcomes: How the starts of the last 30 days ended, by day.
        counts: The events of the last 30 days by day and kind.
    """

    rows: list[Row] = field(default_factory=list[Row])
    last_heard: dict[str, datetime] = field(default_factory=dict[str, datetime])
    active: dict[date, set[str]] = field(default_factory=lambda: defaultdict(set))
    latest: dict[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    uptime: dict[str, tuple[datetime, int]] = field(default_factory=dict[str, tuple[datetime, int]])
    outcomes: dict[date, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    counts: dict[tuple[date, str], int] = field(default_factory=lambda: defaultdict(int))


class Fleet:
    """Makes it: installations that come, restart, crash, sleep, are upgraded and go, and events delivered twice."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.truth = Truth()
        self._chance = random.Random(seed)
        self._shapes: dict[tuple[str, ...], str] = {}
        for _ in range(size):
            self._live()

    def _live(self) -> None:
        chance = self._chance
        instance = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        platform, python = chance.choices(PLATFORMS, (80, 15, 5))[0], chance.choices(PYTHONS, (20, 40, 25, 15))[0]
        version = chance.choice((0, 1))
        phase = chance.uniform(0, 86400)
        at = BEGIN + timedelta(seconds=chance.uniform(0, 55 * 86400))
        gone = at + timedelta(days=chance.expovariate(1 / 40))
        previous: tuple[datetime, str] | None = None
        while at < min(NOW, gone):
            end = at + timedelta(days=chance.expovariate(1 / 6))
            facts = (VERSIONS[version], platform, python)
            clean = chance.random() < 0.8
            last = self._run(instance, facts, phase, at, end, clean=clean)
            if previous is not None:
                self._outcome(*previous)
            ended = clean and end <= NOW
            previous = (at, "clean" if ended else "unclean")
            self._open = (at, last, ended)
            at = end + timedelta(seconds=chance.expovariate(1 / 3000) + 1)
            if chance.random() < 0.2 and version < len(VERSIONS) - 1:
                version += 1
        if previous is not None:
            begun, last, ended = self._open
            silent = "silent" if last <= NOW - 3 * DAY else "running"
            self._outcome(begun, "clean" if ended else silent)

    def _run(
        self, instance: str, facts: tuple[str, str, str], phase: float, at: datetime, end: datetime, *, clean: bool
    ) -> datetime:
        """One run from its startup to its end, or to where the time is up; when it was last heard of."""
        last = at
        self._tell(events.Startup, {}, instance, facts, at)
        for beat in self._beats(phase, at, min(end, NOW)):
            days = int((beat - at) / DAY)
            self._tell(events.Heartbeat, {"uptime_hours": days * 24, "uptime_days": days}, instance, facts, beat)
            self.truth.uptime[instance] = (beat, days)
            last = beat
        if clean and end <= NOW:
            days = int((end - at) / DAY)
            more = {"total_runtime_hours": days * 24, "total_runtime_days": days}
            self._tell(events.Shutdown, more, instance, facts, end)
            last = end
        return last

    def _beats(self, phase: float, at: datetime, end: datetime) -> Iterator[datetime]:
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        beat = midnight + timedelta(seconds=phase)
        while beat <= end:
            if beat > at:
                yield beat
            beat += DAY

    def _tell(
        self, kind: type[events.Event], more: dict[str, int], instance: str, facts: tuple[str, str, str], at: datetime
    ) -> None:
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        row = Row(str(uuid.UUID(int=self._chance.getrandbits(128), version=4)), kind.name, at, instance,
                  self._properties(kind, more, instance, facts))  # fmt: skip
        truth = self.truth
        truth.rows += [row] * self._chance.choices((1, 2, 3), (95, 4, 1))[0]
        truth.last_heard[instance] = max(at, truth.last_heard.get(instance, at))
        truth.active[at.date()].add(instance)
        truth.latest[instance] = facts
        if at > NOW - 30 * DAY:
            truth.counts[at.date(), kind.name] += 1

    def _properties(
        self, kind: type[events.Event], more: dict[str, int], instance: str, facts: tuple[str, str, str]
    ) -> str:
        """As the project's own code serializes it; made once for each shape, with the installation's ID put in."""
        shape = (kind.name, *facts, *map(str, more.values()))
        if shape not in self._shapes:
            version, platform, python = facts
            made = kind(
                instance_id=_STANDS_FOR, os_platform=platform, os_release="6.1.0", python_version=python,
                app_version=version, release=version, **more,
            )  # fmt: skip
            body: dict[str, Any] = json.loads(events.serialize(made, NOW)[0])
            self._shapes[shape] = json.dumps(body["properties"])
        return self._shapes[shape].replace(_STANDS_FOR, instance)

    def _outcome(self, begun: datetime, how: str) -> None:
        if begun > NOW - 30 * DAY:
            self.truth.outcomes[begun.date()][how] += 1


_STANDS_FOR = "11111111-1111-4111-8111-111111111111"

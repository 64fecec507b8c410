"""A fleet of installations over 60 days, whose numbers are known because they are counted while it is made."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from lifebeat_jobs import events

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2027, 3, 15, 13, 30, tzinfo=UTC)
BEGIN = NOW - timedelta(days=60)
DAY = timedelta(days=1)
VERSIONS = ("1.0.0", "1.1.0", "2.0.0")
PLATFORMS = ("linux", "darwin", "win32")
PYTHONS = ("3.11.7", "3.12.4", "3.13.1", "3.13.2")
STANDS_FOR = "11111111-1111-4111-8111-111111111111"


def monday(day: date) -> date:
    """The day on which its week begins."""
    return day - timedelta(days=day.weekday())


@dataclass(frozen=True, slots=True)
class Row:
    """One event as it is stored."""

    uuid: str
    event: str
    timestamp: datetime
    distinct_id: str
    properties: str


@dataclass(slots=True)
class Truth:
    """What the queries must find.

    Attributes:
        rows: The events, each once.
        repeats: What was delivered again, each as often as it was.
        last: When each installation was last heard of, by which event, and the whole days that it then had run.
        active: The installations by the day on which they were heard of.
        latest: The version, platform and Python of each installation when it was last heard of.
        weeks: What each installation ran when it was last heard of in a week, by the week's Monday and its ID.
        ran: When each installation was first heard of with each version.
        outcomes: How the starts of the last 30 days ended, by day.
        endings: The same by version.
        counts: The events of the last 30 days by day and kind.
        sleepers: How many heartbeats were left out by those that slept.
    """

    rows: list[Row] = field(default_factory=list[Row])
    repeats: list[Row] = field(default_factory=list[Row])
    last: dict[str, tuple[datetime, str, int]] = field(default_factory=dict[str, tuple[datetime, str, int]])
    active: dict[date, set[str]] = field(default_factory=lambda: defaultdict(set))
    latest: dict[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    weeks: dict[date, dict[str, tuple[str, str, str]]] = field(default_factory=lambda: defaultdict(dict))
    ran: dict[str, dict[str, datetime]] = field(default_factory=lambda: defaultdict(dict))
    outcomes: dict[date, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    endings: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    counts: dict[tuple[date, str], int] = field(default_factory=lambda: defaultdict(int))
    sleepers: int = 0


@dataclass(slots=True)
class Installation:
    """One of the fleet.

    Attributes:
        number: Its ID.
        facts: The version, platform and Python that it runs.
        phase: When in the day its heart beats.
        asleep: From when to when the machine is suspended; nothing happens then.
    """

    number: str
    facts: tuple[str, str, str]
    phase: timedelta
    asleep: tuple[datetime, datetime]

    def awake(self, at: datetime) -> datetime:
        """That time, or when it wakes if it sleeps then."""
        begins, ends = self.asleep
        return ends if begins <= at < ends else at

    def beats(self, begun: datetime, ended: datetime) -> Iterator[datetime]:
        """When its heart would beat in a run, the machine awake."""
        beat = begun.replace(hour=0, minute=0, second=0, microsecond=0) + self.phase
        while beat <= ended:
            if beat > begun:
                yield beat
            beat += DAY


class Fleet:
    """Makes it: installations that come, restart, crash, sleep, are upgraded and go, and events delivered twice."""

    def __init__(self, size: int, seed: int = 1) -> None:
        self.truth = Truth()
        self._chance = random.Random(seed)
        self._shapes: dict[tuple[str, ...], str] = {}
        for _ in range(size):
            self._live(self._new())

    def _new(self) -> Installation:
        chance = self._chance
        platform, python = chance.choices(PLATFORMS, (80, 15, 5))[0], chance.choices(PYTHONS, (20, 40, 25, 15))[0]
        sleeps = BEGIN + chance.uniform(0, 60) * DAY
        asleep = (sleeps, sleeps + chance.uniform(2, 9) * DAY) if platform != "linux" else (NOW, NOW)
        number = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        return Installation(number, (VERSIONS[chance.choice((0, 1))], platform, python), chance.random() * DAY, asleep)

    def _live(self, one: Installation) -> None:
        chance = self._chance
        at = one.awake(BEGIN + chance.uniform(0, 55) * DAY)
        gone = at + chance.expovariate(1 / 40) * DAY
        runs: list[tuple[datetime, bool, str]] = []
        while at < min(NOW, gone):
            end = one.awake(at + chance.expovariate(1 / 6) * DAY)
            ends_well = chance.random() < 0.8 and end <= NOW
            self._run(one, at, min(end, NOW), ends_well=ends_well)
            runs.append((at, ends_well, one.facts[0]))
            at = one.awake(end + timedelta(seconds=chance.expovariate(1 / 3000) + 1))
            if chance.random() < 0.2:
                one.facts = (VERSIONS[min(VERSIONS.index(one.facts[0]) + 1, len(VERSIONS) - 1)], *one.facts[1:])
        if runs:
            self._judge(runs, self.truth.last[one.number][0])

    def _judge(self, runs: list[tuple[datetime, bool, str]], last_heard: datetime) -> None:
        for number, (begun, ended_well, version) in enumerate(runs, 1):
            open_end = "unclean" if number < len(runs) else "silent" if last_heard <= NOW - 3 * DAY else "running"
            if begun > NOW - 30 * DAY:
                how = "clean" if ended_well else open_end
                self.truth.outcomes[begun.date()][how] += 1
                self.truth.endings[version][how] += 1

    def _run(self, one: Installation, at: datetime, end: datetime, *, ends_well: bool) -> None:
        self._tell(events.Startup, {}, one, at, 0)
        for beat in one.beats(at, end):
            days = (beat - at) // DAY
            if one.awake(beat) == beat:
                self._tell(events.Heartbeat, {"uptime_hours": days * 24, "uptime_days": days}, one, beat, days)
            else:
                self.truth.sleepers += 1
        if ends_well:
            days = (end - at) // DAY
            self._tell(events.Shutdown, {"total_runtime_hours": days * 24, "total_runtime_days": days}, one, end, days)

    def _tell(self, kind: type[events.Event], more: dict[str, int], one: Installation, at: datetime, days: int) -> None:
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        properties = self._properties(kind, more, one)
        row = Row(str(uuid.UUID(int=self._chance.getrandbits(128))), kind.name, at, one.number, properties)
        truth = self.truth
        truth.rows.append(row)
        truth.repeats += [row] * self._chance.choices((0, 1, 2), (95, 4, 1))[0]
        truth.last[one.number] = (at, kind.name, days)
        truth.active[at.date()].add(one.number)
        truth.latest[one.number] = truth.weeks[monday(at.date())][one.number] = one.facts
        truth.ran[one.number].setdefault(one.facts[0], at)
        if at > NOW - 30 * DAY:
            truth.counts[at.date(), kind.name] += 1

    def _properties(self, kind: type[events.Event], more: dict[str, int], one: Installation) -> str:
        """As the project's own code serializes it; made once for each shape, with the installation's ID put in."""
        shape = (kind.name, *one.facts, *map(str, more.values()))
        if shape not in self._shapes:
            version, platform, python = one.facts
            made = kind(
                instance_id=STANDS_FOR, os_platform=platform, os_release="6.1.0", python_version=python,
                app_version=version, release=version, **more,
            )  # fmt: skip
            body = events.serialize(made, NOW, events.uuid7(NOW))
            self._shapes[shape] = json.dumps(body["properties"])
        return self._shapes[shape].replace(STANDS_FOR, one.number)

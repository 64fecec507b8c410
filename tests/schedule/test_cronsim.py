"""Cron held against two oracles where the clocks change: cronsim, and Debian's cron as its source has it."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import product, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

import pytest

from lifebeat.schedule.cron import Calendar, parse
from lifebeat.schedule.instants import to_datetime

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "cron.md"
EXPRESSIONS = 300
YEARS = range(2016, 2026)
AROUND = timedelta(hours=2)
MINUTE = timedelta(minutes=1)
ZONES = (
    "Europe/Berlin", "Europe/London", "Europe/Dublin", "Europe/Moscow", "America/New_York", "America/St_Johns",
    "America/Havana", "America/Santiago", "America/Asuncion", "America/Sao_Paulo", "America/Nuuk", "Africa/Cairo",
    "Africa/Casablanca", "Asia/Tehran", "Asia/Gaza", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia",
    "Pacific/Chatham", "Antarctica/Troll",
)  # fmt: skip


def expressions() -> list[str]:
    """Return three hundred, the same each time, most of them due where clocks change."""
    dice = random.Random(300)

    def field(low: int, high: int, near: int, star: float) -> str:
        if dice.random() < star:
            return dice.choice(["*", "*", f"*/{dice.choice([2, 5, 7, 10, 15, 20, 30])}" if high == 59 else "*/2"])
        first, second = sorted(dice.sample(range(low, near + 1), 2))
        return dice.choice([str(first), str(second), f"{first},{second}", f"{first}-{second}"])

    found: dict[str, None] = {}
    while len(found) < EXPRESSIONS:
        days, weekdays = field(1, 31, 31, 0.9), dice.choice(["*"] * 8 + ["sun", "0,6", "mon-fri", "7"])
        months = dice.choice(["*"] * 8 + ["3,10", "*/2", "jan-jun"])
        found[f"{field(0, 59, 59, 0.35)} {field(0, 23, 4, 0.3)} {days} {months} {weekdays}"] = None
    return list(found)


def changes(zone: ZoneInfo) -> Iterator[datetime]:
    """Yield the first minutes after the zone's clocks were changed, in UTC."""
    hour = datetime(YEARS[0], 1, 1, tzinfo=UTC)
    while hour.year in YEARS:
        before, hour = hour, hour + timedelta(hours=1)
        if before.astimezone(zone).utcoffset() != hour.astimezone(zone).utcoffset():
            yield next(
                at
                for at in (before + number * MINUTE for number in range(61))
                if at.astimezone(zone).utcoffset() != before.astimezone(zone).utcoffset()
            )


class Window(NamedTuple):
    """The hours around a change of the clocks.

    Attributes:
        zone: The time zone.
        change: The first minute after it, in UTC.
        walls: Each minute from some hours before on, in UTC, with what the clock on the wall shows.
    """

    zone: ZoneInfo
    change: datetime
    walls: list[tuple[datetime, datetime]]

    @classmethod
    def around(cls, zone: ZoneInfo, change: datetime) -> Window:
        minutes = [change - 2 * AROUND + number * MINUTE for number in range(3 * AROUND // MINUTE)]
        return cls(zone, change, [(at, at.astimezone(zone).replace(tzinfo=None)) for at in minutes])

    def holds(self, at: datetime) -> bool:
        return self.change - AROUND <= at < self.change + AROUND


def ours(expression: str, window: Window) -> set[datetime]:
    """Return the runs in a window."""
    calendar = Calendar(expression, window.zone.key)
    day = window.change.astimezone(window.zone).date()
    runs = (to_datetime(one) for days in (-1, 0, 1) for one in calendar.on(day + timedelta(days=days)))
    return {run for run in runs if window.holds(run)}


def cronsims(expression: str, window: Window) -> set[datetime] | None:
    """Return the runs as cronsim has them; ``None`` where it looks for the next one for ever."""
    from cronsim import CronSim

    class Bounded(CronSim):
        left = 20_000

        def tick(self, seconds: int = 1) -> None:
            self.left -= 1
            if self.left < 0:
                raise RecursionError
            super().tick(seconds)

    late = window.change + 2 * AROUND
    runs = (run.astimezone(UTC) for run in Bounded(expression, window.walls[0][0].astimezone(window.zone)))
    try:
        return {run for run in takewhile(lambda run: run < late, runs) if window.holds(run)}
    except RecursionError:
        return None


def crons(expression: str, window: Window) -> set[datetime]:
    """Return the runs as the main loop of Debian's ``cron.c`` has them, for changes of less than three hours."""
    minute, hour, day, _, weekday = expression.split()
    minutes, hours, days, months, weekdays = parse(expression)
    is_wild, is_either = "*" in {minute[0], hour[0]}, "*" not in {day[0], weekday[0]}

    def is_due(wall: datetime) -> bool:
        if (minutes is not None and wall.minute not in minutes) or (hours is not None and wall.hour not in hours):
            return False
        fits_day = days is None or wall.day in days
        fits_weekday = weekdays is None or wall.isoweekday() % 7 in weekdays
        is_day = fits_day or fits_weekday if is_either else fits_day and fits_weekday
        return is_day and (months is None or wall.month in months)

    found, seen = set[datetime](), window.walls[0][1] - MINUTE
    for at, wall in window.walls:
        missed = [wall] if is_wild else [seen + number * MINUTE for number in range(1, (wall - seen) // MINUTE + 1)]
        found |= {at} if any(map(is_due, missed)) else set()
        seen = max(seen, wall)
    return set(filter(window.holds, found))


def kind_of(expression: str, window: Window) -> tuple[str, str]:
    """Return what was written, and what the clocks did."""
    minute, hour = expression.split()[:2]
    words = "the minute begins with `*`" if minute[0] == "*" else "a minute and an hour"
    words = "the hour begins with `*`" if hour[0] == "*" else words
    before, after = (at.astimezone(window.zone).utcoffset() for at in (window.change - MINUTE, window.change))
    assert before is not None
    assert after is not None
    return "forward" if after > before else "back", words


def shown(runs: set[datetime] | None, zone: ZoneInfo) -> str:
    """Return the first runs as the clock on the wall shows them."""
    if runs is None:
        return "never ends"
    return ", ".join(f"{run.astimezone(zone):%H:%M}" for run in sorted(runs)[:4]) or "none"


Kind = tuple[str, str, str]


def compare(written: list[str]) -> tuple[int, Counter[Kind], dict[Kind, str]]:
    """Return how many times an expression met a change, and the differences by their kind, with the first of each."""
    looked, counts, examples = 0, Counter[Kind](), dict[Kind, str]()
    windows = [Window.around(zone, change) for zone in map(ZoneInfo, ZONES) for change in changes(zone)]
    for expression, window in product(written, windows):
        looked += 1
        one, sim, cron = (runs(expression, window) for runs in (ours, cronsims, crons))
        if not one == sim == cron:
            agree = {"ours": sim == cron, "cronsim's": one == cron, "cron's": one == sim}
            whose = next((name for name, holds in agree.items() if holds), "each its own")
            way, words = kind_of(expression, window)
            counts[way, words, whose] += 1
            day = window.change.astimezone(window.zone).date()
            found = " | ".join(shown(runs, window.zone) for runs in (one, sim, cron))
            examples.setdefault((way, words, whose), f"`{expression}`, {window.zone.key}, {day} | {found}")
    return looked, counts, examples


def table(looked: int, counts: Counter[Kind], examples: dict[Kind, str]) -> str:
    """Return what the page says."""
    lines = [f"{looked:,} times an expression met a change; {looked - counts.total():,} times all three agree.", ""]
    lines += ["| clocks go | what is written | whose | times | for example | Lifebeat | cronsim | cron |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(kind)} | {count:,} | {examples[kind]} |" for kind, count in sorted(counts.items())]
    return "\n".join(lines)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_page_has_every_difference() -> None:
    """300 expressions at each change of the clocks of 20 zones in ten years: docs/cron.md says what differs."""
    page = PAGE.read_text(encoding="utf-8")
    _, begin, rest = page.partition("<!-- made by tests/schedule/test_cronsim.py -->\n\n")
    found = table(*compare(expressions()))
    assert begin
    assert rest.partition("\n\n<!-- end -->")[0] == found, found


if __name__ == "__main__":
    print(table(*compare(expressions())))

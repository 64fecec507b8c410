"""The dashboard's queries over fleets whose IDs do not stay: one that changes each month, and none at all."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import uuid
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from dashboard import PUBLISHED, QUERIES, hogql, read
from fleet import monday
from hogql import rewrite
from lifebeat_jobs import events
from test_deduplication import TABLE
from test_queries import ENGINE, STATES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("chdb", reason="there is no wheel of chdb for this platform", exc_type=ImportError)
pytestmark = pytest.mark.timeout(180)

SIZE = 2000
NOW = datetime(2027, 3, 15, 13, 30, tzinfo=UTC)
BEGIN = datetime(2027, 1, 11, tzinfo=UTC)  # a Monday, nine weeks ago
DAY = timedelta(days=1)
Row = tuple[str, str, datetime, str, str]


class Fleet:
    """Installations that come, go and restart; each heart beats once a day, at its own time.

    Args:
        mode: ``monthly`` or ``none``.
    """

    def __init__(self, mode: str) -> None:
        self.rows: list[Row] = []
        self.alive: Counter[date] = Counter()
        self.newborn: Counter[date] = Counter()
        self.thursday: dict[date, set[str]] = defaultdict(set)
        self.today = 0
        self.mode = mode
        self._chance = random.Random(7)
        for _ in range(SIZE):
            self._live()

    def _live(self) -> None:
        chance = self._chance
        first = BEGIN + chance.uniform(-30, 20) * DAY
        gone = first + chance.expovariate(1 / 120) * DAY
        number, phase = chance.getrandbits(128), chance.random() * DAY
        for event, at in [("startup", first), *self._restarts(first, gone)]:
            self._tell(event, number, at, at - first)
        beat = first.replace(hour=0, minute=0, second=0, microsecond=0) + phase
        while beat < min(gone, NOW):
            if beat > first:
                self._tell("heartbeat", number, beat, beat - first)
                self.newborn[beat.date()] += beat - first < 7 * DAY
                self.alive[beat.date()] += 1
                self.today += beat > NOW - DAY
            beat += DAY

    def _restarts(self, first: datetime, gone: datetime) -> Iterator[tuple[str, datetime]]:
        at = first + self._chance.expovariate(1 / 9) * DAY
        while at < min(gone, NOW):
            yield "shutdown", at
            yield "startup", at + timedelta(seconds=20)
            at += self._chance.expovariate(1 / 9) * DAY

    def _tell(self, event: str, number: int, at: datetime, age: timedelta) -> None:
        chance, own = self._chance, {"app_version": "1.4.2", "uptime_days": 1}
        if self.mode == "none":
            sender, own = uuid.UUID(int=chance.getrandbits(128), version=4), {**own, "age": events.age_of(age)}
        else:
            bits = random.Random(f"{number}{at:%Y-%m}").getrandbits(128)
            sender = uuid.UUID(int=bits & ~(0xF << 76 | 3 << 62) | 8 << 76 | 2 << 62)
        thursday = monday(at.date()) + 3 * DAY
        by_month = self.mode == "monthly" and (thursday.year, thursday.month) == (at.year, at.month)
        if by_month or (event == "heartbeat" and thursday == at.date()):
            self.thursday[monday(at.date())].add(str(sender))
        if BEGIN <= at < NOW:
            event_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            self.rows.append((event_id, event, at, str(sender), json.dumps(own)))


@pytest.fixture(scope="module", params=["monthly", "none"])
def fleet(request: pytest.FixtureRequest) -> Fleet:
    """A fleet in each mode."""
    return Fleet(request.param)


@pytest.fixture(scope="module")
def both(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the queries find before the merge and after it; every tenth event was delivered twice."""
    directory = tmp_path_factory.mktemp("identities")
    for name, rows in {"first.tsv": fleet.rows, "again.tsv": fleet.rows[::10]}.items():
        lines = ("\t".join((one[0], one[1], one[2].isoformat(), one[3], one[4])) + "\n" for one in rows)
        (directory / name).write_text("".join(lines))
    queries = {path.stem: rewrite(read(path).query, NOW) for path in QUERIES.glob("*.hogql")}
    queries["publish"] = rewrite(hogql(PUBLISHED), NOW)
    places = [str(directory / name) for name in ("clickhouse", "first.tsv", "again.tsv")]
    told = json.dumps({"table": TABLE, "queries": queries})
    command = [sys.executable, "-c", ENGINE, *places]
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(STATES, json.loads(done.stdout), strict=True))


@pytest.fixture(params=STATES)
def answers(request: pytest.FixtureRequest, both: Any) -> Any:
    """What they find in one of the two."""
    return both[request.param]


def by_day(rows: list[list[Any]]) -> dict[date, int]:
    """Return the second column by the day that is the first."""
    return {datetime.fromisoformat(row[0]).date(): int(row[1]) for row in rows}


def test_active_by_day(fleet: Fleet, answers: Any) -> None:
    """Each installation once a day: exactly where there is no ID, and those that only start as well where there is."""
    found = by_day(answers["02_active_by_day"])
    full = [day for day in fleet.alive if BEGIN.date() <= day < NOW.date()]
    assert len(full) > 60
    for day in full:
        assert found[day] == pytest.approx(fleet.alive[day], rel=0.03 if fleet.mode == "monthly" else 0)


def test_active_today(fleet: Fleet, answers: Any) -> None:
    """The heartbeats of the last 24 hours, one of each."""
    assert answers["01_active_today"] == [[fleet.today]]


def test_active_by_week(fleet: Fleet, answers: Any) -> None:
    """Within half a percent of the mean of the days where there is no ID; no week counts twice for its months."""
    found = by_day(answers["03_active_by_week"])
    for week in range(8):
        begins = BEGIN.date() + timedelta(weeks=week)
        mean = sum(fleet.alive[begins + timedelta(days=day)] for day in range(7)) / 7
        most = 1.2 if fleet.mode == "monthly" else 1.005  # an ID counts those as well that were there for a day only
        assert 0.995 * mean <= found[begins] <= most * mean


def test_active_by_month(fleet: Fleet, answers: Any) -> None:
    """A month is the mean of its days, or the IDs of that month."""
    found = by_day(answers["04_active_by_month"])
    days = [date(2027, 2, 1) + timedelta(days=day) for day in range(28)]
    mean = sum(fleet.alive[day] for day in days) / 28
    assert 0.995 * mean <= found[date(2027, 2, 1)] <= (1.5 if fleet.mode == "monthly" else 1.005) * mean


@pytest.mark.parametrize("name", ["05_versions", "08_uptime"])
def test_versions_count_each_installation_once(fleet: Fleet, answers: Any, name: str) -> None:
    """Each installation of the last day once."""
    assert sum(int(number) for _, number in answers[name]) == fleet.today


def test_starts_and_ends(fleet: Fleet, answers: Any) -> None:
    """Every start is there; how it ended is unknown where no ID tells."""
    rows = [dict(zip(("starts", "clean", "unclean", "silent", "running", "unknown"), map(int, row[1:]), strict=True))
            for row in answers["09_starts_and_ends"]]  # fmt: skip
    starts = sum(1 for _, event, at, _, _ in fleet.rows if event == "startup" and at > NOW - 30 * DAY)
    assert sum(row["starts"] for row in rows) == starts
    unknown = sum(row["unknown"] for row in rows)
    assert unknown == starts if fleet.mode == "none" else 0 < unknown < starts / 2


def test_those_that_are_new(fleet: Fleet, answers: Any) -> None:
    """A month's end makes no installation new or gone, and all of them together are the active ones of the week.

    Where there is no ID the first week of age is new, as the mean of the days.
    """
    active = by_day(answers["03_active_by_week"])
    found = {
        datetime.fromisoformat(row[0]).date(): [int(n) for n in row[1:]] for row in answers["12_new_returning_gone"]
    }
    assert len(found) == 9
    for week, (new, stayed, returning, gone, unknown) in found.items():
        assert (new + unknown, stayed, returning, gone) == (active[week], 0, 0, 0)
        mean = sum(fleet.newborn[week + day * DAY] for day in range(7)) / 7 if fleet.mode == "none" else 0
        assert new == pytest.approx(mean, abs=1)
        assert week > date(2027, 1, 24) or fleet.mode == "monthly" or new > 100


@pytest.mark.parametrize("name", ["11_retention", "14_release_lag"])
def test_nothing_is_said_that_takes_an_id_that_stays(answers: Any, name: str) -> None:
    """Retention and the lag of a release need an ID that stays: there is no row, and none that misleads."""
    assert answers[name] == []


def test_adoption(fleet: Fleet, answers: Any) -> None:
    """All the active installations of a day ran the one version that there is."""
    active = by_day(answers["02_active_by_day"])
    rows = answers["13_adoption"]
    assert len(rows) > 28
    assert {row[1] for row in rows} == {"1.4.2"}
    assert all(int(n) == active[datetime.fromisoformat(day).date()] for day, _, n in rows[1:])  # the first is cut


def test_ends_by_version(fleet: Fleet, answers: Any) -> None:
    """The sum of the days."""
    [[version, *counts]] = answers["15_ends_by_version"]
    days = [[int(n) for n in row[1:]] for row in answers["09_starts_and_ends"]]
    assert (version, [int(n) for n in counts]) == ("1.4.2", [sum(column) for column in zip(*days, strict=True)])


def test_what_can_be_published(fleet: Fleet, answers: Any) -> None:
    """Each installation counts once in a week: by the Thursday's month, or the Thursday's heartbeats."""
    found = {datetime.fromisoformat(row[0]).date(): int(row[4]) for row in answers["publish"]}
    assert len(found) == 9
    assert found == {week: len(fleet.thursday[week]) for week in found}


def test_each_event_is_counted_once(fleet: Fleet, answers: Any) -> None:
    """Each event once."""
    recent = [event for _, event, at, _, _ in fleet.rows if at > NOW - 30 * DAY]
    assert sum(int(number) for row in answers["10_events"] for number in row[1:]) == len(recent)

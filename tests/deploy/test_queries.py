"""The dashboard's queries, on PostHog's table in a real ClickHouse, over a fleet whose numbers are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fleet
from dashboard import QUERIES, read, tiles
from fleet import DAY, NOW, Fleet, Truth
from hogql import rewrite
from test_deduplication import TABLE

if TYPE_CHECKING:
    from datetime import date

pytest.importorskip("chdb", reason="there is no wheel of chdb for this platform", exc_type=ImportError)

SIZE = 10_000
ENGINE = """
import json, sys
from chdb import session

engine = session.Session(sys.argv[1])
told = json.load(sys.stdin)
engine.query("CREATE DATABASE posthog")
engine.query("USE posthog")
engine.query(told["table"])
engine.query(
    "INSERT INTO events SELECT c1, c2, c5, parseDateTime64BestEffort(c3, 6, 'UTC'), 1, c4, 0 "
    f"FROM file('{sys.argv[2]}', 'TSVRaw', 'c1 UUID, c2 String, c3 String, c4 String, c5 String')"
)
answers = {}
for name, query in told["queries"].items():
    answers[name] = [json.loads(line) for line in str(engine.query(query, "JSONCompactEachRow")).splitlines()]
print(json.dumps(answers))
"""
Rows = list[list[Any]]


@pytest.fixture(scope="module")
def truth() -> Truth:
    """The fleet."""
    return Fleet(SIZE).truth


@pytest.fixture(scope="module")
def answers(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rows]:
    """What the queries find, by the files' names. Repeats are still there, as before a merge."""
    directory = tmp_path_factory.mktemp("fleet")
    with (directory / "rows.tsv").open("w") as file:
        file.writelines(
            f"{row.uuid}\t{row.event}\t{row.timestamp.isoformat()}\t{row.distinct_id}\t{row.properties}\n"
            for row in truth.rows
        )
    queries = {path.stem: rewrite(read(path).query, NOW) for path in QUERIES.glob("*.hogql")}
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, str(directory / "clickhouse"), str(directory / "rows.tsv")],
        input=json.dumps({"table": TABLE, "queries": queries}), capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Rows] = json.loads(done.stdout)
    return found


def numbers(rows: Rows) -> dict[str, int]:
    """The second column by the first."""
    return {str(name): int(number) for name, number in rows}


def day_of(text: str) -> date:
    """The day that a row begins with."""
    return datetime.fromisoformat(text).date()


def test_the_fleet_is_worth_counting(truth: Truth) -> None:
    """It has repeats, crashes, sleepers, upgrades and runs that go on, or the rest would prove little."""
    assert len(truth.last_heard) == SIZE
    assert len(truth.rows) > 1.03 * len({row.uuid for row in truth.rows})
    outcomes = sum(truth.outcomes.values(), Counter[str]())
    assert all(outcomes[how] > 100 for how in ("clean", "unclean", "silent", "running")), outcomes
    assert set(fleet.VERSIONS) == {facts[0] for facts in truth.latest.values()}


def test_active_today(truth: Truth, answers: dict[str, Rows]) -> None:
    """Those that were heard of in the last 24 hours."""
    expected = sum(at > NOW - DAY for at in truth.last_heard.values())
    assert answers["01_active_today"] == [[expected]]


def test_active_by_day(truth: Truth, answers: dict[str, Rows]) -> None:
    """Each installation once a day, however often it was heard of and delivered."""
    found = {day_of(row[0]): int(row[1]) for row in answers["02_active_by_day"]}
    assert found == {day: len(heard) for day, heard in truth.active.items()}


@pytest.mark.parametrize("name", ["03_active_by_week", "04_active_by_month"])
def test_active_by_longer_spans(truth: Truth, answers: dict[str, Rows], name: str) -> None:
    """Each installation once a week that begins on Monday, and once a month."""

    def begins(day: date) -> date:
        return day.replace(day=1) if "month" in name else day - timedelta(days=day.weekday())

    expected: dict[date, set[str]] = {}
    for day, heard in truth.active.items():
        expected.setdefault(begins(day), set()).update(heard)
    assert {day_of(row[0]): int(row[1]) for row in answers[name]} == {day: len(ids) for day, ids in expected.items()}


@pytest.mark.parametrize(("name", "which"), [("05_versions", 0), ("06_platforms", 1), ("07_python_versions", 2)])
def test_what_they_run(truth: Truth, answers: dict[str, Rows], name: str, which: int) -> None:
    """Each installation of the last week counts once, with what it ran last."""
    recent = [one for one, at in truth.last_heard.items() if at > NOW - 7 * DAY]
    facts = [truth.latest[one][which] for one in recent]
    expected = Counter(fact.rpartition(".")[0] for fact in facts) if which == 2 else Counter(facts)  # 3.12.4 is a 3.12
    assert numbers(answers[name]) == expected


def test_uptime(truth: Truth, answers: dict[str, Rows]) -> None:
    """The last heartbeat of each installation decides."""

    def span(days: int) -> str:
        if days < 1:
            return "a: under a day"
        return "b: 1 to 6 days" if days < 7 else "c: 7 to 29 days" if days < 30 else "d: 30 days and more"

    expected = Counter(span(days) for at, days in truth.uptime.values() if at > NOW - 2 * DAY)
    assert numbers(answers["08_uptime"]) == expected


def test_starts_and_ends(truth: Truth, answers: dict[str, Rows]) -> None:
    """Every start of the last 30 days with its outcome, by day."""
    found = {
        day_of(row[0]): dict(zip(("starts", "clean", "unclean", "silent", "running"), map(int, row[1:]), strict=True))
        for row in answers["09_starts_and_ends"]
    }
    expected = {
        day: {"starts": sum(how.values()), **{name: how[name] for name in ("clean", "unclean", "silent", "running")}}
        for day, how in truth.outcomes.items()
    }
    assert found == expected


def test_events(truth: Truth, answers: dict[str, Rows]) -> None:
    """Each event once, though one in twenty was delivered again."""
    found = {
        (day_of(row[0]), kind): int(number)
        for row in answers["10_events"]
        for kind, number in zip(("startup", "heartbeat", "shutdown"), row[1:], strict=True)
        if int(number)
    }
    assert found == truth.counts


def test_every_query_is_checked() -> None:
    """No query goes without a test, and each says its title, its columns and how it is drawn."""
    source = Path(__file__).read_text()
    for path in QUERIES.glob("*.hogql"):
        assert f'"{path.stem}"' in source
    for tile in tiles():
        assert tile.description.endswith(".")
        assert all(f" AS {column}" in tile.query or column in tile.query for column in tile.columns)
        assert tile.display in {"BoldNumber", "ActionsLineGraph", "ActionsBar", "ActionsTable"}


def test_the_rewriting() -> None:
    """Properties become extractions from JSON, numbers casts that may fail, and now a moment."""
    at = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert rewrite("SELECT now() - INTERVAL 1 DAY", at) == (
        "SELECT toDateTime64('2027-01-02 03:04:05', 6, 'UTC') - INTERVAL 1 DAY"
    )
    assert rewrite("argMax(properties.app_version, timestamp)", at) == (
        "argMax(trim(BOTH '\"' FROM nullIf(nullIf(JSONExtractRaw(properties, 'app_version'), ''), 'null')), timestamp)"
    )
    assert rewrite("toInt(properties.x)", at).startswith("accurateCastOrNull(trim(BOTH '\"' FROM nullIf(nullIf(")
    assert rewrite("toInt(properties.x), 2", at).endswith(", 'Int64'), 2")

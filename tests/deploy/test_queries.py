"""The dashboard's queries in a real ClickHouse, on PostHog's keys and engine, over a fleet whose numbers are known."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fleet
from clickhouse import WITHOUT, find_older
from dashboard import PUBLISHED, QUERIES, hogql, read, tiles
from fleet import DAY, NOW, Fleet, Truth, monday
from hogql import nodes, parse, rewrite
from publish import rows_of
from test_deduplication import TABLE

if TYPE_CHECKING:
    from hogql import Tree

pytest.importorskip("chdb", reason="there is no wheel of chdb for this platform", exc_type=ImportError)

SIZE = 10_000
STATES = ("before a merge", "after it")
VERSIONS = ("25.8", "the newest")  # PostHog's, and what it may come to

# One worker makes the fleet; the time is for fetching the older ClickHouse.
pytestmark = pytest.mark.timeout(180)
ENGINE = """
import json, sys
from chdb import session

engine = session.Session(sys.argv[1])
told = json.load(sys.stdin)
engine.query("CREATE DATABASE posthog")
engine.query("USE posthog")
engine.query(told["table"])
engine.query("SYSTEM STOP MERGES events")
for path in sys.argv[2:]:
    engine.query(
        # Else an insert would leave out the repeats within itself.
        "INSERT INTO events SETTINGS optimize_on_insert = 0 "
        "SELECT c1, c2, c5, parseDateTime64BestEffort(c3, 6, 'UTC'), 1, c4, 0 "
        f"FROM file('{path}', 'TSVRaw', 'c1 UUID, c2 String, c3 String, c4 String, c5 String')"
    )


def ask():
    found = {name: str(engine.query(query, "JSONCompactEachRow")) for name, query in told["queries"].items()}
    return {name: [json.loads(row) for row in rows.splitlines()] for name, rows in found.items()}


before = ask()
engine.query("SYSTEM START MERGES events")
engine.query("OPTIMIZE TABLE events FINAL")
print(json.dumps([before, ask()]))
"""
Rows = list[list[Any]]
Answers = dict[str, Rows]


@pytest.fixture(scope="module")
def truth() -> Truth:
    """The fleet."""
    return Fleet(SIZE).truth


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Which ClickHouse answers."""
    return str(request.param)


@pytest.fixture(scope="module")
def both(version: str, truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answers]:
    """What the queries find, by the files' names, and ``stored``, how many rows there are; in both states."""
    older = version == VERSIONS[0]
    directory = tmp_path_factory.mktemp("fleet")
    for name, rows in {"first.tsv": truth.rows, "again.tsv": truth.repeats}.items():
        with (directory / name).open("w") as file:
            file.writelines(
                f"{row.uuid}\t{row.event}\t{row.timestamp.isoformat()}\t{row.distinct_id}\t{row.properties}\n"
                for row in rows
            )
    queries = {path.stem: rewrite(read(path).query, NOW) for path in QUERIES.glob("*.hogql")}
    queries["publish"] = rewrite(hogql(PUBLISHED), NOW)
    queries["stored"] = "SELECT count() FROM events"
    queries["version"] = "SELECT version()"
    places = [str(directory / name) for name in ("clickhouse", "first.tsv", "again.tsv")]
    told = json.dumps({"table": TABLE, "queries": queries})
    command = [sys.executable, "-c", WITHOUT + ENGINE if older else ENGINE, *places]
    environ = {**os.environ, "PYTHONPATH": str(find_older())} if older else None
    done = subprocess.run(command, input=told, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(STATES, json.loads(done.stdout), strict=True))


@pytest.fixture(params=STATES)
def answers(request: pytest.FixtureRequest, both: dict[str, Answers]) -> Answers:
    """What they find in one state: the repeats still there, and merged away."""
    return both[request.param]


def numbers(rows: Rows) -> dict[str, int]:
    """The second column by the first."""
    return {str(name): int(number) for name, number in rows}


def day_of(text: str) -> date:
    """The day that a row begins with."""
    return datetime.fromisoformat(text).date()


def test_the_fleet_is_worth_counting(truth: Truth) -> None:
    """It has repeats, crashes, sleepers, upgrades and runs that go on, or the rest would prove little."""
    assert len(truth.last) == SIZE
    outcomes = sum(truth.outcomes.values(), Counter[str]())
    assert all(outcomes[how] > 100 for how in ("clean", "unclean", "silent", "running")), outcomes
    assert truth.sleepers > 1000
    assert set(fleet.VERSIONS) == {facts[0] for facts in truth.latest.values()}


def test_repeats_are_stored_until_they_are_merged(truth: Truth, both: dict[str, Answers]) -> None:
    """Before the merge each delivery is a row, after it each event: a query that counts rows would find two numbers."""
    stored = [both[state]["stored"] for state in STATES]
    assert stored == [[[len(truth.rows) + len(truth.repeats)]], [[len(truth.rows)]]]
    assert len(truth.repeats) > 10_000


def test_two_different_clickhouses_are_asked(version: str, both: dict[str, Answers]) -> None:
    """One ClickHouse is as old as PostHog's, and the other is not, or one of them would prove nothing."""
    [[said]] = both[STATES[0]]["version"]
    assert said.startswith("25.8.") is (version == VERSIONS[0])


def test_active_today(truth: Truth, answers: Answers) -> None:
    """Those that were heard of in the last 24 hours."""
    expected = sum(at > NOW - DAY for at, _, _ in truth.last.values())
    assert answers["01_active_today"] == [[expected]]


def test_active_by_day(truth: Truth, answers: Answers) -> None:
    """Each installation once a day, however often it was heard of and delivered."""
    found = {day_of(row[0]): int(row[1]) for row in answers["02_active_by_day"]}
    assert found == {day: len(heard) for day, heard in truth.active.items()}


@pytest.mark.parametrize("name", ["03_active_by_week", "04_active_by_month"])
def test_active_by_longer_spans(truth: Truth, answers: Answers, name: str) -> None:
    """Each installation once a week that begins on Monday, and once a month."""

    def begins(day: date) -> date:
        return day.replace(day=1) if "month" in name else monday(day)

    expected: dict[date, set[str]] = {}
    for day, heard in truth.active.items():
        expected.setdefault(begins(day), set()).update(heard)
    assert {day_of(row[0]): int(row[1]) for row in answers[name]} == {day: len(ids) for day, ids in expected.items()}


@pytest.mark.parametrize(("name", "which"), [("05_versions", 0), ("06_platforms", 1), ("07_python_versions", 2)])
def test_versions_count_each_installation_once(truth: Truth, answers: Answers, name: str, which: int) -> None:
    """Each installation of the last week counts once, with what it ran last."""
    recent = [one for one, (at, _, _) in truth.last.items() if at > NOW - 7 * DAY]
    facts = [truth.latest[one][which] for one in recent]
    expected = Counter(fact.rpartition(".")[0] for fact in facts) if which == 2 else Counter(facts)  # 3.12.4 is a 3.12
    assert numbers(answers[name]) == expected


def test_uptime_is_what_each_installation_said_last(truth: Truth, answers: Answers) -> None:
    """What each installation said last decides: a heartbeat its days, a start none, a stop that it does not run."""

    def span(days: int) -> str:
        if days < 1:
            return "a: under a day"
        return "b: 1 to 6 days" if days < 7 else "c: 7 to 29 days" if days < 30 else "d: 30 days and more"

    running = [days for at, kind, days in truth.last.values() if at > NOW - 2 * DAY and kind != "shutdown"]
    expected = Counter(map(span, running))
    assert len(expected) == 4
    assert numbers(answers["08_uptime"]) == expected


def test_starts_and_ends(truth: Truth, answers: Answers) -> None:
    """Every start of the last 30 days with its outcome, by day."""
    found = {
        day_of(row[0]): dict(
            zip(("starts", "clean", "unclean", "silent", "running", "unknown"), map(int, row[1:]), strict=True)
        )
        for row in answers["09_starts_and_ends"]
    }
    expected = {
        day: {
            "starts": sum(how.values()),
            **{name: how[name] for name in ("clean", "unclean", "silent", "running", "unknown")},
        }
        for day, how in truth.outcomes.items()
    }
    assert found == expected


WEEKS = [date(2027, 1, 11) + timedelta(weeks=number) for number in range(9)]  # the complete ones


def test_retention(truth: Truth, answers: Answers) -> None:
    """Of those that were new in a week, how many were heard of so many weeks later; nothing where that is to come."""
    first: dict[str, date] = {}
    for week in sorted(truth.weeks):
        first |= {number: week for number in truth.weeks[week] if number not in first}

    def later(week: date, weeks: int) -> int | None:
        then = week + timedelta(weeks=weeks)
        return sum(first[number] == week for number in truth.weeks[then]) if then in WEEKS else None

    expected = {week: [later(week, weeks) for weeks in (0, 1, 2, 3, 4, 8, 12)] for week in WEEKS}
    found = {day_of(row[0]): [None if n is None else int(n) for n in row[1:]] for row in answers["11_retention"]}
    assert found == expected
    assert expected[WEEKS[0]][-2] != expected[WEEKS[-1]][-2] is None


def test_new_returning_and_gone(truth: Truth, answers: Answers) -> None:
    """Each installation is new once, then stays, goes or returns; all but the gone are the active ones of the week."""
    expected: dict[date, list[int]] = {}
    earlier, before = set[str](), set[str]()
    for week in WEEKS:
        there = set(truth.weeks[week])
        new, returning = there - earlier, (there & earlier) - before
        expected[week] = [len(new), len(there & before), len(returning), len(before - there), 0]
        earlier, before = earlier | there, there
    assert all(all(counts[:4]) for counts in list(expected.values())[2:])
    found = {day_of(row[0]): [int(n) for n in row[1:]] for row in answers["12_new_returning_gone"]}
    assert found == expected


def test_adoption(truth: Truth, answers: Answers) -> None:
    """Each installation counts once a day, with the version that it said last."""
    rows = [(day_of(row[0]), row[1], int(row[2])) for row in answers["13_adoption"]]
    for day in (NOW.date() - timedelta(days=number) for number in range(29)):
        assert sum(n for when, _, n in rows if when == day) == len(truth.active[day])
    today = NOW.date()
    expected = Counter(truth.latest[number][0] for number in truth.active[today])
    assert {version: n for when, version, n in rows if when == today} == expected


def test_lag_of_a_release(truth: Truth, answers: Answers) -> None:
    """From the first installation that ran it: how many others have updated, and how many of them how soon."""
    expected: dict[str, list[date | int]] = {}
    for version in fleet.VERSIONS:
        found = [(ran[version], min(ran.values())) for ran in truth.ran.values() if version in ran]
        released = min(at for at, _ in found)
        lags = [at - released for at, installed in found if at > installed]
        within = [sum(lag <= days * DAY for lag in lags) for days in (1, 7, 30)]
        expected[version] = [released.date(), len(lags), *within]
    assert expected["1.0.0"][1:] == [0, 0, 0, 0]
    assert len({*expected["2.0.0"]}) == 5
    assert {row[0]: [day_of(row[1]), *map(int, row[2:])] for row in answers["14_release_lag"]} == expected


def test_ends_by_version(truth: Truth, answers: Answers) -> None:
    """Every start of the last 30 days with its outcome, by the version that started."""
    found = {row[0]: [int(n) for n in row[1:]] for row in answers["15_ends_by_version"]}
    ways = ("clean", "unclean", "silent", "running", "unknown")
    assert found == {
        version: [sum(how.values()), *(how[way] for way in ways)] for version, how in truth.endings.items()
    }


def test_what_can_be_published(truth: Truth, answers: Answers) -> None:
    """Each installation counts once a week with what it ran last in it, to the minor version of Python."""
    expected = Counter[tuple[date, str, str, str]]()
    for week in WEEKS:
        for version, platform, python in truth.weeks[week].values():
            expected[week, version, platform, python.rpartition(".")[0]] += 1
    assert {(day_of(row[0]), *row[1:4]): int(row[4]) for row in answers["publish"]} == expected
    published = {row[:3]: row[3] for row in rows_of(answers["publish"], 10)}
    assert all(published[str(week), "all", "all"] == len(truth.weeks[week]) // 10 * 10 for week in WEEKS)
    versions = Counter(version for version, _, _ in truth.weeks[WEEKS[-1]].values())
    assert all(abs(published[str(WEEKS[-1]), "version", name] - n) < 10 for name, n in versions.items())


def test_each_event_is_counted_once(truth: Truth, answers: Answers) -> None:
    """Each event once, though one in twenty was delivered again."""
    found = {
        (day_of(row[0]), kind): int(number)
        for row in answers["10_events"]
        for kind, number in zip(("startup", "heartbeat", "shutdown"), row[1:], strict=True)
        if int(number)
    }
    assert found == truth.counts


# -- HogQL -----------------------------------------------------------------------------------------------------------

# All in HogQL's tables of functions; a name that is not there is refused by PostHog, but not by its parser.
FUNCTIONS = {
    *("argMax", "count", "countIf", "groupUniqArray", "max", "now", "toInt", "if", "ifNull", "multiIf", "length"),
    *("arrayFilter", "arrayJoin", "arrayMap", "arrayPopFront", "arrayPushBack", "arraySlice", "arraySort", "arrayZip"),
    *("arrayConcat", "arrayDistinct", "greatest", "has", "min", "round", "substring"),
    *("arrayStringConcat", "splitByChar", "toIntervalDay", "toStartOfDay", "toStartOfMonth", "toStartOfWeek"),
}


@pytest.fixture(scope="module")
def trees() -> dict[str, Tree]:
    """What PostHog's own parser makes of the queries, and of one that is none."""
    if importlib.util.find_spec("hogql_parser") is None and not os.environ.get("CI"):
        pytest.skip("hogql-parser is not installed: make check")
    queries = {tile.name: tile.query for tile in tiles()} | {"publish": hogql(PUBLISHED)}
    return parse(queries | {"no query": "SELECT FROM WHERE"})


def test_the_queries_are_hogql(trees: dict[str, Tree]) -> None:
    """PostHog's parser takes each of them, and they call nothing that HogQL has not."""
    assert trees["no query"]["type"] == "SyntaxError"
    for name in [*(tile.name for tile in tiles()), "publish"]:
        tree = trees[name]
        assert tree.get("node") == "SelectQuery", (name, tree)
        assert {node["name"] for node in nodes(tree) if node["node"] == "Call"} <= FUNCTIONS, name


def test_the_queries_say_how_many_rows(trees: dict[str, Tree]) -> None:
    """Each that groups has a limit: without one PostHog stops at a hundred rows, silently."""
    grouped = [tile.name for tile in tiles() if trees[tile.name]["group_by"]]
    assert len(grouped) == len(tiles()) - 1
    assert [name for name in grouped if not trees[name]["limit"]] == []


def test_nothing_is_split_that_may_be_null(trees: dict[str, Tree]) -> None:
    """What is split says what it is when it is NULL: ClickHouse 24.8 and 25.8 refuse it else, newer ones do not."""
    for tile in tiles():
        split = [node for node in nodes(trees[tile.name]) if str(node.get("name")).startswith("splitBy")]
        assert {node["args"][1].get("name") for node in split} <= {"ifNull", "coalesce"}, tile.name
    assert any("splitBy" in tile.query for tile in tiles())


def test_every_query_is_checked() -> None:
    """No query goes without a test, and each says its title, its columns and how it is drawn."""
    source = Path(__file__).read_text()
    for path in QUERIES.glob("*.hogql"):
        assert f'"{path.stem}"' in source
    for tile in tiles():
        assert tile.description.endswith(".")
        assert all(f" AS {column}" in tile.query or column in tile.query for column in tile.columns)
        assert tile.display in {"BoldNumber", "ActionsLineGraph", "ActionsBar", "ActionsTable"}


def test_hogql_is_rewritten_for_clickhouse() -> None:
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

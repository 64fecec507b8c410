"""Cron's five fields: what they stand for, what is refused in which words, and the clock that jumps."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lifebeat.schedule.cron import FIELDS, Field, parse
from lifebeat.schedule.instants import to_datetime, to_instant
from lifebeat.schedule.triggers import Cron, CronInstants

if TYPE_CHECKING:
    from collections.abc import Iterator

MINUTE, HOUR, DAY, MONTH, WEEKDAY = range(5)
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def one(position: int, text: str) -> set[int] | None:
    """What one field stands for, all others being ``*``."""
    fields = ["*"] * 5
    fields[position] = text
    found = parse(" ".join(fields))
    assert [field for place, field in enumerate(found) if place != position] == [None] * 4
    numbers = found[position]
    return None if numbers is None else set(numbers)


def refusal(expression: str) -> str:
    """The words with which an expression is refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse(expression)
    return str(caught.value)


def walk(expression: str, timezone: str, start: str) -> Iterator[str]:
    """The runs after a moment, as the clock on the wall shows them."""
    instants = CronInstants(Cron(expression, timezone))
    instant: int | None = to_instant(datetime.fromisoformat(start))
    while (instant := instants.after(instant)) is not None:
        yield to_datetime(instant).astimezone(ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M%z")


def runs(expression: str, timezone: str, start: str, count: int) -> list[str]:
    """The first runs after a moment."""
    return list(islice(walk(expression, timezone, start), count))


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", FIELDS, ids=[field.name for field in FIELDS])
def test_every_number_of_every_field(field: Field) -> None:
    """Each number from the lowest to the highest is itself, and 7 is a Sunday; beyond both ends it is refused."""
    position = FIELDS.index(field)
    for number in range(field.low, field.high + 1):
        assert one(position, str(number)) == {0 if (position, number) == (WEEKDAY, 7) else number}
    for number in (field.low - 1, field.high + 1, 1000, 10**30):
        text = str(number)
        message = refusal(" ".join("*" if place != position else text for place in range(5)))
        assert message.startswith(f"the {field.name} {text!r} is ")
        assert f"expected {field.low} to {field.high}" in message


@pytest.mark.parametrize("field", FIELDS, ids=[field.name for field in FIELDS])
def test_names(field: Field) -> None:
    """Months and weekdays have names, in any case; nothing else has."""
    position = FIELDS.index(field)
    for offset, word in enumerate(field.words):
        assert one(position, word) == one(position, word.upper()) == {field.low + offset}
    for word in ("jan" if position != MONTH else "mon", "monday", "january", "l"):
        assert f"the {field.name} {word!r} is out of range" in refusal(
            " ".join("*" if place != position else word for place in range(5))
        )


@pytest.mark.parametrize(
    ("position", "text", "numbers"),
    [
        (MINUTE, "1,3,2,3", {1, 2, 3}),
        (MINUTE, "10-12", {10, 11, 12}),
        (MINUTE, "7-7", {7}),
        (MINUTE, "*/20", {0, 20, 40}),
        (MINUTE, "*/59", {0, 59}),
        (MINUTE, "5/20", {5, 25, 45}),
        (MINUTE, "10-30/10,55", {10, 20, 30, 55}),
        (MINUTE, "05", {5}),
        (HOUR, "8-18/5", {8, 13, 18}),
        (DAY, "*/10", {1, 11, 21, 31}),
        (MONTH, "jan,JUN-aug", {1, 6, 7, 8}),
        (MONTH, "2-apr", {2, 3, 4}),
        (MONTH, "feb/4", {2, 6, 10}),
        (WEEKDAY, "mon-fri", {1, 2, 3, 4, 5}),
        (WEEKDAY, "5-7", {0, 5, 6}),
        (WEEKDAY, "0-7", {0, 1, 2, 3, 4, 5, 6}),
        (WEEKDAY, "*/2", {0, 2, 4, 6}),
        (DAY, "*", None),
        (DAY, "?", None),
    ],
)
def test_lists_ranges_and_steps(position: int, text: str, numbers: set[int] | None) -> None:
    """Lists, ranges, names in ranges, and steps, alone and together."""
    assert one(position, text) == numbers


@pytest.mark.parametrize(
    ("shorthand", "meaning"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * sun"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        (" @Hourly ", "0 * * * *"),
    ],
)
def test_shorthands(shorthand: str, meaning: str) -> None:
    """A word for the usual ones."""
    assert parse(shorthand) == parse(meaning)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*-99", "is not understood"),
        ("*-5/2", "is not understood"),
        ("٣", "is not understood"),
        ("*/٣", "is not understood"),
        ("1,,2", "is not understood"),
        ("1,", "is not understood"),
        ("-5", "is not understood"),
        ("*/-1", "is not understood"),
        ("*/", "is not understood"),
        ("**", "is not understood"),
        ("1.5", "is not understood"),
        ("1-2-3", "is not understood"),
        ("mon#1", "is not understood"),
        ("1-60", "is out of range; expected 0 to 59, *, a list (1,2), a range (1-5) or a step (*/2)"),
        ("0005", "is out of range"),
        ("5-1", "runs backwards; write 5-59,0-1"),
        ("59-0", "runs backwards; write 59,0"),
        ("*/0", "has the step '0'; a step is a whole number from 1 up"),
        ("*/x", "has the step 'x'; a step is a whole number from 1 up"),
        ("*/90", "has a step of 90 where there are 60; use `every`"),
        ("50-55/6", "has a step of 6 where there are 6; use `every`"),
    ],
    ids=ascii,
)
def test_refused_fields(text: str, message: str) -> None:
    """Each refusal names the field, shows what was written, and says what it takes."""
    assert refusal(f"{text} * * * *").startswith(f"the minute {text!r} {message}")


def test_backwards_names_the_way_round() -> None:
    """A range over the end of the week or the year is told as two that are taken."""
    for field, text in ((WEEKDAY, "fri-mon"), (WEEKDAY, "sat-sun"), (MONTH, "nov-feb")):
        message = refusal(" ".join("*" if place != field else text for place in range(5)))
        assert one(field, message.rpartition("write ")[2])
    assert one(WEEKDAY, "5-7,0-1") == {5, 6, 0, 1}


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * *", "@reboot", "every day"])
def test_five_fields(expression: str) -> None:
    """Cron has five fields, which are named when there are more or fewer."""
    message = refusal(expression)
    assert message.startswith(f"{expression!r} has {len(expression.split())} field")
    assert "; cron takes five: minute, hour, " in message


def test_too_long() -> None:
    """What has a thousand characters is not read."""
    assert refusal("1," * 500 + "1 * * * *") == "has 1009 characters; five cron fields need no more than 200"


@settings(deadline=None)
@given(st.text(st.sampled_from("0123459*/-,? adejnmosu@٣"), max_size=30))
def test_any_text_is_cron_or_a_value_error(text: str) -> None:
    """Whatever is written gives numbers within the fields' bounds, or a ValueError."""
    with suppress(ValueError):
        for field, numbers in zip(FIELDS, parse(text), strict=True):
            assert numbers is None or (numbers and field.low <= min(numbers) <= max(numbers) <= field.high)


# -- the calendar ----------------------------------------------------------------------------------------------------


def test_day_or_weekday() -> None:
    """With a day of the month and a day of the week either is enough: the 13th, and every Friday."""
    assert [run[:10] for run in runs("0 0 13 * fri", "UTC", "2026-01-01T00:00Z", 6)] == [
        *("2026-01-02", "2026-01-09", "2026-01-13", "2026-01-16", "2026-01-23", "2026-01-30")
    ]


def test_day_and_weekday_where_one_begins_with_a_star() -> None:
    """As in cron, a field that begins with a star only narrows: every Sunday on an odd day."""
    assert [run[:10] for run in runs("0 0 */2 * sun", "UTC", "2026-01-01T00:00Z", 3)] == [
        *("2026-01-11", "2026-01-25", "2026-02-01")
    ]


def test_sunday_is_0_and_7() -> None:
    """Weekday 0 and 7 are Sunday, as in crontab and unlike in APScheduler."""
    for weekday in ("0", "7", "sun"):
        assert runs(f"0 0 * * {weekday}", "UTC", "2026-01-01T00:00Z", 1) == ["2026-01-04 00:00+0000"]


def test_leap_day() -> None:
    """29 February comes every four years, and not in 2100."""
    assert [run[:10] for run in runs("0 0 29 2 *", "UTC", "2092-03-01T00:00Z", 3)] == [
        *("2096-02-29", "2104-02-29", "2108-02-29")
    ]
    instants = CronInstants(Cron("0 0 29 2 *", "UTC"))
    assert instants.latest(to_instant(datetime(2103, 12, 31, tzinfo=UTC))) == to_instant(
        datetime(2096, 2, 29, tzinfo=UTC)
    )


def test_the_31st() -> None:
    """Months without a 31st are passed over."""
    assert [run[5:10] for run in runs("0 0 31 * *", "UTC", "2026-01-01T00:00Z", 5)] == [
        *("01-31", "03-31", "05-31", "07-31", "08-31")
    ]


@pytest.mark.parametrize("expression", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 30-31 feb *"])
def test_dates_that_never_come(expression: str) -> None:
    """A date that is in no year has no instant, neither after nor before."""
    instants = CronInstants(Cron(expression, "UTC"))
    now = to_instant(datetime(2026, 1, 1, tzinfo=UTC))
    assert instants.after(now) is instants.latest(now) is None


def test_dates_that_come_by_their_weekday() -> None:
    """30 February or a Monday in February: the Mondays come."""
    assert runs("0 0 30 2 1", "UTC", "2026-01-01T00:00Z", 1) == ["2026-02-02 00:00+0000"]


# -- clocks that jump ------------------------------------------------------------------------------------------------

STOCKHOLM, HOWE = "Europe/Stockholm", "Australia/Lord_Howe"


@pytest.mark.parametrize(
    ("expression", "timezone", "start", "expected"),
    [
        ("30 2 * * *", STOCKHOLM, "2026-03-28T12:00Z", ["29 03:30+0200", "30 02:30+0200"]),
        ("30 2,3 * * *", STOCKHOLM, "2026-03-28T12:00Z", ["29 03:30+0200", "30 02:30+0200"]),
        ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00Z", ["24 01:00+0300", "25 00:00+0300"]),
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00Z", ["04 01:00-0200", "05 00:00-0200"]),
        ("15 2 * * *", HOWE, "2026-10-03T12:00Z", ["04 02:45+1100", "05 02:15+1100"]),
        ("0 * * * *", STOCKHOLM, "2026-03-29T00:00Z", ["29 03:00+0200", "29 04:00+0200"]),
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00-10:00", ["31 09:00+1400", "01 09:00+1400"]),
    ],
    ids=["night", "both", "midnight Cairo", "midnight Sao Paulo", "half an hour", "hourly", "a day"],
)
def test_a_time_that_the_clock_jumps_over(expression: str, timezone: str, start: str, expected: list[str]) -> None:
    """It comes later by as much as the clock jumped, once; an hourly job goes on each hour."""
    assert [run[8:] for run in runs(expression, timezone, start, len(expected))] == expected


@pytest.mark.parametrize(
    ("expression", "timezone", "start", "expected"),
    [
        ("30 2 * * *", STOCKHOLM, "2026-10-24T12:00Z", ["25 02:30+0200", "26 02:30+0100"]),
        ("45 1 * * *", HOWE, "2026-04-04T12:00Z", ["05 01:45+1100", "06 01:45+1030"]),
        ("30 23 * * *", "America/Sao_Paulo", "2018-02-17T12:00Z", ["17 23:30-0200", "18 23:30-0300"]),
        (
            "0 * * * *",
            STOCKHOLM,
            "2026-10-24T23:00Z",
            ["25 02:00+0200", "25 02:00+0100", "25 03:00+0100"],
        ),
        (
            "*/30 2 * * *",
            STOCKHOLM,
            "2026-10-24T12:00Z",
            ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100", "26 02:00+0100"],
        ),
        ("0 0 * * *", "America/St_Johns", "2010-11-06T12:00Z", ["07 00:00-0230", "08 00:00-0330"]),
        (
            "30 * * * *",
            "America/St_Johns",
            "2010-11-07T01:30Z",
            ["06 23:30-0230", "06 23:30-0330", "07 00:30-0330"],
        ),
        (
            "0,30 * * * *",
            "America/St_Johns",
            "2010-11-07T02:00Z",
            ["07 00:00-0230", "06 23:30-0330", "07 00:00-0330", "07 00:30-0330"],
        ),
        ("*/30 23 * * *", "America/St_Johns", "2010-11-07T02:30Z", ["06 23:30-0330", "07 23:00-0330"]),
    ],
    ids=[
        "night",
        "half an hour",
        "before midnight",
        "hourly",
        "each half hour",
        "after midnight",
        "into the day before",
        "two days mixed",
        "from the day after",
    ],
)
def test_a_time_that_comes_twice(expression: str, timezone: str, start: str, expected: list[str]) -> None:
    """A job at a named time runs once, the first time; one that runs all the time runs on."""
    assert [run[8:] for run in runs(expression, timezone, start, len(expected))] == expected


# -- held against APScheduler's calendar -----------------------------------------------------------------------------


def field(low: int, high: int) -> st.SearchStrategy[str]:
    """``*``, a number, a list, a range or a step."""
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.lists(number, min_size=1, max_size=3).map(lambda found: ",".join(map(str, found))),
        st.tuples(number, number).map(lambda found: f"{min(found)}-{max(found)}"),
        st.integers(1, high - low).map("*/{}".format),
    )


EXPRESSIONS = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).map(" ".join)
MOMENTS = st.integers(to_instant(datetime(1990, 1, 1, tzinfo=UTC)), to_instant(datetime(2060, 1, 1, tzinfo=UTC)))
ZONES = st.sampled_from(["UTC", STOCKHOLM, HOWE, "Africa/Cairo", "America/St_Johns", "Pacific/Apia"])


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, MOMENTS)
def test_agrees_with_apscheduler(expression: str, instant: int) -> None:
    """Where no clock jumps the next instant is the one that APScheduler's calendar gives."""
    minute, hour, day, month, weekday = expression.split()
    assume("*" in {day[0], weekday[0]})
    numbers = parse(expression)[WEEKDAY]
    days = "*" if numbers is None else ",".join(DAYS[number] for number in sorted(numbers))
    trigger = CronTrigger(minute=minute, hour=hour, day=day, month=month, day_of_week=days, timezone=UTC)
    found = CronInstants(Cron(expression, "UTC")).after(instant)
    next_time: Any = trigger.get_next_fire_time  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    known: Any = next_time(None, to_datetime(instant + 1))
    assume(known is None or known < to_datetime(instant) + timedelta(days=40 * 365))
    assert (None if found is None else to_datetime(found)) == known


@settings(max_examples=150, deadline=None)
@given(EXPRESSIONS, ZONES, MOMENTS)
@example("0,30 * * * *", "America/St_Johns", to_instant(datetime(2010, 11, 7, 2, 15, tzinfo=UTC)))
@example("0,30 * * * *", "America/St_Johns", to_instant(datetime(2010, 11, 7, 2, 45, tzinfo=UTC)))
@example("*/30 23 * * *", "America/St_Johns", to_instant(datetime(2010, 11, 7, 2, 30, tzinfo=UTC)))
@example("0 9 * * *", "Pacific/Apia", to_instant(datetime(2011, 12, 30, 12, tzinfo=UTC)))
def test_nothing_is_skipped(expression: str, timezone: str, instant: int) -> None:
    """The next instant is strictly after, the latest is not, none lies between, and both ways give the same ones."""
    instants = CronInstants(Cron(expression, timezone))
    following, latest = instants.after(instant), instants.latest(instant)
    assume(following is not None and latest is not None)
    assert following is not None
    assert latest is not None
    assert latest <= instant < following
    assert instants.after(latest) == following
    assert instants.latest(following - 1) == latest
    assert instants.latest(following) == following
    assert following % 60_000_000 == 0

"""Durations: what is read, what is refused and in which words, and that what is written is read again."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lifebeat.text.durations import ALLOWED, LONGEST, format_duration, parse_duration

MICROSECOND = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("500ms", timedelta(milliseconds=500)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("24h", timedelta(days=1)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("1h30m", timedelta(minutes=90)),
        ("30m1h", timedelta(minutes=90)),
        ("1.5h", timedelta(minutes=90)),
        ("0.1s", timedelta(milliseconds=100)),
        ("1m500ms", timedelta(seconds=60.5)),
        ("0.001ms", MICROSECOND),
        ("007s", timedelta(seconds=7)),
        (" 2s\n", timedelta(seconds=2)),
        ("3660d", LONGEST),
    ],
)
def test_units_fractions_and_parts_are_read(text: str, duration: timedelta) -> None:
    """Every unit, fractions, several parts in any order, and space around."""
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"is not a duration; expected {ALLOWED}"),
        ("soon", f"is not a duration; expected {ALLOWED}"),
        ("nan", f"is not a duration; expected {ALLOWED}"),
        ("inf", f"is not a duration; expected {ALLOWED}"),
        ("1e3s", f"is not a duration; expected {ALLOWED}"),
        ("1 h", "is not written as a duration here; write 1h"),
        ("1H", "is not written as a duration here; write 1h"),
        ("1y", f"is not a duration; expected {ALLOWED}"),
        (".5h", f"is not a duration; expected {ALLOWED}"),
        ("1 month", f"is not a duration; expected {ALLOWED}"),
        ("1,000s", f"is not a duration; expected {ALLOWED}"),
        ("minute=5", f"is not a duration; expected {ALLOWED}"),
        ("twice a day", f"is not a duration; expected {ALLOWED}"),
        ("5.h", "is not written as a duration here; write 5h"),
        ("1,5h", "is not written as a duration here; write 1.5h"),
        ("+1h", "is not written as a duration here; write 1h"),
        ("1_000s", "is not written as a duration here; write 1000s"),
        ("PT1.5H", "is not written as a duration here; write 1.5h"),
        ("every hour", "is not written as a duration here; write 1h"),
        ("rate(5 minutes)", "is not written as a duration here; write 5m"),
        ("timedelta(days=1, hours=2)", "is not written as a duration here; write 1d2h"),
        ("Duration.ofHours(1)", "is not written as a duration here; write 1h"),
        ("Duration::from_secs(90)", "is not written as a duration here; write 90s"),
        ("1.hour", "is not written as a duration here; write 1h"),
        ("INTERVAL '1 day'", "is not written as a duration here; write 1d"),
        ("2 Stunden und 5 Minuten", "is not written as a duration here; write 2h5m"),
        ("1h:30m", "is not written as a duration here; write 1h30m"),
        ("P1D", "is not written as a duration here; write 1d"),
        ("1 day", "is not written as a duration here; write 1d"),
        ("PT1H30M", "is not written as a duration here; write 1h30m"),
        ("2 hours and 5 minutes", "is not written as a duration here; write 2h5m"),
        ("@daily", "is not written as a duration here; write 24h"),
        ("@every 90s", "is not written as a duration here; write 90s"),
        ("1h-30m", f"is not a duration; expected {ALLOWED}"),
        ("٣h", f"is not a duration; expected {ALLOWED}"),
        ("٣", f"is not a duration; expected {ALLOWED}"),
        ("-5m", f"is negative; expected {ALLOWED}"),
        ("-1", f"is negative; expected {ALLOWED}"),
        ("90", "has no unit; write 90s, 90m or 90h"),
        ("1.5", "has no unit; write 1.5s, 1.5m or 1.5h"),
        ("24:00", f"looks like a clock time, which YAML 1.1 turns into another number; expected {ALLOWED}"),
        ("1:30:00", f"looks like a clock time, which YAML 1.1 turns into another number; expected {ALLOWED}"),
        ("0s", "must be greater than zero"),
        ("0.0001ms", "must be greater than zero"),
        ("3661d", "is longer than 3660d, the longest allowed"),
        ("9" * 39 + "d", "is longer than 3660d, the longest allowed"),
        ("9" * 5000 + "d", "is too long for a duration"),
        ("1s" * 21, "is too long for a duration"),
    ],
    ids=lambda text: text if text.isascii() and len(text) < 20 else "",  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
)
def test_refusal_says_what_to_write(text: str, message: str) -> None:
    """Each refusal says what is wrong with this value, and what to write."""
    with pytest.raises(ValueError, match=r".") as caught:
        parse_duration(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["0s", "0h0m", "0.0ms"])
def test_zero_is_accepted_only_where_asked_for(text: str) -> None:
    """None at all is taken where the caller says so, and only there."""
    assert parse_duration(text, zero=True) == timedelta(0)
    with pytest.raises(ValueError, match="greater than zero"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (MICROSECOND, "0.001ms"),
        (timedelta(microseconds=1500), "1.5ms"),
        (timedelta(seconds=1, microseconds=999_999), "1s999.999ms"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(hours=24), "24h"),
        (timedelta(hours=36), "36h"),
        (timedelta(days=2), "2d"),
        (timedelta(days=7, hours=1), "7d1h"),
        (LONGEST, "3660d"),
    ],
)
def test_largest_unit_is_written_first(duration: timedelta, text: str) -> None:
    """The largest unit first, a day as 24h, and nothing that is lost."""
    assert format_duration(duration) == text


@settings(deadline=None)
@given(st.timedeltas(min_value=timedelta(0), max_value=LONGEST))
def test_round_trip(duration: timedelta) -> None:
    """What is written for any duration, to the microsecond, is read as the same one."""
    assert parse_duration(format_duration(duration), zero=True) == duration


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789.-: msh٣d\n"), max_size=50))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """Whatever is written gives a duration within the bounds or a ValueError, and nothing else."""
    with suppress(ValueError):
        assert timedelta(0) < parse_duration(text) <= LONGEST

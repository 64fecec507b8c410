"""Cron's five fields: checked one by one in words, and laid over the calendar of a time zone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from lifebeat.schedule.instants import to_instant, zone
from lifebeat.text.hints import did_you_mean

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = 200
_MINUTE = 60_000_000


@dataclass(frozen=True, slots=True)
class Field:
    """One of the five fields."""

    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


FIELDS = (
    Field("minute", 0, 59),
    Field("hour", 0, 23),
    Field("day of the month", 1, 31),
    Field("month", 1, 12, _MONTHS),
    Field("day of the week", 0, 7, _DAYS),
)
_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def parse(expression: str) -> list[frozenset[int] | None]:
    """Return the numbers that each of the five fields stands for; ``None`` for ``*``. Sunday is 0.

    Raises:
        ValueError: Which field is wrong, and what it takes.
    """
    written = _split(expression)
    sets = [_parse_field(field, text) for field, text in zip(FIELDS, written, strict=True)]
    weekdays = sets[4]
    sets[4] = None if weekdays is None else frozenset(day % 7 for day in weekdays)
    return sets


def _split(expression: str) -> list[str]:
    if len(expression) > _LONGEST:
        raise ValueError(f"has {len(expression)} characters; five cron fields need no more than {_LONGEST}")
    written = _SHORTHANDS.get(expression.strip().lower(), expression).split()
    if len(written) != len(FIELDS):
        names = ", ".join(field.name for field in FIELDS)
        number = "1 field" if len(written) == 1 else f"{len(written)} fields"
        near = did_you_mean(expression.strip().lower(), _SHORTHANDS) if expression.strip().startswith("@") else ""
        raise ValueError(f"{expression!r} has {number}; cron takes five: {names}{near}")
    return written


def _parse_field(field: Field, text: str) -> frozenset[int] | None:
    if text in {"*", "?"}:
        return None
    numbers: set[int] = set()
    for part in text.lower().split(","):
        numbers |= _parse_part(field, part, text)
    return frozenset(numbers)


def _parse_part(field: Field, part: str, text: str) -> set[int]:
    match = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/(\w+))?", part, re.ASCII)
    if match is None:
        raise ValueError(f"the {field.name} {text!r} is not understood; expected {_allowed(field)}")
    first, last, step = match.groups()
    if first is None:
        low, high = field.low, 6 if field.name == "day of the week" else field.high
    else:
        low = _number(field, first, text)
        high = _number(field, last, text) if last else (field.high if step else low)
    if low > high:
        split = f"{_range(low, field.high)},{_range(field.low, high)}"
        raise ValueError(f"the {field.name} {text!r} runs backwards; write {split}")
    if step is not None and (not step.isdecimal() or len(step) > 3 or int(step) == 0):  # noqa: PLR2004
        raise ValueError(f"the {field.name} {text!r} has the step {step!r}; a step is a whole number from 1 up")
    if step is not None and int(step) > high - low > 0:
        raise ValueError(
            f"the {field.name} {text!r} has a step of {step} where there are {high - low + 1}; use `every`"
        )
    return set(range(low, high + 1, int(step or 1)))


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def _number(field: Field, text: str, whole: str) -> int:
    if text in field.words:
        return field.words.index(text) + field.low
    if not text.isdecimal() or len(text) > 3 or not field.low <= int(text) <= field.high:  # noqa: PLR2004
        right = f"write {text[:3]}, or another of" if text[:3] in field.words and text.isalpha() else "expected"
        raise ValueError(f"the {field.name} {whole!r} is out of range; {right} {_allowed(field)}")
    return int(text)


def _allowed(field: Field) -> str:
    words = f" or {field.words[0]} to {field.words[-1]}" if field.words else ""
    return f"{field.low} to {field.high}{words}, *, a list (1,2), a range (1-5) or a step (*/2)"


class Calendar:
    """The instants of five fields in a time zone, day by day.

    Where both the day of the month and the day of the week are given, either is enough, unless one of them begins with
    a ``*``; that is as in cron. A time that the clock jumps over comes later by as much as it jumps, where cron runs it
    right after the jump, or not at all if the minute begins with a ``*``. A time that comes twice counts once, unless
    the minute or the hour begins with a ``*``, as in cron. ``docs/cron.md`` has every difference.

    Raises:
        ValueError: The expression or the time zone is wrong.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        minutes, hours, self._days, self._months, self._weekdays = parse(expression)
        starred = [text.startswith(("*", "?")) for text in _split(expression)]
        self._either = not starred[2] and not starred[4]
        self._is_repeated = starred[0] or starred[1]
        self._is_moved = hours is not None
        self._minutes = sorted(
            hour * 60 + minute for hour in hours or range(24) for minute in (range(60) if minutes is None else minutes)
        )
        self._zone = zone(timezone)

    def local_date(self, moment: datetime) -> date:
        """Return the day that it is at a moment."""
        return moment.astimezone(self._zone).date()

    def on(self, day: date) -> list[int]:
        """Return the instants of a day's runs, in order; a jump of the clock may move one into the next."""
        if not self._holds(day):
            return []
        midnight = datetime.combine(day, time())
        around = [midnight + timedelta(days=days) for days in (-1, 0, 1, 2)]
        if len({moment.replace(tzinfo=self._zone).utcoffset() for moment in around}) > 1:
            return sorted({instant for minute in self._minutes for instant in self._at(midnight, minute)})
        start = to_instant(midnight.replace(tzinfo=self._zone))
        return [start + minute * _MINUTE for minute in self._minutes]

    def _holds(self, day: date) -> bool:
        if self._months is not None and day.month not in self._months:
            return False
        fits_day = self._days is None or day.day in self._days
        fits_weekday = self._weekdays is None or day.isoweekday() % 7 in self._weekdays
        return fits_day or fits_weekday if self._either else fits_day and fits_weekday

    def _at(self, midnight: datetime, minute: int) -> list[int]:
        """Return the instants at which the clock on the wall shows a minute of a day: one, or two, or none."""
        written = (midnight + timedelta(minutes=minute)).replace(tzinfo=self._zone)
        first, second = to_instant(written), to_instant(written.replace(fold=1))
        if first > second:  # the clock never shows it; ``first`` is later by the length of the jump
            return [first] if self._is_moved else []
        return [first, second] if self._is_repeated else [first]

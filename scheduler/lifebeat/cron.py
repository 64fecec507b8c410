"""Cron's five fields: checked one by one in words, and turned into APScheduler triggers with cron's own weekdays."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lifebeat.schedule import zone

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = 200


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
    """The numbers that each of the five fields stands for; ``None`` for ``*``. Sunday is 0.

    Raises:
        ValueError: Which field is wrong, and what it takes.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"has {len(expression)} characters; five cron fields need no more than {_LONGEST}")
    written = _SHORTHANDS.get(expression.strip().lower(), expression).split()
    if len(written) != len(FIELDS):
        names = ", ".join(field.name for field in FIELDS)
        raise ValueError(f"{expression!r} has {len(written)} fields; cron takes five: {names}")
    sets = [_parse_field(field, text) for field, text in zip(FIELDS, written, strict=True)]
    weekdays = sets[4]
    sets[4] = None if weekdays is None else frozenset(day % 7 for day in weekdays)
    return sets


def _parse_field(field: Field, text: str) -> frozenset[int] | None:
    if text in {"*", "?"}:
        return None
    numbers: set[int] = set()
    for part in text.lower().split(","):
        numbers |= _parse_part(field, part, text)
    return frozenset(numbers)


def _parse_part(field: Field, part: str, text: str) -> set[int]:
    match = re.fullmatch(r"(\*|\w+)(?:-(\w+))?(?:/(\w+))?", part)
    if match is None:
        raise ValueError(f"the {field.name} {text!r} is not understood; it takes {_allowed(field)}")
    first, last, step = match.groups()
    if first == "*":
        low, high = field.low, 6 if field.name == "day of the week" else field.high
    else:
        low = _number(field, first, text)
        high = _number(field, last, text) if last else (field.high if step else low)
    if low > high:
        raise ValueError(f"the {field.name} {text!r} runs backwards; write {low}-{field.high},{field.low}-{high}")
    if step is not None and (not step.isdecimal() or len(step) > 3 or int(step) == 0):  # noqa: PLR2004
        raise ValueError(f"the {field.name} {text!r} has the step {step!r}; a step is a whole number from 1 up")
    return set(range(low, high + 1, int(step or 1)))


def _number(field: Field, text: str, whole: str) -> int:
    if text in field.words:
        return field.words.index(text) + field.low
    if not text.isdecimal() or len(text) > 3 or not field.low <= int(text) <= field.high:  # noqa: PLR2004
        raise ValueError(f"the {field.name} {whole!r} is out of range; it takes {_allowed(field)}")
    return int(text)


def _allowed(field: Field) -> str:
    words = f" or {field.words[0]} to {field.words[-1]}" if field.words else ""
    return f"{field.low} to {field.high}{words}, *, a list (1,2), a range (1-5) or a step (*/2)"


def triggers(expression: str, timezone: str) -> list[Any]:
    """APScheduler triggers; two where day and weekday are both given, since in cron either is enough.

    Raises:
        ValueError: The expression or the time zone is wrong.
    """
    minute, hour, day, month, weekday = sets = parse(expression)
    if day is not None and weekday is not None:
        either = ([minute, hour, day, month, None], [minute, hour, None, month, weekday])
        return [_trigger(one, timezone) for one in either]
    return [_trigger(sets, timezone)]


def _trigger(sets: list[frozenset[int] | None], timezone: str) -> Any:
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - jobs without cron do not need it

    minute, hour, day, month, weekday = sets
    return CronTrigger(
        minute=_listed(minute),
        hour=_listed(hour),
        day=_listed(day),
        month=_listed(month),
        day_of_week=None if weekday is None else ",".join(_DAYS[number] for number in sorted(weekday)),
        timezone=zone(timezone),
    )


def _listed(numbers: frozenset[int] | None) -> str:
    return "*" if numbers is None else ",".join(map(str, sorted(numbers)))

"""The one table of a job's fields: words, what they take, defaults, help. Reader, docs and schema are made from it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from lifebeat.jobfile import targets
from lifebeat.jobfile.spec import SHUTDOWN_TIMEOUT
from lifebeat.schedule.instants import Phase, zone
from lifebeat.settings.table import parse_bool
from lifebeat.text import durations
from lifebeat.text.durations import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Field(NamedTuple):
    """One field of a job.

    Attributes:
        name: The word.
        allowed: What it takes, in words.
        default: What holds where it is not given, in words.
        help: What it means.
        parse: Reads what was written (a text, or the value of a setting); ``ValueError`` says why not.
        triggers: The trigger words that it goes with.
        schema: The same rule as a JSON Schema fragment.
    """

    name: str
    allowed: str
    default: str
    help: str
    parse: Callable[[Any], Any]
    triggers: tuple[str, ...]
    schema: dict[str, Any]


TRIGGERS = ("when", "every", "cron", "at")
_TIMED = ("every", "cron", "at")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _parse_run(value: Any) -> str:
    targets.check_form(_text(value))
    return _text(value)


def _parse_when(value: Any) -> str:
    if value not in {"start", "shutdown"}:
        meant = _OTHER_MOMENTS.get(_text(value).lower())
        hint = f" (did you mean {meant!r}?)" if meant else near(value, _MOMENTS)
        raise ValueError(f"{_text(value)!r} is not a moment; it takes start or shutdown{hint}")
    return _text(value)


_MOMENTS = ("start", "shutdown")
_OTHER_MOMENTS = {
    **dict.fromkeys(("startup", "started", "boot", "begin", "init"), "start"),
    **dict.fromkeys(("stop", "stopped", "end", "exit", "quit", "finish"), "shutdown"),
}


def near(value: Any, words: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(_text(value).lower(), list(words), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _duration(value: Any, *, zero: bool = False) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_duration(_text(value), zero=zero)
    except ValueError as error:
        raise ValueError(f"{_text(value)!r} {error}") from None


def _parse_interval(value: Any) -> timedelta:
    return _duration(value)


def _parse_span(value: Any) -> timedelta:
    return _duration(value, zero=True)


def _parse_phase(value: Any) -> Phase:
    if value == "installation":
        return "installation"
    if value == "start":
        return "start"
    try:
        return _duration(value, zero=True)
    except ValueError as error:
        hint = near(value, ("installation", "start"))
        raise ValueError(f"{error}; or one of the words installation and start{hint}") from None


def _parse_boolean(value: Any) -> bool:
    try:
        return parse_bool(value)
    except ValueError as error:
        raise ValueError(f"{value!r} {error}") from None


def _parse_count(value: Any) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", _text(value)):
        raise ValueError(f"{_text(value)!r} is not a count; it takes a whole number from 1 to 9999")
    return int(value)


def _parse_once(value: Any) -> str:
    if value not in {"process", "application"}:
        hint = near(value, ("process", "application"))
        raise ValueError(f"{_text(value)!r} is not a scope; it takes process or application{hint}")
    return _text(value)


def _parse_zone(value: Any) -> str:
    zone(_text(value))
    return _text(value)


def _parse_words(value: Any) -> str:
    text = _text(value)
    if len(text) > 500:  # noqa: PLR2004
        raise ValueError(f"has {len(text)} characters; a description has at most 500")
    return text


def _parse_moment(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(_text(value))
    except ValueError:
        raise ValueError(f"{_text(value)!r} is not a moment; it takes one such as 2027-03-01T09:30") from None


_DURATION = {"type": "string", "pattern": durations.PATTERN}
_ZERO = "a duration such as 90s or 15m, or 0s"
FIELDS: tuple[Field, ...] = (
    Field(
        "run",
        "module:function",
        "required",
        "The function that runs. Only modules that the host allowed may be named; `lifebeat_jobs` always may.",
        _parse_run,
        TRIGGERS,
        {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"},
    ),
    Field(
        "when",
        "start or shutdown",
        "one of when, every, cron, at is required",
        "Once when the scheduler starts, or once when it has stopped.",
        _parse_when,
        ("when",),
        {"enum": list(_MOMENTS)},
    ),
    Field(
        "every",
        durations.ALLOWED,
        "one of when, every, cron, at is required",
        "An interval, on a fixed grid that is counted from the Unix epoch: no restart resets it.",
        _parse_interval,
        ("every",),
        _DURATION,
    ),
    Field(
        "cron",
        "five cron fields",
        "one of when, every, cron, at is required",
        "Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), in `timezone`.",
        _text,
        ("cron",),
        {"type": "string", "minLength": 1},
    ),
    Field(
        "at",
        "a moment such as 2027-03-01T09:30",
        "one of when, every, cron, at is required",
        "Once, at that moment in `timezone`. A moment that has passed when the process starts is not made up for.",
        _parse_moment,
        ("at",),
        {"type": "string"},
    ),
    Field(
        "enabled",
        "true or false",
        "true",
        "Whether it runs at all.",
        _parse_boolean,
        TRIGGERS,
        {"type": ["boolean", "string"]},
    ),
    Field(
        "args",
        "a mapping",
        "no arguments",
        "The keyword arguments of the function, held against its signature before anything runs.",
        _text,
        TRIGGERS,
        {"type": "object"},
    ),
    Field(
        "phase",
        "installation, start, or a duration",
        "0s",
        "Shifts the grid of `every`: `installation` by an offset of this installation's own, so that a fleet is "
        "spread evenly; `start` counts from the process's start; a duration is a fixed offset.",
        _parse_phase,
        ("every",),
        {"type": "string"},
    ),
    Field(
        "jitter",
        _ZERO,
        "0s",
        "The longest random delay on top of each instant. It does not accumulate.",
        _parse_span,
        ("every", "cron"),
        _DURATION,
    ),
    Field(
        "timezone",
        "a name such as Europe/Stockholm",
        "UTC",
        "The time zone of `cron` and `at`.",
        _parse_zone,
        ("cron", "at"),
        {"type": "string"},
    ),
    Field(
        "coalesce",
        "true or false",
        "true",
        "Whether several missed runs become one, the latest.",
        _parse_boolean,
        _TIMED,
        {"type": ["boolean", "string"]},
    ),
    Field(
        "misfire_grace",
        _ZERO,
        "however late",
        "How late a run may start before it is left out.",
        _parse_span,
        _TIMED,
        _DURATION,
    ),
    Field(
        "max_instances",
        "a whole number from 1 to 9999",
        "1",
        "How many runs of it may be under way at once in a process.",
        _parse_count,
        _TIMED,
        {"type": "integer", "minimum": 1, "maximum": 9999},
    ),
    Field(
        "timeout",
        durations.ALLOWED,
        f"none; {format_duration(SHUTDOWN_TIMEOUT)} for `when: shutdown`",
        "How long a run may take: an async function is cancelled then, any other is left behind and reported.",
        _parse_interval,
        TRIGGERS,
        _DURATION,
    ),
    Field(
        "once",
        "process or application",
        "process",
        "`process`: each process runs it. `application`: one of all processes of this installation does; for "
        "`when: start` the first one in, for `when: shutdown` the last one out.",
        _parse_once,
        TRIGGERS,
        {"enum": ["process", "application"]},
    ),
    Field(
        "description",
        "a text of at most 500 characters",
        "none",
        "What it is for.",
        _parse_words,
        TRIGGERS,
        {"type": "string", "maxLength": 500},
    ),
)
FIELD_BY_NAME = {one.name: one for one in FIELDS}
OTHER_WORDS = {
    "interval": "every", "seconds": "every", "minutes": "every", "hours": "every", "schedule": "cron",
    "crontab": "cron", "trigger": "every", "on": "when", "event": "when", "date": "at", "run_date": "at",
    "function": "run", "func": "run", "task": "run", "command": "run", "job": "run", "kwargs": "args",
    "arguments": "args", "params": "args", "tz": "timezone", "offset": "phase", "misfire_grace_time": "misfire_grace",
    "disabled": "enabled", "active": "enabled", "concurrency": "max_instances", "comment": "description",
    "name": "description",
}  # fmt: skip

"""The one table of a job's fields: words, what they take, defaults, help. Reader, docs and schema are made from it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from lifebeat.jobfile import elsewhere, targets
from lifebeat.jobfile.spec import SHUTDOWN_TIMEOUT, Retry
from lifebeat.schedule.instants import MICROSECOND, to_datetime, zone
from lifebeat.settings.table import parse_bool
from lifebeat.text import durations
from lifebeat.text.durations import format_duration, parse_duration
from lifebeat.text.hints import asked, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.schedule.triggers import Phase

TRIGGERS = ("when", "every", "cron", "at")
_TIMED = ("every", "cron", "at")
_LONGEST_DESCRIPTION = 500


class Field(NamedTuple):
    """One field of a job.

    Attributes:
        name: The word.
        allowed: What it takes, in words.
        default: What holds where it is not given, in words.
        help: What it means.
        parse: Reads what was written (a text, the value of a setting, or a mapping); ``ValueError`` says why not.
        triggers: The trigger words that it goes with.
        schema: The same rule as a JSON Schema fragment.
        is_mapping: Whether it takes a mapping.
    """

    name: str
    allowed: str
    default: str
    help: str
    parse: Callable[[Any], Any]
    triggers: tuple[str, ...]
    schema: dict[str, Any]
    is_mapping: bool = False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _parse_run(value: Any) -> str:
    targets.check_form(_text(value))
    return _text(value)


_MOMENTS = ("start", "shutdown")


def _parse_when(value: Any) -> str:
    text = _text(value)
    if text not in _MOMENTS:
        if other := elsewhere.trigger("when", text).removeprefix("when: "):
            hint = asked([other]) if other in _MOMENTS else f"; write {other}"
        else:
            hint = did_you_mean(text.lower(), _MOMENTS)
        raise ValueError(f"{text!r} is not a moment; expected start or shutdown{hint}")
    return text


def _duration(value: Any, *, zero: bool = False) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_duration(_text(value), zero=zero)
    except ValueError as error:
        raise ValueError(f"{_text(value)!r} {error}") from None


def _parse_interval(value: Any) -> timedelta:
    try:
        return _duration(value)
    except ValueError:
        other = elsewhere.trigger("every", _text(value))
        if not other or other.startswith("every: "):
            raise
        what = {"c": "a cron expression", "w": "a moment", "a": "a moment"}[other[0]]
        raise ValueError(f"{_text(value)!r} is {what}; write {other}") from None


def _parse_limit(value: Any) -> timedelta:
    if _text(value).lower() in _NO_LIMIT:
        raise ValueError(f"{_text(value)!r} is not a duration; write null, or nothing, for no limit")
    return _duration(value)


def _parse_span(value: Any) -> timedelta:
    if _text(value).lower() in _NO_LIMIT:
        raise ValueError(f"{_text(value)!r} is not a duration; write null, or nothing, for what holds otherwise")
    return _duration(value, zero=True)


_NO_LIMIT = {"none", "never", "no", "off", "false", "inf", "infinite", "infinity", "unlimited", "forever", "-1"}


def _parse_cron(value: Any) -> str:
    """Read five cron fields; of what other tools add to them, say how it is written here."""
    written = " ".join(_text(value).split())
    text = call[1] if (call := re.fullmatch(r"cron\((.*)\)", written)) else written
    zoned = re.match(r"(?:CRON_)?TZ=['\"]?([^\s'\"]+)['\"]? (.*)", text)
    if zoned:
        raise ValueError(f'{text!r} has a time zone in it; write cron: "{zoned[2]}" and timezone: {zoned[1]}')
    if not elsewhere.is_cron(text):
        elsewhere.refuse_cron(text, is_call=call is not None)
    elif call:
        raise ValueError(f'{written!r} is a call; write cron: "{text}"')
    return text


def _parse_phase(value: Any) -> Phase:
    if value == "installation":
        return "installation"
    if value == "start":
        return "start"
    try:
        return _duration(value, zero=True)
    except ValueError as error:
        hint = did_you_mean(_text(value).lower(), ("installation", "start"))
        raise ValueError(f"{error}; or one of the words installation and start{hint}") from None


def _parse_boolean(value: Any) -> bool:
    try:
        return parse_bool(value)
    except ValueError as error:
        raise ValueError(f"{value!r} {error}") from None


def _parse_count(value: Any) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", _text(value)):
        raise ValueError(f"{_text(value)!r} is not a count; expected a whole number from 1 to 9999")
    return int(value)


def _parse_once(value: Any) -> str:
    if value not in {"process", "application"}:
        word = _text(value).lower()
        near = elsewhere.SCOPES.get(word)
        hint = asked([near]) if near else did_you_mean(word, ("process", "application"))
        raise ValueError(f"{_text(value)!r} is not a scope; expected process or application{hint}")
    return _text(value)


def _parse_zone(value: Any) -> str:
    text = _text(value)
    if near := elsewhere.zone(text):
        raise ValueError(f"{text!r} is not a time zone; expected a name, such as {near}")
    zone(text)
    return text


def _parse_words(value: Any) -> str:
    text = _text(value)
    if len(text) > _LONGEST_DESCRIPTION:
        raise ValueError(f"has {len(text)} characters; expected a description of at most {_LONGEST_DESCRIPTION}")
    return text


def _parse_moment(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(_text(value))
    except ValueError:
        hint = f"; write {other}" if (other := elsewhere.trigger("at", _text(value))) else ""
        raise ValueError(f"{_text(value)!r} is not a moment; expected one such as 2027-03-01T09:30{hint}") from None


def check_moment(moment: datetime) -> None:
    """Refuse a moment that no calendar reaches from every time zone.

    Raises:
        ValueError: It is one.
    """
    try:
        instant = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
        for days in (-366, 366):
            to_datetime(instant + timedelta(days=days) // MICROSECOND)
    except OverflowError:
        raise ValueError("is beyond the calendar; expected a moment such as 2027-03-01T09:30") from None


def _parse_retry(value: Any) -> Retry:
    given: dict[str, Any] = value
    if given.keys() - {"attempts", "wait"} or "attempts" not in given:
        raise ValueError("expected attempts and wait, such as {attempts: 3, wait: 10s}")
    return Retry(_parse_count(given["attempts"]), _duration(given.get("wait", "10s")))


def _parse_args(value: Any) -> dict[str, Any]:
    return dict(value)


_FUNCTION = {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z]\w*$"}
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
        _FUNCTION,
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
        "Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), in `timezone`. In quotes, as `*` "
        "has a meaning in YAML.",
        _parse_cron,
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
        "The keyword arguments of the function, checked against its signature before anything runs.",
        _parse_args,
        TRIGGERS,
        {"type": "object"},
        is_mapping=True,
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
        "How late a run may start before it is skipped.",
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
        _parse_limit,
        TRIGGERS,
        _DURATION,
    ),
    Field(
        "retry",
        "attempts and wait, such as {attempts: 3, wait: 10s}",
        "not at all",
        "How a failed run is retried: the most runs there are, the first one included, and the wait before the second "
        "one, which doubles each time. All waits together must be shorter than the time to the next run.",
        _parse_retry,
        TRIGGERS,
        {
            "type": "object",
            "properties": {"attempts": {"type": "integer", "minimum": 1, "maximum": 9999}, "wait": _DURATION},
            "required": ["attempts"],
            "additionalProperties": False,
        },
        is_mapping=True,
    ),
    Field(
        "on_failure",
        "module:function",
        "none",
        "The function that is called once when the job begins to fail and once when it works again, with `job`, its "
        "ID, and `error`, a text; `null` when it works again. Its own failure is only logged.",
        _parse_run,
        TRIGGERS,
        _FUNCTION,
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

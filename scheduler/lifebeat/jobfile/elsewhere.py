"""What other tools write: crontab, Quartz, systemd, Kubernetes, Celery, APScheduler; and how that is written here."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from lifebeat.schedule.instants import is_zone
from lifebeat.text.durations import meant
from lifebeat.text.hints import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORDS = {
    "run": "function func fn task command cmd job entrypoint uses exec execute exec_start script callable target "
    "handler callback method module python shell program steps image containers job_template",
    "when": "on event at_startup run_on_startup restart restart_policy on_start on_startup on_boot on_boot_sec "
    "at_start on_shutdown on_stop on_exit at_exit start start_on lifecycle hook",
    "every": "interval seconds minutes hours days weeks trigger period frequency repeat repeat_every rate fixed_rate "
    "fixed_delay on_unit_active_sec periodic run_every",
    "cron": "schedule crontab cron_expression crontab_expression cron_schedule expression on_calendar minute hour day "
    "month day_of_week day_of_month month_of_year cronjob",
    "at": "date run_date run_at datetime eta clocked once_at",
    "enabled": "disabled enable disable active inactive if suspend suspended paused skip",
    "args": "kwargs kwarg arguments params parameters inputs with vars argv data payload env environment",
    "phase": "offset initial_delay start_delay spread splay stagger countdown",
    "jitter": "random_delay randomized_delay randomized_delay_sec random accuracy_sec",
    "timezone": "tz time_zone zone cron_tz",
    "coalesce": "catchup catch_up persistent backfill",
    "misfire_grace": "misfire_grace_time misfire_threshold misfire starting_deadline starting_deadline_seconds expires",
    "max_instances": "concurrency concurrency_policy max_concurrent max_concurrency overlap allow_overlap no_overlap "
    "parallel parallelism",
    "timeout": "timeout_minutes timeout_seconds time_limit soft_time_limit hard_time_limit max_runtime max_duration "
    "deadline ttl active_deadline active_deadline_seconds",
    "retry": "retries max_retries attempts max_attempts backoff backoff_limit retry_delay retry_backoff retry_policy "
    "autoretry_for",
    "on_failure": "on_error onerror errback on_failed error_handler notify mailto alert",
    "once": "singleton unique exclusive lock leader single cluster scope",
    "description": "comment name title summary doc desc label note help",
}
_FIELD_OF = {word: name for name, words in _WORDS.items() for word in words.split()}


def fields(name: str, known: Iterable[str]) -> list[str]:
    """Return the fields, of those that are known, that ``name`` may have been meant for."""
    word = re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")
    for one in (word, word.rpartition("_")[0], f"{word}s"):
        if one in known or one in _FIELD_OF:
            return [_FIELD_OF.get(one, one)]
    near = nearest(word, [*known, *_FIELD_OF], most=3)
    return list(dict.fromkeys(_FIELD_OF.get(one, one) for one in near))


SCOPES = {
    **dict.fromkeys(
        ("cluster", "leader", "single", "singleton", "global", "one", "fleet", "true", "app"), "application"
    ),
    **dict.fromkeys(("worker", "each", "every", "all", "local", "false"), "process"),
}


_ZONES = {
    "CEST": "Europe/Berlin", "BST": "Europe/London", "EEST": "Europe/Helsinki", "MSK": "Europe/Moscow",
    "EDT": "America/New_York", "CST": "America/Chicago", "CDT": "America/Chicago", "MDT": "America/Denver",
    "PST": "America/Los_Angeles", "PDT": "America/Los_Angeles", "IST": "Asia/Kolkata", "JST": "Asia/Tokyo",
    "AEST": "Australia/Sydney", "AEDT": "Australia/Sydney", "NZST": "Pacific/Auckland", "NZDT": "Pacific/Auckland",
    "SGT": "Asia/Singapore", "BRT": "America/Sao_Paulo", "SAST": "Africa/Johannesburg", "Z": "UTC", "ZULU": "UTC",
}  # fmt: skip


def zone(text: str) -> str | None:
    """Return the time zone that an abbreviation or an offset may stand for."""
    if offset := re.fullmatch(r"(?:UTC|GMT)?([+-])0?(\d{1,2})(?::?00)?", text):
        sign = "-" if offset[1] == "+" else "+"  # POSIX counts the other way round
        name = "UTC" if offset[2] == "0" else f"Etc/GMT{sign}{offset[2]}"
        return name if name == "UTC" or is_zone(name) else None
    return _ZONES.get(text.upper())


_STARTING = "start startup started starting boot reboot begin init always load launch ready up open now immediately"
_STOPPING = "shutdown stop stopped stopping end exit quit finish terminate sigterm teardown down close atexit unload"
_OTHER_MOMENTS = {
    **dict.fromkeys(_STARTING.split(), "start"),
    **dict.fromkeys(_STOPPING.split(), "shutdown"),
}
_CALENDAR = re.compile(r"(?:(?:every|each|once an?|1|an?)?[\s_]*(month|year)s?|p1(m|y)|1(mo|y))", re.ASCII)
_DAY = r"(?:every ?day|each day|daily|([a-z]{3})(?:day)?|([a-z]{3})\.\.([a-z]{3}))?"
_CLOCK = re.compile(rf"{_DAY},?\s*(?:\*-\*-\*)?\s*(at\s+)?(\d\d?)(?::(\d\d)(?::00)?)?\s*(am|pm)?", re.ASCII)


def _moment_of(text: str) -> str | None:
    """Return the moment of an application's life that other tools call so."""
    words = re.sub("[^a-z]+", " ", re.sub("(?<=[a-z])(?=[A-Z])", " ", text).lower()).split()
    known = {_OTHER_MOMENTS[word] for word in words if word in _OTHER_MOMENTS}
    rest = set(words) - _OTHER_MOMENTS.keys() - {"on", "at", "pre", "post", "before", "after", "app", "application"}
    return known.pop() if len(known) == 1 and not rest else None


def is_cron(text: str) -> bool:
    """Return whether it is a cron expression."""
    from lifebeat.schedule import cron

    try:
        cron.parse(text)
    except ValueError:
        return False
    return True


def _clock_of(text: str) -> str | None:
    """Return a time of the day as a cron expression: ``03:00``, ``daily at 3pm``, ``Mon..Fri *-*-* 03:00``."""
    found = _CLOCK.fullmatch(text)
    if found is None or not any(found.group(4, 6, 7)):
        return None
    day, first, last, _, hour, minute, half = found.groups()
    number = int(hour) % 12 + 12 * (half == "pm") if half else int(hour)
    written = f"{int(minute or 0)} {number} * * {day or (f'{first}-{last}' if first else '*')}"
    return written if is_cron(written) else None


def trigger(own: str, written: str) -> str:
    """Return how what was written for one trigger is written as another, or as that one; empty if that is not clear."""
    text = " ".join(written.split())[:200]
    word = text.lower().removeprefix("@")
    calendar = _CALENDAR.fullmatch(word)
    short = f"@{word}" if is_cron(f"@{word}") else ""
    if moment := _moment_of(text):
        return f"when: {moment}"
    if is_cron(text) or (short and own != "every"):
        return f'cron: "{short or text}"'
    if right := meant(text):
        return f"every: {right}"
    if calendar or short:
        return f'cron: "{short or ("@monthly" if "m" in word else "@yearly")}"'
    if own != "every" and (clock := _clock_of(text.lower())):
        return f'cron: "{clock}"'
    return f"at: {text}" if own != "at" and _is_date(text) else ""


def _is_date(text: str) -> bool:
    try:
        return len(text) >= len("2027-03-01") and bool(datetime.fromisoformat(text))
    except ValueError:
        return False


_CRON = "minute, hour, day of the month, month, day of the week"


def refuse_cron(text: str, *, is_call: bool) -> None:
    """Refuse what other tools take for cron fields, in words that name it; what is merely wrong is left to the parser.

    Raises:
        ValueError: It is known from elsewhere.
    """
    fields = text.split()
    for word in fields:
        if found := next((found for found in _OTHER_CRON if re.search(found[0], word, re.IGNORECASE)), None):
            raise ValueError(f"{word!r} in {text!r} is {found[1]}, which is not known here; {found[2]}")
    if fields[5:]:
        has_seconds = not is_call and (re.fullmatch("[0*]", fields[0]) or not is_cron(" ".join(fields[:5])))
        five = " ".join(fields[1:6] if has_seconds and is_cron(" ".join(fields[1:6])) else fields[:5])
        why = f"expected five ({_CRON}), no seconds and no years"
        if not is_cron(f"* * * * {fields[5]}") and not re.fullmatch(r"\d{4}[\d,/-]*", fields[5]):
            why = f"write timezone: {fields[5]}" if is_zone(fields[5]) else "what runs is named by `run:`"
        elif re.search(r"\d", five.split()[4]):
            why += "; days of the week count from Sunday as 0"
        remedy = f'; write cron: "{five}"' if is_cron(five) else ""
        raise ValueError(f"{text!r} has {len(fields)} fields; {why}{remedy}")
    if other := trigger("cron", text):
        raise ValueError(f"{text!r} is not a cron expression; write {other}")


_OTHER_CRON = (
    (r"^\d*L(?:-\d+)?$|^(?:mon|tue|wed|thu|fri|sat|sun)L$", "a last day (L)", f"expected {_CRON}"),
    (r"^(?:\d+|L)W$", "a nearest working day (W)", f"expected {_CRON}"),
    (r"\w#\d", "a numbered weekday (#)", f"expected {_CRON}"),
    (r"^H(?:\(|/|$)", "a hashed value (H)", "use `every` with `phase: installation`, which spreads"),
    (r"^\d*~\d*$", "a random value (~)", "write a number, and `jitter` for a random delay"),
)

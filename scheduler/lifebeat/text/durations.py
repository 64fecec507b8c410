"""Durations as people write them: 500ms, 90s, 15m, 24h, 7d, 1h30m."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST = timedelta(days=3660)
ALLOWED = "a number with a unit, such as 90s, 15m, 24h or 7d"

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_WRITTEN = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000))
_LONGEST_TEXT = 40  # ten years in every unit take fewer characters
_PART = r"\d+(?:\.\d+)?(?:ms|[smhdw])"
PATTERN = rf"^(?:{_PART})+$"


def parse_duration(text: str, *, zero: bool = False) -> timedelta:
    """Return a duration that was written.

    Args:
        text: What was written.
        zero: Whether no time at all is allowed.

    Raises:
        ValueError: It is not a duration, or zero, negative, or longer than ten years; the message says which.
    """
    written = text.strip()
    if not re.match(PATTERN, written, re.ASCII):
        raise ValueError(_what_is_wrong(written))
    parts = re.findall(r"([\d.]+)(ms|[smhdw])", written)
    if len(written) > _LONGEST_TEXT:
        raise ValueError("is too long for a duration")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"is longer than {LONGEST.days}d, the longest allowed")
    duration = timedelta(seconds=seconds)
    if not duration and not zero:
        raise ValueError("must be greater than zero")
    return duration


_WORDS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds", "msec"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("w", "week", "weeks"), "w"),
}
_ALONE = {"secondly": "1s", "minutely": "1m", "hourly": "1h", "daily": "24h", "weekly": "7d"}


def _meant(written: str) -> str:
    """Return how a duration of another notation is written here; empty for what is none."""
    text = written.lower()
    if iso := re.fullmatch(r"p(?:(\d+)w)?(?:(\d+)d)?(?:t(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?)?", text, re.ASCII):
        return "".join(f"{number}{unit}" for number, unit in zip(iso.groups(), "wdhms", strict=True) if number)
    text = _ALONE.get(text.removeprefix("@"), text.removeprefix("@every ").removeprefix("every "))
    parts = re.findall(r"(\d+(?:\.\d+)?)[\s_-]*([a-z]+)(?:[\s,]|and\b)*", text, re.ASCII)
    whole = re.fullmatch(r"(?:\d+(?:\.\d+)?[\s_-]*[a-z]+?(?:[\s,]|and\b)*)+", text, re.ASCII)
    if not whole or any(word not in _WORDS for _, word in parts):
        return text if re.match(PATTERN, text, re.ASCII) else ""
    return "".join(f"{number}{_WORDS[word]}" for number, word in parts)


def _what_is_wrong(written: str) -> str:
    if len(written) <= _LONGEST_TEXT and (meant := _meant(written)):
        return f"is not written as a duration here; write {meant}"
    if re.fullmatch(r"-.*\d.*", written):
        return f"is negative; expected {ALLOWED}"
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", written):
        return f"has no unit; write {written}s, {written}m or {written}h"
    if re.fullmatch(r"[0-9]+(:[0-9]+)+", written):
        return f"looks like a clock time, which YAML 1.1 turns into another number; expected {ALLOWED}"
    return f"is not a duration; expected {ALLOWED}"


def format_duration(duration: timedelta) -> str:
    """Return a duration the way a person would: the largest unit that fits first, and a day as 24h."""
    microseconds = duration // timedelta(microseconds=1)
    parts: list[str] = []
    for unit, size in _WRITTEN if duration >= timedelta(days=2) else _WRITTEN[1:]:
        count, microseconds = divmod(microseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    if microseconds:
        parts.append(f"{microseconds / 1000:g}ms")
    return "".join(parts) or "0s"

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


_UNITS = {
    "ms": "ms msec millis millisecond milliseconds milliseconde millisekunde millisekunden",
    "s": "s sec secs second seconds sekunde sekunden seconde secondes segundo segundos secondo secondi",
    "m": "m min mins minute minutes minuten minuto minutos minuti minuut",
    "h": "h hr hrs hour hours std stunde stunden heure heures hora horas ora ore uur",
    "d": "d day days tag tage tagen jour jours día días dia dias giorno giorni dag dagen",
    "w": "w wk week weeks woche wochen semaine semaines semana semanas settimana settimane weken",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_ALONE = {"secondly": "1s", "minutely": "1m", "hourly": "1h", "daily": "24h", "weekly": "7d"}
_AROUND = {"every", "each", "in", "after", "a", "an", "and", "und", "et", "y", "rate", "interval"}
_CALLS = {
    "timedelta",
    "datetime",
    "duration",
    "timespan",
    "timer",
    "time",
    "std",
    "from",
    "of",
    "new",
    "every",
    "interval",
}
_NUMBER = r"(?P<number>[0-9][0-9_]*(?:[.,][0-9]{1,2})?)(?![0-9])"
_NUMBER_AND_UNIT = re.compile(rf"{_NUMBER}[\s.'_-]*(?P<unit>[^\W\d_]+)")
_UNIT_AND_NUMBER = re.compile(rf"(?:of|from_?)?(?P<unit>[^\W\d_]+s)\s*[=(:]\s*{_NUMBER}")
_UNCLEAR = r"[-.]|.*\d[^\W\d_]+\s*[-~]"
_OF_ISO = r"(?:([0-9]+(?:\.[0-9]+)?){})?"
_ISO = re.compile("p" + "".join(map(_OF_ISO.format, "wd")) + "(?:t" + "".join(map(_OF_ISO.format, "hms")) + ")?")


def meant(written: str) -> str:
    """Return how a duration of another notation (words, ISO 8601, a call of a program) is written here; else empty."""
    text = written.lower().strip().removeprefix("@")
    if len(text) > _LONGEST_TEXT or not text.isprintable() or re.match(_UNCLEAR, text):
        return ""
    if re.match(PATTERN, text, re.ASCII) or text in _ALONE:
        return _ALONE.get(text, text)
    if found := _ISO.fullmatch(text):
        return "".join(f"{number}{unit}" for number, unit in zip(found.groups(), "wdhms", strict=True) if number)
    if (unit := re.sub(r"^(?:every|each|once an?|an?)\s+", "", text)) in _UNIT_OF:
        return f"1{_UNIT_OF[unit]}"
    return _counted(text, _NUMBER_AND_UNIT, _AROUND) or _counted(text, _UNIT_AND_NUMBER, _CALLS)


def _counted(text: str, pattern: re.Pattern[str], around: set[str]) -> str:
    """Return the numbers of units in a text with nothing else in it but words that may stand around them."""
    found = [one.groupdict() for one in pattern.finditer(text)]
    if not found or not around.issuperset(re.findall(r"[^\W_]+", pattern.sub(" ", text))):
        return ""
    if any(one["unit"] not in _UNIT_OF for one in found):
        return ""
    return "".join(one["number"].replace(",", ".").replace("_", "") + _UNIT_OF[one["unit"]] for one in found)


def _what_is_wrong(written: str) -> str:
    if right := meant(written):
        return f"is not written as a duration here; write {right}"
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

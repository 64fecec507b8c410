"""What became of a request."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

OK = 200
REDIRECTED = range(300, 400)
LONGEST_PAUSE = 86400.0
_WHAT_TO_DO = {
    401: "; is telemetryApiKey right?",
    403: "; is telemetryApiKey right?",
    404: "; is telemetryHost right?",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch.

    Attributes:
        status: The HTTP status; ``None`` where there was no answer.
        words: What happened, for people, in words of our own.
        delivered: Whether PostHog has the events.
        retry_after: How many seconds the server asks to wait; ``None`` if it does not.
        withheld: Whether it was cut off from this side because nothing may be sent any more.
    """

    status: int | None
    words: str
    delivered: bool = False
    retry_after: float | None = None
    withheld: bool = False


def read(status: int, headers: Mapping[str, str], body: bytes, url: str) -> Answer:
    """Return what a server's answer means.

    Args:
        status: The HTTP status.
        headers: The headers.
        body: The beginning of the body.
        url: Where the request went.
    """
    words = f"HTTP {status}"
    if status == OK:
        if _is_posthogs(body):
            return Answer(status, "delivered", delivered=True)
        return Answer(status, f"{words}, but the answer is not PostHog's; is telemetryHost right, and is this online?")
    if status in REDIRECTED:
        target = _origin(url, headers.get("Location", ""))
        words += f", redirected to {target}, which is not followed; set telemetryHost to that"
    return Answer(status, words + _WHAT_TO_DO.get(status, ""), retry_after=_seconds(headers))


def shown(url: str) -> str:
    """Return a URL as it may be shown: without a user name and a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_posthogs(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(answer, dict) and "status" in answer


def _origin(url: str, location: str) -> str:
    """Return scheme and host of a redirect, and nothing of the rest: a server can write there what it likes."""
    try:
        parts = urlsplit(urljoin(url, location))
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        origin = f"{parts.scheme}://{host}" + ("" if parts.port is None else f":{parts.port}")
    except ValueError:
        return "nowhere"
    return origin if re.fullmatch(r"https?://[\w.:\[\]-]{1,200}", origin, re.ASCII) else "nowhere"


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Return ``Retry-After`` in seconds from now: it is a number, or a date by the server's own clock."""
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,100}(?:\.[0-9]*)?", asked):
        return min(float(asked), LONGEST_PAUSE)
    until, now = _moment(asked), _moment(headers.get("Date", ""))
    if until is None or now is None:
        return None
    return min(max(until - now, 0.0), LONGEST_PAUSE)


def _moment(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None

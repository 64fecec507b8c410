"""When jobs run: pure arithmetic, the same on every process, machine and engine.

``every`` lies on a grid counted from the Unix epoch, so that a run has an identity, (job ID, instant), that everybody
computes alike and that no restart resets. Instants are whole microseconds since the epoch.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from lifebeat.text.hints import asked, did_you_mean

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_instant(moment: datetime) -> int:
    """Whole microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def to_datetime(instant: int) -> datetime:
    """Return the instant as a moment in UTC."""
    return EPOCH + timedelta(microseconds=instant)


class Instants(Protocol):
    """The instants of a job."""

    def after(self, instant: int) -> int | None:
        """Return the first instant later than ``instant``; ``None`` if there is none."""
        ...

    def latest(self, instant: int) -> int | None:
        """Return the last instant that is not later than ``instant``; ``None`` if there is none or it is not known."""
        ...


class Grid(NamedTuple):
    """Instants at ``offset`` plus whole multiples of ``interval``, both in microseconds."""

    interval: int
    offset: int = 0

    def after(self, instant: int) -> int:
        return self.latest(instant) + self.interval

    def latest(self, instant: int) -> int:
        return instant - (instant - self.offset) % self.interval


class Single(NamedTuple):
    """One instant."""

    instant: int

    def after(self, instant: int) -> int | None:
        return self.instant if self.instant > instant else None

    def latest(self, instant: int) -> int | None:
        return self.instant if self.instant <= instant else None


def spread(text: str, width: int) -> int:
    """Return a number from 0 up to ``width``, evenly spread over texts and always the same for one of them."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]) % width


def jitter_of(job_id: str, seed: str, instant: int, jitter: timedelta) -> int:
    """Return the random delay of one run, in microseconds.

    Made from the run's identity: every process of an installation draws the same, and a restart between the instant
    and its run neither loses nor repeats it.
    """
    width = jitter // MICROSECOND
    return spread(f"jitter:{seed}:{job_id}:{instant}", width) if width else 0


_NOT_EVERYWHERE = ("localtime", "posixrules", "Factory", "posix/", "right/")  # what some machines have besides


def zone(name: str) -> ZoneInfo:
    """Return the time zone.

    Raises:
        ValueError: There is none of that name.
    """
    found = _find(name)
    if found is None:
        raise ValueError(f"{name!r} is not a time zone; expected one such as Europe/Stockholm or UTC{_near(name)}")
    return found


def is_zone(name: str) -> bool:
    """Return whether there is a time zone of that name."""
    return _find(name) is not None


def _find(name: str) -> ZoneInfo | None:
    from zoneinfo import ZoneInfo

    try:
        return None if name.startswith(_NOT_EVERYWHERE) else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def _near(name: str) -> str:
    """Return the question for a zone that may have been meant: by its city, in any case, or much like it."""
    from zoneinfo import available_timezones

    known = sorted(available_timezones())
    plain = re.sub(r"[\s_\\]+", "_", name[:40].strip(" :'\"")).lower()
    exact = [one for one in known if one.lower() == plain]
    cities = [one for one in known if one.lower().rpartition("/")[2] == plain and "/" in one]
    return asked((exact or cities)[:1]) or did_you_mean(name[:40], known, cutoff=0.8)

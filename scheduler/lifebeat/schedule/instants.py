"""When jobs run: pure arithmetic, the same on every process, machine and engine.

``every`` lies on a grid counted from the Unix epoch, so that a run has an identity, (job ID, instant), that everybody
computes alike and that no restart resets. Instants are whole microseconds since the epoch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable
    from zoneinfo import ZoneInfo

MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CRON_DAYS = 41 * 366  # a 29 February that is a Monday may be 40 years away

Phase = Literal["installation", "start"] | timedelta


def to_instant(moment: datetime) -> int:
    """Whole microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def to_datetime(instant: int) -> datetime:
    """The instant as a moment in UTC."""
    return EPOCH + timedelta(microseconds=instant)


@dataclass(frozen=True, slots=True)
class AtStart:
    """``when: start``: once, when the scheduler starts."""


@dataclass(frozen=True, slots=True)
class AtShutdown:
    """``when: shutdown``: once, when the scheduler has stopped."""


class Every(NamedTuple):
    """``every:`` an interval on the grid, shifted by the phase."""

    interval: timedelta
    phase: Phase = timedelta(0)


class Cron(NamedTuple):
    """``cron:`` five fields, in a time zone; weekday 0 and 7 are Sunday."""

    expression: str
    timezone: str


class At(NamedTuple):
    """``at:`` a moment."""

    moment: datetime


Trigger = AtStart | AtShutdown | Every | Cron | At


class Instants(Protocol):
    """The instants of a job."""

    def after(self, instant: int) -> int | None:
        """The first instant later than ``instant``; ``None`` if there is none."""
        ...

    def latest(self, instant: int) -> int | None:
        """The last instant that is not later than ``instant``; ``None`` if there is none or it is not known."""
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


class CronInstants:
    """The instants of five cron fields.

    Raises:
        ValueError: The expression or the time zone is wrong.
    """

    def __init__(self, cron: Cron) -> None:
        from lifebeat.schedule.cron import Calendar

        self._calendar = Calendar(cron.expression, cron.timezone)

    def after(self, instant: int) -> int | None:
        return min((one for one in self._near(instant, 1, lambda one: one > instant)), default=None)

    def latest(self, instant: int) -> int | None:
        return max((one for one in self._near(instant, -1, lambda one: one <= instant)), default=None)

    def _near(self, instant: int, direction: int, wanted: Callable[[int], bool]) -> list[int]:
        """The wanted instants of the nearest day that has any, and of the day behind it: clocks that jump mix them."""
        today = self._calendar.local_date(to_datetime(instant)).toordinal()
        last = min(max(today + direction * CRON_DAYS, date.min.toordinal() + 1), date.max.toordinal() - 2)
        for day in range(today - direction, last, direction):
            found = [one for one in self._calendar.on(date.fromordinal(day)) if wanted(one)]
            if found:
                return [*found, *filter(wanted, self._calendar.on(date.fromordinal(day + direction)))]
        return []


def instants_of(trigger: Trigger, *, job_id: str, seed: str, started_at: float) -> Instants | None:
    """The instants of a trigger; ``None`` for start and shutdown, which have none.

    Args:
        trigger: The trigger.
        job_id: The job's ID.
        seed: What the phase of an installation is made from.
        started_at: The process's start, for ``phase: start``.
    """
    match trigger:
        case Every(interval, phase):
            return Grid(interval // MICROSECOND, _offset(interval // MICROSECOND, phase, job_id, seed, started_at))
        case Cron():
            return CronInstants(trigger)
        case At(moment):
            return Single(to_instant(moment))
        case _:
            return None


def _offset(interval: int, phase: Phase, job_id: str, seed: str, started_at: float) -> int:
    match phase:
        case "installation":
            return spread(f"phase:{seed}:{job_id}", interval)
        case "start":
            return int(started_at * SECOND) % interval
        case _:
            return phase // MICROSECOND % interval


def spread(text: str, width: int) -> int:
    """A number from 0 up to ``width``, evenly spread over texts and always the same for one of them."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]) % width


def jitter_of(job_id: str, seed: str, instant: int, jitter: timedelta) -> int:
    """The random delay of one run, in microseconds.

    Made from the run's identity: every process of an installation draws the same, and a restart between the instant
    and its run neither loses nor repeats it.
    """
    width = jitter // MICROSECOND
    return spread(f"jitter:{seed}:{job_id}:{instant}", width) if width else 0


def zone(name: str) -> ZoneInfo:
    """The time zone.

    Raises:
        ValueError: There is none of that name.
    """
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        from zoneinfo import available_timezones

        hint = did_you_mean(name[:40], sorted(available_timezones()), cutoff=0.8)
        raise ValueError(f"{name!r} is not a time zone; expected one such as Europe/Stockholm or UTC{hint}") from error

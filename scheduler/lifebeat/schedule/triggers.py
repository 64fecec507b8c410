"""The kinds of trigger, and the instants that each of them stands for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple

from lifebeat.schedule.instants import MICROSECOND, SECOND, Grid, Instants, Single, spread, to_datetime, to_instant
from lifebeat.text.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

CRON_DAYS = 41 * 366  # a 29 February that is a Monday may be 40 years away

Phase = Literal["installation", "start"] | timedelta


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


def in_words(trigger: Trigger) -> str:
    """Return the trigger as the job file says it."""
    match trigger:
        case AtStart():
            return "at start"
        case AtShutdown():
            return "at shutdown"
        case Every(interval, phase):
            return f"every {format_duration(interval)}{f', phase {phase_in_words(phase)}' if phase else ''}"
        case Cron(expression, timezone):
            return f"cron {expression} ({timezone})"
        case At(moment):
            return f"at {moment.isoformat()}"


def phase_in_words(phase: Phase) -> str:
    """Return the phase as the job file says it."""
    return format_duration(phase) if isinstance(phase, timedelta) else phase


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
        """Return the instants of the nearest day that has any, and of the day behind it: clocks that jump mix them."""
        today = self._calendar.local_date(to_datetime(instant)).toordinal()
        last = min(max(today + direction * CRON_DAYS, date.min.toordinal() + 1), date.max.toordinal() - 2)
        for day in range(today - direction, last, direction):
            found = [one for one in self._calendar.on(date.fromordinal(day)) if wanted(one)]
            if found:
                return [*found, *filter(wanted, self._calendar.on(date.fromordinal(day + direction)))]
        return []


def instants_of(trigger: Trigger, *, job_id: str, seed: str, started_at: float) -> Instants | None:
    """Return the instants of a trigger; ``None`` for start and shutdown, which have none.

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

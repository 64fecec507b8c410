"""When a job runs next, what the clocks do to it, and its trigger in words."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from lifebeat.schedule.instants import MICROSECOND, SECOND, Instants, jitter_of, to_datetime, zone
from lifebeat.schedule.triggers import At, Cron, instants_of
from lifebeat.text.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifebeat.jobfile.spec import JobSpec

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Run:
    """One run to come.

    Attributes:
        instant: The instant that it belongs to, as its time zone writes it.
        starts: When it starts, with its jitter; in UTC.
        latest: The end of its jitter window; in UTC.
        clocks: What a change of the clocks does to it, in words; empty if nothing.
    """

    instant: datetime
    starts: datetime
    latest: datetime
    clocks: str = ""


def upcoming(spec: JobSpec, seed: str, now: float, count: int) -> list[Run]:
    """Return the next ``count`` runs of a job registered at ``now``; none for start, shutdown, and one that is off.

    Args:
        spec: The job.
        seed: What its phase and its jitter are made from.
        now: The time, in seconds since the epoch.
        count: How many runs.
    """
    instants = instants_to_come(spec, seed, now)
    if instants is None:
        return []
    runs: list[Run] = []
    before = to_datetime(int(now * SECOND))
    for at, starts in islice(_following(spec, instants, partial(_jitter, spec, seed), before), count):
        instant = at.astimezone(_zone(spec))
        latest = instant.astimezone(UTC) + spec.jitter
        runs.append(Run(instant, starts, latest, _clocks(spec, before.astimezone(instant.tzinfo), instant)))
        before = instant
    return runs


def _following(
    spec: JobSpec, instants: Instants, jitter: Callable[[int], int], now: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Return each instant and when it starts, computed by the trigger that the scheduler is given."""
    from lifebeat.registration.triggers import InstantTrigger

    trigger = InstantTrigger(instants, jitter, coalesce=spec.coalesce)
    starts = trigger.get_next_fire_time(None, now + MICROSECOND)
    while starts is not None:
        yield trigger.instant_of(starts), starts
        starts = trigger.get_next_fire_time(starts, starts)


def instants_to_come(spec: JobSpec, seed: str, now: float) -> Instants | None:
    """Return the instants of a job whose process starts now; ``None`` where there are none."""
    return instants_of(spec.trigger, job_id=spec.id, seed=seed, started_at=now) if spec.enabled else None


def _jitter(spec: JobSpec, seed: str, instant: int) -> int:
    return jitter_of(spec.id, seed, instant, spec.jitter)


def _zone(spec: JobSpec) -> tzinfo:
    match spec.trigger:
        case Cron(_, timezone):
            return zone(timezone)
        case At(moment):
            return moment.tzinfo or UTC
        case _:
            return UTC


def _clocks(spec: JobSpec, before: datetime, at: datetime) -> str:
    """Return in words: another UTC offset than ``before``, a time of day that is left out, and one that comes twice."""
    words: list[str] = []
    change = _offset(at) - _offset(before)
    if change:
        words.append(f"clocks {'forward' if change > timedelta(0) else 'back'} {format_duration(abs(change))}")
    if _is_moved(spec, at):
        left_out = at.replace(tzinfo=None) - _offset(at) + _offset(at - _DAY)
        words.append(f"{left_out:%H:%M} does not exist")
    elif at.replace(fold=0).utcoffset() != at.replace(fold=1).utcoffset():
        words.append(f"{at:%H:%M} comes twice, the {'second' if at.fold else 'first'} time")
    return "; ".join(words)


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta(0)


def _is_moved(spec: JobSpec, at: datetime) -> bool:
    """Return whether the run lies at another time of day than was written, since that one is left out."""
    match spec.trigger:
        case Cron(expression, _):
            from lifebeat.schedule import cron

            minutes, hours, *_ = cron.parse(expression)
            return not all(
                allowed is None or given in allowed for allowed, given in ((minutes, at.minute), (hours, at.hour))
            )
        case At(moment):
            return moment.replace(tzinfo=None, fold=0) != at.replace(tzinfo=None, fold=0)
        case _:
            return False

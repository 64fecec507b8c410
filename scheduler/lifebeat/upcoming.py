"""When a job runs next, and its trigger in words."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from lifebeat.durations import format_duration
from lifebeat.schedule import SECOND, At, AtShutdown, AtStart, Cron, Every, instants_of, jitter_of

if TYPE_CHECKING:
    from lifebeat.jobfile import JobSpec
    from lifebeat.lifecycle import Lifecycle


def upcoming(spec: JobSpec, life: Lifecycle, count: int) -> list[float]:
    """The next ``count`` runs in seconds since the epoch, each with its jitter; none for start and shutdown."""
    now = life.clock.time()
    seed = life.find_seed()
    instants = instants_of(spec.trigger, job_id=spec.id, seed=seed, started_at=now)
    runs: list[float] = []
    at = instants.after(int(now * SECOND)) if instants is not None else None
    while instants is not None and at is not None and len(runs) < count:
        runs.append((at + jitter_of(spec.id, seed, at, spec.jitter)) / SECOND)
        at = instants.after(at)
    return runs


def in_words(spec: JobSpec) -> str:
    """The trigger as the job file says it."""
    match spec.trigger:
        case AtStart():
            return "at start"
        case AtShutdown():
            return "at shutdown"
        case Every(interval, phase):
            shifted = f", phase {_phase(phase)}" if phase else ""
            return f"every {format_duration(interval)}{shifted}"
        case Cron(expression, timezone):
            return f"cron {expression} ({timezone})"
        case At(moment):
            return f"at {moment.isoformat()}"


def _phase(phase: str | timedelta) -> str:
    return format_duration(phase) if isinstance(phase, timedelta) else phase

"""The plan: which jobs are registered, and what an edit changes of it. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

from lifebeat.schedule.instants import jitter_of
from lifebeat.schedule.triggers import AtShutdown, AtStart, Every, instants_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lifebeat.jobfile.spec import JobSpec

Plan = dict[str, "Planned"]


@dataclass(frozen=True, slots=True)
class Planned:
    """One job of the plan.

    Attributes:
        spec: The job.
        seed: What its phase and its jitter are made from; empty where they depend on nothing.
    """

    spec: JobSpec
    seed: str

    def is_by_hand(self, instant: int) -> bool:
        """Return whether a run that an engine brought was ordered: it lies on none of the job's instants."""
        trigger = self.spec.trigger
        if getattr(trigger, "phase", None) == "start":  # they differ from process to process
            return False
        instants = instants_of(trigger, job_id=self.spec.id, seed=self.seed, started_at=0.0)
        return instants is None or instants.after(instant - 1) != instant

    def fires_as(self, other: Planned) -> bool:
        """Return whether the other one has the same runs to come, so that the next one of them stays."""
        mine, others = self.spec, other.spec
        same = mine.trigger == others.trigger and mine.jitter == others.jitter and mine.once == others.once
        return same and self.seed == other.seed


@dataclass(frozen=True, slots=True)
class Changes:
    """What an edit does to a plan.

    Attributes:
        removed: Jobs that are taken away.
        registered: Jobs that are new or have other runs to come.
        changed: Jobs whose runs to come stay, and whose options or work are others.
    """

    removed: tuple[JobSpec, ...]
    registered: tuple[Planned, ...]
    changed: tuple[Planned, ...]


def make(specs: Iterable[JobSpec], seed: str) -> Plan:
    """Return the plan of the jobs that are enabled."""
    return {spec.id: Planned(spec, seed if depends_on_seed(spec) else "") for spec in specs if spec.enabled}


def compare(before: Mapping[str, Planned], after: Mapping[str, Planned]) -> Changes:
    """Return what leads from one plan to the other."""
    kept = [(one, after[job_id]) for job_id, one in before.items() if job_id in after]
    moved = {new.spec.id for old, new in kept if not old.fires_as(new)}
    return Changes(
        removed=tuple(one.spec for job_id, one in before.items() if job_id not in after or job_id in moved),
        registered=tuple(one for job_id, one in after.items() if job_id not in before or job_id in moved),
        changed=tuple(new for old, new in kept if new.spec.id not in moved and old != new),
    )


def in_words(before: Mapping[str, Planned], after: Mapping[str, Planned]) -> str:
    """Return what an edit changes, in one line; empty if nothing."""
    parts = [f"added {job_id}" for job_id in after if job_id not in before]
    for job_id, one in before.items():
        if job_id not in after:
            parts.append(f"removed {job_id}")
        elif one != after[job_id]:
            named = ", ".join(_fields(one, after[job_id])) or "instance ID"
            parts.append(f"changed {job_id} ({named})")
    return "; ".join(parts)


def _fields(before: Planned, after: Planned) -> list[str]:
    names = [one.name for one in fields(before.spec) if one.compare]
    return [name for name in names if getattr(before.spec, name) != getattr(after.spec, name)]


def has_instants(spec: JobSpec) -> bool:
    """Return whether a job runs at instants, and not at start or shutdown."""
    return not isinstance(spec.trigger, (AtStart, AtShutdown))


def is_shared(spec: JobSpec) -> bool:
    """Return whether one of the application's processes runs it, and not each."""
    return spec.once == "application"


def depends_on_seed(spec: JobSpec) -> bool:
    """Return whether its instants are made from the instance ID."""
    return bool(spec.jitter) or (isinstance(spec.trigger, Every) and spec.trigger.phase == "installation")


def jitter(spec: JobSpec, seed: str) -> Callable[[int], int]:
    """Return what gives an instant's random delay, both in microseconds."""
    return partial(_jitter, spec, seed) if spec.jitter else _no_jitter


def _jitter(spec: JobSpec, seed: str, instant: int) -> int:
    return jitter_of(spec.id, seed, instant, spec.jitter)


def _no_jitter(_instant: int) -> int:
    return 0

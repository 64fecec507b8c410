"""The plan of one deployment, as people and programs see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lifebeat import steering
from lifebeat.cli import console
from lifebeat.cli.upcoming import Run, upcoming
from lifebeat.schedule.triggers import in_words
from lifebeat.settings.table import KEYS
from lifebeat.text.durations import format_duration

if TYPE_CHECKING:
    from lifebeat.cli.application import Application
    from lifebeat.errors import Problem
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.steering import Steering


@dataclass(frozen=True, slots=True)
class Plan:
    """What one deployment runs.

    Attributes:
        deployment: Its name; ``None`` for none.
        specs: The jobs without a fault, in the order of the file.
        seed: What phases and jitter are made from.
        problems: Everything that is wrong, in settings and jobs.
        secrets: The values that must not be shown.
        orders: What was ordered for jobs, such as a pause.
    """

    deployment: str | None
    specs: tuple[JobSpec, ...]
    seed: str
    problems: tuple[Problem, ...] = ()
    secrets: frozenset[str] = frozenset()
    orders: dict[str, Steering] = field(default_factory=dict[str, "Steering"])

    def paused(self, spec: JobSpec, now: float) -> Steering | None:
        """Return the pause of a job; ``None`` while it is not paused."""
        ordered = self.orders.get(spec.id)
        return ordered if ordered is not None and ordered.is_paused(now) else None

    def upcoming(self, spec: JobSpec, now: float, count: int) -> list[Run]:
        """Return the next runs of a job, those after its pause."""
        pause = self.paused(spec, now)
        if pause is None:
            return upcoming(spec, self.seed, now, count)
        return [] if pause.until is None else upcoming(spec, self.seed, pause.until - 1e-6, count)  # at its end too


def read(application: Application) -> Plan:
    """Return the plan as config says it now."""
    settings = application.settings
    secrets = frozenset(str(settings.value(key.name)) for key in KEYS if key.secret and settings.value(key.name))
    orders = steering.read(application.state_dir(create=False))
    deployment, specs = application.source.deployment, application.load().specs
    return Plan(deployment, specs, application.seed(), application.problems, secrets, orders)


def as_list(plan: Plan, now: float, count: int) -> list[dict[str, Any]]:
    """Return each job with its next runs, for programs."""
    return [
        {
            "job": spec.id,
            "run": spec.run,
            "when": _when(spec),
            "enabled": spec.enabled,
            "once": spec.once,
            "jitter": format_duration(spec.jitter),
            "paused": _pause_as_dict(plan.paused(spec, now)),
            "next": [_run_as_dict(run) for run in plan.upcoming(spec, now, count)],
        }
        for spec in plan.specs
    ]


def _pause_as_dict(pause: Steering | None) -> dict[str, str | None] | None:
    if pause is None:
        return None
    return {"since": console.iso(pause.paused), "until": console.iso(pause.until), "why": pause.why}


def _run_as_dict(run: Run) -> dict[str, str | None]:
    """Return one run for programs: ISO 8601 in UTC, and as the job's time zone writes it."""
    return {
        "instant": console.iso(run.instant),
        "starts": console.iso(run.starts),
        "latest": console.iso(run.latest),
        "local": run.instant.isoformat(timespec="seconds"),
        "clocks": run.clocks or None,
    }


def as_table(plan: Plan, now: float, count: int) -> str:
    """Return a table with a line for each run; columns that nothing stands in are left out."""
    headings = ("job", "when", "once per", "next runs (UTC)", "jitter until", "local time", "", "runs")
    lines = [
        line for spec in plan.specs for line in _lines(spec, plan.upcoming(spec, now, count), plan.paused(spec, now))
    ]
    kept = [n for n in range(len(headings)) if any(line[n] for line in lines) or n in {0, 1, 2, 3, 7}]
    return console.table([headings[n] for n in kept], [[line[n] for n in kept] for line in lines])


def _when(spec: JobSpec, pause: Steering | None = None) -> str:
    words = in_words(spec.trigger) if spec.enabled else f"{in_words(spec.trigger)} (off)"
    return words if pause is None else f"{words} ({pause.in_words()})"


def _lines(spec: JobSpec, runs: list[Run], pause: Steering | None) -> list[tuple[str, ...]]:
    times = [_times(spec, run) for run in runs] or [("-", "", "", "")]
    first, *others = times
    return [
        (spec.id, _when(spec, pause), spec.once, *first, spec.run),
        *(("", "", "", *other, "") for other in others),
    ]


def _times(spec: JobSpec, run: Run) -> tuple[str, str, str, str]:
    window = f"{run.latest:%H:%M:%S}" if spec.jitter else ""
    local = f"{run.instant:%a %H:%M %z}" if run.instant.tzname() != "UTC" else ""
    return f"{run.starts:%Y-%m-%d %H:%M:%S}", window, local, f"* {run.clocks}" if run.clocks else ""

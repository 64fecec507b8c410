"""What differs between the plans of two deployments: jobs, fields of jobs, next runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.upcoming import upcoming
from lifebeat.schedule.triggers import At, AtShutdown, AtStart, Cron, Every, in_words, phase_in_words
from lifebeat.text.durations import format_duration

if TYPE_CHECKING:
    from datetime import timedelta

    from lifebeat.cli.plan import Plan
    from lifebeat.jobfile.spec import JobSpec

NONE = "default"

Pair = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A job that both plans have, and what differs in it.

    Attributes:
        job: Its ID.
        fields: For each field that differs what it is in the one and in the other, as a job file says it; ``None``
            where it has no meaning or no value.
        runs: The next runs in the one and in the other, in UTC; ``None`` where they are the same.
    """

    job: str
    fields: dict[str, Pair]
    runs: tuple[list[str | None], list[str | None]] | None


@dataclass(frozen=True, slots=True)
class Difference:
    """What one must change to come from the first plan to the second."""

    names: tuple[str, str]
    added: tuple[JobSpec, ...]
    removed: tuple[JobSpec, ...]
    changed: tuple[Change, ...]

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return bool(self.added or self.removed or self.changed)


def compare(first: Plan, second: Plan, now: float, count: int) -> Difference:
    """Compare two plans.

    Args:
        first: The one.
        second: The other.
        now: The time that the next runs are counted from, in seconds since the epoch.
        count: How many next runs of each job are compared.
    """
    ours, theirs = ({spec.id: spec for spec in plan.specs} for plan in (first, second))
    secrets = first.secrets | second.secrets
    changes = [
        _change((ours[name], theirs[name]), (first.seed, second.seed), secrets, now, count)
        for name in ours
        if name in theirs
    ]
    return Difference(
        (first.deployment or NONE, second.deployment or NONE),
        tuple(spec for name, spec in theirs.items() if name not in ours),
        tuple(spec for name, spec in ours.items() if name not in theirs),
        tuple(one for one in changes if one.fields or one.runs),
    )


def _change(
    pair: tuple[JobSpec, JobSpec], seeds: tuple[str, str], secrets: frozenset[str], now: float, count: int
) -> Change:
    before, after = map(_fields, pair)
    fields = {
        name: (_masked(before.get(name), secrets), _masked(after.get(name), secrets))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    }
    ran, runs = (
        [run.starts for run in upcoming(spec, seed, now, count)] for spec, seed in zip(pair, seeds, strict=True)
    )
    differ = ([*map(console.iso, ran)], [*map(console.iso, runs)]) if ran != runs else None
    return Change(pair[0].id, fields, differ)


def _fields(spec: JobSpec) -> dict[str, str | None]:
    """Return the job's fields as a job file says them."""
    return {
        "run": spec.run,
        **_trigger(spec),
        "enabled": str(spec.enabled).lower(),
        **{f"args.{name}": json.dumps(value, ensure_ascii=False, default=str) for name, value in spec.args.items()},
        "jitter": format_duration(spec.jitter),
        "coalesce": str(spec.coalesce).lower(),
        "misfire_grace": _span(spec.misfire_grace),
        "max_instances": str(spec.max_instances),
        "timeout": _span(spec.timeout),
        "once": spec.once,
        "description": spec.description or None,
    }


def _trigger(spec: JobSpec) -> dict[str, str | None]:
    match spec.trigger:
        case AtStart():
            return {"when": "start"}
        case AtShutdown():
            return {"when": "shutdown"}
        case Every(interval, phase):
            return {"every": format_duration(interval), "phase": phase_in_words(phase)}
        case Cron(expression, timezone):
            return {"cron": expression, "timezone": timezone}
        case At(moment):
            return {"at": moment.isoformat()}


def _span(span: timedelta | None) -> str | None:
    return None if span is None else format_duration(span)


def _masked(text: str | None, secrets: frozenset[str]) -> str | None:
    for secret in secrets if text else ():
        for spelled in {secret, json.dumps(secret, ensure_ascii=False)[1:-1]}:
            text = str(text).replace(spelled, console.masked(secret))
    return text


def as_dict(difference: Difference) -> dict[str, Any]:
    """Return the difference for programs."""
    return {
        "from": difference.names[0],
        "to": difference.names[1],
        "same": not difference,
        "added": [{"job": spec.id, "run": spec.run, "when": in_words(spec.trigger)} for spec in difference.added],
        "removed": [{"job": spec.id, "run": spec.run, "when": in_words(spec.trigger)} for spec in difference.removed],
        "changed": [
            {
                "job": one.job,
                "fields": {name: _pair(pair) for name, pair in one.fields.items()},
                "next": _pair(one.runs) if one.runs else None,
            }
            for one in difference.changed
        ],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return dict(zip(("from", "to"), pair, strict=True))


def as_text(difference: Difference) -> str:
    """Return the difference for people: ``+`` added, ``-`` removed, ``~`` changed."""
    first, second = difference.names
    if not difference:
        return f"{first} and {second}: the same jobs, the same next runs"
    lines = [f"{first} -> {second}"]
    lines += [f"+ {spec.id}: {in_words(spec.trigger)}, {spec.run}" for spec in difference.added]
    lines += [f"- {spec.id}: {in_words(spec.trigger)}, {spec.run}" for spec in difference.removed]
    for one in difference.changed:
        lines.append(f"~ {one.job}")
        lines += [
            f"    {name}: {_or_dash(before)} -> {_or_dash(after)}" for name, (before, after) in one.fields.items()
        ]
        if one.runs:
            before, after = (runs[0] if runs else None for runs in one.runs)
            lines.append(_next_run(before, after))
    return "\n".join(lines)


def _or_dash(value: str | None) -> str:
    return "-" if value is None else value


def _next_run(before: str | None, after: str | None) -> str:
    if before == after:
        return f"    next run: {_or_dash(before)} for both; those after it differ"
    return f"    next run: {_or_dash(before)} -> {_or_dash(after)}"

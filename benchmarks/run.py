"""Measures everything in one run: writes ``benchmarks/results.json`` and ``docs/benchmarks.md``.

``python benchmarks/run.py`` measures; ``--page`` only writes the page again from the figures that are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure
import recording
import registering
import starting

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "benchmarks.md"
ROUNDS = 7
SIZES = [100, 1_000, 10_000, 100_000]
INTRODUCTION = """\
# Measured beside what people would use instead

Made by `make bench` in one run, each side as a process of its own, in turns; the figures are medians. The raw ones are
in `benchmarks/results.json`.
"""


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the page."""
    if "--page" not in arguments:
        found = {
            "machine": measure.machine(),
            "starting": starting.measured(ROUNDS),
            "registering": registering.measured(SIZES, 3),
            "recording": recording.measured(3),
        }
        RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    """The page for these figures."""
    machine = found["machine"]
    measured_on = f"Measured on {machine['system']}, {machine['processors']} processors, Python {machine['python']}.\n"
    return "\n".join(
        [
            INTRODUCTION,
            measured_on,
            _start(found["starting"]),
            _register(found["registering"]),
            _record(found["recording"]),
        ]
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _met(figure: float, goal: float) -> str:
    return f"{figure:.2f} × (goal {goal:g} ×: {'met' if figure <= goal else 'not met'})"


def _start(found: dict[str, dict[str, float]]) -> str:
    bare, sdk = found["bare"], found["posthog"]
    cost = sdk["seconds"] - bare["seconds"]
    goals = {"posthog": None, "lifebeat": 0.35, "lifebeat off": 0.15}
    rows = [
        [
            name,
            f"{(found[name]['seconds'] - bare['seconds']) * 1000:.0f} ms",
            f"{found[name]['megabytes'] - bare['megabytes']:.1f} MB",
            f"{found[name]['threads'] - bare['threads']:.0f}",
            "" if goal is None else _met((found[name]["seconds"] - bare["seconds"]) / cost, goal),
        ]
        for name, goal in goals.items()
    ]
    return (
        "## What a start costs\n\n"
        "Time, memory and threads that are added to a host with a `BackgroundScheduler` until\n"
        "`start()` has returned: by `import posthog` and its client, by Lifebeat, and by Lifebeat turned off.\n\n"
        + table(["side", "time", "memory", "threads", "beside PostHog's SDK"], rows)
    )


def _register(found: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = [
        [
            f"{int(jobs):,}",
            f"{sides['add_job']['seconds']:.2f} s, {sides['add_job']['megabytes']:.0f} MB",
            f"{sides['lifebeat']['seconds']:.2f} s, {sides['lifebeat']['megabytes']:.0f} MB",
            f"{sides['lifebeat']['seconds'] / sides['add_job']['seconds']:.2f} ×",
            f"{sides['yaml']['seconds']:.2f} s",
            f"{sides['lifebeat']['loading']:.2f} s",
            f"{sides['lifebeat']['loading'] / sides['yaml']['seconds']:.2f} ×",
        ]
        for jobs, sides in found.items()
    ]
    headings = ["jobs", "`add_job`", "registering", "ratio", "`yaml.load` (C)", "loading and checking", "ratio"]
    return (
        "## A job file of many jobs\n\nRegistering the jobs on a running scheduler beside APScheduler's own `add_job`\n"
        "of the same (goal at 10,000: 1.5 ×), and reading and checking the file beside PyYAML with its C loader\n"
        "(goal at 10,000: 2 ×). Lifebeat's memory is that of both.\n\n" + table(headings, rows)
    )


def _record(found: dict[str, dict[str, float]]) -> str:
    rows = [
        [name, f"{side['rate']:,.0f}", f"{side['p50'] * 1000:.1f} ms", f"{side['p99'] * 1000:.1f} ms"]
        for name, side in found.items()
    ]
    return (
        "## Records that are on the disk\n\n1,000 events, one transaction each, synced before `record` returns; with\n"
        "eight processes all of them without a pause. Goal: p99 of 5 ms.\n\n"
        + table(["", "records a second", "p50", "p99"], rows)
    )


if __name__ == "__main__":
    main(sys.argv[1:])

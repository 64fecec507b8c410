"""Runs a side of a comparison as a process of its own, several times in turn with the others, and takes medians."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifebeat.testing import telemetry_allowed

PREAMBLE = """
import json, os, resource, sys, time

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def tell(**figures):
    print(json.dumps(figures))
    sys.stdout.flush()

"""


@dataclass(slots=True)
class Side:
    """One way of doing it.

    Attributes:
        name: What it is called in the table.
        code: Its program; it ends with ``tell(seconds=…, …)``.
        environ: Variables it is started with.
        files: Files in the directory that it is started in, by their path.
    """

    name: str
    code: str
    environ: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, str] = field(default_factory=dict[str, str])


def once(side: Side, *, timeout: float = 600) -> dict[str, float]:
    """Run it once; its figures."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in side.files.items():
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        program = Path(directory, "program.py")
        program.write_text(PREAMBLE + textwrap.dedent(side.code))
        done = subprocess.run(
            [sys.executable, str(program)],
            cwd=directory,
            env={**telemetry_allowed(), "PYTHONDONTWRITEBYTECODE": "", "HOME": directory, **side.environ},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{side.name}: exit {done.returncode}\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def compare(sides: list[Side], *, rounds: int) -> dict[str, dict[str, float]]:
    """The medians of each side's figures; the sides take turns, so that a slow minute is everybody's."""
    found: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side.name].append(once(side))
    return {name: _medians(figures) for name, figures in found.items()}


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def machine() -> dict[str, Any]:
    """What this was measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
    }

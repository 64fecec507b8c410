"""Runs a side of a comparison as a process of its own, several times in turn with the others, and takes medians."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lifebeat.testing import telemetry_allowed

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1024 * 1024
PREAMBLE = """
import json, os, resource, sys, time

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def tell(**figures):
    print(json.dumps(figures))
    sys.stdout.flush()

"""


class Benchmark(Protocol):
    """What a script of this directory offers: its figures, and what the page says of them."""

    def measured(self, *, tiny: bool) -> Any: ...
    def section(self, found: Any) -> str: ...


@dataclass(slots=True)
class Side:
    """One way of doing it.

    Attributes:
        name: What it is called in the table.
        code: Its program; it ends with ``tell(seconds=…, …)``.
        environ: Variables it is started with.
        files: Files in the directory that it is started in, by their path.
        command: What runs the program; ``None`` for this Python, with the preamble before the program.
    """

    name: str
    code: str
    environ: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, str] = field(default_factory=dict[str, str])
    command: list[str] | None = None

    def placed(self, directory: Path) -> list[str]:
        """Put its files into a directory; the command that runs it there."""
        for name, text in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        program = directory / "program"
        code = textwrap.dedent(self.code)
        program.write_text(PREAMBLE + code if self.command is None else code, encoding="utf-8")
        return [*(self.command or [sys.executable]), str(program)]

    def environment(self, directory: Path) -> dict[str, str]:
        """The environment that it runs in: none of the caller's telemetry, and byte code is kept as usual."""
        found = {**telemetry_allowed(), "HOME": str(directory), **self.environ}
        found.pop("PYTHONDONTWRITEBYTECODE", None)
        return found


def once(side: Side, *, timeout: float = 600) -> dict[str, float]:
    """Run it once; its figures, and those of the whole process as the kernel counts them."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        directory = Path(name)
        process = subprocess.Popen(
            side.placed(directory), cwd=directory, env=side.environment(directory), stdout=out, stderr=err
        )
        too_long = threading.Timer(timeout, process.kill)
        too_long.start()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        too_long.cancel()
        out.seek(0)
        err.seek(0)
        lines, said = out.read().decode().splitlines(), err.read().decode()
    if process.returncode not in {0, -signal.SIGTERM} or not lines:
        raise SystemExit(f"{side.name}: exit {process.returncode}\n{said[-2000:]}")
    figures: dict[str, float] = json.loads(lines[-1])
    return {**figures, "whole_cpu": used.ru_utime + used.ru_stime, "whole_megabytes": used.ru_maxrss / 1024}


def compare(sides: list[Side], *, rounds: int) -> dict[str, dict[str, float]]:
    """The medians of each side's figures; the sides take turns, so that a slow minute is everybody's."""
    found: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            found[side.name].append(once(side))
    return {name: medians(figures) for name, figures in found.items()}


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


@cache
def machine() -> dict[str, Any]:
    """What this was measured on."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "packages": {name: version(name) for name in ("APScheduler", "posthog", "procrastinate")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def program(measured: Callable[..., Any], section: Callable[[Any], str], purpose: str | None) -> None:
    """The command line of a script: its part of the page, or the raw figures with ``--json``.

    Args:
        measured: Measures, ``tiny`` or as meant.
        section: Makes the part of the page.
        purpose: What is measured, in words.
    """
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--json", action="store_true", help="print the raw figures as one JSON object")
    parser.add_argument("--tiny", action="store_true", help="only see whether it works: the figures mean nothing")
    given = parser.parse_args()
    found = measured(tiny=given.tiny)
    sys.stdout.write(json.dumps(found) + "\n" if given.json else section(found))

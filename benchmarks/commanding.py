"""How long the commands take that people wait for, from the shell's start of the program to its end."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
from page import Goal, span, table

from lifebeat.testing import telemetry_allowed

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "lifebeat status": ("-m", "lifebeat", "status"),
    "lifebeat check": ("-m", "lifebeat", "check"),
    "lifebeat plan": ("-m", "lifebeat", "plan"),
}
ROUNDS, GOAL = 15, 0.1


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """Return the seconds by command, as medians; the commands take turns."""
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config").mkdir()
        environ = {**telemetry_allowed(), "TELEMETRY_API_KEY": "phc_test", "TELEMETRY_HOST": "http://127.0.0.1:9"}
        for _ in range(1 if tiny else ROUNDS):
            for command, arguments in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run([sys.executable, *arguments], cwd=name, env=environ, capture_output=True, check=False)
                found[command].append(time.perf_counter() - start)
    return {"sides": {command: statistics.median(seconds) for command, seconds in found.items()}}


def goals(found: dict[str, Any]) -> list[Goal]:
    """Return what was to be shown."""
    bare, *ours = found["sides"].items()
    beside = f"`{bare[0]}` {span(bare[1])}"
    return [Goal(f"`{name}`", f"≤ {span(GOAL)}", span(seconds), beside, seconds <= GOAL) for name, seconds in ours]


def section(found: dict[str, Any]) -> str:
    """Return what the page says."""
    rows = [[f"`{name}`", span(seconds)] for name, seconds in found["sides"].items()]
    return (
        "## Commands\n\nFrom the start of the program to its end, the interpreter's own start included, with an empty\n"
        "config directory.\n\n" + table(["command", "time"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

"""Measures everything in one run: writes ``benchmarks/results.json``, ``docs/benchmarks.md`` and its pictures.

``python benchmarks/run.py`` measures all, with names of scripts only those; ``--long`` measures what takes minutes of
waiting, into a file of its own that is kept; ``--page`` only writes the page again from the figures that are there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arrivals
import commanding
import firing
import idling
import looping
import measure
import nodejs
import pictures
import registering
import resting
import starting
import stopping
from page import goals_table, missed, span

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

RESULTS = measure.ROOT / "benchmarks" / "results.json"
LONG = measure.ROOT / "benchmarks" / "results-long.json"
PAGE = measure.ROOT / "docs" / "benchmarks.md"
PICTURES = measure.ROOT / "docs" / "pictures"
# In the order of the page.
SCRIPTS: dict[str, ModuleType] = {
    "starting": starting,
    "looping": looping,
    "stopping": stopping,
    "resting": resting,
    "registering": registering,
    "commanding": commanding,
    "firing": firing,
    "arrivals": arrivals,
    "idling": idling,
}
INTRODUCTION = """\
# Measured, against what people would use instead

After this page you know what Lifebeat costs. Made by `make bench` in one run, each side as a process of its own, in
turns with the others; the figures are medians. They are all in `benchmarks/results.json`. One part alone, without
writing this page: `python benchmarks/starting.py`.
"""


def main(arguments: Sequence[str]) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description="Measures Lifebeat against what people would use instead.")
    parser.add_argument("only", nargs="*", choices=[[], *SCRIPTS], help="measure only these, and keep the others")
    parser.add_argument("--long", action="store_true", help="measure what takes minutes of waiting")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    given = parser.parse_args(arguments)
    if given.long:
        write(LONG, {**_now(), "stopping": stopping.measured_long()})
    elif not given.page:
        _measure(given.only or list(SCRIPTS))
    for path, text in written(read(RESULTS), read(LONG) if LONG.exists() else None).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _measure(names: Sequence[str]) -> None:
    found: dict[str, Any] = read(RESULTS) if len(names) < len(SCRIPTS) else {}
    found |= _now()
    for name in names:
        found[name] = _raw(name)
        write(RESULTS, found)


def _now() -> dict[str, Any]:
    return {"date": f"{datetime.now(tz=UTC):%Y-%m-%d}", "machine": {**measure.machine(), "node": nodejs.version()}}


def _raw(name: str) -> Any:
    begin = time.monotonic()
    script = Path(__file__).parent / f"{name}.py"
    done = subprocess.run([sys.executable, str(script), "--json"], stdout=subprocess.PIPE, check=True)
    sys.stderr.write(f"{name:12} {time.monotonic() - begin:4.0f} s\n")
    return json.loads(done.stdout)


def read(path: Path) -> Any:
    """The figures of a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, found: dict[str, Any]) -> None:
    """Write figures, a list of numbers on one line."""
    text = json.dumps(found, indent=1)
    path.write_text(
        re.sub(r"\[[\s\d.,e+-]*\]", lambda list_: re.sub(r"\s+", "", list_[0]), text) + "\n", encoding="utf-8"
    )


def written(found: dict[str, Any], long: dict[str, Any] | None) -> dict[Path, str]:
    """The page and its pictures, by their paths."""
    return {
        PAGE: page(found, long),
        PICTURES / "start.svg": pictures.bars(
            "Added to a bare host until it has started, in milliseconds",
            [("", starting.bars(found["starting"]))],
            lambda value: f"{value:.0f} ms",
        ),
        PICTURES / "stop.svg": pictures.bars(
            "How long a stop takes, in seconds", list(stopping.bars(found["stopping"], long).items()), span
        ),
        PICTURES / "fleet.svg": pictures.line(
            "Requests a second, by the minute, over two days",
            arrivals.series(found["arrivals"]),
            arrivals.marks(found["arrivals"]),
            top=arrivals.top(found["arrivals"]),
            every=60,
        ),
    }


def page(found: dict[str, Any], long: dict[str, Any] | None) -> str:
    """The page for these figures."""
    goals = [goal for name, script in SCRIPTS.items() for goal in script.goals(found[name])]
    sections = [
        script.section(found[name], long) if script is stopping else script.section(found[name])
        for name, script in SCRIPTS.items()
    ]
    return "\n".join(
        part for part in [INTRODUCTION, _machine(found), goals_table(goals), missed(goals), *sections] if part
    )


def _machine(found: dict[str, Any]) -> str:
    machine = found["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"Measured on {found['date']} on {machine['processors']} processors ({machine['processor']}) with\n"
        f"{machine['gigabytes']:.0f} GB of memory, {machine['system']}, Python {machine['python']}, {packages},\n"
        f"{machine['node'] or 'no Node, so without that side'}.\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])

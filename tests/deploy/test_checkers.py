"""The type checkers really look: wrong types on purpose, and each of them finds them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from artifacts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SEEDED = """\
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

handle = lifebeat.attach(BackgroundScheduler(), app_name="notes", app_version="1.4.2")
delivered: str = handle.flush(timeout="soon")

def untyped(value):
    return value
"""
WRONG, ONLY_STRICT = 5, 7


@pytest.fixture
def seeded(tmp_path: Path) -> Path:
    """A file with a line that takes and gives wrong types, and one that only strict checking reports."""
    pytest.importorskip("mypy")
    pytest.importorskip("pyright")
    path = tmp_path / "seeded.py"
    path.write_text(SEEDED)
    return path


def checked(*command: str | Path) -> str:
    """What a checker prints, run with the project's settings, about a file with errors in it."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_mypy_sees_it(seeded: Path) -> None:
    """``mypy`` reports each seeded error and nothing else."""
    found = [json.loads(line) for line in checked("mypy", "--output", "json", seeded).splitlines()]
    assert {(one["line"], one["code"]) for one in found} == {
        (WRONG, "arg-type"),
        (WRONG, "assignment"),
        (ONLY_STRICT, "no-untyped-def"),
    }


def test_pyright_sees_it(seeded: Path) -> None:
    """``pyright`` reports each seeded error, and no line that is right."""
    said = json.loads(checked("pyright", "--outputjson", "--pythonpath", sys.executable, seeded))
    found = {(one["range"]["start"]["line"] + 1, one["rule"]) for one in said["generalDiagnostics"]}
    assert found >= {
        (WRONG, "reportArgumentType"),
        (WRONG, "reportAssignmentType"),
        (ONLY_STRICT, "reportMissingParameterType"),
    }
    assert {line for line, _ in found} <= {WRONG, ONLY_STRICT, ONLY_STRICT + 1}

"""A ClickHouse as old as PostHog's, beside the newer one of the other tests: what the newer takes, it may refuse."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from artifacts import ROOT, run

OLDER = "chdb==3.7.2"  # ClickHouse 25.8
PLACE = ROOT / ".venv" / "clickhouse-25.8"
# It is installed without pyarrow and pandas, which are half a gigabyte and which no text answer takes.
WITHOUT = """
import sys, unittest.mock

sys.modules |= {name: unittest.mock.MagicMock() for name in ("numpy", "pandas", "pyarrow")}
"""


def find_older() -> Path:
    """Where it can be imported from; where it cannot be had the test skips, and under CI it fails."""
    if not PLACE.exists():
        with tempfile.TemporaryDirectory(dir=PLACE.parent, prefix="clickhouse.") as made:
            target = Path(made) / PLACE.name
            pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:")
            try:
                run(*pip, "--target", target, OLDER, cwd=Path(made))
            except (AssertionError, subprocess.TimeoutExpired) as error:
                (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{OLDER} cannot be had: {error}")
            if not PLACE.exists():  # another process may have been quicker
                target.rename(PLACE)
    return PLACE

"""The range of PostHog SDKs that the package admits: wide enough for its hosts, and true at its lower end."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from packaging.version import Version

from artifacts import ROOT, UV, dependencies, oldest, run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("pinned", ["5.4.0", "7.14.0"])
def test_hosts_resolve(pinned: str) -> None:
    """What chromadb 1.1.1 (below 6) and mem0ai (7.14 and up) pin is within the range."""
    assert pinned in dependencies()["posthog"]


def test_the_oldest_speaks_the_same_wire(tmp_path: Path) -> None:
    """The wire tests pass with the lowest version of the range; with the newest, all tests here do."""
    version = oldest("posthog")
    assert version is not None
    run(UV, "pip", "install", "--quiet", "--target", tmp_path, f"posthog=={version}", cwd=tmp_path)
    environ = dict(os.environ) | {"PYTHONPATH": str(tmp_path)}
    asked = "import posthog.request as sdk; print(sdk.__file__, sdk.VERSION)"
    file, imported = run(sys.executable, "-c", asked, cwd=ROOT, environ=environ).split()
    assert (file, Version(imported)) == (f"{tmp_path}/posthog/request.py", Version(version))
    said = run(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-k", "not poison and not redirects"),  # long, and the same for every SDK
        f"--basetemp={tmp_path / 'tests'}",  # else it looks for old runs to delete, as this one does
        ROOT / "tests" / "telemetry" / "test_wire.py",
        cwd=ROOT,
        environ=environ,
    )
    assert " passed" in said.splitlines()[-1]

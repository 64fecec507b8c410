"""Directories that fail in earnest: file systems of their own, which only root can mount."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

needs_mount = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None,
    reason="mounts need Linux and root",
)


@contextlib.contextmanager
def mounted(target: Path, *options: str) -> Generator[None]:
    """A mount for the length of the block; skips where this machine lets nobody mount."""
    done = subprocess.run(["mount", *options, str(target)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def filled(directory: Path) -> None:
    """Leave not a byte free there."""
    with contextlib.suppress(OSError), (directory / "filler").open("ab", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)

"""The project as it is released: built from a copy of the tree, and installed where the tree is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
SOURCES = ("scheduler", "jobs")
MADE = ("__pycache__", "*.egg-info", "build", "dist", ".*")
IN_A_TREE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "COVERAGE_PROCESS_CONFIG")


def copy_project(into: Path, *, sources: bool = True) -> Path:
    """Copy what a clean clone holds, with the sources of the package or without."""
    shutil.copytree(ROOT, into, ignore=shutil.ignore_patterns(*MADE))
    for name in () if sources else SOURCES:
        shutil.rmtree(into / name)
    return into


def run(*command: str | Path, cwd: Path, environ: dict[str, str] | None = None, timeout: float = 300) -> str:
    """Run a command where the tree is not on the path; what it printed.

    Raises:
        AssertionError: It failed; the message holds everything that it printed.
    """
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=elsewhere() if environ is None else environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def elsewhere() -> dict[str, str]:
    """This environment without what leads Python back to the tree."""
    return {name: value for name, value in os.environ.items() if name not in IN_A_TREE}


def build(project: Path, into: Path, *what: str) -> Path:
    """Build ``--wheel`` or ``--sdist``, or with neither both, the wheel from the sdist; the last file built.

    The setuptools of this environment builds; that the declared ones suffice shows in every ``pip install -e .``.
    """
    run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", into, project, cwd=into.parent)
    return max(into.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def dependencies() -> dict[str, SpecifierSet]:
    """Return the versions of each package that ours says it works with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {one.name: one.specifier for one in map(Requirement, project["dependencies"])}


def oldest(package: str) -> str | None:
    """Return the lowest of these versions; ``None`` where any goes."""
    return next((one.version for one in dependencies()[package] if one.operator == ">="), None)


@dataclass(frozen=True, slots=True)
class Venv:
    """A virtual environment without a pip; uv installs into it.

    Attributes:
        directory: Where it is.
    """

    directory: Path

    @classmethod
    def make(cls, directory: Path, python: str = sys.executable) -> Venv:
        """Make an empty one of a given Python."""
        run(python, "-m", "venv", "--without-pip", directory, cwd=directory.parent)
        return cls(directory)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    @property
    def lifebeat(self) -> Path:
        """The command as installed."""
        return self.directory / "bin" / "lifebeat"

    def install(self, *arguments: str | Path) -> None:
        """Install as with ``pip install``."""
        run(UV, "pip", "install", "--quiet", "--python", self.python, *arguments, cwd=self.directory, timeout=1200)

    def borrow_dependencies(self) -> None:
        """Let it import what this environment has installed, after what it has itself.

        The ``.pth`` files of a directory that a ``.pth`` file adds are not read, so an editable install stays behind.
        """
        site = self.python.parent.parent / "lib"
        for packages in site.glob("python*/site-packages"):
            (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

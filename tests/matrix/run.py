"""``make matrix``: the built wheel on each Python, and with both ends of its dependencies' ranges.

Per Python all quick tests, in a copy without the sources, with the tools of ``dev.lock``. On the oldest Python also all
of them with the oldest versions that the wheel allows, and with PostHog SDKs in between those that have to do with it.
Last, whether there are versions that fit beside hosts that pin the SDK. What could not be had is said.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import UV, Venv, build, copy_project, dependencies, elsewhere, oldest, run
from pythons import CannotGet, interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
POSTHOGS = ("5.4.0", "6.9.3", "7.14.0")
OF_POSTHOG = ("tests/telemetry/test_wire.py", "tests/lifecycle/test_life.py", "tests/telemetry/test_off.py")
NEED_THE_TREE = (
    "tests/deploy",
    "tests/acceptance/test_benchmarks.py",
    "tests/test_architecture.py",
)
HOSTS = ("chromadb==1.1.1", "mem0ai")
COUNTS = ("passed", "failed", "error", "skipped")


@dataclass(frozen=True, slots=True)
class Project:
    """What every cell of the matrix is made from.

    Attributes:
        directory: Where environments and copies go.
        wheel: The wheel under test.
        copy: A copy of the project without the sources.
        tests: What to run there.
    """

    directory: Path
    wheel: Path
    copy: Path
    tests: Sequence[str]

    @classmethod
    def make(cls, directory: Path, tests: Sequence[str]) -> Project:
        """Build the wheel and copy the tests."""
        wheel = build(copy_project(directory / "clone"), directory / "dist", "--wheel")
        return cls(directory, wheel, copy_project(directory / "project", sources=False), tests)

    def test(self, python: str, tests: Sequence[str], *pins: str) -> str:
        """Run tests in an environment with the wheel, the locked tools, and ``pins`` instead of what is locked."""
        venv = Venv.make(Path(tempfile.mkdtemp(dir=self.directory)) / "venv", python)
        venv.install("--no-deps", "--require-hashes", "-r", self.copy / "dev.lock")
        venv.install(self.wheel, *pins)
        left_out = [f"--ignore={name}" for name in NEED_THE_TREE]
        command = [str(venv.python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
        return counted([*command, "-m", "not soak", "--timeout", "180", *left_out, *tests], self.copy)

    def resolves(self, host: str) -> str:
        """Return with which SDK the wheel can be installed beside a host."""
        wanted = self.directory / "wanted.in"
        wanted.write_text(f"{host}\nlifebeat @ {self.wheel.as_uri()}\n")
        said = run(UV, "pip", "compile", "--quiet", "--no-header", wanted, cwd=self.directory)
        return "fits, with " + next(line for line in said.splitlines() if line.startswith("posthog=="))


def counted(command: list[str], directory: Path) -> str:
    """Run pytest, and return its counts; those of a red run come with what failed.

    Raises:
        AssertionError: A test failed, or none ran.
    """
    lines: list[str] = []
    try:
        lines = run(*command, cwd=directory, environ={**elsewhere(), "COLUMNS": "200"}, timeout=2400).splitlines()
    except AssertionError as problem:
        lines = str(problem).splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        raise AssertionError("\n".join([counts(lines[-1]), *(failed or lines[-15:])])) from None
    return counts(lines[-1])


def counts(line: str) -> str:
    """Return the counts in pytest's last line as columns."""
    found = {word: number for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", line)}
    return "".join(f"{found.get(word, '0'):>9}" for word in COUNTS)


def cells(project: Project, pythons: Sequence[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield each cell's name, and how to fill it."""
    for version in pythons:
        yield f"Python {version}", lambda python=version: project.test(interpreter(python), project.tests)
    first, pins = pythons[0], [f"{name}=={oldest(name)}" for name in dependencies() if oldest(name)]
    name = f"Python {first}, {', '.join(pins)}"
    yield name, lambda: project.test(interpreter(first), project.tests, *pins)
    for posthog in POSTHOGS:
        pin = f"posthog=={posthog}"
        yield f"Python {first}, {pin}", lambda pin=pin: project.test(interpreter(first), OF_POSTHOG, pin)
    for host in HOSTS:
        yield f"beside {host}", lambda host=host: project.resolves(host)


def fill(cell: Callable[[], str]) -> tuple[str, str]:
    """Return how a cell went, ``ok``, ``FAILED`` or ``not here``, and what it says."""
    try:
        return "ok", cell()
    except CannotGet as problem:
        return "not here", f"  {problem}"
    except (AssertionError, subprocess.TimeoutExpired) as problem:
        return "FAILED", str(problem)


def main(arguments: list[str] | None = None) -> int:
    """Fill the matrix; 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("pythons", nargs="*", default=list(PYTHONS), help="minor versions; all by default")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="run only these, for a quick look")
    given = parser.parse_args(arguments)
    failures = 0
    print(f"{'':<58} {'':<8}{''.join(f'{word:>9}' for word in COUNTS)}")
    with tempfile.TemporaryDirectory(prefix="lifebeat-matrix-") as directory:
        for name, cell in cells(Project.make(Path(directory), given.tests), given.pythons):
            start = time.monotonic()
            how, said = fill(cell)
            failures += how == "FAILED"
            print(f"{name:<58} {how:<8}{said}  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{failures} of the cells failed" if failures else "no cell failed")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())

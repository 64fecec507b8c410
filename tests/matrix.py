"""``make matrix``: the built wheel on every Python that is here, with the ends of the range of PostHog SDKs.

Per Python: all quick tests against the installed wheel with the newest SDK, in a copy without the sources; with each
older SDK those that have to do with it. Last, whether pip finds versions that fit beside hosts that pin the SDK.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import ROOT, Venv, build, copy_project, oldest_posthog, pytest_in, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OLDER = (oldest_posthog(), "5.4.0", "6.9.3", "7.14.0")
WITH_OLDER = ("tests/telemetry/test_wire.py", "tests/lifecycle/test_life.py", "tests/telemetry/test_off.py")
NEED_THE_TREE = ("tests/acceptance/test_wheel.py", "tests/telemetry/test_posthog_range.py", "tests/test_checkers.py")
PYTEST = ("pytest", "pytest-timeout", "pytest-xdist")
HOSTS = ("chromadb==1.1.1", "mem0ai")


@dataclass(frozen=True, slots=True)
class Bench:
    """What every cell of the matrix is made from.

    Attributes:
        directory: Where environments and copies go.
        wheel: The wheel under test.
        project: A copy of the project without the sources.
    """

    directory: Path
    wheel: Path
    project: Path

    @classmethod
    def set_up(cls, directory: Path) -> Bench:
        """Build the wheel and copy the tests."""
        wheel = build(copy_project(directory / "clone"), directory / "dist", "--wheel")
        return cls(directory, wheel, copy_project(directory / "project", sources=False))

    def venv(self, python: str, name: str, *more: str) -> Venv:
        """An environment with the wheel and ``more``."""
        venv = Venv.make(self.directory / name, python)
        venv.install(self.wheel, *more)
        return venv


def interpreter(version: str) -> str | None:
    """A Python of that minor version, from the path or from pyenv; ``None`` if there is none that works."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    for candidate in [*([on_path] if on_path else []), *map(str, installed)]:
        asked = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    return None


def with_newest(bench: Bench, python: str, version: str) -> str:
    """All quick tests, against the newest SDK."""
    venv = bench.venv(python, version, "--group", f"{bench.project / 'pyproject.toml'}:test")
    left_out = [f"--ignore={name}" for name in NEED_THE_TREE]
    return pytest_in(venv, bench.project, ["tests"], "-n", "2", "-m", "not soak", *left_out)


def with_older(bench: Bench, python: str, version: str, posthog: str) -> str:
    """The tests of wire, life and consent, against an older SDK."""
    venv = bench.venv(python, f"{version}-{posthog}", f"posthog=={posthog}", *PYTEST)
    return pytest_in(venv, bench.project, WITH_OLDER, "-n", "2")


def resolves(bench: Bench, host: str) -> str:
    """Whether pip finds versions with which the host and the wheel can be installed together."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--ignore-installed")
    said = run(*pip, host, bench.wheel, cwd=bench.directory)
    found = [word for word in said.splitlines()[-1].split() if word.startswith("posthog-")]
    return f"resolves, with {found[0]}" if found else "resolves"


def cells(bench: Bench, pythons: list[str]) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each cell's name, and how to fill it."""
    for version in pythons:
        python = interpreter(version)
        if python is None:
            yield f"Python {version}", lambda: "skipped: none on the path or in ~/.pyenv"
            continue
        yield f"Python {version}, newest posthog", lambda at=(python, version): with_newest(bench, *at)
        for posthog in OLDER:
            at = (python, version, posthog)
            yield f"Python {version}, posthog {posthog}", lambda at=at: with_older(bench, *at)
    for host in HOSTS:
        yield f"beside {host}", lambda host=host: resolves(bench, host)


def filled(fill: Callable[[], str]) -> tuple[bool, str]:
    """Whether a cell is good, and what it says."""
    try:
        return True, fill()
    except (AssertionError, subprocess.TimeoutExpired) as problem:
        return False, f"FAILED\n{problem}"


def main(arguments: list[str] | None = None) -> int:
    """Fill the matrix; 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("pythons", nargs="*", default=list(PYTHONS), help="minor versions; all by default")
    asked = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="lifebeat-matrix-") as directory:
        bench = Bench.set_up(Path(directory))
        for name, fill in cells(bench, asked.pythons):
            start = time.monotonic()
            good, said = filled(fill)
            failures += not good
            print(f"{name:<32} {said}  ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{failures} failed" if failures else f"all good, on {ROOT.name} as built")
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())

"""The package as people get it: the wheel, installed where the sources are not."""

from __future__ import annotations

import json
import subprocess
import tarfile
import textwrap
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from artifacts import ROOT, Venv, build, copy_project, elsewhere, run
from lifebeat.testing import telemetry_allowed
from lifebeat.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

pytestmark = pytest.mark.xdist_group("wheel")  # built once, not once in each worker

PLACES = {"scheduler/lifebeat": "lifebeat", "jobs/lifebeat_jobs": "lifebeat_jobs", "config": "lifebeat/config"}
SHIPPED = (
    "**/*.py",
    "**/py.typed",
    "jobs.yaml",
    "jobs.json",
    "defaults.yaml",
    "deployments/*.yaml",
    "**/*.schema.json",
)
NEEDED = {
    "lifebeat/py.typed",
    "lifebeat/cli/main.py",
    "lifebeat_jobs/py.typed",
    "lifebeat_jobs/telemetry.py",
    "lifebeat/config/jobs.yaml",
    "lifebeat/config/defaults.yaml",
    "lifebeat/config/hosts/flask.py",
    "lifebeat/config/schema/jobs.schema.json",
}
SECRET = f"phc_{uuid4().hex}"


@dataclass(frozen=True, slots=True)
class Release:
    """What was built from one tree.

    Attributes:
        sdist: The source distribution.
        wheel: The wheel built from the sdist.
        direct: The wheel built from the tree.
        venv: An environment with ``wheel`` in it.
    """

    sdist: Path
    wheel: Path
    direct: Path
    venv: Venv


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release from a clone in which somebody had run Lifebeat."""
    directory = tmp_path_factory.mktemp("release")
    clone = copy_project(directory / "a clone")
    for name in ("config.json", "deployments/home.json"):
        (clone / "config" / name).parent.mkdir(exist_ok=True)
        (clone / "config" / name).write_text(json.dumps({"telemetryApiKey": SECRET}))
    wheel = build(clone, directory / "dist")
    direct = build(clone, directory / "direct", "--wheel")
    venv = Venv.make(directory / "venv")
    venv.install("--no-deps", "--no-index", wheel)
    venv.borrow_dependencies()
    return Release(next((directory / "dist").glob("*.tar.gz")), wheel, direct, venv)


def contents(wheel: Path) -> dict[str, bytes]:
    """Each file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(release: Release) -> None:
    """Every module, the types' markers and the shipped config are in it; no tests, no docs, no stray file."""
    files = {
        f"{package}/{path.relative_to(ROOT / place).as_posix()}"
        for place, package in PLACES.items()
        for pattern in SHIPPED
        for path in (ROOT / place).glob(pattern)
    }
    info = f"lifebeat-{__version__}.dist-info"
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
    assert files >= NEEDED
    assert set(contents(release.wheel)) == files | {f"{info}/{name}" for name in metadata}


def test_the_sdist_makes_the_same_wheel(release: Release) -> None:
    """The wheel from the sdist and the wheel from the tree are the same, byte for byte."""
    assert contents(release.wheel) == contents(release.direct)


def test_the_sdist_holds_what_testing_takes(release: Release) -> None:
    """The tests with what they share, the docs and the Makefile are in the sdist."""
    with tarfile.open(release.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")}
    assert names >= tests | {"Makefile", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "pyproject.toml"}
    assert not [name for name in names if name.endswith(".pyc")]


def test_nothing_of_whoever_built_it(release: Release) -> None:
    """The settings that Lifebeat left in the clone's config directory, with ID and key, are not shipped."""
    assert not [name for name, data in contents(release.wheel).items() if SECRET.encode() in data]
    with tarfile.open(release.sdist) as archive:
        held = [(one.name, archive.extractfile(one)) for one in archive.getmembers() if one.isfile()]
        assert not [name for name, file in held if file is not None and SECRET.encode() in file.read()]


def test_it_is_the_wheel_that_runs(release: Release, tmp_path: Path) -> None:
    """Both packages come out of the environment, and not from the tree that these tests stand in."""
    said = run(
        release.venv.python,
        "-c",
        "import lifebeat.config, lifebeat_jobs.telemetry as jobs; print(lifebeat.__file__, jobs.__file__)",
        cwd=tmp_path,
    )
    assert all(path.startswith(str(release.venv.directory)) for path in said.rsplit(" ", 1))


def test_installed_command_finds_the_shipped_job_file(release: Release, tmp_path: Path) -> None:
    """The command is installed, finds the job file that is shipped, and previews."""
    environ = telemetry_allowed(elsewhere())
    assert run(release.venv.lifebeat, "--version", cwd=tmp_path) == f"lifebeat {__version__}\n"
    checked = run(release.venv.lifebeat, "check", cwd=tmp_path, environ=environ)
    assert f"{release.venv.directory}/" in checked
    assert checked.endswith("jobs.json: 3 jobs, no problem\n")
    preview = run(release.venv.lifebeat, "preview", "--json", cwd=tmp_path, environ=environ)
    assert [one["event"] for one in json.loads(preview)] == ["startup", "heartbeat", "shutdown"]
    assert list(tmp_path.iterdir()) == []


def test_demo_shows_a_whole_life(release: Release, tmp_path: Path) -> None:
    """``lifebeat demo`` shows a whole life, also where telemetry would be off."""
    said = run(release.venv.lifebeat, "demo", "--seconds", "3", cwd=tmp_path, environ=elsewhere() | {"CI": "true"})
    received = [line.split()[0] for line in said.splitlines() if "instance_id=" in line]
    assert received[0] == "startup"
    assert received[-1] == "shutdown"
    assert "heartbeat" in received


HOST = """
    import sys
    from apscheduler.schedulers.background import BackgroundScheduler
    import jobs, jobs.cleanup, lifebeat, lifebeat_jobs

    ours = BackgroundScheduler()
    lifebeat.attach(ours, app_name="notes", app_version="1.4.2", allow=["jobs"])
    if __name__ == "__main__":
        ours.start()
        ours.shutdown()
        print(jobs.__file__, jobs.cleanup.runs, sys.modules["__main__"].__file__)
"""
JOBS = """
    jobs:
      startup: {run: "lifebeat_jobs.telemetry:startup", when: start}
      shutdown: {run: "lifebeat_jobs.telemetry:shutdown", when: shutdown}
      cleanup: {run: "jobs.cleanup:clean", when: shutdown}
"""


@pytest.mark.parametrize("started", [["scheduler.py"], ["-m", "scheduler"]])
def test_a_host_with_the_same_names(
    release: Release, installation: Installation, receiver: PostHogServer, started: list[str]
) -> None:
    """A host whose own files are ``scheduler.py`` and ``jobs/`` runs its own, and its jobs run beside ours."""
    host = installation.directory
    (host / "jobs").mkdir()
    (host / "jobs" / "__init__.py").touch()
    (host / "jobs" / "cleanup.py").write_text("runs = 0\n\n\ndef clean():\n    global runs\n    runs += 1\n")
    (host / "scheduler.py").write_text(textwrap.dedent(HOST))
    (installation.config / "jobs.yaml").write_text(textwrap.dedent(JOBS))
    said = run(release.venv.python, *started, cwd=host, environ=telemetry_allowed(elsewhere()))
    assert said.splitlines()[-1] == f"{host}/jobs/__init__.py 1 {host}/scheduler.py"
    assert receiver.names() == ["startup", "shutdown"]


def test_types_reach_the_user(release: Release, tmp_path: Path) -> None:
    """A type checker sees the types of the installed package: a host's wrong argument is an error."""
    pytest.importorskip("mypy")
    (tmp_path / "host.py").write_text(
        "from apscheduler.schedulers.background import BackgroundScheduler\n"
        "import lifebeat\n"
        "lifebeat.attach(BackgroundScheduler(), app_name=17, app_version='1.4.2')\n"
    )
    done = subprocess.run(
        [
            *(release.venv.python, "-m", "mypy", "--python-executable", release.venv.python, "--no-incremental"),
            *("--config-file=", "--disable-error-code=import-untyped", "host.py"),
        ],
        cwd=tmp_path,
        env=elsewhere(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[0].startswith('host.py:3: error: Argument "app_name"'), done.stdout + done.stderr
    assert done.stdout.count("error:") == 1

"""Releases: the same bytes from the same commit, a bill of materials that holds, and workflows that are understood."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts import ROOT
from lifebeat.version import __version__

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def dist(source: Path, out: Path, **environ: str) -> dict[str, bytes]:
    """What ``make dist`` makes of a tree."""
    command = [sys.executable, str(source / "deploy/release/dist.py"), "--outdir", str(out)]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone somewhere else, with other modes and times, and things lying around."""
    if not (ROOT / ".git").exists():
        pytest.skip("there are no commits to build from")
    place = tmp_path_factory.mktemp("elsewhere") / "clone"
    old = os.umask(0o077)
    try:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True)
    finally:
        os.umask(old)
    (place / "config/config.json").write_text("{}")
    (place / "tests/note.py").write_text("")
    for path in (place / "scheduler").rglob("*.py"):
        os.utime(path, (1, 1))
    return place


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A release."""
    return dist(clone, tmp_path_factory.mktemp("dist"), TZ="Asia/Tokyo")


def test_the_same_bytes(built: dict[str, bytes], tmp_path: Path) -> None:
    """Two builds of one commit, in two places with other modes, times and time zones, are the same to the byte."""
    again = tmp_path / "again"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(again)], check=True)
    assert dist(again, tmp_path / "dist", TZ="America/Lima") == built


def test_what_is_in_it(built: dict[str, bytes], tmp_path: Path) -> None:
    """Only what is committed, with fixed times, owners and modes; and the sums fit."""
    assert set(built) == {
        f"lifebeat-{__version__}-py3-none-any.whl", f"lifebeat-{__version__}.tar.gz",
        f"lifebeat-{__version__}.cdx.json", "SHA256SUMS",
    }  # fmt: skip
    for line in built["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(built[name]).hexdigest() == digest
    for name, data in built.items():
        (tmp_path / name).write_bytes(data)
    with tarfile.open(tmp_path / f"lifebeat-{__version__}.tar.gz") as sdist:
        members = sdist.getmembers()
    assert len({(one.mtime, one.uid, one.gid, one.uname, one.gname) for one in members}) == 1
    assert {one.mode for one in members} <= {0o644, 0o755}
    names = [one.name.partition("/")[2] for one in members]
    assert names == sorted(names)
    assert not {"config/config.json", "tests/note.py"} & set(names)
    assert {"deploy/systemd/lifebeat.service", "docs/release.md", "scheduler/lifebeat/version.py"} <= set(names)
    with zipfile.ZipFile(tmp_path / f"lifebeat-{__version__}-py3-none-any.whl") as wheel:
        assert wheel.testzip() is None
        assert len({(one.date_time, one.external_attr) for one in wheel.infolist()}) == 1
        assert not [name for name in wheel.namelist() if name.endswith(".pyc") or "config.json" in name]


def test_the_bill_of_materials(built: dict[str, bytes]) -> None:
    """The bill fits the schema of CycloneDX, and names the wheel and each locked dependency with its hashes."""
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415 - only here
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415 - only here

    text = built[f"lifebeat-{__version__}.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill: dict[str, Any] = json.loads(text)
    wheel = hashlib.sha256(built[f"lifebeat-{__version__}-py3-none-any.whl"]).hexdigest()
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": wheel}]
    names = {part["name"] for part in bill["components"]}
    assert {"apscheduler", "posthog", "pyyaml", "tzdata", "requests"} <= names
    assert all(part["hashes"] for part in bill["components"])


def test_one_version() -> None:
    """The changelog knows the version, and nothing else in the project writes one down."""
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == __version__
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", one) for one in headings[1:])
    assert headings[0] == "Unreleased" or __version__ in headings
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_forge_understands_the_workflows(path: Path) -> None:
    """Each workflow fits the forge's schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflows_are_safe() -> None:
    """A security linter of workflows finds nothing."""
    command = [str(Path(sys.executable).with_name("zizmor")), "--offline", "--config", str(ROOT / ".github/zizmor.yml")]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_really_looks(tmp_path: Path) -> None:
    """The same call refuses a workflow with a job that runs nowhere."""
    bad = tmp_path / "bad.yml"
    bad.write_text(WORKFLOWS[0].read_text().replace("runs-on", "run-on"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(bad)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_little(path: Path) -> None:
    """Nothing is permitted by default, every action has its full version, and no secret is stored."""
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    assert all(re.fullmatch(r"[\w/-]+@v\d+\.\d+\.\d+", one) for one in re.findall(r"uses: (\S+)", text))
    assert "secrets." not in text
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_the_matrix_is_what_is_promised() -> None:
    """Every Python that the package names is tested."""
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"] == promised
    assert any(step.get("run") == ".ci/run" for step in workflow["jobs"]["check"]["steps"])

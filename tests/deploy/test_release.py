"""Releases: the same bytes from the same commit, a bill of materials that holds, and workflows that are understood."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifacts import ROOT
from lifebeat.clock import RELEASED
from lifebeat.version import __version__

DIST = ROOT / "deploy/release/dist.py"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def dist(source: Path, out: Path, umask: int = 0o022, **environ: str) -> dict[str, bytes]:
    """What ``make dist`` makes of a tree."""
    command = [sys.executable, str(source / "deploy/release/dist.py"), "--outdir", str(out)]
    told = {**os.environ, **environ}
    done = subprocess.run(command, env=told, umask=umask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in out.iterdir()}


def git(place: Path, *command: str) -> str:
    """What a git command says."""
    told = ["git", "-C", str(place), "-c", "user.name=a test", "-c", "user.email=test@example.org", *command]
    return subprocess.run(told, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone somewhere else, with other modes and times, and things lying around."""
    if not (ROOT / ".git").exists():
        pytest.skip("there are no commits to build from")
    place = tmp_path_factory.mktemp("elsewhere") / "clone"
    old = os.umask(0o077)
    try:
        git(ROOT, "clone", "--quiet", str(ROOT), str(place))
    finally:
        os.umask(old)
    for name in git(ROOT, "ls-files", "--modified", "-z").split("\0")[:-1]:  # what is tried before it is committed
        (place / name).unlink()
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, place / name)
    git(place, "commit", "--quiet", "--all", "--allow-empty", "--message", "as it is here")
    (place / "config/config.json").write_text("{}")
    (place / "tests/note.py").write_text("")
    for path in (place / "scheduler").rglob("*.py"):
        os.utime(path, (1, 1))
    return place


@pytest.fixture(scope="module")
def built(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A release."""
    return dist(clone, tmp_path_factory.mktemp("dist"), TZ="Asia/Tokyo")


def test_two_builds_of_a_commit_are_the_same_bytes(clone: Path, built: dict[str, bytes], tmp_path: Path) -> None:
    """Two builds of one commit, in two places with other modes, times and time zones, are the same to the byte."""
    again = tmp_path / "again"
    git(clone, "clone", "--quiet", str(clone), str(again))
    assert dist(again, tmp_path / "dist", umask=0o077, TZ="America/Lima") == built


def test_the_same_bytes_from_the_sdist(built: dict[str, bytes], tmp_path: Path) -> None:
    """The sdist, unpacked by another user where there is no git, makes the same release again; no key gets in."""
    (tmp_path / "sdist.tar.gz").write_bytes(built[f"lifebeat-{__version__}.tar.gz"])
    subprocess.run(["tar", "xzf", "sdist.tar.gz"], cwd=tmp_path, check=True)
    source = tmp_path / f"lifebeat-{__version__}"
    (source / "deploy/container/.env").write_text("TELEMETRY_API_KEY=phc_of_an_operator\n")
    if os.geteuid() == 0:
        for path in (source, *source.rglob("*")):
            os.chown(path, 65534, 65534)
    moment = str(int((source / "PKG-INFO").stat().st_mtime))
    assert dist(source, tmp_path / "dist", SOURCE_DATE_EPOCH=moment) == built


@pytest.mark.parametrize(
    ("changelog", "moment"),
    [
        ("## [Unreleased]\n\n## [0.2.0] - 2026-11-23\n\n## [0.1.0] - 2026-01-01\n", 1795392000),
        ("## [Unreleased]\n", 315532800),  # the first that a wheel can hold
    ],
)
def test_the_time_without_git(tmp_path: Path, changelog: str, moment: int) -> None:
    """Without commits and without SOURCE_DATE_EPOCH the time is that of the newest release in the changelog."""
    program = tmp_path / "deploy/release/dist.py"
    program.parent.mkdir(parents=True)
    program.write_bytes(DIST.read_bytes())
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    environ = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    code = f"import runpy; print(runpy.run_path({str(program)!r})['epoch']())"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) == moment


def test_only_former_releases_are_removed(tmp_path: Path) -> None:
    """Where a release is written to, the files of a former one go, and nothing else does that is called like it."""
    former = {"lifebeat-0.0.1.tar.gz", "lifebeat-0.0.1-py3-none-any.whl", "lifebeat-0.0.1.cdx.json", "SHA256SUMS"}
    kept = {"lifebeat-notes.md", "lifebeat-src/lifebeat-0.0.1.tar.gz", "lifebeat-dir.whl/x", "other-1.0.tar.gz"}
    for name in former | kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    code = f"import pathlib, runpy; runpy.run_path({str(DIST)!r})['clear'](pathlib.Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_sdist_holds_only_what_is_committed(built: dict[str, bytes], tmp_path: Path) -> None:
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
    assert len(built[f"lifebeat-{__version__}.tar.gz"]) < 2_000_000  # nothing but text belongs into it
    assert {"deploy/systemd/lifebeat.service", "docs/release.md", "scheduler/lifebeat/version.py"} <= set(names)
    assert {".ci/run", ".github/workflows/check.yml", ".github/zizmor.yml"} <= set(names)  # its tests read them
    with zipfile.ZipFile(tmp_path / f"lifebeat-{__version__}-py3-none-any.whl") as wheel:
        assert wheel.testzip() is None
        assert len({(one.date_time, one.external_attr) for one in wheel.infolist()}) == 1
        assert not [name for name in wheel.namelist() if name.endswith(".pyc") or "config.json" in name]


def test_the_bill_of_materials(built: dict[str, bytes]) -> None:
    """The bill fits the schema of CycloneDX, and names the wheel and each locked dependency with its hashes."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = built[f"lifebeat-{__version__}.cdx.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill: dict[str, Any] = json.loads(text)
    wheel = hashlib.sha256(built[f"lifebeat-{__version__}-py3-none-any.whl"]).hexdigest()
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": wheel}]
    names = {part["name"] for part in bill["components"]}
    assert {"apscheduler", "posthog", "pyyaml", "tzdata", "requests"} <= names
    assert all(part["hashes"] for part in bill["components"])
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    ours = bill["metadata"]["component"]["bom-ref"]
    direct = {reference.removeprefix("pkg:pypi/").partition("@")[0] for reference in needs[ours]}
    assert direct == {name.lower() for name in requirements("lifebeat")}
    found, left = set[str](), [ours]
    while left:
        found.add(one := left.pop())
        left += set(needs[one]) - found
    assert found - {ours} == {part["bom-ref"] for part in bill["components"]}


def requirements(package: str) -> list[str]:
    """What a package says that it needs, extras aside."""
    told = metadata.requires(package) or []
    return [re.split(r"[^\w.-]", one)[0] for one in told if "extra ==" not in one]


def disagreement(changelog: str, version: str) -> str:
    """What is wrong between a changelog and a version; empty if nothing is."""
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    releases = headings[1:] if headings and headings[0] == "[Unreleased]" else headings
    dated = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)(?: \[YANKED\])?", one) for one in releases]
    if not all(dated):
        return "a release is `## [1.2.3] - 2027-01-31`, with ` [YANKED]` after it if it was"
    numbers = [tuple(map(int, one[1].split("."))) for one in dated if one]
    if numbers != sorted(numbers, reverse=True):
        return "the newest release comes first"
    newest = next((one[1] for one in dated if one), version)  # before the first release there is none
    return "" if newest == version else f"the newest release is {newest}, the version {version}"


def test_version_is_the_changelogs_newest() -> None:
    """The changelog's newest release is the version, with its day, and the package takes it from its one place."""
    assert disagreement((ROOT / "CHANGELOG.md").read_text(), __version__) == ""
    dated = re.search(r"^## \[[\d.]+\] - (.{10})", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert dated is not None
    assert f"{dated[1][:7]}-01" == RELEASED  # some days behind is set, if badly
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    ("changelog", "said"),
    [
        ("## [Unreleased]\n\n## [1.2.0] - 2027-01-31\n\n## [1.1.9] - 2027-01-01 [YANKED]\n", ""),
        ("## [Unreleased]\n\n## [1.1.0] - 2027-01-31\n", "the newest release is 1.1.0, the version 1.2.0"),
        ("## [1.3.0] - 2027-01-31\n\n## [1.2.0] - 2027-01-01\n", "the newest release is 1.3.0, the version 1.2.0"),
        ("## [1.2.0] - 2027-01-31\n\n## [1.10.0] - 2027-01-01\n", "the newest release comes first"),
        ("## [1.2.0] - soon\n", "a release is `## [1.2.3] - 2027-01-31`, with ` [YANKED]` after it if it was"),
    ],
)
def test_a_forgotten_version_is_found(changelog: str, said: str) -> None:
    """A changelog that says something else than version 1.2.0 is found out."""
    assert disagreement(changelog, "1.2.0") == said


def schema_check(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Hold workflows against the forge's schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    return subprocess.run([*command, *map(str, paths)], capture_output=True, text=True, check=False)


def test_the_forge_understands_the_workflows() -> None:
    """Each workflow fits the forge's schema."""
    assert [path.name for path in WORKFLOWS] == ["check.yml", "release.yml"]
    done = schema_check(*WORKFLOWS)
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
    assert schema_check(bad).returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_may_little(path: Path) -> None:
    """Nothing is permitted by default, every action is pinned by commit and says its version, no secret is stored."""
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    used = [one for one in re.findall(r"uses: (.+)", text) if not one.startswith("./")]
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used)
    assert "secrets." not in text
    assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())
    for job in workflow["jobs"].values():  # who may publish may not write to the repository, and the other way round
        assert not {"id-token", "contents"} <= {name for name, may in job["permissions"].items() if may == "write"}


def test_nothing_is_published_untested() -> None:
    """A release is published after the checks, and after two machines have made the same of it; its page is last."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert jobs["check"]["uses"] == "./.github/workflows/check.yml"
    assert set(jobs["publish"]["needs"]) == {"check", "build"}
    assert jobs["page"]["needs"] == "publish"
    assert any(str(step.get("run")).startswith("diff -r ") for step in jobs["publish"]["steps"])


def test_the_matrix_is_what_is_promised() -> None:
    """Every Python that the package names is tested."""
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    assert workflow["jobs"]["check"]["strategy"]["matrix"]["python"] == promised
    assert any(step.get("run") == ".ci/run" for step in workflow["jobs"]["check"]["steps"])

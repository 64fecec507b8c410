"""``init``: a config directory that can be edited at once, and code that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

import generate
from lifebeat.cli import init
from lifebeat.cli import main as cli
from lifebeat.settings.table import KEYS
from schemas import written
from test_schemas import CONFIG, JOBS, refused_by

if TYPE_CHECKING:
    from pathlib import Path

MADE = [
    ".gitignore",
    "config.yaml",
    "jobs.yaml",
    "schema/config.schema.json",
    "schema/jobs.schema.json",
    "schema/overlay.schema.json",
]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and no environment that speaks about telemetry; where ``init`` makes its files."""
    for name in ("DO_NOT_TRACK", "CI", "GITHUB_ACTIONS", "LIFEBEAT_CONFIG_DIR", "LIFEBEAT_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config"


def files_in(directory: Path) -> list[str]:
    """Every file below a directory, by its name from there."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def test_what_is_made_has_no_problem_and_no_warning(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``check`` finds nothing in what ``init`` made, also with --strict."""
    assert cli.main(["init"]) == cli.DONE
    assert "lifebeat check --config config" in capsys.readouterr().out
    assert files_in(directory) == MADE
    assert cli.main(["check", "--strict", "--config", str(directory)]) == cli.DONE
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{directory}/jobs.yaml: 3 jobs, no problem\n", "")


@pytest.mark.parametrize("there", ["jobs.yaml", "config.json", "config.yml", ".gitignore"])
def test_nothing_is_overwritten(directory: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    """One file that is there is named, and nothing is written."""
    directory.mkdir()
    (directory / there).write_text("mine")
    assert cli.main(["init"]) == cli.PROBLEM
    assert capsys.readouterr().err.startswith(f"config/{there}: is there already\nnothing was written")
    assert [(name, (directory / name).read_text()) for name in files_in(directory)] == [(there, "mine")]


def test_a_second_time_names_all_that_the_first_made(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who runs it twice is shown what was made the first time."""
    assert [cli.main(["init"]), cli.main(["init"])] == [cli.DONE, cli.PROBLEM]
    assert sorted(re.findall(r"^config/(\S+): is there", capsys.readouterr().err, re.MULTILINE)) == MADE


def test_a_directory_that_cannot_be_made(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the place of the directory is a line and exit code 1."""
    directory.write_text("")
    assert cli.main(["init"]) == cli.PROBLEM
    assert capsys.readouterr().err.startswith("lifebeat: config/config.yaml: cannot be written: ")


def test_each_setting_can_be_had_by_removing_its_mark(directory: Path) -> None:
    """Without the marks config.yaml has every setting with its default, and is right by its schema."""
    cli.main(["init", "--config", str(directory)])
    text = (directory / "config.yaml").read_text()
    assert yaml.safe_load(text) is None
    unmarked = re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE)
    assert yaml.safe_load(unmarked) == {key.name: written(key.default) for key in KEYS}
    assert refused_by(CONFIG, unmarked) == []


def test_the_job_of_ones_own_can_be_had_by_removing_its_marks(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the marks it is a fourth job, as soon as there is such a function."""
    cli.main(["init"])
    path = directory / "jobs.yaml"
    before, job, after = path.read_text().partition("  # nightly-report:")
    path.write_text(before + re.sub(r"^  # ", "  ", job + after, flags=re.MULTILINE))
    assert refused_by(JOBS, path.read_text()) == []
    (directory.parent / "myapp").mkdir()
    (directory.parent / "myapp" / "jobs.py").write_text("def report(format: str) -> None: ...\n")
    monkeypatch.setattr(sys, "path", [str(directory.parent), *sys.path])
    capsys.readouterr()
    assert cli.main(["check", "--strict", "--allow", "myapp.jobs"]) == cli.DONE
    assert capsys.readouterr().out == "config/jobs.yaml: 4 jobs, no problem\n"


def test_a_setting_is_written_into_what_was_made(directory: Path) -> None:
    """``setconfig``, and with it the first start, adds a key to the file and keeps its comments."""
    cli.main(["init"])
    before = (directory / "config.yaml").read_text()
    assert cli.main(["setconfig", "telemetryHeartbeatInterval", "6h"]) == cli.DONE
    after = (directory / "config.yaml").read_text()
    assert yaml.safe_load(after) == {"telemetryHeartbeatInterval": "6h"}
    assert set(before.splitlines()) <= set(after.splitlines())


def test_git_leaves_state_and_settings_out(directory: Path) -> None:
    """Of what is made, and of what a start adds, git takes what can be shared."""
    cli.main(["init"])
    (directory / "lifebeat").mkdir()
    (directory / "lifebeat" / "lifebeat.sqlite3").touch()
    subprocess.run(["git", "init", "-q", "."], check=True, timeout=20)
    done = subprocess.run(["git", "add", "-An"], check=True, timeout=20, capture_output=True, text=True)
    added = re.findall(r"^add 'config/(.*)'$", done.stdout, re.MULTILINE)
    assert sorted(added) == [name for name in MADE if name != "config.yaml"]


@pytest.mark.parametrize("host", init.HOSTS)
def test_host_prints_the_code_of_an_example(directory: Path, capsys: pytest.CaptureFixture[str], host: str) -> None:
    """``--host`` prints the code of an example that a test runs, with its file and command, and makes nothing."""
    assert cli.main(["init", "--host", host]) == cli.DONE
    head, _, code = capsys.readouterr().out.partition("\n")
    assert code == (generate.ROOT / generate.HOST_CODE[host]).read_text()
    assert generate.HOST_CODE[host].endswith(init.HOSTS[host].file)
    assert head == f"# {init.HOSTS[host].file}, started with: {init.HOSTS[host].run}"
    assert not directory.exists()


def test_programs_get_json(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` names the directory and what was made in it; of a host its file, command and code."""
    cli.main(["init", "--json"])
    made = json.loads(capsys.readouterr().out)
    assert (made["directory"], sorted(made["files"])) == (str(directory), MADE)
    cli.main(["init", "--json", "--host", "flask"])
    assert json.loads(capsys.readouterr().out).keys() == {"host", "file", "run", "code"}

"""``check``: problems, warnings, and all the deployments that there are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lifebeat.cli import main as cli


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config directory below the working directory."""
    for name in ("LIFEBEAT_CONFIG_DIR", "LIFEBEAT_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config" / "deployments").mkdir(parents=True)
    return Path("config")


def test_every_deployment_is_checked(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken overlay that this machine does not use is found all the same; one that is named is checked alone."""
    (config / "deployments" / "production.yaml").write_text("telemetryHeartbeatInterval: soon\n")
    (config / "deployments" / "staging.yaml").write_text("telemetryHeartbeatInterval: 1h\n")
    assert cli.main(["check"]) == cli.PROBLEM
    assert "production.yaml:1" in capsys.readouterr().err
    assert cli.main(["check", "--deployment", "staging"]) == cli.DONE


def test_a_warning_counts_when_it_is_to(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is only strange is said and exits 0; with ``--strict`` it exits 1."""
    (config / "config.json").write_text('{"telemetry_enabled": false}')
    assert cli.main(["check"]) == cli.DONE
    said = capsys.readouterr()
    assert "warning: " in said.err
    assert "telemetryEnabled" in said.err
    assert "no problem, 1 warning" in said.out
    assert cli.main(["check", "--strict"]) == cli.PROBLEM
    capsys.readouterr()
    assert cli.main(["check", "--json"]) == cli.DONE
    assert [one["level"] for one in json.loads(capsys.readouterr().out)] == ["warning"]


def test_json_holds_the_warnings_of_telemetry_too(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What telemetry itself finds strange is in ``check --json``, without a place in a file."""
    (config / "config.yaml").write_text("releaseVersion: nightly build of ada@example.com\n")
    assert cli.main(["check", "--json", "--config", str(config)]) == cli.DONE
    found = [one for one in json.loads(capsys.readouterr().out) if one["source"] is None]
    assert [(one["level"], "releaseVersion" in one["message"]) for one in found] == [("warning", True)]


def test_modules_that_are_named_may_lie_in_the_working_directory(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``lifebeat check --allow`` finds them as ``python -m`` does; a command that names none says how, an order too."""
    monkeypatch.setattr("sys.path", [one for one in sys.path if one])
    (config / "jobs.yaml").write_text("jobs:\n  tidy: {run: 'bin_of_notes:tidy', every: 1h}\n")
    Path("bin_of_notes.py").write_text("def tidy():\n    pass\n")
    assert cli.main(["check"]) == cli.PROBLEM
    assert "is not allowed" in capsys.readouterr().err
    assert cli.main(["pause", "tidy"]) == cli.PROBLEM
    assert "jobs.yaml:2:15: job 'tidy': run: " in capsys.readouterr().err
    assert cli.main(["check", "--allow", "bin_of_notes"]) == cli.DONE

"""``lifebeat runs``, and what ``status`` says of jobs that fail."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat.cli.main import main
from lifebeat.cli.status import how_often
from lifebeat.clock import SystemClock
from lifebeat.history import History
from lifebeat.jobfile import reader
from lifebeat.settings import layers

if TYPE_CHECKING:
    from pathlib import Path

JOBS = """jobs:
  report: {run: 'myapp:report', every: 1h, enabled: false}
  tidy: {run: 'myapp:tidy', every: 1h, enabled: false}
"""


class Machine:
    """A config directory, and the command line on it."""

    def __init__(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.config = config
        self._capsys = capsys
        (config / "jobs.yaml").write_text(JOBS)
        self.history = History(
            config / "lifebeat",
            clock=SystemClock(),
            kept=lambda: timedelta(days=30),
            may_make=lambda: True,
            warn=pytest.fail,
        )

    def run(self, job: str, error: Exception | None = None, instant: int = 0) -> None:
        """A run of a job."""
        try:
            with self.history.run(job, instant, shared=True, timeout=None):
                if error is not None:
                    raise error
        except ValueError:
            pass
        self.history.flush()

    def lifebeat(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a command."""
        code = main([*words, "--config", str(self.config), "--allow", "myapp"])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *words: str) -> Any:
        """What a command gives to programs."""
        return json.loads(self.lifebeat(*words, "--json")[1])


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machine:
    """An installation on which nothing has run."""
    return Machine(tmp_path, capsys)


def test_runs_are_shown_newest_first(machine: Machine) -> None:
    """Each run has its line, filtered by job, outcome and time."""
    assert machine.lifebeat("runs") == (0, "no such run is remembered\n", "")
    machine.run("report")
    machine.run("tidy", ValueError("no \x1b[31mpaper"), 3600_000_000)
    code, out, _ = machine.lifebeat("runs")
    assert code == 0
    assert [line.split()[2] for line in out.splitlines()[1:]] == ["tidy", "report"]
    assert "ValueError: no [31mpaper" in out
    (failed,) = machine.json("runs", "--failed")
    assert failed["outcome"] == "failed"
    assert failed["instant"] == "1970-01-01T01:00:00+00:00"
    assert datetime.fromisoformat(failed["begun"]) <= datetime.fromisoformat(failed["ended"]) <= datetime.now(tz=UTC)
    assert [one["job"] for one in machine.json("runs", "report", "--since", "1h")] == ["report"]
    assert machine.json("runs", "--since", "2999-01-01") == []
    assert len(machine.json("runs", "--count", "1")) == 1


def test_what_is_misspelt_has_a_hint(machine: Machine) -> None:
    """A job that is not there, and a time that is none, are said with what may be meant."""
    code, _, err = machine.lifebeat("runs", "reprot")
    assert (code, "did you mean 'report'?" in err) == (1, True)
    code, _, err = machine.lifebeat("runs", "--since", "yesterday")
    assert (code, "or a time such as" in err) == (2, True)


def test_status_says_first_what_fails(machine: Machine) -> None:
    """A job that fails stands in the first sentence until it works again; one that is not in the job file does not."""
    (machine.config / "jobs.yaml").write_text("jobs:\n  report: {run: 'json:dumps', every: 1h, args: {obj: 1}}\n")
    machine.run("report", ValueError("no paper"))
    machine.run("gone", ValueError("no paper"))
    code, out, _ = machine.lifebeat("status", "--allow", "json")
    assert "; failing: report (ValueError: no paper)." in out.splitlines()[0], out
    assert code == 0
    found = machine.json("status", "--allow", "json")
    assert [one["job"] for one in found["failing"]] == ["report"]
    machine.run("report", instant=1)
    assert "failing" not in machine.lifebeat("status", "--allow", "json")[1]


def test_a_job_is_steered_on_the_command_line(machine: Machine) -> None:
    """Pause, plan, start and resume answer in a line, and as JSON; what cannot be done exits 1, or 2 if misspelt."""
    (machine.config / "jobs.yaml").write_text("jobs:\n  report: {run: 'json:dumps', every: 1h, args: {obj: 1}}\n")
    allow = ("--allow", "json")
    code, out, _ = machine.lifebeat("pause", "report", "--until", "2h", "--why", "the disk is full", *allow)
    assert (code, out.startswith("report: paused until "), "the disk is full" in out) == (0, True, True)
    (planned,) = machine.json("plan", *allow)
    assert planned["paused"]["why"] == "the disk is full"
    assert planned["next"][0]["instant"] >= planned["paused"]["until"]
    assert "paused until" in machine.lifebeat("plan", *allow)[1]
    assert machine.json("start", "report", *allow)["done"]
    assert machine.lifebeat("resume", "report", *allow)[:2] == (0, "report: resumed\n")
    assert machine.json("plan", *allow)[0]["paused"] is None
    assert machine.lifebeat("pause", "report", *allow)[:2] == (0, "report: paused\n")
    assert machine.json("plan", *allow)[0]["next"] == []
    code, _, err = machine.lifebeat("pause", "report", "--until", "2000-01-01", *allow)
    assert (code, "the end of the pause is past" in err) == (1, True)
    assert "did you mean 'report'" in machine.lifebeat("resume", "raport", *allow)[2]
    assert machine.lifebeat("pause", "report", "--until", "someday", *allow)[0] == 2


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        ("every: 6h, phase: installation", " every 6h"),
        ("every: '${telemetryHeartbeatInterval}'", " every 24h"),
        ("cron: '0 3 * * *'", " cron 0 3 * * * (UTC)"),
        ("every: 6h, enabled: false", ""),
    ],
)
def test_status_says_how_often_the_job_file_sends(tmp_path: Path, trigger: str, words: str) -> None:
    """What is said is what runs, and not a setting that the job file does not use."""
    run = "run: 'lifebeat_jobs.telemetry:heartbeat', once: application"
    (tmp_path / "jobs.yaml").write_text(f"jobs:\n  beat: {{{run}, {trigger}}}\n")
    found = reader.load(tmp_path / "jobs.yaml", layers.merge([layers.packaged()]))
    assert how_often(found.specs) == words

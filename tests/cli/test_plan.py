"""``lifebeat plan``: the runs to come, the clocks' changes, the picture of the day, the difference of two plans."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from lifebeat.cli import main as cli
from lifebeat.cli.plan import Plan, as_table
from lifebeat.cli.timeline import timeline
from lifebeat.cli.upcoming import Run, upcoming
from lifebeat.jobfile.reader import packaged
from lifebeat.jobfile.spec import JobSpec
from lifebeat.registration.registry import Registry
from lifebeat.schedule.instants import jitter_of, zone
from lifebeat.schedule.triggers import At, AtStart, Cron, Every, Trigger, instants_of
from lifebeat.testing import FakeClock

if TYPE_CHECKING:
    from hosts import Installation

RUN = "lifebeat_jobs.telemetry:heartbeat"
SEED = "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"
SECRET = "phc_shown_to_nobody"


def at(moment: str) -> FakeClock:
    """A clock that stands at a moment in UTC."""
    return FakeClock(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())


def runs(trigger: Trigger, moment: str, count: int = 3, **fields: Any) -> list[Run]:
    """The next runs of a job with this trigger."""
    return upcoming(JobSpec("job", RUN, trigger, **fields), SEED, at(moment).time(), count)


def told(found: list[Run]) -> list[tuple[str, str]]:
    """Each run as its time zone writes it, and what the clocks do."""
    return [(f"{run.instant:%d %H:%M %z}", run.clocks) for run in found]


# -- the clocks ------------------------------------------------------------------------------------------------------


def test_a_time_that_is_left_out() -> None:
    """On the last Sunday of March 02:30 is left out in Berlin: the run that moves is told of, and no other."""
    found = runs(Cron("30 2 * * *", "Europe/Berlin"), "2027-03-27T00:00")
    assert told(found) == [
        ("27 02:30 +0100", ""),
        ("28 03:30 +0200", "clocks forward 1h; 02:30 does not exist"),
        ("29 02:30 +0200", ""),
    ]
    assert found[1].starts == datetime(2027, 3, 28, 1, 30, tzinfo=UTC)


def test_a_time_that_comes_twice() -> None:
    """On the last Sunday of October 02:30 comes twice in Berlin, and a daily run takes the first: the plan says so."""
    assert told(runs(Cron("30 2 * * *", "Europe/Berlin"), "2027-10-30T00:00")) == [
        ("30 02:30 +0200", ""),
        ("31 02:30 +0200", "02:30 comes twice, the first time"),
        ("01 02:30 +0100", "clocks back 1h"),
    ]


def test_both_times_of_a_time_that_comes_twice() -> None:
    """An hourly run comes at both of them, the second time with the change."""
    assert told(runs(Cron("30 * * * *", "Europe/Berlin"), "2027-10-30T23:45", 4)) == [
        ("31 02:30 +0200", "02:30 comes twice, the first time"),
        ("31 02:30 +0100", "clocks back 1h; 02:30 comes twice, the second time"),
        ("31 03:30 +0100", ""),
        ("31 04:30 +0100", ""),
    ]


def test_run_outside_the_gap_keeps_its_time() -> None:
    """A run outside the gap is told of by the change alone: 03:00 is there on that day."""
    assert told(runs(Cron("0 * * * *", "Europe/Berlin"), "2027-03-28T00:30", 2)) == [
        ("28 03:00 +0200", "clocks forward 1h"),
        ("28 04:00 +0200", ""),
    ]


def test_a_moment_that_is_left_out() -> None:
    """``at:`` a time that is left out runs after the gap, and the plan says so."""
    moment = datetime(2027, 3, 28, 2, 30, tzinfo=zone("Europe/Berlin"))
    assert told(runs(At(moment), "2027-03-28T00:00")) == [
        ("28 03:30 +0200", "clocks forward 1h; 02:30 does not exist"),
    ]


def test_utc_has_no_changes() -> None:
    """A grid knows no daylight saving: on the day of the change its runs are as far apart as ever, and unmarked."""
    found = runs(Every(timedelta(hours=6)), "2027-03-27T23:00", 6)
    assert {run.clocks for run in found} == {""}
    assert {later.starts - run.starts for run, later in pairwise(found)} == {timedelta(hours=6)}


def test_the_table_marks_a_change() -> None:
    """The table has a mark and a word, the local time, and the end of the window; else it has no such columns."""
    spec = JobSpec("a", RUN, Cron("30 2 * * *", "Europe/Berlin"), jitter=timedelta(minutes=5))
    marked = as_table(Plan(None, (spec,), SEED), at("2027-03-27T12:00").time(), 2).splitlines()
    assert "jitter until" in marked[0]
    assert re.search(
        r"2027-03-28 01:3\d:\d\d  01:35:00 +Sun 03:30 \+0200  \* clocks forward 1h; 02:30 does not", marked[1]
    )
    assert "*" not in marked[2]
    plain = as_table(Plan(None, (JobSpec("a", RUN, Every(timedelta(hours=6))),), SEED), at("2027-03-27").time(), 1)
    assert re.split(r"\s{2,}", plain.splitlines()[0]) == ["job", "when", "once per", "next runs (UTC)", "runs"]


# -- the same as what is registered ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trigger", "jitter"),
    [
        (Every(timedelta(hours=24), "installation"), timedelta(hours=3)),
        (Every(timedelta(hours=7), timedelta(hours=2)), timedelta(0)),
        (Cron("30 2 * * *", "Europe/Berlin"), timedelta(hours=20)),
    ],
    ids=["phase", "grid", "cron"],
)
def test_the_plan_is_what_is_registered(trigger: Trigger, jitter: timedelta) -> None:
    """The first run of the plan is the one that the scheduler waits for, jitter included."""
    spec = JobSpec("job", RUN, trigger, jitter=jitter)
    before = time.time()
    instants = instants_of(trigger, job_id="job", seed=SEED, started_at=before)
    assert instants is not None
    scheduler: Any = BackgroundScheduler(timezone=UTC)
    registry = Registry(scheduler, started=lambda: None, stopped=lambda _: None)
    registry.listen()
    scheduler.start(paused=True)
    try:
        registry.add(spec, instants, partial(_jitter, jitter), lambda _: None)
        found = registry.next_run("job")
    finally:
        scheduler.shutdown()
    planned = [upcoming(spec, SEED, now, 1)[0].starts for now in (before, time.time())]
    assert found in planned


def _jitter(jitter: timedelta, instant: int) -> int:
    return jitter_of("job", SEED, instant, jitter)


def test_a_window_that_is_open() -> None:
    """A run whose instant has passed while its jitter has not is the next one."""
    (first,) = runs(Every(timedelta(hours=24)), "2027-03-01T00:00", 1, jitter=timedelta(hours=12))
    assert first.instant == datetime(2027, 3, 1, tzinfo=UTC)
    assert first.instant < first.starts < first.latest == datetime(2027, 3, 1, 12, tzinfo=UTC)
    just_before = (first.starts - timedelta(seconds=1)).replace(tzinfo=None).isoformat()
    assert runs(Every(timedelta(hours=24)), just_before, 1, jitter=timedelta(hours=12)) == [first]
    just_after = (first.starts + timedelta(seconds=1)).replace(tzinfo=None).isoformat()
    assert runs(Every(timedelta(hours=24)), just_after, 1, jitter=timedelta(hours=12)) != [first]


# -- the picture -----------------------------------------------------------------------------------------------------

JOBS = (
    JobSpec("at-start", RUN, AtStart()),
    JobSpec("off", RUN, Every(timedelta(hours=1)), enabled=False),
    JobSpec("six-hours", RUN, Every(timedelta(hours=6))),
    JobSpec("late", RUN, Cron("0 22 * * *", "UTC"), jitter=timedelta(hours=1)),
    JobSpec("ten-minutes", RUN, Every(timedelta(minutes=10))),
    JobSpec("five-minutes", RUN, Every(timedelta(minutes=5))),
    JobSpec("seconds-" * 12, RUN, Every(timedelta(seconds=1))),
)


def test_the_picture_of_a_day() -> None:
    """A row for each job, 24 hours from the beginning of this one across, and no more than 80 columns."""
    picture = timeline(JOBS, SEED, at("2027-03-01T15:42").time()).splitlines()
    rows = {line[:30].strip(): line[31:] for line in picture}
    assert rows["from 2027-03-01 15:00 UTC"] == "15    18    21    00    03    06    09    12"
    assert (rows["at-start"], rows["off"]) == ("at start", "off")
    assert rows["six-hours"] == "......▂...........▂...........▂...........▂....."
    assert rows["late"] == "." * 14 + "▂░░" + "." * 31
    assert rows["ten-minutes"] == "▄" * 48
    assert rows["five-minutes"] == "▆" * 48
    assert rows["seconds-seconds-seconds-seco.."] == "█" * 48
    assert max(map(len, picture)) <= 80


def test_the_picture_in_ascii() -> None:
    """A terminal that has no blocks is shown plain signs."""
    picture = timeline(JOBS, SEED, at("2027-03-01T15:42").time(), "ascii")
    assert picture.isascii()
    assert "......:...........:" in picture
    assert max(map(len, picture.splitlines())) <= 80


def test_the_picture_is_for_terminals(installation: Installation) -> None:
    """On a terminal the picture comes by itself; elsewhere it is asked for, and JSON stays JSON."""
    assert "one run in half an hour" not in installation.run("plan", "--config", "config")[1]
    assert "one run in half an hour" in installation.run("plan", "--timeline", "--config", "config")[1]
    assert json.loads(installation.run("plan", "--timeline", "--json", "--config", "config")[1])
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "lifebeat", "plan", "--config", "config"]
    process = subprocess.Popen(command, cwd=installation.directory, env=installation.environ(), stdout=theirs)
    os.close(theirs)
    assert "one run in half an hour" in _everything(ours)
    assert process.wait(timeout=20) == cli.DONE


def _everything(terminal: int) -> str:
    found = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                more = stream.read(65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not more:
                break
            found += more
    return found.decode()


# -- two deployments -------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config directory with jobs of a host and two overlays; the working directory is above it."""
    for name in ("LIFEBEAT_CONFIG_DIR", "LIFEBEAT_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "planned.py").write_text("def report(format='pdf', token=''): ...\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "config"
    (made / "deployments").mkdir(parents=True)
    (made / "config.json").write_text(json.dumps({"telemetryApiKey": SECRET, "telemetryInstanceId": SEED}))
    (made / "jobs.yaml").write_text(
        "jobs:\n"
        "  report: {run: 'planned:report', cron: '0 3 * * *', timezone: Europe/Stockholm, args: {format: pdf}}\n"
        "  clean-up: {run: 'planned:report', every: 24h, phase: 3h}\n"
        "  spread: {run: 'planned:report', every: 24h, phase: installation}\n"
    )
    (made / "deployments" / "staging.yaml").write_text(
        "telemetryHeartbeatInterval: 1h\n"
        "jobs:\n"
        "  report: {every: 6h, timezone: null, args: {format: html, token: '${telemetryApiKey}'}, timeout: 5m}\n"
        "  clean-up: null\n"
        "  poll: {run: 'planned:report', every: 30s}\n"
    )
    (made / "deployments" / "other.yaml").write_text("telemetryInstanceId: 0b8f4a61-9d0c-4b8e-8f0a-6b1f8f1f2c3d\n")
    return Path("config")


def test_the_year_ahead_is_the_same_on_every_engine(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process computes the instants of shared jobs itself, whatever coordinates them."""
    shared = (config / "jobs.yaml").read_text().replace("24h", "24h, once: application")
    (config / "jobs.yaml").write_text(shared)
    years: list[Any] = []
    for engine, database in (("apscheduler", ""), ("procrastinate", "postgresql://x/x"), ("celery", "redis://x/0")):
        monkeypatch.setenv("LIFEBEAT_ENGINE", engine)
        monkeypatch.setenv("LIFEBEAT_DATABASE", database)
        assert cli.main(["plan", "--allow", "planned", "--json", "--count", "366"]) == 0
        years.append([job["next"] for job in json.loads(capsys.readouterr().out)])
    assert [len(one) for one in years[0]] == [366] * 3
    assert years[0] == years[1] == years[2]


def diff(*words: str) -> int:
    """Run ``lifebeat plan --diff``."""
    return cli.main(["plan", "--allow", "planned", "--diff", *words])


def test_diff_as_json_names_each_field(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs added, removed and changed are told, each field with what it was and what it is; the exit code is 1."""
    assert diff("-", "staging", "--json") == cli.PROBLEM
    out = capsys.readouterr().out
    found = json.loads(out)
    assert (found["from"], found["to"], found["same"]) == ("default", "staging", False)
    assert found["added"] == [{"job": "poll", "run": "planned:report", "when": "every 30s"}]
    assert found["removed"] == [{"job": "clean-up", "run": "planned:report", "when": "every 24h, phase 3h"}]
    (changed,) = found["changed"]
    assert (changed["job"], changed["fields"]) == (
        "report",
        {
            "cron": {"from": "0 3 * * *", "to": None},
            "timezone": {"from": "Europe/Stockholm", "to": None},
            "args.format": {"from": '"pdf"', "to": '"html"'},
            "timeout": {"from": None, "to": "5m"},
            "every": {"from": None, "to": "6h"},
            "phase": {"from": None, "to": "0s"},
            "args.token": {"from": None, "to": '"phc_... (19 characters)"'},
        },
    )
    assert len(changed["next"]["from"]) == len(changed["next"]["to"]) == 3
    assert SECRET not in out


def test_diff_shows_signs_for_added_removed_and_changed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People see signs for added, removed and changed; the other way round they are the other way round."""
    assert diff("staging", "default") == cli.PROBLEM
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "staging -> default",
        "+ clean-up: every 24h, phase 3h, planned:report",
        "- poll: every 30s, planned:report",
        "~ report",
    ]
    assert "    every: 6h -> -" in lines
    assert SECRET not in "\n".join(lines)


@pytest.mark.parametrize("words", [("staging", "staging"), ("-", "default")])
def test_diff_of_equal_plans_exits_0(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, str]
) -> None:
    """Two plans that are the same exit 0; ``-`` and ``default`` are none, whatever the environment chooses."""
    monkeypatch.setenv("LIFEBEAT_DEPLOYMENT", "other")
    assert diff(*words) == cli.DONE
    names = [word.replace("-", "default") for word in words]
    assert capsys.readouterr().out == f"{' and '.join(names)}: the same jobs, the same next runs\n"
    assert diff(*words, "--json") == cli.DONE
    assert json.loads(capsys.readouterr().out)["same"] is True


def test_only_the_runs_differ(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another instance ID gives ``phase: installation`` other runs, and leaves every field as it is."""
    assert diff("-", "other", "--json") == cli.PROBLEM
    (changed,) = json.loads(capsys.readouterr().out)["changed"]
    assert (changed["job"], changed["fields"]) == ("spread", {})
    assert changed["next"]["from"] != changed["next"]["to"]


def test_diff_with_an_unknown_deployment_exits_3(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A deployment that is not there is no difference: the problem is said, and the exit code is 3."""
    assert diff("-", "stagin", "--json") == cli.NO_START
    said = capsys.readouterr()
    assert said.out == ""
    assert "did you mean 'staging'?" in said.err


# -- what is shipped -------------------------------------------------------------------------------------------------


def test_the_shipped_overlays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``staging`` and ``production`` pass ``check``, and differ in how often the heart beats."""
    shutil.copytree(packaged().parent / "deployments", tmp_path / "config" / "deployments")
    monkeypatch.chdir(tmp_path)
    for name in ("staging", "production"):
        assert cli.main(["check", "--deployment", name]) == cli.DONE
    capsys.readouterr()
    assert cli.main(["plan", "--diff", "staging", "production", "--json"]) == cli.PROBLEM
    (changed,) = json.loads(capsys.readouterr().out)["changed"]
    assert changed["fields"] == {"every": {"from": "1h", "to": "24h"}}

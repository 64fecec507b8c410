"""A job file that is edited while its jobs run: what was not touched is not moved, and no mistake takes effect."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

import lifebeat
from hosts import eventually
from lifebeat.text.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from lifebeat.context import JobContext

JOBS = 1000
BUSY = 20
runs: Counter[tuple[str, datetime]] = Counter()
_gate = threading.Lock()


def work(context: JobContext) -> None:
    """A host's job: counts its runs by their instants."""
    with _gate:
        runs[context.job_id, context.instant] += 1


def plan(size: int = JOBS) -> dict[str, str]:
    """A host's jobs and their intervals; some of them run all the time."""
    return {f"job{number}": "100ms" if number < BUSY else f"{24 * (number + 10)}h" for number in range(size)}


def write(directory: Path, jobs: dict[str, str]) -> None:
    """Save the job file as an editor does: under another name, and then over the old one."""
    entries = (
        f"  {name}: {{run: test_live_edit:work, every: {every}, misfire_grace: 10s}}\n" for name, every in jobs.items()
    )
    new = directory / "jobs.new"
    new.write_text("jobs:\n" + "".join(entries))
    new.replace(directory / "jobs.yaml")


class Host:
    """A scheduler with the jobs of a directory's job file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.scheduler: Any = BackgroundScheduler()
        self.handle = lifebeat.attach(
            self.scheduler,
            config_dir=directory,
            allow=["test_live_edit"],
            enabled=False,
            app_name="notes",
            app_version="1",
        )
        self.scheduler.start()

    def next_runs(self) -> dict[str, datetime]:
        """When each job runs next."""
        return {job.name: job.next_run_time for job in self.scheduler.get_jobs()}

    def intervals(self) -> dict[str, float]:
        """The intervals that are registered, in seconds, measured on the triggers themselves."""
        found: dict[str, float] = {}
        for job in self.scheduler.get_jobs():
            first = job.trigger.get_next_fire_time(None, job.next_run_time)
            found[job.name] = (job.trigger.get_next_fire_time(first, first) - first).total_seconds()
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose thousand jobs are running."""
    write(tmp_path, plan())
    made = Host(tmp_path)
    yield made
    made.scheduler.shutdown()


def seconds(jobs: dict[str, str]) -> dict[str, float]:
    """The intervals of a plan in seconds."""
    return {name: parse_duration(every).total_seconds() for name, every in jobs.items()}


def test_one_of_a_thousand(host: Host) -> None:
    """A changed interval of one job leaves the next runs of the others as they are, to the microsecond."""
    quiet = [f"job{number}" for number in range(BUSY, JOBS) if number != 500]
    before, ran = host.next_runs(), runs.total()
    edited = plan() | {"job500": "7h"}
    write(host.directory, edited)
    eventually(lambda: host.intervals()["job500"] == 7 * 3600, timeout=2.5)
    after = host.next_runs()
    assert [name for name in quiet if after[name] != before[name]] == []
    assert host.intervals() == seconds(edited)
    eventually(lambda: runs.total() >= ran + BUSY)


@pytest.mark.parametrize("number_of_edits", [20, pytest.param(200, marks=pytest.mark.soak)])
def test_many_edits(host: Host, number_of_edits: int) -> None:
    """After many edits in quick succession, half of them mistakes, the last plan runs, no job lost and none doubled."""
    dice = random.Random(200)
    jobs = plan()
    for number in range(number_of_edits):
        if number % 2:
            mistake(host.directory, jobs, dice)
        else:
            jobs = edited(jobs, number, dice)
            write(host.directory, jobs)
        time.sleep(dice.uniform(0, 0.02))  # what is tested is that this does not matter
    write(host.directory, jobs)
    eventually(lambda: host.intervals() == seconds(jobs), timeout=10)
    names = [job.name for job in host.scheduler.get_jobs()]
    assert sorted(names) == sorted(jobs)
    ran = by_job()
    eventually(lambda: all(by_job()[f"job{number}"] > ran[f"job{number}"] for number in range(BUSY)))
    assert max(runs.values()) == 1


WRONG = (
    "vanishes",
    "is emptied",
    "is cut in the middle",
    "is written in pieces, and wrong",
    "raises SystemExit at import",
    "raises KeyboardInterrupt at import",
    "raises MemoryError at import",
    "names an impossible moment",
    "is not UTF-8",
    "has two mistakes",
)


def break_file(directory: Path, kind: str, number: int) -> None:
    """Save something that is no edit, or none that can be applied."""
    path, right = directory / "jobs.yaml", (directory / "jobs.yaml").read_text()
    field = "every: 1h, evry: 1h, jiter: 1h"
    match kind.split():
        case ["vanishes"]:
            return path.unlink()
        case ["is", "emptied"]:
            path.write_bytes(b"")
            return None
        case ["is", "cut", *_]:
            path.write_text(right[: right.rindex("every")])
            return None
        case ["is", "not", *_]:
            path.write_bytes(right.encode() + b"\xff")
            return None
        case ["raises", error, *_]:
            module = f"edit{number}"
            (directory / f"{module}.py").write_text(f"raise {error}\n")
            run, field = f"test_live_edit.{module}:work", "every: 1h"
            sys.modules.pop(f"test_live_edit.{module}", None)
        case ["names", *_]:
            run, field = "test_live_edit:work", "at: '9999-12-31T23:59', timezone: America/New_York"
        case _:
            run = "test_live_edit:work"
    text = f"{right}  wrong: {{run: '{run}', {field}}}\n"
    with path.open("w") as file:
        for piece in (text[:40], text[40:60], text[60:]):
            file.write(piece)
            file.flush()
            time.sleep(0.01 if "pieces" in kind else 0)  # what is tested is that this does not matter
    return None


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_each_of_two_hundred_edits_leaves_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half of them vanish, are emptied, written in pieces, raise, or are wrong: the plan is right after each."""
    caplog.set_level("INFO", "lifebeat")
    dice, jobs = random.Random(13), {f"job{number}": f"{number + 24}h" for number in range(6)}
    sys.modules["test_live_edit"].__path__ = [str(tmp_path)]  # modules below it may be named, and are there
    said: Counter[str] = Counter()

    def line() -> str:
        """Return the one line that the edit leaves."""
        eventually(lambda: bool(caplog.messages), timeout=10)
        [only] = [one.getMessage() for one in caplog.records if one.name == "lifebeat"]
        caplog.clear()
        return only

    write(tmp_path, jobs)
    host = Host(tmp_path)
    caplog.clear()
    try:
        for number in range(100):
            kind = WRONG[number % len(WRONG)]
            break_file(tmp_path, kind, number)
            words = line()
            assert re.search("is not applied: .*jobs.yaml|jobs.yaml is gone or empty", words), (kind, words)
            assert host.intervals() == seconds(jobs), kind
            said[kind] += 1
            name = dice.choice(list(jobs))
            jobs = {one: every for one, every in jobs.items() if one != name or number % 3}
            jobs |= {f"job{number + 6}" if number % 3 == 0 else name: f"{number + 100}h"}
            write(tmp_path, jobs)
            words = line()
            assert words.startswith("edited config is applied: "), words
            eventually(lambda: host.intervals() == seconds(jobs), timeout=10)  # noqa: B023 - asked at once
            said["applied"] += 1
    finally:
        host.scheduler.shutdown()
        del sys.modules["test_live_edit"].__path__
    print(dict(said))
    assert said == Counter(dict.fromkeys(WRONG, 10)) | Counter(applied=100)


def by_job() -> Counter[str]:
    """How often each job has run."""
    with _gate:
        return Counter(name for name, _ in runs)


def edited(jobs: dict[str, str], number: int, dice: random.Random) -> dict[str, str]:
    """Another plan: an interval changed, a job added, or one removed; the busy ones stay as they are."""
    name = f"job{dice.randrange(BUSY, JOBS)}"
    if number % 4 == 0:
        return jobs | {name: f"{dice.randrange(24, 1000)}h"}
    if number % 6 == 0:
        return jobs | {f"added{number}": f"{dice.randrange(24, 1000)}h"}
    return {one: every for one, every in jobs.items() if one != name}


def mistake(directory: Path, jobs: dict[str, str], dice: random.Random) -> None:
    """A file half written, a wrong value, an unknown word, or no YAML at all."""
    write(directory, jobs)
    path = directory / "jobs.yaml"
    text = path.read_text()
    wrong = [text[: len(text) // 2], text.replace("24", "0", 1), text.replace("every", "evry"), "jobs: {", "\x00"]
    path.write_text(dice.choice(wrong))

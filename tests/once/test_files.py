"""The processes of one machine, coordinated by files: the suite of all coordinators, and what only files have."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from conformance import Conformance
from lifebeat.clock import SystemClock
from lifebeat.once.files import FileCoordinator
from lifebeat.once.protocol import Unavailable
from lifebeat.testing import FakeClock

if TYPE_CHECKING:
    from conformance import Start
    from lifebeat.once.protocol import Coordinator


def make(directory: str) -> Coordinator:
    """A coordinator, in each of the suite's processes."""
    return FileCoordinator(Path(directory), clock=SystemClock())


class TestFiles(Conformance):
    """Files pass the suite of all coordinators."""

    factory: ClassVar[str] = "test_files:make"
    is_of_machines: ClassVar[bool] = False

    @pytest.fixture
    def arguments(self, tmp_path: Path) -> list[str]:
        return [str(tmp_path / "state")]

    def leave_unfinished(self, start: Start) -> str:
        """Kill the last process in its stop, after it has left and before the end is recorded."""
        killed = start()
        run: str = killed.ask("join")["run"]
        assert killed.ask("depart") is True
        killed.signal(signal.SIGKILL)
        return run

    def test_nobody_joins_before_an_end_is_reported(self, start: Start) -> None:
        """Who joins while the last process reports its end waits for that, and then learns of no unfinished run."""
        last, later = start(), start()
        last.ask("join")
        assert last.ask("depart") is True
        assert "unavailable" in later.ask("join", 0.2)
        last.ask("finish")
        joined = later.ask("join")
        assert (joined["first"], joined["unfinished"]) == (True, None)


WORKERS = """
import os, sys, time
from pathlib import Path
from lifebeat.clock import SystemClock
from lifebeat.once.files import FileCoordinator
from lifebeat.once.protocol import Unavailable
from lifebeat.testing import FakeClock

successor_lives = sys.argv[2] == "lives"
coordinator = FileCoordinator(Path(sys.argv[1]), clock=SystemClock())

def worker(work):
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(tell)
        os.read(told, 1)
        work()
        sys.stdout.flush()
        os._exit(0)
    os.close(told)
    return pid, tell

def old():
    joined = coordinator.join(20)
    os.write(ready, b".")
    os.read(go, 1)
    print(joined.first, coordinator.leave(5) is not None, joined.run)

def new():
    joined = coordinator.join(20)
    print(joined.first, joined.run, joined.unfinished and joined.unfinished.run, coordinator.leave(5) is not None)

is_ready, ready = os.pipe()
go, let_go = os.pipe()
first, tell_first = worker(old)
os.write(tell_first, b".")
os.read(is_ready, 1)
successor, tell_successor = worker(new)
os.write(let_go, b".")
os.waitpid(first, 0)
if successor_lives:
    os.write(tell_successor, b".")
else:
    os.kill(successor, 9)
os.waitpid(successor, 0)
if not successor_lives:
    time.sleep(0.1)
    later, tell_later = worker(new)
    os.write(tell_later, b".")
    os.waitpid(later, 0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, to see who is starting")
@pytest.mark.parametrize("successor", ["lives", "dies"])
def test_run_is_left_to_who_is_starting(tmp_path: Path, successor: str) -> None:
    """Who is starting while the last one leaves continues the run; if it dies, the next to join is told of that run."""
    program = [sys.executable, "-c", WORKERS, str(tmp_path), successor]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    old, new = (line.split() for line in done.stdout.splitlines())
    run = old.pop()
    assert old == ["True", "False"]
    if successor == "lives":
        assert new == ["False", run, "None", "True"]
    else:
        assert (new[0], new[2:]) == ("True", [run, "True"])
        assert new[1] != run


def test_lost_database_gives_no_instant_twice(tmp_path: Path) -> None:
    """When the database is lost under running processes, what was due before is not given again, only what comes."""
    clock = FakeClock()
    one, two = (FileCoordinator(tmp_path, clock=clock) for _ in range(2))
    assert [one.join(5).first, two.join(5).first] == [True, False]
    due = int(clock.time() * 1_000_000)
    assert one.claim("heartbeat", due)
    (tmp_path / "lifebeat.sqlite3").unlink()
    assert not two.claim("heartbeat", due)
    clock.advance(60)
    assert two.claim("heartbeat", due + 60_000_000)


def test_claims_are_bounded_and_none_is_given_again(tmp_path: Path) -> None:
    """The last hundred of a job are kept, and of those that were forgotten none is given a second time."""
    clock = FakeClock()
    one = FileCoordinator(tmp_path, clock=clock)
    one.join(5)
    instants = [int(clock.time() * 1_000_000) + number for number in range(130)]
    clock.advance(1)
    assert all(one.claim("heartbeat", instant) for instant in instants)
    assert not any(one.claim("heartbeat", instant) for instant in instants)
    assert one.latest("heartbeat") == instants[-1]


def test_join_that_failed_may_be_asked_again(tmp_path: Path) -> None:
    """While the database is locked a join fails within its time, and works afterwards; who is alone is the last."""
    one = FileCoordinator(tmp_path, clock=FakeClock())
    one.join(5)
    assert one.leave(1)
    with contextlib.closing(sqlite3.connect(tmp_path / "lifebeat.sqlite3", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="in use"):
            one.join(0.1)
        held.execute("COMMIT")
        assert one.join(5).first
        held.execute("BEGIN IMMEDIATE")
        assert one.leave(0.1)

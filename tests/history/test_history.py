"""What is remembered of runs: the outcome, who ran it, why it ended so; and what a kill, a full disk and a fork do."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat import history
from lifebeat.clock import SystemClock
from lifebeat.history import History, LeftBehind
from lifebeat.once.files import FileCoordinator
from lifebeat.testing import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600 * 1_000_000


def made(directory: Path | None, clock: Any = None, *, days: int = 30, may_make: bool = True) -> History:
    """A history whose warnings are errors."""

    def warn(message: str) -> None:
        raise AssertionError(message)

    return History(
        directory,
        clock=clock or FakeClock(),
        kept=lambda: timedelta(days=days),
        may_make=lambda: may_make,
        warn=warn,
    )


def run(
    kept: History,
    job: str,
    instant: int,
    error: BaseException | None = None,
    *,
    timeout: float | None = None,
    attempt: int = 1,
) -> None:
    """A run that ends so."""
    with contextlib.suppress(BaseException), kept.run(job, instant, shared=True, timeout=timeout, attempt=attempt):
        if error is not None:
            raise error


def outcomes(directory: Path, **which: Any) -> list[tuple[str, str]]:
    """What is remembered: job and outcome, the newest first."""
    return [(one.job, one.outcome) for one in history.read(directory, **which)]


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (None, "ok", None),
        (ValueError("no paper"), "failed", "ValueError: no paper"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (TimeoutError(), "timed out", "longer than 0 s"),
        (LeftBehind("still there"), "left behind", "still there"),
        (ValueError("<script>\x1b[31m\ud800\n\u202eevil" + "x" * 999), "failed", None),
    ],
)
def test_an_outcome_is_remembered(
    tmp_path: Path, error: BaseException | None, outcome: str, reason: str | None
) -> None:
    """How a run ended is known with its reason, in a line without anything that a terminal acts on."""
    kept = made(tmp_path)
    run(kept, "print", HOUR, error, timeout=0.0)
    assert kept.flush()
    (found,) = history.read(tmp_path)
    assert (found.job, found.instant, found.outcome, found.pid) == ("print", HOUR, outcome, os.getpid())
    assert found.took is not None
    if reason is not None or error is None:
        assert found.reason == reason
    else:
        assert found.reason is not None
        assert found.reason.isprintable()
        assert len(found.reason) == 200


def test_what_was_passed_over_gives_way_to_a_run(tmp_path: Path) -> None:
    """An instant that one process skipped and another ran is one row: the run."""
    kept = made(tmp_path)
    kept.pass_over("a", HOUR, "skipped", shared=True)
    kept.flush()
    run(kept, "a", HOUR)
    kept.flush()
    kept.pass_over("a", HOUR, "missed", shared=True)
    kept.pass_over("b", HOUR, "missed", shared=False)
    kept.flush()
    assert outcomes(tmp_path) == [("b", "missed"), ("a", "ok")]


def test_a_retry_is_the_same_run(tmp_path: Path) -> None:
    """A run that failed and was retried is one row with its last outcome."""
    kept = made(tmp_path)
    run(kept, "a", HOUR, ValueError("no paper"))
    kept.flush()
    run(kept, "a", HOUR, attempt=2)
    kept.flush()
    (found,) = history.read(tmp_path)
    assert (found.outcome, found.attempts, found.reason) == ("ok", 2, None)


def test_what_fails_is_known(tmp_path: Path) -> None:
    """A job fails while its latest run that ended did not end well."""
    clock = FakeClock()
    kept = made(tmp_path, clock)
    for job, error in (("a", ValueError()), ("b", ValueError()), ("c", None)):
        run(kept, job, HOUR, error)
    run(kept, "b", 2 * HOUR)
    kept.pass_over("a", 2 * HOUR, "skipped", shared=True)
    kept.flush()
    assert list(history.failing(tmp_path)) == ["a"]
    assert outcomes(tmp_path, failed=True) == [("b", "failed"), ("a", "failed")]
    assert outcomes(tmp_path, job="b", limit=1) == [("b", "ok")]
    clock.advance(60)
    assert outcomes(tmp_path, since=clock.time()) == []


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each job the last are kept, and none that is older than the setting says."""
    monkeypatch.setattr(history, "KEPT_RUNS", 3)
    clock = FakeClock()
    kept = made(tmp_path, clock)
    for number in range(5):
        run(kept, "often", number)
        run(kept, f"job{number}", number)
    kept.flush()
    assert len(history.read(tmp_path, job="often")) == 3
    assert len(history.read(tmp_path)) == 8
    clock.advance(31 * 86400)
    run(kept, "often", HOUR)
    kept.flush()
    assert outcomes(tmp_path) == [("often", "ok")]
    clock.advance(history.FORGET_EVERY)
    none = made(tmp_path, clock, days=0)
    run(none, "often", 2 * HOUR)
    eventually(lambda: outcomes(tmp_path) == [])


def test_it_is_written_behind_and_by_no_thread_at_rest(tmp_path: Path) -> None:
    """A run costs its job no wait for a disk; it is on the disk soon, and then no thread is left."""
    import threading

    kept = made(tmp_path, SystemClock())
    run(kept, "a", HOUR)
    eventually(lambda: outcomes(tmp_path) == [("a", "ok")])
    eventually(lambda: not any("history" in thread.name for thread in threading.enumerate()))


def test_off_makes_no_file(tmp_path: Path) -> None:
    """Where no file may be made none is; where there is one already it is used."""
    kept = made(tmp_path / "state", may_make=False)
    run(kept, "a", HOUR)
    kept.close(1.0)
    assert not (tmp_path / "state").exists()
    nowhere = made(None)
    run(nowhere, "a", HOUR)
    nowhere.close(1.0)
    FileCoordinator(tmp_path, clock=FakeClock()).join(1.0)
    kept = made(tmp_path, may_make=False)
    run(kept, "a", HOUR)
    kept.close(1.0)
    assert outcomes(tmp_path) == [("a", "ok")]


def test_what_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    """While the database is locked runs wait in memory, and are said once not to be written."""
    said: list[str] = []
    kept = History(tmp_path, clock=FakeClock(), kept=lambda: timedelta(days=1), may_make=lambda: True, warn=said.append)
    run(kept, "a", HOUR)
    kept.flush()
    holder = sqlite3.connect(tmp_path / "lifebeat.sqlite3", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    run(kept, "a", 2 * HOUR)
    assert not kept.flush(0.05)
    assert "in use" in said[0]
    holder.execute("ROLLBACK")
    holder.close()
    assert kept.flush()
    assert len(history.read(tmp_path)) == 2


CLAIMS_AND_DIES = """
import os, sys
from pathlib import Path
from lifebeat.clock import SystemClock
from lifebeat.once.files import FileCoordinator

coordinator = FileCoordinator(Path(sys.argv[1]), clock=SystemClock(), remembers=lambda: True)
coordinator.join(20)
assert coordinator.claim("a", 3600000000)
os._exit(9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only /proc tells who has ended")
def test_a_claim_whose_process_died_was_left_behind(tmp_path: Path) -> None:
    """A claim has its row with the claim; killed right after, its run is known to have been left behind."""
    import subprocess

    subprocess.run([sys.executable, "-c", CLAIMS_AND_DIES, str(tmp_path)], check=False, timeout=60)
    (found,) = history.read(tmp_path)
    assert (found.outcome, found.job, found.instant) == ("left behind", "a", HOUR)
    assert "its process ended" in (found.reason or "")
    mine = FileCoordinator(tmp_path, clock=SystemClock(), remembers=lambda: True)
    assert mine.claim("a", 2 * HOUR)
    assert outcomes(tmp_path, limit=1) == [("a", "running")]
    assert list(history.failing(tmp_path)) == ["a"]


def test_a_forked_child_leaves_runs_to_its_parent(tmp_path: Path) -> None:
    """What waits to be written in a parent is not written by its child as well."""
    kept = made(tmp_path)
    with kept.run("a", HOUR, shared=False, timeout=None):
        pid = os.fork()
        if pid == 0:
            os._exit(kept.flush() and bool(history.read(tmp_path)))
        assert os.waitpid(pid, 0)[1] == 0
    kept.flush()
    assert outcomes(tmp_path) == [("a", "ok")]

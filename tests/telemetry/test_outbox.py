"""The outbox loses no event, sends none twice, stays within its bounds and goes on when its file is damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from lifebeat.testing import FakeClock
from lifebeat_jobs.outbox import Bounds, Entry, Outbox, OutboxUnavailable, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOUR = 3600.0
DAY = 24 * HOUR
PATIENCE = 30.0  # how long a loaded machine may take for what is done in a moment

CHILD = """
import os, signal, sys, threading, time
from pathlib import Path
from lifebeat.clock import SystemClock
from lifebeat_jobs.outbox import Outbox

me = sys.argv[2]
outbox = Outbox(Path(sys.argv[1]), clock=SystemClock(), warn=lambda message: print("WARNED", message), busy_timeout=30)
print("ready", flush=True)
sys.stdin.readline()
"""
RECORD_SOME = """
for number in range(25):
    outbox.record(f"{me}-{number}", "heartbeat", "{}")
"""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite3"


class Make:
    """Makes outboxes that share the test's clock, warnings and path."""

    def __init__(self, path: Path | None, clock: FakeClock, warnings: list[str]) -> None:
        self.path, self.clock, self.warnings = path, clock, warnings

    def __call__(self, bounds: Bounds | None = None, busy_timeout: float = PATIENCE) -> Outbox:
        return Outbox(
            self.path,
            bounds=bounds or Bounds(),
            clock=self.clock,
            warn=self.warnings.append,
            busy_timeout=busy_timeout,
        )


@pytest.fixture
def on_disk(path: Path, clock: FakeClock, warnings: list[str]) -> Make:
    return Make(path, clock, warnings)


@pytest.fixture(params=["file", "memory"])
def make(request: pytest.FixtureRequest, path: Path, clock: FakeClock, warnings: list[str]) -> Make:
    return Make(path if request.param == "file" else None, clock, warnings)


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts child processes that stand ready with an outbox and run a script when they are told to go."""
    children: list[subprocess.Popen[str]] = []

    def begin(script: str, name: str = "child") -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD + script, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def go(*children: subprocess.Popen[str]) -> None:
    """Let children run once all of them are ready."""
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()


def results(*children: subprocess.Popen[str]) -> list[str]:
    """What the children printed, once they ended well."""
    printed = [child.communicate(timeout=PATIENCE)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return printed


def fill(outbox: Outbox, *uuids: str, body: str = "{}") -> None:
    for uuid in uuids:
        outbox.record(uuid, "heartbeat", body)


def states(outbox: Outbox) -> dict[str, str]:
    return {entry.uuid: entry.state for entry in outbox.entries(limit=10_000)}


def only(outbox: Outbox) -> Entry:
    (entry,) = outbox.entries()
    return entry


# The queue, in a file and in memory alike


def test_recorded_event_waits_as_it_was_given(make: Make, clock: FakeClock) -> None:
    """A recorded event is due at once, with the exact text it was given."""
    outbox = make()
    outbox.record("u1", "startup", '{"ö": 1}')
    now = clock.time()
    expected = Entry("u1", "startup", '{"ö": 1}', now, "waiting", 0, now, None, None, None, 0.0)
    assert outbox.due(10) == [expected]
    assert outbox.waiting() == Waiting(count=1, since=now, due_in=0.0)


def test_recording_an_event_again_changes_nothing(make: Make) -> None:
    """Recording an event again changes nothing, so that a failed call may be repeated."""
    outbox = make()
    outbox.record("u1", "startup", "{}")
    outbox.delivered(["u1"], 200)
    outbox.record("u1", "startup", '{"other": 1}')
    assert (only(outbox).state, only(outbox).body) == ("delivered", "{}")


def test_due_events_come_oldest_first(make: Make, clock: FakeClock) -> None:
    """What is due comes oldest first and the ledger newest first, in the order of recording whatever the clock says."""
    outbox = make()
    fill(outbox, "a")
    clock.jump(-HOUR)
    fill(outbox, "b")
    clock.advance(2 * HOUR)
    fill(outbox, "c")
    assert [entry.uuid for entry in outbox.due(2)] == ["a", "b"]
    assert [entry.uuid for entry in outbox.entries(limit=2)] == ["c", "b"]


def test_delivered_event_is_pending_no_more(make: Make, clock: FakeClock) -> None:
    """A delivered event no longer waits, and the ledger says when and with what status."""
    outbox = make()
    fill(outbox, "a", "b")
    outbox.postponed(["a"], wait=0, answer="503 from the server", status=503)
    clock.advance(5)
    outbox.delivered(iter(["a"]), 200)
    entry = outbox.entries(state="delivered")[0]
    assert (entry.uuid, entry.attempts, entry.status, entry.answer) == ("a", 2, 200, None)
    assert (entry.finished_at, entry.next_attempt) == (clock.time(), None)
    assert [entry.uuid for entry in outbox.due(10)] == ["b"]


def test_postponed_event_is_due_at_its_time(make: Make, clock: FakeClock) -> None:
    """A postponed event is due again at its time and not before, unless it is wanted early."""
    outbox = make()
    fill(outbox, "a")
    outbox.postponed(["a"], wait=60, answer="refused", status=None)
    assert outbox.due(10) == []
    assert outbox.waiting().due_in == 60
    assert [entry.uuid for entry in outbox.due(10, early=True)] == ["a"]
    clock.advance(60)
    (entry,) = outbox.due(10)
    assert (entry.attempts, entry.answer, entry.status) == (1, "refused", None)


def test_dropped_event_keeps_its_reason(make: Make, clock: FakeClock) -> None:
    """A dropped event is never due again, is counted, and keeps the reason and the status."""
    outbox = make()
    fill(outbox, "a", "b")
    outbox.dropped(["a"], "400: bad event", status=400)
    outbox.dropped(["b"], "holds a secret")
    b, a = outbox.entries()
    assert (a.state, a.answer, a.status, a.attempts) == ("dropped", "400: bad event", 400, 1)
    assert (b.state, b.answer, b.status, b.attempts) == ("dropped", "holds a secret", None, 0)
    assert a.finished_at == clock.time()
    assert outbox.waiting() == Waiting(dropped=2)


def test_turning_off_suppresses_what_is_pending(make: Make) -> None:
    """Turning telemetry off ends the wait of all that waits, keeps it in the ledger, and does not touch the rest."""
    outbox = make()
    fill(outbox, "a", "b", "c")
    outbox.delivered(["a"], 200)
    assert outbox.suppress_waiting("turned off by the environment") == 2
    assert outbox.suppress_waiting("turned off by the environment") == 0
    assert states(outbox) == {"a": "delivered", "b": "suppressed", "c": "suppressed"}
    assert outbox.entries()[0].answer == "turned off by the environment"
    assert outbox.due(10, early=True) == []


def test_suppressed_event_goes_straight_to_the_ledger(make: Make) -> None:
    """An event that is not let out is written down with the reason and is never due."""
    outbox = make()
    outbox.suppressed("a", "startup", '{"host": "x"}', "holds the hostname")
    assert outbox.due(10, early=True) == []
    assert (only(outbox).state, only(outbox).body, only(outbox).answer) == (
        "suppressed",
        '{"host": "x"}',
        "holds the hostname",
    )


@pytest.mark.parametrize("end", ["suppressed", "dropped"])
def test_delivery_outdoes_an_end_that_came_meanwhile(make: Make, end: str) -> None:
    """What the server took is delivered, also if it was suppressed or dropped while it was on the way."""
    outbox = make()
    fill(outbox, "a")
    if end == "dropped":
        outbox.dropped(["a"], "too many")
    else:
        outbox.suppress_waiting("off")
    outbox.delivered(["a"], 200)
    assert (only(outbox).state, outbox.waiting().dropped) == ("delivered", 0)


def test_what_has_ended_is_not_postponed(make: Make, clock: FakeClock) -> None:
    """A failed attempt does not bring back an event that was suppressed meanwhile."""
    outbox = make()
    fill(outbox, "a")
    outbox.suppress_waiting("off")
    before = only(outbox)
    outbox.postponed(["a"], wait=0, answer="503", status=503)
    outbox.dropped(["a"], "400", status=400)
    assert only(outbox) == before
    assert outbox.due(10, early=True) == []


@pytest.mark.parametrize("days", [-365 * 10, -1, 1, 365 * 10])
def test_clock_that_is_set_changes_no_wait_and_no_age(make: Make, clock: FakeClock, days: int) -> None:
    """However the wall clock is set, what was postponed is due after its wait, and nothing is too old."""
    outbox = make()
    fill(outbox, "a", "b")
    outbox.postponed(["a"], wait=2 * HOUR, answer="503", status=503)
    clock.jump(days * DAY)
    fill(outbox, "c")
    assert [entry.uuid for entry in outbox.due(10)] == ["b", "c"]
    clock.advance(2 * HOUR)
    assert [(entry.uuid, entry.age) for entry in outbox.due(10)] == [("a", 2 * HOUR), ("b", 2 * HOUR), ("c", 2 * HOUR)]


def test_wait_and_age_over_a_reboot(make: Make, clock: FakeClock) -> None:
    """After a reboot only the time that the machine was up counts, and what was postponed waits from the boot on."""
    outbox = make()
    fill(outbox, "a")
    clock.advance(3 * HOUR)
    outbox.postponed(["a"], wait=HOUR, answer="503", status=503)
    clock.reboot(40 * DAY)
    assert outbox.due(10) == []
    clock.advance(HOUR)
    (entry,) = outbox.due(10)
    assert entry.age == 4 * HOUR


def test_note_is_kept_and_replaced(make: Make) -> None:
    """A note is written once by note_once, replaced by set_note, and None before."""
    outbox = make()
    assert outbox.note("notice") is None
    assert outbox.note_once("notice", "1")
    assert not outbox.note_once("notice", "2")
    assert outbox.note("notice") == "1"
    outbox.set_note("notice", "3")
    assert outbox.note("notice") == "3"


# Bounds


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        (Bounds(events=3), "more than 3 events waited"),
        (Bounds(bytes=30), "more than 30 bytes waited"),
    ],
)
def test_bounds_drop_the_oldest(make: Make, warnings: list[str], bounds: Bounds, reason: str) -> None:
    """Beyond the bounds the oldest waiting event is dropped with the reason, counted, and said once."""
    outbox = make(bounds)
    fill(outbox, "a", "b", "c", "d", "e", body='{"k": 123}')
    assert [entry.uuid for entry in outbox.due(10)] == ["c", "d", "e"]
    assert {entry.answer for entry in outbox.entries(state="dropped")} == {reason}
    assert outbox.waiting().dropped == 2
    assert len(warnings) == 1
    assert reason in warnings[0]


def test_overflow_is_said_once_for_all_and_again_after_a_delivery(make: Make, warnings: list[str]) -> None:
    """One line for each outage, over objects as well; a delivery ends the outage."""
    outbox = make(Bounds(events=1))
    fill(outbox, "a", "b", "c")
    another = make(Bounds(events=1)) if make.path else outbox
    fill(another, "d")
    assert len(warnings) == 1
    outbox.delivered(["d"], 200)
    fill(outbox, "e", "f")
    assert len(warnings) == 2


def test_old_events_are_dropped(make: Make, clock: FakeClock, warnings: list[str]) -> None:
    """An event that waited longer than the bound is dropped when the next one is recorded."""
    outbox = make(Bounds(age=2 * DAY))
    fill(outbox, "a")
    clock.advance(DAY)
    fill(outbox, "b")
    clock.advance(DAY + 1)
    fill(outbox, "c")
    assert states(outbox) == {"a": "dropped", "b": "waiting", "c": "waiting"}
    assert outbox.entries(state="dropped")[0].answer == "waited longer than 2 days"
    assert "waited longer than 2 days" in warnings[0]


def test_too_large_event_does_not_push_the_others_out(make: Make) -> None:
    """An event larger than all that may wait is dropped alone."""
    outbox = make(Bounds(bytes=30))
    fill(outbox, "a")
    fill(outbox, "huge", body="x" * 31)
    fill(outbox, "b")
    assert states(outbox) == {"a": "waiting", "huge": "dropped", "b": "waiting"}


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        (Bounds(ledger_rows=2), ["c", "d"]),
        (Bounds(bytes=25), ["c", "d"]),
        (Bounds(ledger_age=2 * HOUR), ["c", "d"]),
        (Bounds(), ["a", "b", "c", "d"]),
    ],
)
def test_ledger_forgets_its_oldest_rows(make: Make, clock: FakeClock, bounds: Bounds, kept: list[str]) -> None:
    """Finished events beyond the ledger's rows, bytes and age are deleted when the next one is recorded."""
    outbox = make(bounds)
    for uuid in ("a", "b", "c", "d"):
        fill(outbox, uuid, body='{"k": 12345}')
        clock.advance(HOUR)
        outbox.delivered([uuid], 200)
    clock.advance(HOUR / 2)
    fill(outbox, "e")
    assert sorted(states(outbox)) == [*kept, "e"]


def test_batches_are_one_transaction(on_disk: Make, path: Path, clock: FakeClock) -> None:
    """Twenty thousand events are postponed and delivered in seconds, not in a transaction each."""
    outbox = on_disk(Bounds(events=30_000, ledger_rows=30_000))
    fill(outbox, "first")
    rows = [(f"u{number}", clock.time(), clock.boot_id(), clock.monotonic()) for number in range(20_000)]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO event (uuid, event, body, size, recorded_at, state, boot_id, since)"
            " VALUES (?, 'heartbeat', '{}', 2, ?, 'waiting', ?, ?)",
            rows,
        )
    began = time.monotonic()
    outbox.postponed([row[0] for row in rows], wait=0, answer="503", status=503)
    outbox.delivered([row[0] for row in rows], 200)
    assert outbox.waiting().count == 1
    assert time.monotonic() - began < 8


# Nothing lost


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_event_survives_sigkill_right_after_record(start: Callable[..., subprocess.Popen[str]], on_disk: Make) -> None:
    """An event is there for the next process although its own was killed the moment record returned."""
    child = start("outbox.record('u1', 'startup', '{\"a\": 1}'); os.kill(os.getpid(), signal.SIGKILL)")
    go(child)
    assert child.wait(PATIENCE) == -signal.SIGKILL
    assert [(entry.uuid, entry.body) for entry in on_disk().due(10)] == [("u1", '{"a": 1}')]


def test_kill_while_recording(start: Callable[..., subprocess.Popen[str]], on_disk: Make, warnings: list[str]) -> None:
    """Killed anywhere in the middle, all that had been recorded is there and the file is sound."""
    script = """
for number in range(100):
    outbox.record(f"{me}-{number}", "x", "{}")
    print(f"{me}-{number}", flush=True)
    time.sleep(0.005)
"""
    children = [start(script, f"child{number}") for number in range(4)]
    go(*children)
    recorded: list[str] = []
    for child in children:
        assert child.stdout is not None
        recorded += [child.stdout.readline().strip() for _ in range(10)]
        child.kill()
        recorded += [line for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    waiting = {entry.uuid for entry in on_disk().due(10_000)}
    assert {uuid.strip() for uuid in recorded} <= waiting
    assert warnings == []


def test_transaction_cut_short_is_undone(
    start: Callable[..., subprocess.Popen[str]], on_disk: Make, path: Path, warnings: list[str]
) -> None:
    """A process that died in the middle of writing leaves a journal, and the next one finds what was there before."""
    outbox = on_disk()
    fill(outbox, "a", "b")
    leave_hot_journal(start, path)
    assert [entry.uuid for entry in outbox.due(10)] == ["a", "b"]
    assert states(outbox) == {"a": "waiting", "b": "waiting"}
    assert warnings == []


def test_left_over_journal_does_not_spoil_a_fresh_file(
    start: Callable[..., subprocess.Popen[str]], on_disk: Make, path: Path, warnings: list[str]
) -> None:
    """A journal whose database was deleted is not played into the next one."""
    outbox = on_disk()
    fill(outbox, *(f"old{number}" for number in range(20)))
    leave_hot_journal(start, path)
    path.unlink()
    fill(outbox, "new")
    assert states(outbox) == {"new": "waiting"}
    assert warnings == []


def leave_hot_journal(start: Callable[..., subprocess.Popen[str]], path: Path) -> None:
    child = start(
        """
import sqlite3
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM event")
connection.executemany("INSERT INTO note VALUES (?, ?)", ((str(n), "x" * 3000) for n in range(100)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    go(child)
    assert child.wait(PATIENCE) == -signal.SIGKILL
    assert path.with_name(f"{path.name}-journal").stat().st_size > 0


def test_eight_processes_record_at_once(start: Callable[..., subprocess.Popen[str]], on_disk: Make) -> None:
    """Eight processes that begin together, with no file there yet, lose none of their events and say nothing."""
    children = [start(RECORD_SOME, f"child{number}") for number in range(8)]
    go(*children)
    assert results(*children) == [""] * 8
    expected = {f"child{child}-{number}" for child in range(8) for number in range(25)}
    assert {entry.uuid for entry in on_disk().due(1000)} == expected


def test_threads_record_at_once(make: Make) -> None:
    """Threads that share an outbox lose none of their events."""
    outbox = make()
    threads = [threading.Thread(target=fill, args=(outbox, *(f"{t}-{n}" for n in range(20)))) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert outbox.waiting().count == 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_in_the_middle_of_recording(start: Callable[..., subprocess.Popen[str]], on_disk: Make) -> None:
    """Children forked while a thread records can record as well, at once, and nothing is lost."""
    child = start(
        """
import warnings
warnings.simplefilter("ignore")
done = []
def record():
    while not done:
        outbox.record(f"parent-{time.time_ns()}", "x", "{}")
        print("parent", flush=True)
        time.sleep(0.001)
thread = threading.Thread(target=record)
thread.start()
for number in range(30):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        Outbox(Path(sys.argv[1]), clock=SystemClock(), warn=print, busy_timeout=10).record(f"fork-{number}", "x", "{}")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0, number
done.append(True)
thread.join()
"""
    )
    go(child)
    (printed,) = results(child)
    uuids = [entry.uuid for entry in on_disk(Bounds(events=10**6)).due(10**6)]
    assert {f"fork-{number}" for number in range(30)} <= set(uuids)
    assert printed.splitlines().count("parent") == sum(uuid.startswith("parent") for uuid in uuids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_does_not_send_what_its_parent_keeps_in_memory(
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    """In memory, a child begins with nothing, so that no event is sent by both."""
    child = start(
        """
outbox = Outbox(None, clock=SystemClock(), warn=print)
outbox.record("u1", "startup", "{}")
pid = os.fork()
if pid == 0:
    os._exit(len(outbox.due(10)))
assert os.waitpid(pid, 0)[1] == 0
assert len(outbox.due(10)) == 1
"""
    )
    go(child)
    results(child)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_record_is_on_the_disk_when_it_returns(path: Path, on_disk: Make, tmp_path: Path) -> None:
    """Record syncs the journal, the database and the end of the journal, so that a power cut undoes nothing."""
    fill(on_disk(), "a")
    log = tmp_path / "log"
    script = CHILD + "os.write(2, b'<<'); outbox.record('b', 'x', '{}'); os.write(2, b'>>')"
    tracer = ["strace", "-y", "-o", str(log), "-e", "trace=write,pwrite64,ftruncate,fsync,fdatasync"]
    traced = subprocess.run(
        [*tracer, sys.executable, "-c", script, str(path), "child"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    if traced.returncode != 0:
        pytest.skip("strace may not trace here")
    calls = log.read_text().split('"<<"')[1].split('">>"')[0].splitlines()
    changes = {"pwrite64", "ftruncate"}
    for name in (f"{path}>", f"{path}-journal>"):
        ours = [call.split("(")[0] for call in calls if name in call]
        assert changes & set(ours)
        assert ours[-1] in {"fsync", "fdatasync"}


# One at a time


def test_sending_is_exclusive_between_processes_and_freed_by_sigkill(
    start: Callable[..., subprocess.Popen[str]], on_disk: Make
) -> None:
    """While one process delivers no other does, and its death by SIGKILL makes room at once."""
    outbox = on_disk()
    fill(outbox, "a")
    child = start("with outbox.sending() as mine: print(mine, flush=True); time.sleep(1000)")
    go(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    with outbox.sending() as mine:
        assert not mine
    child.kill()
    child.wait(PATIENCE)
    with outbox.sending() as mine:
        assert mine


def test_sending_is_exclusive_between_threads(make: Make) -> None:
    """While one thread delivers no other one does, through whatever object, until it is done or fails."""
    outbox = make()
    fill(outbox, "a")
    others: list[bool] = []

    def attempt(outbox: Outbox) -> None:
        with outbox.sending() as mine:
            others.append(mine)

    def fail() -> None:
        with outbox.sending() as mine:
            assert mine
            for one in (outbox, make() if make.path else outbox):
                thread = threading.Thread(target=attempt, args=(one,))
                thread.start()
                thread.join(PATIENCE)
            raise OSError("the server hung up")

    with pytest.raises(OSError, match="the server hung up"):
        fail()
    attempt(outbox)
    assert others == [False, False, True]


def test_note_once_is_true_for_one_of_eight_processes(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Of eight processes that begin together exactly one is told that it wrote the note."""
    children = [start("print(outbox.note_once('notice', me))", f"child{number}") for number in range(8)]
    go(*children)
    assert sorted(results(*children)) == ["False\n"] * 7 + ["True\n"]


# The file


def test_readers_make_no_file(on_disk: Make, tmp_path: Path) -> None:
    """Whatever only reads or changes what is there makes no file where there is none."""
    outbox = on_disk()
    assert (outbox.entries(), outbox.due(10), outbox.waiting(), outbox.note("notice")) == ([], [], Waiting(), None)
    assert outbox.suppress_waiting("off") == 0
    outbox.delivered(["a"], 200)
    outbox.postponed(["a"], wait=0, answer="503", status=503)
    outbox.dropped(["a"], "400")
    with outbox.sending() as mine:
        assert not mine
    assert list(tmp_path.iterdir()) == []


def test_readers_load_no_sqlite_where_there_is_no_file(start: Callable[..., subprocess.Popen[str]]) -> None:
    """Where there is no outbox, asking it costs no import of SQLite."""
    child = start("outbox.waiting(); outbox.suppress_waiting('off'); outbox.entries(); print('sqlite3' in sys.modules)")
    go(child)
    assert results(child) == ["False\n"]


def test_readers_make_no_file_where_the_directory_is_missing(clock: FakeClock, tmp_path: Path) -> None:
    """A state directory that does not exist reads as an empty outbox."""
    outbox = Outbox(tmp_path / "none" / "outbox.sqlite3", clock=clock, warn=pytest.fail)
    assert (outbox.entries(), outbox.waiting()) == ([], Waiting())
    assert list(tmp_path.iterdir()) == []


def test_files_are_private(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    """Every file is readable for its owner alone, even with no umask."""
    child = start("os.umask(0); outbox.record('a', 'x', '{}')\nwith outbox.sending(): pass")
    go(child)
    results(child)
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert set(modes) >= {"outbox.sqlite3", "sending"}
    assert set(modes.values()) == {"0o600"}


def not_a_database(path: Path) -> None:
    path.write_bytes(b"no database at all\n" * 1000)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage_within(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    path.write_bytes(data)


def garbage_in_the_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[:100] = os.urandom(100)
    path.write_bytes(data)


def foreign_database(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE event (whatever); PRAGMA user_version = 7")


def wrong_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE event; DROP TABLE note; CREATE TABLE event (uuid TEXT)")


DAMAGES = [
    not_a_database,
    cut_in_half,
    garbage_within,
    garbage_in_the_header,
    foreign_database,
    wrong_tables,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_moved_away(
    on_disk: Make, path: Path, warnings: list[str], damage: Callable[[Path], None]
) -> None:
    """A damaged file is kept byte for byte under a new name, said once, and recording goes on with a fresh one."""
    outbox = on_disk()
    fill(outbox, *(f"old{number}" for number in range(30)), body="x" * 1000)
    damage(path)
    damaged = path.read_bytes()
    fill(outbox, "new", "newer")
    assert states(outbox) == {"new": "waiting", "newer": "waiting"}
    aside = path.with_name(f"{path.name}.damaged-1")
    assert aside.read_bytes() == damaged
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert aside.name in warnings[0]


def test_empty_file_is_filled(on_disk: Make, path: Path, warnings: list[str]) -> None:
    """An empty file, which a process leaves that is killed while it makes one, is as good as none."""
    path.touch(mode=0o600)
    outbox = on_disk()
    assert (outbox.entries(), outbox.waiting(), path.stat().st_size) == ([], Waiting(), 0)
    fill(outbox, "new")
    assert states(outbox) == {"new": "waiting"}
    assert warnings == []


def test_four_processes_find_the_damage_at_once(
    start: Callable[..., subprocess.Popen[str]], on_disk: Make, path: Path, tmp_path: Path
) -> None:
    """Of four processes one sets the damaged file aside and says so; the events of all are in the fresh one."""
    fill(on_disk(), "old")
    not_a_database(path)
    children = [start(RECORD_SOME, f"child{number}") for number in range(4)]
    go(*children)
    printed = results(*children)
    assert "".join(printed).count("WARNED") == 1
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    assert len(on_disk().due(1000)) == 100


def test_damaged_text_does_not_hide_the_rest(on_disk: Make, path: Path, warnings: list[str]) -> None:
    """A body that is no longer UTF-8 is shown as well as it can be, and the other events are as they were."""
    outbox = on_disk()
    fill(outbox, "a", body="intact")
    fill(outbox, "b", body="damage me")
    path.write_bytes(path.read_bytes().replace(b"damage me", b"damage \xff\xfe"))
    assert [entry.body for entry in outbox.due(10)] == ["intact", "damage \ufffd\ufffd"]
    assert warnings == []


def test_newer_schema_is_not_touched(on_disk: Make, path: Path, tmp_path: Path) -> None:
    """A file made by a newer Lifebeat stays as it is, and the message says to upgrade."""
    outbox = on_disk()
    fill(outbox, "a")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    for attempt in (lambda: outbox.set_note("b", ""), outbox.waiting):
        with pytest.raises(OutboxUnavailable, match=r"newer Lifebeat: schema 99.*upgrade lifebeat"):
            attempt()
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.damaged-*")) == []


# What cannot be used at all


def test_locked_database_is_given_up_after_the_timeout(
    start: Callable[..., subprocess.Popen[str]], on_disk: Make
) -> None:
    """A database that another process keeps locked is given up after the busy timeout, and works again afterwards."""
    outbox = on_disk(busy_timeout=0.1)
    fill(outbox, "a")
    child = start(
        "import sqlite3; connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.readline()"
    )
    go(child)
    assert child.stdout is not None
    assert child.stdout.readline() == "locked\n"
    began = time.monotonic()
    for attempt in (lambda: outbox.set_note("b", ""), outbox.waiting):
        with pytest.raises(OutboxUnavailable, match=r"in use for 0\.1 s; try again"):
            attempt()
    assert time.monotonic() - began < 5
    child.kill()
    child.wait(PATIENCE)
    fill(on_disk(), "b")
    assert sorted(states(outbox)) == ["a", "b"]


def test_directory_that_cannot_be_made(clock: FakeClock, tmp_path: Path) -> None:
    """Where no file can be made, the error names the file and says what to do."""
    (tmp_path / "file").write_text("not a directory")
    outbox = Outbox(tmp_path / "file" / "outbox.sqlite3", clock=clock, warn=pytest.fail)
    with pytest.raises(OutboxUnavailable, match=r"file/outbox\.sqlite3: .*set telemetryStateDir"):
        outbox.set_note("a", "")


def test_path_that_is_a_directory(on_disk: Make, path: Path) -> None:
    """A directory in the file's place is left alone."""
    path.mkdir()
    for attempt in (lambda: on_disk().set_note("a", ""), lambda: on_disk().waiting()):
        with pytest.raises(OutboxUnavailable, match=r"outbox\.sqlite3: cannot be used: it is no regular file"):
            attempt()
    assert path.is_dir()


def test_event_that_cannot_be_recorded_is_kept_with_its_moment(
    on_disk: Make, path: Path, clock: FakeClock, warnings: list[str]
) -> None:
    """What could not be recorded is recorded with the next operation, once, as of its own moment; it is said once."""
    path.mkdir()
    outbox, moment = on_disk(), clock.time()
    assert not outbox.record("a", "startup", "{}")
    clock.advance(60)
    assert not on_disk().record("b", "heartbeat", "{}")
    assert not on_disk().retry()
    assert len(warnings) == 1
    path.rmdir()
    assert on_disk().waiting() == Waiting(unrecorded=2)
    on_disk().set_note("any", "operation")
    assert [(one.uuid, one.recorded_at, one.age) for one in outbox.due(10)] == [
        ("a", moment, 60),
        ("b", moment + 60, 0),
    ]
    assert outbox.retry()
    assert outbox.waiting().unrecorded == 0


def test_what_could_not_be_recorded_is_tried_by_who_delivers(on_disk: Make, path: Path) -> None:
    """Delivery finds such an event, although there was no file before."""
    path.mkdir()
    on_disk().record("a", "startup", "{}")
    path.rmdir()
    with on_disk().sending() as mine:
        assert mine
        assert [entry.uuid for entry in on_disk().due(10)] == ["a"]


def test_off_forgets_what_could_not_be_recorded(on_disk: Make, path: Path) -> None:
    """Turned off, an event that waits in memory is never recorded."""
    path.mkdir()
    on_disk().record("a", "startup", "{}")
    path.rmdir()
    assert on_disk().suppress_waiting("off") == 1
    assert on_disk().retry()
    assert not path.exists()


def test_memory_for_what_cannot_be_recorded_is_bounded(on_disk: Make, path: Path) -> None:
    """The last hundred are kept."""
    path.mkdir()
    for number in range(150):
        on_disk(busy_timeout=0).record(f"u{number}", "heartbeat", "{}")
    path.rmdir()
    on_disk().retry()
    assert [entry.uuid for entry in on_disk().due(1000)] == [f"u{number}" for number in range(50, 150)]


def test_only_an_event_that_never_left_can_be_amended(make: Make) -> None:
    """An event that has never left can be corrected; one that has is as it was."""
    outbox = make()
    fill(outbox, "a", "b")
    outbox.postponed(["b"], wait=0, answer="503", status=503)
    assert outbox.amended("a", new_uuid="a2", body='{"k": 1}')
    assert not outbox.amended("b", new_uuid="b2", body='{"k": 1}')
    assert [(entry.uuid, entry.body) for entry in outbox.due(10)] == [("a2", '{"k": 1}'), ("b", "{}")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk_keeps_events_in_memory(small_disk: Path, clock: FakeClock, warnings: list[str]) -> None:
    """On a full disk recording waits in memory and says so, and loses nothing; with space all of it is recorded."""
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 700_000)
    outbox = Outbox(small_disk / "outbox.sqlite3", clock=clock, warn=warnings.append)
    recorded: list[str] = []
    while outbox.record(uuid := f"u{len(recorded)}", "heartbeat", "x" * 3000):
        recorded.append(uuid)
    assert recorded
    assert [entry.uuid for entry in reversed(outbox.entries(1000))] == recorded
    assert len(warnings) == 1
    assert "its file system is full; free some space" in warnings[0]
    filler.unlink()
    fill(outbox, "after")
    assert [entry.uuid for entry in outbox.due(1000)] == [*recorded, uuid, "after"]


def test_no_space_to_begin_with(small_disk: Path, clock: FakeClock, warnings: list[str]) -> None:
    """A disk that was full before the first event leaves no outbox that is half made."""
    with pytest.raises(OSError, match="No space"):
        (small_disk / "filler").write_bytes(b"x" * 2**21)
    outbox = Outbox(small_disk / "outbox.sqlite3", clock=clock, warn=warnings.append)
    assert not outbox.record("a", "startup", "{}")
    assert outbox.waiting() == Waiting(unrecorded=1)
    (small_disk / "filler").unlink()
    assert outbox.retry()
    assert outbox.waiting().count == 1


def test_read_only_file_system(small_disk: Path, clock: FakeClock) -> None:
    """What became read-only can be read, and what wants to write is told what to do."""
    outbox = Outbox(small_disk / "outbox.sqlite3", clock=clock, warn=pytest.fail)
    fill(outbox, "a")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert (states(outbox), outbox.waiting().count) == ({"a": "waiting"}, 1)
    attempts: list[Callable[[], object]] = [
        lambda: outbox.delivered(["a"], 200),
        lambda: outbox.note_once("notice", "1"),
    ]
    for attempt in attempts:
        with pytest.raises(OutboxUnavailable, match=r"cannot be written.*telemetryStateDir"):
            attempt()
    with pytest.raises(OutboxUnavailable, match="cannot be locked"), outbox.sending():
        pass

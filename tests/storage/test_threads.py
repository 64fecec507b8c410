"""A thread is started within its time, or there is none."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from hosts import DEADLINE
from lifebeat.storage import threads

OUT_OF_MEMORY = """
import resource, sys, threading, time
from lifebeat.storage import threads

size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]), -1))
began = time.monotonic()
answers = [threads.start("work", threading.Event().wait, timeout=0.2) for _ in range(5)]
print(answers.count(False), time.monotonic() - began < 4)
"""
AT_THE_END = """
import atexit
from lifebeat.storage import threads

class Last:
    def __del__(self):
        print(threads.start("work", lambda: None, timeout=0.2))

last = Last()
"""


def test_work_runs_in_a_thread_of_that_name() -> None:
    """The work has begun when the call returns, under its own name."""
    begun, go_on, seen = threading.Event(), threading.Event(), list[threading.Thread]()

    def work() -> None:
        seen.append(threading.current_thread())
        begun.set()
        go_on.wait(DEADLINE)

    assert threads.start("work", work, daemon=False)
    assert begun.wait(DEADLINE)
    go_on.set()
    seen[0].join(DEADLINE)
    assert (seen[0].name, seen[0].daemon) == ("lifebeat-work", False)


def test_thread_that_cannot_start_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left the answer is no, and the work is not done."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    assert not threads.start("work", lambda: done.append(1))
    assert done == []


def test_thread_that_starts_too_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was answered with no is not done later either."""
    start, started = threading.Thread.start, threading.Event()

    def late(thread: threading.Thread) -> None:
        time.sleep(0.3)
        start(thread)
        thread.join()
        started.set()

    monkeypatch.setattr(threading.Thread, "start", late)
    done: list[int] = []
    assert not threads.start("work", lambda: done.append(1), timeout=0.05)
    assert started.wait(DEADLINE)
    assert done == []


def test_work_within_its_time_is_waited_for_and_other_work_is_left_behind() -> None:
    """A log that hangs takes the time that it is given, and no more."""
    assert threads.within(DEADLINE, "work", lambda: None)
    go_on, begin = threading.Event(), time.monotonic()

    def hang() -> None:
        go_on.wait(DEADLINE)

    assert not threads.within(0.05, "work", hang)
    assert time.monotonic() - begin < DEADLINE
    go_on.set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize("left", ["0", "200000", "9000000"])
def test_start_is_bounded_where_memory_is_gone(left: str) -> None:
    """Five starts that cannot be take no longer than their time."""
    program = [sys.executable, "-c", OUT_OF_MEMORY, left]
    done = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE, check=False)
    refused, in_time = done.stdout.split()
    assert int(refused) > 0
    assert in_time == "True"


def test_start_at_the_interpreters_end_is_answered() -> None:
    """When the interpreter is nearly gone the call returns all the same."""
    program = [sys.executable, "-c", AT_THE_END]
    done = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout) in {(0, "False\n"), (0, "True\n")}, done.stderr

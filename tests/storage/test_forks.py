"""A fork waits for those whom a child could not do without, and a child starts anew."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from hosts import DEADLINE
from lifebeat.storage import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")

FORK_DURING_IMPORTS = """
import os, sys, threading, time, warnings
from pathlib import Path
from lifebeat.storage import forks

warnings.simplefilter("ignore")
place, names = Path(sys.argv[1]), [f"slow{number}" for number in range(60)]
sys.path.insert(0, str(place))
for name in names:
    (place / f"{name}.py").write_text("import time; time.sleep(0.01)")
threading.Thread(target=lambda: [forks.importing(name) for name in names], daemon=True).start()
hung = 0
for number in range(40):
    time.sleep(0.005)
    if (pid := os.fork()) == 0:
        for name in names:
            __import__(name)
        os._exit(0)
    end = time.monotonic() + 10
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            hung += 1
            os.kill(pid, 9)
        time.sleep(0.002)
print(hung)
"""


def test_child_does_not_wait_for_an_import_of_a_thread_it_has_not(tmp_path: object) -> None:
    """Children forked while a thread imports can import the same modules."""
    program = [sys.executable, "-c", FORK_DURING_IMPORTS, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_fork_waits_until_nobody_else_is_inside() -> None:
    """A fork begins when the other thread has left the block, and not before."""
    inside, left = threading.Event(), list[float]()

    def work() -> None:
        with forks.guard:
            inside.set()
            time.sleep(0.2)
            left.append(time.monotonic())

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    if (pid := _fork()) == 0:
        os._exit(0)
    forked = time.monotonic()
    os.waitpid(pid, 0)
    thread.join()
    assert left[0] <= forked


def test_fork_goes_on_after_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that hangs inside does not keep the application from forking for ever, nor the child from entering."""
    monkeypatch.setattr(forks, "PATIENCE", 0.1)
    inside, may_leave = threading.Event(), threading.Event()

    def work() -> None:
        with forks.guard:
            inside.set()
            may_leave.wait(DEADLINE)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    if (pid := _fork()) == 0:
        with forks.guard:
            os._exit(7)
    may_leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_thread_may_fork_inside_and_go_in_again() -> None:
    """Who is inside may fork itself, as an import that starts a process does, in both processes go on and out."""
    with forks.guard, forks.guard:
        pid = _fork()
        with forks.guard:
            pass
    with forks.guard:
        pass
    if pid == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


class Counter:
    """Something that a child resets."""

    def __init__(self) -> None:
        self.value = 5
        forks.in_child(self.reset)

    def reset(self) -> None:
        self.value = 0


def test_child_resets_what_is_registered() -> None:
    """What is registered is reset in the child only; what is gone is not kept alive for it."""
    counter = Counter()
    Counter()
    if (pid := _fork()) == 0:
        os._exit(counter.value)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert counter.value == 5


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of forks in a process with threads, which is what this is about
        return os.fork()

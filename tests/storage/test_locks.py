"""Locks end with who holds them, also where a process forks in the wrong moment."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE

if TYPE_CHECKING:
    from pathlib import Path

FORKING = """
import os, sys, threading, time, warnings
from pathlib import Path
from lifebeat.storage.locks import FileLock

warnings.simplefilter("ignore")  # of forks in a process with threads, which is what this is about
path, children, held_on = Path(sys.argv[1]), [], 0
end = time.monotonic() + 2

def lock_and_unlock():
    while time.monotonic() < end:
        lock = FileLock(path)
        lock.acquire()
        lock.release()

threads = [threading.Thread(target=lock_and_unlock) for _ in range(3)]
for thread in threads:
    thread.start()
while time.monotonic() < end and len(children) < 150:
    if (pid := os.fork()) == 0:
        time.sleep(30)
        os._exit(0)
    children.append(pid)
    time.sleep(0.005)
for thread in threads:
    thread.join()
descriptors = [name for pid in children for name in Path(f"/proc/{pid}/fd").iterdir()]
print(len(children), sum(os.readlink(name) == str(path) for name in descriptors))
for pid in children:
    os.kill(pid, 9)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, to see what a child has open")
def test_no_child_keeps_a_lock(tmp_path: Path) -> None:
    """A child forked while another thread opens a lock file does not have it open, or it would hold it for life."""
    program = [sys.executable, "-c", FORKING, str(tmp_path / "lock")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=DEADLINE, check=False)
    children, leaked = map(int, done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert children > 20
    assert leaked == 0

"""How long a stop takes, whatever the disk, the locks, the log and the machine do; beside the network's rows.

A disk that syncs in seconds and a system without threads are made by a library of a few lines that is compiled here
and loaded before the others; without a C compiler those rows are skipped. The bound is that of ``test_stop_time``.
What is not on record after the stop has been said to be lost.

``pytest -m "soak or not soak" -s`` prints the table of docs/failures.md.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hosts import DEADLINE
from lifebeat.storage.locks import FileLock
from test_stop_time import TIMEOUT, TOLERANCE, TRIES, Row, Stop

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD and prlimit")

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static int said(const char *file) {  /* what a file in the working directory says, a number of seconds */
    char text[16] = {0};
    int fd = open(file, O_RDONLY);
    if (fd < 0) return -1;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atoi(text);
}

static void slowly(void) {
    int seconds = said("slow-disk");
    if (seconds > 0) usleep(seconds * 1000000);
}

int fsync(int fd) {
    slowly();
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    slowly();
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*work)(void *), void *arg) {
    if (said("no-threads") >= 0) return EAGAIN;
    return ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))
            dlsym(RTLD_NEXT, "pthread_create"))(thread, attr, work, arg);
}
"""
SLOW_LOG = """
import logging, os, time

emit = logging.StreamHandler.emit

def slowly(self, record):
    if os.path.exists("slow-log"):
        time.sleep(5)
    emit(self, record)

logging.StreamHandler.emit = slowly
"""
HEAD = """
import asyncio, atexit, os, sys, time
begin = None
atexit.register(lambda: begin and print(time.monotonic() - begin, flush=True))  # the first is the last to be called
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

def attached(scheduler, **more):
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", **more)
    return scheduler
"""
SCRIPTS = {
    "shutdown()": """
scheduler = attached(BackgroundScheduler(), signals=False)
scheduler.start()
while not os.path.exists("stop"):
    time.sleep(0.01)
begin = time.monotonic()
scheduler.shutdown()
""",
    "signals=True": """
attached(BackgroundScheduler(), signals=True).start()
while True:
    time.sleep(60)
""",
    "loop": """
async def main():
    global begin
    scheduler = attached(AsyncIOScheduler(), signals=False)
    scheduler.start()
    while not os.path.exists("stop"):
        await asyncio.sleep(0.01)
    begin = time.monotonic()
    scheduler.shutdown()
asyncio.run(main())
""",
}
HOSTS = (*SCRIPTS, "lifebeat run")
BY_SIGNAL = {"signals=True", "lifebeat run"}


class Hard(Stop):
    """A host of its own whose machine is about to fail in some way."""

    def __init__(self, directory: Path, row: str, host: str, shim: Path | None) -> None:
        super().__init__(directory, Row(row, lambda _: ROWS[row](self)), host)
        self._shim = shim
        self.process: subprocess.Popen[str] | None = None
        self.held = contextlib.ExitStack()
        (directory / "site" / "sitecustomize.py").write_text(SLOW_LOG)

    def start(self) -> subprocess.Popen[str]:
        """Start the host, with the library in front of the system's."""
        environ = {"PYTHONPATH": str(self.installation.directory / "site")}
        if self._shim is not None:
            environ["LD_PRELOAD"] = str(self._shim)
        if self.host in SCRIPTS:
            process = self.installation.script(HEAD + SCRIPTS[self.host], **environ)
        else:
            process = self.installation.lifebeat("run", "--config", "config", **environ)
        self.process = process
        return process

    def _stopped(self, process: subprocess.Popen[str]) -> float:
        """Stop it; how long that took, as the host itself measured it or from the signal to the end."""
        begin = time.monotonic()
        if self.host in BY_SIGNAL:
            process.terminate()
            process.wait()
        else:
            (self.installation.directory / "stop").touch()
        taken = time.monotonic() - begin
        out, self.err = process.communicate(timeout=DEADLINE)
        assert process.returncode == (-signal.SIGTERM if self.host in BY_SIGNAL else 0), self.err
        return taken if self.host in BY_SIGNAL else float(out)

    def fate(self) -> str:
        """What became of the shutdown event; whoever holds the state lets it go."""
        self.held.close()
        return self.states().get("shutdown") or ("said" if "may be lost" in self.err else "gone without a word")

    def close(self) -> None:
        """Leave nothing held and nothing running."""
        self.held.close()
        super().close()


def write(one: Any, name: str, text: str = "") -> None:
    """Leave word for the host, in its working directory."""
    (one.directory / name).write_text(text)


def slow_log(one: Any) -> None:
    """Let each log line take five seconds, and give a reason for one."""
    write(one, "slow-log")
    one.receiver.answer(503)


def hold_locks(one: Hard) -> None:
    """Hold what can be held of the state's lock files, as a process that is frozen does."""
    state = one.outbox_path.parent
    for path in (state, state / "sending"):
        lock = FileLock(path)
        lock.acquire(timeout=5)
        one.held.callback(lock.release)


def hold_database(one: Hard) -> None:
    """Be in the middle of a transaction."""
    connection = sqlite3.connect(one.outbox_path, timeout=10, isolation_level=None)
    one.held.callback(connection.close)
    connection.execute("BEGIN EXCLUSIVE")


def take_memory(one: Hard) -> None:
    """Leave the host with what it has."""
    assert one.process is not None
    pages = int(Path(f"/proc/{one.process.pid}/statm").read_text().split()[0])
    size = pages * resource.getpagesize()
    resource.prlimit(one.process.pid, resource.RLIMIT_AS, (size, size))


ROWS: dict[str, Callable[[Hard], object]] = {
    "healthy": lambda _: None,
    "fsync takes 1 s": lambda one: write(one.installation, "slow-disk", "1"),
    "fsync takes 3 s": lambda one: write(one.installation, "slow-disk", "3"),
    "lock files held": hold_locks,
    "database under BEGIN EXCLUSIVE": hold_database,
    "a log handler that takes 5 s": lambda one: slow_log(one.installation),
    "no thread can be started": lambda one: write(one.installation, "no-threads"),
    "memory gone": take_memory,
}
NEED_SHIM = {"fsync takes 1 s", "fsync takes 3 s", "no thread can be started"}
QUICK = {
    ("fsync takes 3 s", "shutdown()"),
    ("database under BEGIN EXCLUSIVE", "loop"),
    ("no thread can be started", "shutdown()"),
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The library; ``None`` without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    directory = tmp_path_factory.mktemp("shim")
    (directory / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", "shim.so", "shim.c", "-ldl"], cwd=directory, check=True)
    return directory / "shim.so"


def taken(directory: Path, name: str, host: str, shim: Path | None, bound: float) -> tuple[float, str]:
    """The best of up to three tries, in seconds, and what became of the event then."""
    tries: list[tuple[float, str]] = []
    while len(tries) < TRIES and (not tries or min(tries)[0] > bound):
        stop = Hard(directory / f"{host.replace(' ', '-')}-{len(tries)}", name, host, shim)
        with contextlib.closing(stop):
            seconds = stop.take()
            tries.append((seconds, stop.fate()))
    return min(tries)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], float]:
    """How long the end of a process itself takes, for a host that is measured from the outside."""
    directory = tmp_path_factory.mktemp("healthy")

    @cache
    def measured(host: str) -> float:
        return taken(directory, "healthy", host, None, 0.0)[0] if host in BY_SIGNAL else 0.0

    return measured


@pytest.mark.parametrize(
    ("row", "host"),
    [pytest.param(row, host, marks=[] if (row, host) in QUICK else pytest.mark.soak) for row in ROWS for host in HOSTS],
)
def test_a_stop_is_over_in_time_on_a_bad_machine(
    tmp_path: Path, row: str, host: str, shim: Path | None, without: Callable[[str], float]
) -> None:
    """Each kind of host stops within its time and a quarter of a second; the end is on record, or said to be lost."""
    if shim is None and row in NEED_SHIM:
        pytest.skip("no C compiler")
    bound = TIMEOUT + TOLERANCE + without(host)
    seconds, fate = taken(tmp_path, row, host, shim, bound)
    print(f"\nROW| {row} | {host} | {seconds:.2f} s | {fate} |")
    assert seconds <= bound
    assert fate in {"delivered", "waiting", "said"}

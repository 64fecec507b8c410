"""The other processes of an application, as Linux shows them in ``/proc``: which of them is still starting.

A server that reloads (gunicorn on ``SIGHUP``) starts new workers and at once stops the old ones, which are gone before
a new one has so much as imported the application. Only ``/proc`` shows then that another is coming. Where there is no
``/proc``, or one that belongs to other processes than ours, none is ever seen to come.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")
_DEAD = ("Z", "X", "x")
# What is older than this and has not come will not come: a helper that the server forked, a pool's worker.
_STARTING_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that lives. A pid is used again; a pid and a start are not, before the machine starts again.

    Attributes:
        pid: Its number.
        parent: Its parent's number.
        group: Its process group. Those who start unrelated services give each its own.
        started: When it started, in clock ticks since the machine did.
        image: Where its stack begins, which is random at each ``exec`` and kept by a fork: processes that share it were
            forked from one another. 0 where the kernel does not tell, as after privileges were dropped.
        command: Its command line as the kernel keeps it.
    """

    pid: int
    parent: int
    group: int
    started: int
    image: int
    command: bytes

    @property
    def identity(self) -> tuple[int, int]:
        """Return what no other process shares with it."""
        return self.pid, self.started


def world() -> str | None:
    """Return what pids and starts are counted in, this boot and this container; ``None`` without ``/proc``."""
    try:
        if (_PROC / "self").readlink().name != str(os.getpid()):
            return None
        return f"{(_PROC / 'sys/kernel/random/boot_id').read_text().strip()} {(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return None


def origin() -> str:
    """Return what tells this process from every other that had or will have its pid; empty without ``/proc``."""
    return _origin(os.getpid())


@cache
def _origin(pid: int) -> str:
    here, found = world(), find(pid)
    return "" if here is None or found is None else f"{here} {found.started}"


def is_gone(pid: int, origin: str) -> bool:
    """Return whether a process is known to have ended; one in another container of this boot cannot be seen."""
    here, (there, _, started) = world(), origin.rpartition(" ")
    if here is None or not there:
        return False
    if here != there:
        return here.partition(" ")[0] != there.partition(" ")[0]
    found = find(pid)
    return found is None or str(found.started) != started


def now() -> int:
    """Return the time in clock ticks since the machine started, as ``Process.started`` counts."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _ticks_per_second())


def find(pid: int) -> Process | None:
    """Return the process with that pid; ``None`` if it does not live, a zombie included."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        command = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    if fields[0] in _DEAD:
        return None
    # Numbered from the third field of proc(5) on: the name before it may hold anything.
    return Process(pid, int(fields[1]), int(fields[2]), int(fields[19]), int(fields[25]), command)


def starting(me: Process, at: int) -> list[Process]:
    """Return the processes that may be starting as what ``me`` is: of one parent, of one make, and young.

    Args:
        me: The process that asks.
        at: The time, in clock ticks since the machine started.
    """
    found = (find(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdecimal())
    return [
        other
        for other in found
        if other is not None
        and other.pid != me.pid
        and (other.parent, other.group) == (me.parent, me.group)
        and at - other.started < _STARTING_SECONDS * _ticks_per_second()
        and alike(me, other)
    ]


def lives(process: Process) -> bool:
    """Return whether it still lives and still is what it was: not a zombie, and not another program by now."""
    found = find(process.pid)
    return found is not None and found.started == process.started and alike(process, found)


def alike(one: Process, other: Process) -> bool:
    """Return whether both are forks of one program, or both children that ``multiprocessing`` spawned for work.

    Two that were merely started by the same command are not: a test runner's or a supervisor's processes share that.
    ``multiprocessing``'s own resource tracker is neither.
    """
    if _is_spawned(one.command) and _is_spawned(other.command):
        return True
    if one.image and other.image:
        return one.image == other.image
    return one.command == other.command


def _is_spawned(command: bytes) -> bool:
    return b"--multiprocessing-fork" in command.split(b"\0")


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")

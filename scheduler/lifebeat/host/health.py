"""Health of a ``lifebeat run``, asked from another process: its scheduler has to go around to answer.

It answers on a socket that has a name and no file (an abstract one, of Linux), so that a read-only container needs no
place for it; processes of other users get no answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 3.0
_HEALTHY = b"healthy"
_STUCK = b"stuck"
_CREDENTIALS = struct.Struct("3i")


class Health:
    """The answering side.

    Args:
        config_dir: The config directory, by which others find it.
        responds: Whether the scheduler goes around, seen within so many seconds.
    """

    def __init__(self, config_dir: Path, responds: Callable[[float], bool]) -> None:
        # Two containers that share a network may both be process 1.
        self._name = f"{_prefix(config_dir)}{os.getpid()}-{os.urandom(4).hex()}"
        self._responds = responds
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Answer from here on, in a daemon thread; does nothing where there are no such sockets."""
        with contextlib.suppress(OSError, AttributeError):
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listening.bind(f"\0{self._name}")
            listening.listen()
            self._socket = listening
            threads.start("health", partial(self._serve, listening))

    def stop(self) -> None:
        """Answer no more."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._socket = None

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                asking, _ = listening.accept()
            except OSError:
                return
            with asking, contextlib.suppress(OSError):
                if _user_of(asking) in {0, os.geteuid()}:
                    asking.sendall(_HEALTHY if self._responds(PATIENCE) else _STUCK)


def ask(config_dir: Path) -> tuple[bool, str]:
    """Return whether every ``lifebeat run`` with that config directory on this machine is healthy, and why."""
    names = _listening(_prefix(config_dir))
    if not names:
        return False, f"no lifebeat run with the config directory {os.path.realpath(config_dir)!r} on this machine"
    unhealthy = [name.split("-")[2] for name in names if _answer(name) != _HEALTHY]
    if unhealthy:
        return False, f"the scheduler of process {', '.join(unhealthy)} has stopped responding"
    return True, f"{len(names)} running" if len(names) > 1 else "running"


def _prefix(config_dir: Path) -> str:
    place = os.fsencode(os.path.realpath(config_dir))
    return f"lifebeat-{hashlib.sha256(place).hexdigest()[:16]}-"


def _listening(prefix: str) -> list[str]:
    """Return the names of the sockets; a connection to one is listed under its name as well."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return sorted({line.rpartition("@")[2] for line in lines if f" @{prefix}" in line})


def _answer(name: str) -> bytes:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(PATIENCE * 2)
        asking.connect(f"\0{name}")
        return asking.recv(16)
    return b""


def _user_of(asking: socket.socket) -> int:
    found = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(found)[1]
    return user

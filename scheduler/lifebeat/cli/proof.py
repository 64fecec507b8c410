"""``lifebeat prove-off``: the whole life in a child process with telemetry off, and what it attempts written down.

An audit hook sees every socket, look-up, file, database and process of an interpreter, whoever asks for it; threads are
seen where they are started. What the scheduler itself does (its one thread) is not telemetry's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from lifebeat.cli.options import CommandLine

NETWORK = frozenset(
    {"socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
     "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
)  # fmt: skip
CHANGES = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
     "sqlite3.connect", "subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"}
)  # fmt: skip
SCHEDULER_THREAD = "APScheduler"
LIFE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that was attempted.

    Attributes:
        kind: What it was, such as ``socket.connect``, ``open for writing`` or ``thread``.
        what: The address, the path or the name.
    """

    kind: str
    what: str


class Watcher:
    """Writes down what this interpreter attempts, from ``start`` on; an audit hook can never be removed."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self._on = False

    def start(self) -> None:
        """Watch from here on."""
        sys.addaudithook(self._audit)
        start = threading.Thread.start  # audit events tell of threads only since Python 3.12

        def watched(thread: threading.Thread) -> None:
            if self._on and thread.name != SCHEDULER_THREAD:
                self.attempts.append(Attempt("thread", thread.name))
            start(thread)

        threading.Thread.start = watched  # type: ignore[method-assign, assignment]  # in a process of its own
        self._on = True

    def stop(self) -> None:
        """Watch no more."""
        self._on = False

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in NETWORK or event in CHANGES:
            self.attempts.append(Attempt(event, str(args)))
        elif event == "open" and _for_writing(args):
            self.attempts.append(Attempt("open for writing", str(args[0])))


def _for_writing(args: tuple[Any, ...]) -> bool:
    flags = args[2] if len(args) > 2 else 0  # noqa: PLR2004 - path, mode, flags
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


def add_commands(line: CommandLine) -> None:
    """Add the command."""
    line.add("prove-off", prove_off)


def prove_off(args: argparse.Namespace) -> int:
    """Run the whole life with telemetry off, and show what it attempted: connections, look-ups, files, threads."""
    from lifebeat.cli.application import source_of

    attempts = prove(source_of(args).config_dir, os.environ)
    if args.json:
        console.say_json([{"kind": one.kind, "what": one.what} for one in attempts])
    elif attempts:
        console.say(console.table(("attempted", "what"), [(one.kind, one.what) for one in attempts]))
    else:
        console.say(f"Telemetry was off for a whole life of {LIFE_SECONDS:.0f} s: start, heartbeats, flush, stop.")
        console.say("Attempted: no connection, no look-up, no file, no database, no process, no thread.")
    return PROBLEM if attempts else DONE


def prove(config_dir: Path, environ: Mapping[str, str], *, off: bool = True) -> list[Attempt]:
    """Live a whole life in a child and return what it attempted.

    Args:
        config_dir: The config directory, as it is.
        environ: The environment of the child.
        off: Whether telemetry is turned off for it; the proof of the proof turns it not off.

    Raises:
        subprocess.CalledProcessError: The child failed.
    """
    child = {**environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if off:
        child["TELEMETRY_ENABLED"] = "false"
    command = [sys.executable, "-m", __name__, str(config_dir)]
    done = subprocess.run(command, env=child, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
    return [Attempt(**one) for one in json.loads(done.stdout)]


def live(config_dir: str) -> list[Attempt]:
    """In the child: attach, start, some heartbeats' time, flush, preview, stop, all of it watched."""
    from lifebeat.clock import SystemClock
    from lifebeat.embedding import attach_handle
    from lifebeat.lifecycle.application import Application
    from lifebeat.log import get_logger
    from lifebeat.registration.registry import background_scheduler
    from lifebeat.settings.source import ConfigSource
    from lifebeat.settings.source import config_dir as find

    watcher = Watcher()
    scheduler: Any = background_scheduler()
    source = ConfigSource(
        find(config_dir, os.environ),
        command_line={"telemetryHeartbeatInterval": "200ms"},
        environ=os.environ,
        modules=sys.modules,
    )
    application = Application(source, allow=(), clock=SystemClock(), logger=get_logger())
    watcher.start()
    handle = attach_handle(scheduler, application)
    scheduler.start()
    time.sleep(LIFE_SECONDS)
    handle.flush(timeout=1.0)
    handle.preview()
    scheduler.shutdown()
    watcher.stop()
    return watcher.attempts


if __name__ == "__main__":
    print(json.dumps([{"kind": one.kind, "what": one.what} for one in live(sys.argv[1])]))  # noqa: T201 - the parent reads it

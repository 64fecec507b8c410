"""A whole life of Lifebeat in a process of its own, and what it attempts written down; for ``lifebeat prove-off``.

An audit hook sees every socket, look-up, file, database and process of an interpreter; threads are
seen where they are started. What the scheduler itself does (its one thread) is not telemetry's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat.clock import SystemClock
from lifebeat.embedding import attach_handle
from lifebeat.lifecycle.application import Application
from lifebeat.log import get_logger
from lifebeat.registration.registry import background_scheduler
from lifebeat.settings.source import ConfigSource
from lifebeat.storage import safe_file

if TYPE_CHECKING:
    from lifebeat.jobfile.spec import JobFile

NETWORK = frozenset(
    {"socket.__new__", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
     "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
)  # fmt: skip
CHANGES = frozenset(
    {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
     "sqlite3.connect", "subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"}
)  # fmt: skip
SCHEDULER_THREAD = "APScheduler"
# Where there is a job file or an overlay, edits of them are followed for the application's own jobs, and its stop is
# waited for.
PLAN_THREADS = ("lifebeat-watch", "lifebeat-stop")
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
    """Writes down what this interpreter attempts, from ``start`` on; an audit hook can never be removed.

    Args:
        others: The threads that are not telemetry's.
    """

    def __init__(self, others: tuple[str, ...] = (SCHEDULER_THREAD,)) -> None:
        self._others = others
        self.attempts: list[Attempt] = []
        self._on = False

    def start(self) -> None:
        """Watch from here on."""
        sys.addaudithook(self._audit)
        start = threading.Thread.start  # audit events tell of threads only since Python 3.12

        def watched(thread: threading.Thread) -> None:
            if self._on and thread.name not in self._others:
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


class TelemetryOnly(Application):
    """An application without its own jobs: what they do is theirs, and a proof must not run them."""

    def load(self, *, import_disabled: bool = False) -> JobFile:
        """Return the job file without the jobs of the host's own, and without what is wrong with those."""
        found = super().load(import_disabled=import_disabled)
        specs = tuple(spec for spec in found.specs if spec.is_telemetry)
        return found._replace(specs=specs, host_problems=())


def live(config_dir: str, *allow: str) -> list[Attempt]:
    """Attach, start, wait for some heartbeats' time, flush, preview and stop, all of it watched; in the child."""
    scheduler: Any = background_scheduler()
    source = ConfigSource(
        Path(config_dir),
        command_line={"telemetryHeartbeatInterval": "200ms"},
        environ=os.environ,
        modules=sys.modules,
    )
    application = TelemetryOnly(source, allow=allow, clock=SystemClock(), logger=get_logger())
    application.load()  # the modules of own jobs may do anything when they are imported
    has_plan = safe_file.exists(source.job_file) or source.overlay is not None
    watcher = Watcher((SCHEDULER_THREAD, *(PLAN_THREADS if has_plan else ())))
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
    print(json.dumps([asdict(one) for one in live(*sys.argv[1:])]))  # noqa: T201 - the parent reads it

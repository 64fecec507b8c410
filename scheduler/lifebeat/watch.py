"""Notices edited config: told by the system where the ``watch`` extra is installed, else by looking once a second."""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING, Any

from lifebeat.layers import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

INTERVAL = 1.0
_SETTLED = 100  # milliseconds without a change, after which an editor is taken to have written all of it


class Watch:
    """Looks at files and says when one has changed.

    Args:
        files: The files to look at; asked each time, since an overlay may come and go.
        changed: Called when one was edited, replaced, made or removed.
    """

    def __init__(self, files: Callable[[], list[Path]], changed: Callable[[], None]) -> None:
        self._files = files
        self._changed = changed
        self._seen = self._look()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="lifebeat-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> bool:
        """Look once; says whether there was a change, after ``changed`` was called for it."""
        now = self._look()
        if now == self._seen:
            return False
        self._seen = now
        self._changed()
        return True

    def _look(self) -> list[object]:
        return [fingerprint(path) for path in self._files()]

    def _run(self) -> None:
        with _Notifications(self._stop) as notifications:
            while not self._stop.is_set():
                notifications.wait(self._directories())
                if not self._stop.is_set():
                    self.look()

    def _directories(self) -> list[str]:
        return sorted({str(path.parent) for path in self._files() if path.parent.is_dir()})


class _Notifications:
    """What the system tells of changes in directories; nothing, where the extra is missing or no watch is left.

    Nothing either where threads are not threads: what waits in Rust would hold up all of gevent's greenlets.

    A link leads to a file elsewhere, of which nobody tells; so no wait is longer than a second.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._directories: list[str] = []
        self._source: Any = None
        self._is_usable = _threads_are_real()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._source = None  # which ends its thread

    def wait(self, directories: list[str]) -> None:
        """Wait for a change in one of them, for ``stop``, or a second."""
        try:
            if directories != self._directories:
                self._directories, self._source = directories, self._open(directories)
            if self._source is not None:
                self._source.watch(_SETTLED, _SETTLED // 2, int(INTERVAL * 1000), self._stop)
                return
        except ImportError:
            self._is_usable = False
        except Exception:  # noqa: BLE001 - a backend in Rust, whose errors differ from system to system
            self._source = None
        self._stop.wait(INTERVAL)

    def _open(self, directories: list[str]) -> Any:
        if not self._is_usable:
            return None
        # Its public front end writes log lines into the host's log.
        from watchfiles._rust_notify import RustNotify  # noqa: PLC0415 - an extra

        return RustNotify(directories, False, False, 0, False, True)


def _threads_are_real() -> bool:
    """Whether nobody (gevent, eventlet) has put green threads in the place of the system's."""
    return _thread.start_new_thread.__module__ == "_thread"

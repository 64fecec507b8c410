"""Notices edited config: told by the system on Linux, else by looking once a second."""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat.layers import fingerprint
from lifebeat.locks import no_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.inotify import Inotify

INTERVAL = 1.0
# Who is told looks all the same, four times an hour, in case that something was not told.
LONGEST = 900.0
_SETTLED = 0.05  # seconds without a change, after which an editor is taken to have written all of it
_MOST_LINKS = 40


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
        self._pipe_lock = threading.Lock()
        self._wake: int | None = None

    def start(self) -> None:
        """Look in a daemon thread."""
        self._thread = threading.Thread(target=self._run, name="lifebeat-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        with self._pipe_lock:
            if self._wake is not None:
                os.write(self._wake, b".")

    def look(self) -> bool:
        """Look once; says whether there was a change, after ``changed`` was called for it. Not after the stop."""
        now = self._look()
        if now == self._seen or self._stop.is_set():
            return False
        self._seen = now
        self._changed()
        return True

    def _look(self) -> list[object]:
        return [fingerprint(path) for path in self._files()]

    def _run(self) -> None:
        inotify = _inotify()
        if inotify is None:
            self._keep_looking()
            return
        with self._pipe_lock:
            woken, self._wake = os.pipe()
        try:
            self._listen(inotify, woken)
        finally:
            inotify.close()
            with self._pipe_lock:
                os.close(woken)
                os.close(self._wake)
                self._wake = None

    def _keep_looking(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look()

    def _listen(self, inotify: Inotify, woken: int) -> None:
        from lifebeat.inotify import is_shared  # noqa: PLC0415 - imported by now

        while not self._stop.is_set():
            directories = self._directories()
            try:
                inotify.watch(directories)
            except OSError:
                self._keep_looking()
                return
            self.look()  # what changed before it was watched
            shared = any(map(is_shared, directories))
            if inotify.wait(woken, INTERVAL if shared else LONGEST):
                while not self._stop.is_set() and inotify.wait(woken, _SETTLED):
                    pass

    def _directories(self) -> set[str]:
        """Where something can happen to the files: their directories, and those of every link on the way to them."""
        return {str(directory) for path in self._files() for directory in _directories_of(path.absolute())}


def _inotify() -> Inotify | None:
    """What tells of changes; ``None`` where nothing does, and where threads are not threads: all of them would wait."""
    if sys.platform != "linux" or _thread.start_new_thread.__module__ != "_thread":
        return None
    with contextlib.suppress(ImportError, OSError, AttributeError):
        with no_fork:
            from lifebeat.inotify import Inotify  # noqa: PLC0415 - only in this thread

        return Inotify()
    return None


def _directories_of(path: Path) -> set[Path]:
    found: set[Path] = set()
    for _ in range(_MOST_LINKS):
        link = next((one for one in (*reversed(path.parents), path) if one.is_symlink()), None)
        if link is None:
            break
        found.add(link.parent)
        with contextlib.suppress(OSError):
            path = Path(os.path.normpath(link.parent / link.readlink() / path.relative_to(link)))
    return {*found, next((one for one in path.parents if one.is_dir()), path.parent)}

"""Notices edited config: told by the system on Linux, else by looking once a second."""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat.settings.source import fingerprint
from lifebeat.storage.forks import guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.lifecycle.inotify import Inotify
    from lifebeat.registration.alarm import Leave

    Attend = Callable[[int, Callable[[], None]], Leave | None]

INTERVAL = 1.0
LONGEST = 900.0  # who is told looks all the same, in case that something was not
_SETTLED = 0.05  # seconds without a change, after which an editor is taken to have written all of it
_UNSETTLED = 20  # times that something else was written meanwhile, after which it is looked at all the same
_MOST_LINKS = 40


class Watch:
    """Looks at files and says when one has changed.

    Args:
        files: The files to look at; asked each time, since an overlay may come and go.
        changed: Called when one was edited, replaced, made or removed; in a thread of its own.
        attend: Has somebody who waits anyway wait for a descriptor too, so that here no thread has to: told what to
            call when it can be read, it returns what ends that; ``None`` if it cannot (see ``Registry.attend``).
    """

    def __init__(
        self, files: Callable[[], list[Path]], changed: Callable[[], None], attend: Attend | None = None
    ) -> None:
        self._files = files
        self._changed = changed
        self._attend = attend
        self._seen = self._look()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._inotify: Inotify | None = None
        self._leave: Leave | None = None
        self._is_settling = self._was_told = False
        self._wake: int | None = None

    def start(self) -> None:
        """Look from here on. Where nobody else can wait for what is told, a daemon thread does."""
        self._spawn(self._run)

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        with self._lock:
            if self._wake is not None:
                os.write(self._wake, b".")
            inotify, leave = self._inotify, self._leave
            self._inotify = self._leave = None
        if inotify is not None and leave is not None:
            leave(inotify.close)

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

    def _spawn(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            threading.Thread(target=work, name="lifebeat-watch", daemon=True).start()

    def _run(self) -> None:
        inotify = _inotify()
        if inotify is None:
            self._keep_looking()
        elif self._is_handed_over(inotify):
            self._settle(inotify)
        else:
            self._listen_until_stopped(inotify)

    def _keep_looking(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.look()

    def _watch(self, inotify: Inotify) -> bool:
        """Have all places watched; says whether others may change them without this system's knowledge.

        Raises:
            OSError: The system has no watch left for this user.
        """
        from lifebeat.lifecycle.inotify import is_shared

        directories = self._directories()
        inotify.watch(directories, map(str, self._files()))
        return any(map(is_shared, directories))

    def _directories(self) -> set[str]:
        """Where something can happen to the files: their directories, and those of every link on the way to them."""
        return {str(directory) for path in self._files() for directory in _directories_of(path.absolute())}

    # -- told by the system, and waited for by somebody else ---------------------------------------------------------

    def _is_handed_over(self, inotify: Inotify) -> bool:
        if self._attend is None:
            return False
        try:
            shared = self._watch(inotify)
        except OSError:
            return False
        with self._lock:
            if shared or self._stop.is_set():
                return False
            self._leave = self._attend(inotify.descriptor, self._told)
            if self._leave is None:
                return False
            self._inotify, self._is_settling = inotify, True
        return True

    def _told(self) -> None:
        """In the thread, or on the loop, of somebody who must not be held up."""
        with self._lock:
            inotify = self._inotify
            if inotify is None:
                return
            inotify.drain()
            self._was_told, settles = True, self._is_settling
            self._is_settling = True
        if not settles:
            self._spawn(lambda: self._settle(inotify))

    def _settle(self, inotify: Inotify) -> None:
        """Look as soon as all is written, and again if something was told meanwhile."""
        unsettled = 0
        while not self._stop.wait(_SETTLED):
            with self._lock:
                told, self._was_told = self._was_told, False
            unsettled += told
            if told and unsettled < _UNSETTLED:
                continue
            unsettled = 0
            try:
                self._watch(inotify)
            except OSError:
                self._keep_looking()
                return
            self.look()
            with self._lock:
                self._is_settling = self._was_told
                if not self._is_settling:
                    return

    # -- told by the system, and waited for here ---------------------------------------------------------------------

    def _listen_until_stopped(self, inotify: Inotify) -> None:
        with self._lock:
            woken, self._wake = os.pipe()
        try:
            self._listen(inotify, woken)
        finally:
            inotify.close()
            with self._lock:
                os.close(woken)
                os.close(self._wake)
                self._wake = None

    def _listen(self, inotify: Inotify, woken: int) -> None:
        while not self._stop.is_set():
            try:
                shared = self._watch(inotify)
            except OSError:
                self._keep_looking()
                return
            self.look()  # what changed before it was watched
            if inotify.wait(woken, INTERVAL if shared else LONGEST):
                for _ in range(_UNSETTLED):
                    if self._stop.is_set() or not inotify.wait(woken, _SETTLED):
                        break


def _inotify() -> Inotify | None:
    """What tells of changes; ``None`` where nothing does, and where threads are not threads: all of them would wait."""
    if sys.platform != "linux" or _thread.start_new_thread.__module__ != "_thread":
        return None
    with contextlib.suppress(ImportError, OSError, AttributeError):
        with guard:
            from lifebeat.lifecycle.inotify import Inotify

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

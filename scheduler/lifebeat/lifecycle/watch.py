"""The one thread of ours at rest: it notices edited config, clocks that were set, and stop signals.

On Linux the system tells of edits, and it wakes up once a minute for the clocks; elsewhere it looks once a second.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat.storage import threads
from lifebeat.storage.forks import guard
from lifebeat.storage.safe_file import absolute, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.clock import Clock
    from lifebeat.lifecycle.inotify import Inotify

LOOK_EVERY = 1.0
CLOCK_EVERY = 60.0
SET_BY = 1.0  # seconds by which a clock has to be off to count as set
_SETTLED = 0.05  # seconds without a change, after which an editor is taken to have written all of it
_UNSETTLED = 20  # times that something else was written meanwhile, after which it is looked at all the same
_BEING_WRITTEN = 100  # times that a file was still open for writing, after which it counts as it is
_MOST_LINKS = 40


class Watch:
    """Looks at files and at the clock, and calls back from a thread of its own.

    Args:
        files: Returns the files to look at; asked each time, since an overlay may come and go.
        clock: Where the time comes from.

    Attributes:
        changed: Called when a file was edited, replaced, made or removed.
        clock_changed: Called with the seconds by which the wall clock was set; 0 after the machine slept.
        is_running: Whether there is such a thread.
    """

    def __init__(self, files: Callable[[], list[Path]], clock: Clock) -> None:
        self._files = files
        self._clock = clock
        self._seen = self._look()
        self._wall_ahead = self._measure()[0]
        self._awake_behind = self._measure()[1]
        self._stopped = threading.Event()
        self._wake: int | None = None
        self.changed: Callable[[], None] = lambda: None
        self.clock_changed: Callable[[float], None] = lambda _: None
        self._signals: tuple[int, Callable[[], bool]] | None = None
        self.is_running = False

    def attend(self, descriptor: int, ready: Callable[[], bool]) -> None:
        """Call ``ready`` when there is something to be read, until it returns false; before ``start``."""
        self._signals = descriptor, ready

    def start(self, changed: Callable[[], None], clock_changed: Callable[[float], None] = lambda _: None) -> None:
        """Look from here on, in a daemon thread, and call these back."""
        self.changed, self.clock_changed = changed, clock_changed
        self.is_running = threads.start("watch", self._run)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        wake = self._wake
        if wake is not None:
            with contextlib.suppress(OSError):
                os.write(wake, b".")

    def look(self) -> bool:
        """Look once; return whether there was a change, after ``changed`` was called for it. Not after the stop."""
        now = self._look()
        if now == self._seen or self._stopped.is_set():
            return False
        self._seen = now
        self.changed()
        return True

    def look_at_clock(self) -> None:
        """Call back if the wall clock was set, or the machine slept, since the last look."""
        ahead, behind = self._measure()
        by, slept = ahead - self._wall_ahead, behind - self._awake_behind
        self._wall_ahead, self._awake_behind = ahead, behind
        if abs(by) >= SET_BY or slept >= SET_BY:
            self.clock_changed(by if abs(by) >= SET_BY else 0.0)

    def _measure(self) -> tuple[float, float]:
        """Return how far the wall clock is ahead of boot time, and boot time of the time awake."""
        boot = self._clock.monotonic()
        return self._clock.time() - boot, boot - time.monotonic()

    def _look(self) -> list[object]:
        return [fingerprint(path) for path in self._files()]

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        woken, self._wake = os.pipe()
        inotify = _inotify()
        try:
            while not self._stopped.is_set():
                every = self._watch(inotify)
                self._guarded(self.look)
                self._guarded(self.look_at_clock)
                if self._wait(woken, inotify, every) and inotify is not None:
                    self._settle(woken, inotify)
        finally:
            if inotify is not None:
                inotify.close()
            wake, self._wake = self._wake, None
            os.close(woken)
            os.close(wake)

    def _watch(self, inotify: Inotify | None) -> float:
        """Have all places watched; return after how many seconds to look all the same."""
        if inotify is None:
            return LOOK_EVERY
        from lifebeat.lifecycle.inotify import is_shared

        try:
            directories: set[str] = set()
            for _ in range(_MOST_LINKS):  # one that was made before its parent was watched is seen at the second look
                if directories == (directories := self._directories()):
                    break
                inotify.watch(directories, map(str, self._files()))
        except OSError:  # the system has no watch left for this user
            return LOOK_EVERY
        # Others may change a shared file system without this system's knowledge.
        return LOOK_EVERY if any(map(is_shared, directories)) else CLOCK_EVERY

    def _wait(self, woken: int, inotify: Inotify | None, timeout: float) -> bool:
        """Wait for a change, a signal or the stop; return whether there was a change."""
        poll = select.poll()  # not select, which knows the first 1,024 descriptors only
        poll.register(woken, select.POLLIN)
        if inotify is not None:
            poll.register(inotify.descriptor, select.POLLIN)
        if self._signals is not None:
            poll.register(self._signals[0], select.POLLIN)
        ready = dict(poll.poll(timeout * 1000))
        if self._signals is not None and self._signals[0] in ready and not self._signals[1]():
            self._signals = None
        if inotify is None or inotify.descriptor not in ready:
            return False
        inotify.drain()
        return True

    def _settle(self, woken: int, inotify: Inotify) -> None:
        for looked in range(_BEING_WRITTEN):
            more = self._wait(woken, inotify, _SETTLED)
            if self._stopped.is_set() or not (inotify.is_being_written or (more and looked < _UNSETTLED)):
                return

    def _guarded(self, look: Callable[[], object]) -> None:
        """Look; whatever goes wrong, the next look comes."""
        with contextlib.suppress(BaseException):
            look()

    def _directories(self) -> set[str]:
        """Return where something can happen to the files: their directories, and those of every link on the way."""
        return {str(directory) for path in self._files() for directory in _directories_of(Path(absolute(path)))}


def _inotify() -> Inotify | None:
    """Return what tells of changes; ``None`` where nothing does, and where threads are greenlets, which would wait."""
    if sys.platform != "linux" or _thread.start_new_thread.__module__ != "_thread":
        return None
    with contextlib.suppress(ImportError, OSError, AttributeError), guard:
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

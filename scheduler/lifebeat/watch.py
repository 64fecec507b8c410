"""Notices edited config, by looking at the files once a second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lifebeat.layers import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INTERVAL = 1.0


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
        """Look once a second in a daemon thread."""
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
        while not self._stop.wait(INTERVAL):
            self.look()

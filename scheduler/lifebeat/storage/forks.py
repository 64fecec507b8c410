"""The one guard against forks: none happens while a thread is where a child could not go on."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from types import MethodType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

# A thread that hangs in a disk or an import must not keep the application from forking for ever.
PATIENCE = 5.0
COURTESY = 0.05


class Guard:
    """Keeps forks out of a block, by whatever thread; any number of threads may be inside, each as deep as it likes.

    A child has the threads of its parent no more, but the locks that they held: those of imports, of SQLite, of an
    open lock file. So a fork waits until no thread is inside, for 5 seconds at most.
    """

    def __init__(self) -> None:
        self._depths: dict[int, int] = {}
        self._changed = threading.Condition()  # its lock is held while a fork is under way
        self._is_forking = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before, after_in_parent=self._in_parent, after_in_child=self._in_child)

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            if self._is_forking and thread not in self._depths:
                # Let the fork have its turn; but what hangs inside is no reason to hang as well.
                self._changed.wait_for(lambda: not self._is_forking, timeout=COURTESY)
            self._depths[thread] = self._depths.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._depths[thread] -= 1
            if not self._depths[thread]:
                del self._depths[thread]
                self._changed.notify_all()

    def _before(self) -> None:
        self._changed.acquire()
        self._is_forking = True
        me = threading.get_ident()
        self._changed.wait_for(lambda: self._depths.keys() <= {me}, timeout=PATIENCE)

    def _in_parent(self) -> None:
        if self._is_forking:  # else the fork began before there was a guard
            self._is_forking = False
            self._changed.notify_all()
            self._changed.release()

    def _in_child(self) -> None:
        me = threading.get_ident()
        self._depths = {thread: depth for thread, depth in self._depths.items() if thread == me}
        self._changed = threading.Condition()
        self._is_forking = False
        for find in _resets:
            if (reset := find()) is not None:
                reset()


_resets: list[Callable[[], Callable[[], None] | None]] = []
guard = Guard()


def in_child(reset: Callable[[], None]) -> None:
    """Call a function in every forked child, before it goes on; a bound method does not keep its object alive."""
    _resets[:] = [find for find in _resets if find() is not None]
    _resets.append(weakref.WeakMethod(reset) if isinstance(reset, MethodType) else lambda: reset)


def importing(name: str) -> ModuleType:
    """Import a module by its name, in any thread; a child forked meanwhile would wait for ever for its lock.

    A plain ``import`` statement in a function that a thread may run stands in ``with guard:`` instead.
    """
    with guard:
        return importlib.import_module(name)

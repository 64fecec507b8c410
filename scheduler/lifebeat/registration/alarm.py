"""Lets a scheduler wait for a descriptor beside its own instants, so that nobody needs a thread to wait for it."""

from __future__ import annotations

import math
import os
import select
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from apscheduler.schedulers.blocking import BlockingScheduler

from lifebeat.lifecycle.watch import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable

    Leave = Callable[[Callable[[], None]], None]

_SELECTABLE = 1024
_PAUSE = 1.0
# The system may end a wait for descriptors late by a thousandth; the end of a wait is the event's own, which is exact.
_SLACK = 0.002
_FINE = 0.002
_Known: Any = BlockingScheduler  # APScheduler ships no types
_LOOP = _Known._main_loop  # noqa: SLF001 - how a scheduler waits, which is all that is known of it here


class Alarm(threading.Event):
    """An event that is waited for together with a descriptor.

    Whatever goes wrong with the descriptors, it is an event all the same: a host's jobs run by it.

    Args:
        descriptor: What to wait for.
        told: Called each time that there is something to be read, in the thread that waits.
        longest: Seconds after which ``told`` is called all the same.
    """

    def __init__(self, descriptor: int, told: Callable[[], None], longest: float = LONGEST) -> None:
        super().__init__()
        self._longest = longest
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        weakref.finalize(self, os.close, self._wake).atexit = False  # a daemon thread may wait until the very end
        self._attended: tuple[int, Callable[[], None]] | None = None
        self.attend(descriptor, told)

    def attend(self, descriptor: int, told: Callable[[], None]) -> None:
        """Wait for this one from here on.

        Raises:
            ValueError: There are too many open descriptors to wait for this one.
        """
        if max(descriptor, self._wake) >= _SELECTABLE:
            raise ValueError(descriptor)
        self._attended = (descriptor, told)
        self._ring()

    def leave(self, then: Callable[[], None]) -> None:
        """Wait for the descriptor no more; ``then`` may close it."""
        self._attended = None
        self._ring()
        then()

    def set(self) -> None:
        super().set()
        self._ring()

    def wait(self, timeout: float | None = None) -> bool:
        until = math.inf if timeout is None else time.monotonic() + timeout
        self._listen(0.0)  # a scheduler that is woken up again and again hears of it too
        while not self.is_set():
            left = max(until - time.monotonic(), 0.0)
            coarse = left * (1 - _SLACK) - _FINE
            if coarse <= 0:
                super().wait(left)
                break
            self._listen(coarse)
        return self.is_set()

    def _listen(self, seconds: float) -> None:
        try:
            self._select(seconds)
        except (OSError, ValueError):
            super().wait(min(seconds, _PAUSE))

    def _select(self, seconds: float) -> None:
        attended = self._attended
        awaited = [self._wake] if attended is None else [self._wake, attended[0]]
        ready, _, _ = select.select(awaited, [], [], min(seconds, self._longest))
        if self._wake in ready:
            os.eventfd_read(self._wake)
        is_long = not ready and seconds >= self._longest
        if attended is not None and attended is self._attended and (is_long or attended[0] in ready):
            attended[1]()

    def _ring(self) -> None:
        os.eventfd_write(self._wake, 1)


def attend(scheduler: Any, descriptor: int, told: Callable[[], None]) -> Leave | None:
    """Have the thread of a scheduler wait for a descriptor too.

    Returns:
        What ends that, and calls what it is given when the descriptor may be closed; ``None`` if it cannot be done.
    """
    event = getattr(scheduler, "_event", None)
    if getattr(scheduler.__class__, "_main_loop", None) is not _LOOP:
        return None
    try:
        if isinstance(event, Alarm):
            event.attend(descriptor, told)
            return event.leave
        if type(event) is threading.Event:
            scheduler._event = alarm = Alarm(descriptor, told)  # noqa: SLF001 - it waits for nothing else
            alarm.set()  # as the former one may have been, of which nobody may have heard yet
            event.set()
            return alarm.leave
    except (OSError, ValueError):
        return None
    return None


def attend_on_loop(loop: Any, descriptor: int, told: Callable[[], None]) -> Leave | None:
    """Have an asyncio loop wait for a descriptor too; returns as ``attend`` does."""

    def leave(then: Callable[[], None]) -> None:
        def left() -> None:
            loop.remove_reader(descriptor)
            then()

        try:
            loop.call_soon_threadsafe(left)
        except RuntimeError:  # it is closed, and waits for nothing
            then()

    try:
        loop.call_soon_threadsafe(loop.add_reader, descriptor, told)
    except (RuntimeError, AttributeError):
        return None
    return leave

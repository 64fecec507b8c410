"""The one door for threads: a start that is bounded, and false where no thread can be had."""

from __future__ import annotations

import _thread
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def start(name: str, work: Callable[[], None], *, daemon: bool = True, timeout: float = 1.0, wait: bool = True) -> bool:
    """Run ``work`` in a thread of its own, and return whether it has begun.

    ``Thread.start`` waits for the new thread without a limit, and where memory is gone that one may die before it says
    that it lives (CPython gh-140746). So a thread without ceremony starts the real one, and only that may be left
    waiting. What has not begun within ``timeout`` never begins.

    Args:
        name: The thread's name, without the prefix ``lifebeat-``.
        work: What to do; it sees to its own exceptions.
        daemon: Whether the interpreter may end while it runs.
        timeout: Seconds to wait for the beginning.
        wait: Whether to wait at all: an event loop must not, as each hand-over between threads takes a turn of the
            interpreter's lock. Work that has no thread after all is then done in the one that was to start it.
    """
    try:
        decided, answered = threading.Lock(), threading.Event()  # who takes the lock decides whether work begins

        def run() -> None:
            if decided.acquire(blocking=False):
                answered.set()
                work()

        def begin() -> None:
            try:
                threading.Thread(target=run, name=f"lifebeat-{name}", daemon=daemon).start()
            except (RuntimeError, MemoryError):
                answered.set()
                if not wait:
                    run()

        _thread.start_new_thread(begin, ())
        if not wait:
            return True
        answered.wait(timeout)
        return not decided.acquire(blocking=False)
    except (RuntimeError, MemoryError):  # the interpreter is ending, or there are as many threads as may be
        return False


def within(seconds: float, name: str, work: Callable[[], None]) -> bool:
    """Do ``work`` in a thread of its own, and return whether it was done in time; what was not is left behind."""
    begin = time.monotonic()
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    return start(name, run, timeout=seconds) and done.wait(max(begin + seconds - time.monotonic(), 0))

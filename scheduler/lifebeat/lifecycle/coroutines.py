"""Async job functions without a loop of the scheduler's own, run to their end from the thread of their job."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat.storage import threads
from lifebeat.storage.forks import in_child

if TYPE_CHECKING:
    from collections.abc import Coroutine


def complete(work: Coroutine[Any, Any, Any]) -> None:
    """Run ``work`` to its end; what it raises is raised here."""
    if are_threads_green():
        _SHARED.complete(work)
    else:
        asyncio.run(work)


def are_threads_green() -> bool:
    """Return whether gevent has put its greenlets in the place of threads: many in one thread of the system."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


class SharedLoop:
    """One loop for all, alive while there is work: asyncio runs only one in a thread of the system."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what runs: a forked child has none of it."""
        self._lock = threading.Lock()
        self._users = 0
        self._serving: Serving | None = None

    def complete(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run ``work`` beside what others run."""
        with self._lock:
            serving = self._serving = self._serving or Serving()
            self._users += 1
        try:
            asyncio.run_coroutine_threadsafe(work, serving.loop).result()
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._serving = None
                    serving.end()  # before another may begin


class Serving:
    """A loop in a thread of its own, until it is ended."""

    def __init__(self) -> None:
        self._unused = asyncio.Event()
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self._ended = threading.Event()
        if not threads.start("loop", partial(self._run, ready)):
            raise RuntimeError("the system has no thread left")
        self.loop = ready.result()

    def _run(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(ready))
        finally:
            self._ended.set()

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        ready.set_result(asyncio.get_running_loop())
        await self._unused.wait()

    def end(self) -> None:
        """End the loop, and wait until it has."""
        self.loop.call_soon_threadsafe(self._unused.set)
        self._ended.wait()


_SHARED = SharedLoop()
in_child(_SHARED.begin_anew)  # what ran in the parent does not run here

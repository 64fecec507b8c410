"""The job store of Lifebeat's jobs, in memory: it shows that the scheduler goes around by being asked what is due."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from apscheduler.jobstores.memory import MemoryJobStore

if TYPE_CHECKING:
    import threading
    from datetime import datetime


class Store(MemoryJobStore):  # type: ignore[misc]  # APScheduler ships no types
    """Jobs in memory.

    Attributes:
        waiting: Events to set as soon as the scheduler asks what is due.
        loop: The asyncio loop that the scheduler asked on last; ``None`` for a scheduler with a thread of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[threading.Event] = []
        self.loop: Any = None

    def get_due_jobs(self, now: datetime) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # APScheduler ships no types
        """Return the jobs that are due."""
        waiting, self.waiting = self.waiting, []
        for event in waiting:
            event.set()
        self.loop = running_loop()
        jobs: Any = super()  # APScheduler ships no types
        due: list[Any] = jobs.get_due_jobs(now)
        return due


def running_loop() -> Any:
    """Return the asyncio loop that runs in this thread; ``None`` if none does."""
    asyncio = sys.modules.get("asyncio")  # a host that has not imported it has no loop, and need not pay for it
    if asyncio is None:
        return None
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None

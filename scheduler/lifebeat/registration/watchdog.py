"""The beat for a service manager's watchdog, which stops when the scheduler does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from apscheduler.jobstores.memory import MemoryJobStore

from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.clock import Clock

ALIAS = "watchdog"


class Pulse(MemoryJobStore):  # type: ignore[misc]  # APScheduler ships no types
    """A job store that is always empty: to be asked what is due is the proof that the scheduler's thread goes around.

    Its locks are held while it asks, and it has come past whatever it did before. A job with an interval would prove as
    much, but follows the clock on the wall, and would be silent for as long as that was set back.

    Args:
        period: Seconds from beat to beat.
        beat: Called in a thread of its own, as jobs are: a process that can start no thread runs no job.
        clock: Where the time comes from.
    """

    def __init__(self, period: float, beat: Callable[[], None], clock: Clock) -> None:
        super().__init__()
        self._period = period
        self._beat = beat
        self._clock = clock
        self._next = clock.monotonic()

    def get_due_jobs(self, now: datetime) -> list[Any]:  # noqa: ARG002 - the clock on the wall, which may jump
        """Return no job, and send a beat if it is time for one."""
        if self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + self._period
            threads.start("watchdog", self._beat)
        return []

    def get_next_run_time(self) -> datetime:
        """Return when to ask again."""
        return datetime.now(tz=UTC) + timedelta(seconds=max(self._next - self._clock.monotonic(), 0.0))

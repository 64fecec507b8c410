"""What APScheduler asks when a job runs next."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from apscheduler.triggers.base import BaseTrigger

from lifebeat.schedule.instants import Instants, to_datetime, to_instant

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER = timedelta(days=36500)
REMEMBERED = 100  # delayed runs whose instant is known while they wait for a thread


class InstantTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """The instants of a job as APScheduler asks for them, each with its jitter on top.

    Args:
        instants: The job's instants.
        jitter: Gives an instant's random delay, both in microseconds.
        coalesce: Whether missed runs become one, the latest.
        misfire_grace: How late a run may start; ``None`` for however late.
        words: The trigger in words, as a printed job shows it.
    """

    __slots__ = ("_fires", "_instants", "_jitter", "coalesce", "misfire_grace", "words")

    def __init__(
        self,
        instants: Instants,
        jitter: Callable[[int], int],
        *,
        coalesce: bool,
        misfire_grace: timedelta | None = None,
        words: str = "instants",
    ) -> None:
        self._instants = instants
        self._jitter = jitter
        self._fires: dict[int, int] = {}
        self.coalesce = coalesce
        self.misfire_grace = misfire_grace
        self.words = words

    def __str__(self) -> str:
        return self.words

    def __repr__(self) -> str:
        return f"<InstantTrigger ({self.words})>"

    def get_next_fire_time(  # pyright: ignore[reportIncompatibleMethodOverride]  # APScheduler ships no types
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """Return the next run; after a sleep straight the latest instant, where missed runs become one."""
        at = to_instant(now)
        if previous_fire_time is None:
            return self._first(at)
        fired = to_instant(previous_fire_time)
        following = self._instants.after(self._fires.get(fired, fired))
        if following is not None and self.coalesce and following < at:
            following = self._instants.latest(at) or following
        return self._fire(following)

    def instant_of(self, fired: datetime) -> datetime:
        """Return the instant that a run belongs to; for a run by hand, which is none of these, its own moment."""
        at = to_instant(fired)
        return to_datetime(self._fires.get(at, at))

    def _first(self, at: int) -> datetime | None:
        latest = self._instants.latest(at)
        if latest is not None and latest + self._jitter(latest) >= at:
            return self._fire(latest)
        return self._fire(self._instants.after(at))

    def _fire(self, instant: int | None) -> datetime | None:
        if instant is None:
            return None
        delay = self._jitter(instant)
        if delay:
            self._fires[instant + delay] = instant
            while len(self._fires) > REMEMBERED:
                del self._fires[next(iter(self._fires))]
        return to_datetime(instant + delay)


class OnceTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler ships no types
    """One moment, after which the job is removed by its own run.

    APScheduler removes a job that has no next run while it goes through the due ones, and fails with a traceback in its
    thread if the scheduler is being shut down just then; so there always is a next run, which never comes.
    """

    __slots__ = ("_moment", "misfire_grace")

    def __init__(self, moment: datetime) -> None:
        self._moment = moment
        self.misfire_grace: timedelta | None = None

    def __str__(self) -> str:
        return f"once at {self._moment}"

    def get_next_fire_time(  # pyright: ignore[reportIncompatibleMethodOverride]  # APScheduler ships no types
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """Return the moment, and then a time that never comes."""
        return self._moment if previous_fire_time is None else now + NEVER

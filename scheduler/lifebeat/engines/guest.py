"""A life of the jobs that the application shares, in a process that has none of its own: a pool's child, or beat."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lifebeat.lifecycle.life import Lifecycle
from lifebeat.schedule.instants import AtShutdown, AtStart

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from lifebeat.jobfile.spec import JobFile, JobSpec
    from lifebeat.schedule.instants import Instants


class Guest(Lifecycle):
    """Knows only the shared jobs that have instants: nothing of it starts or stops anything."""

    def load(self, *, import_disabled: bool = False) -> JobFile:
        """The job file as it is now, without what is not for a guest."""
        found = super().load(import_disabled=import_disabled)
        return found._replace(specs=tuple(spec for spec in found.specs if _is_for_guests(spec)))


class Timers:
    """The scheduler of a guest, for the little that jobs put off: a thread for each."""

    event_loop = None

    def __init__(self) -> None:
        self._timers: dict[str, threading.Timer] = {}

    def add(
        self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Callable[[datetime], None]
    ) -> None:
        """A guest has no jobs of its own."""

    def add_once(self, job_id: str, delay: timedelta, run: Callable[[datetime], None]) -> None:
        """Run something once, after ``delay``; a second call under the same name replaces the first."""
        from datetime import UTC, datetime

        self.remove(job_id)
        timer = threading.Timer(delay.total_seconds(), lambda: run(datetime.now(tz=UTC)))
        timer.daemon = True
        self._timers[job_id] = timer
        timer.start()

    def remove(self, job_id: str) -> None:
        """Do not run it after all."""
        timer = self._timers.pop(job_id, None)
        if timer is not None:
            timer.cancel()

    def attend(self, descriptor: int, told: Callable[[], None]) -> None:
        """Nobody waits here."""

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - daemons, which are delivering what is on disk
        """Nothing that has to be waited for."""
        return True


def _is_for_guests(spec: JobSpec) -> bool:
    return spec.once == "application" and not isinstance(spec.trigger, (AtStart, AtShutdown))

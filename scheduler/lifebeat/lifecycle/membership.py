"""This process as a member of the application: the instance ID, the join, the claims, and what happens in an outage."""

from __future__ import annotations

import contextlib
import platform
import threading
from typing import TYPE_CHECKING

from lifebeat import installation, record, steering
from lifebeat.once.alone import Alone
from lifebeat.once.protocol import CannotCoordinate, Unavailable
from lifebeat.storage import threads

if TYPE_CHECKING:
    from lifebeat.clock import Moment
    from lifebeat.lifecycle.application import Application
    from lifebeat.once.protocol import Coordinator, Joined, RunInstant


_DISK = 1.0  # seconds


class Membership:
    """One process's part in what the processes of an application agree on.

    Args:
        application: The application.
        coordinator: What the processes agree by.
        shares_id: Whether the coordinator decides about the instance ID, over several machines.

    Attributes:
        joined: What the process learned when it joined; ``None`` before.
    """

    def __init__(self, application: Application, coordinator: Coordinator, *, shares_id: bool) -> None:
        self.joined: Joined | None = None
        self.shares_id = shares_id
        self._application = application
        self._coordinator = coordinator
        self._lock = threading.Lock()
        self._is_out = False
        self._exchanging = threading.Lock()

    def start(self, run: RunInstant) -> None:
        """Get ready; an engine's runs are given to ``run``."""
        self._coordinator.start(run, self._exchange)

    def _exchange(self, heard: steering.Orders) -> steering.Orders:
        """Have orders hold on all machines; the files of this one are watched, so that what is new is followed."""
        application, news = self._application, steering.Orders()

        def exchange() -> None:
            with self._exchanging:
                jobs = {spec.id for spec in application.load().specs}
                news.update(steering.exchange(application.state_dir(create=bool(heard)), heard, jobs, platform.node()))

        # A disk that hangs does not keep the engine from renewing this process's row.
        is_free = not self._exchanging.locked()
        return news if is_free and threads.within(_DISK, "orders", exchange) else {}

    # -- the ID and the join -----------------------------------------------------------------------------------------

    def make_id(self) -> None:
        """Make the instance ID where telemetry is on and has none: phases are made from it.

        Raises:
            Unavailable: The machines agree on it, and cannot be asked now.
        """
        application = self._application
        if not application.consent().is_on:
            return
        settings, state = application.source.read(), application.state_dir(create=True)
        if settings.instance_id is not None:
            return
        known = installation.known_id(settings, state)
        if self.shares_id:
            agreed = self._coordinator.agree(known or installation.new_id())
            application.source.agree({installation.KEY: agreed})
        elif known is None:
            installation.make_id(settings, application.source.config_dir, state)

    def join(self, timeout: float) -> Joined:
        """Join the application, or stand alone where processes cannot be coordinated.

        Raises:
            Unavailable: Ask again.
        """
        try:
            self.joined = self._coordinator.join(timeout)
        except CannotCoordinate as error:
            self._application.say_once(
                "coordinate", f"processes cannot be coordinated, so each reports for itself: {error}"
            )
            self.stand_alone()
        assert self.joined is not None
        return self.joined

    def join_late(self, timeout: float, *, shared: bool) -> None:
        """Make the ID and, for shared jobs, join at the stop: the life was too short, or could not before."""
        try:
            self.make_id()
            if shared:
                self.join(timeout)
        except Unavailable:
            if shared and not self.shares_id:
                self.stand_alone()
        if self.joined is not None:
            self.put_on_record()

    def stand_alone(self) -> None:
        """Go on as an application of one process: who stands alone ends alone."""
        self._coordinator = Alone(self._application.clock)
        self.joined = self._coordinator.join(0.0)

    def put_on_record(self) -> None:
        """Write down this process's arguments, so that commands know them too; while telemetry is on."""
        application = self._application
        state = application.state_dir(create=True) if application.consent().is_on else None
        if state is not None:
            warning = record.write(state, application.source, allow=application.allow, clock=application.clock)
            if warning is not None:
                application.say_once("record", warning)

    # -- claims ------------------------------------------------------------------------------------------------------

    def claim(self, job_id: str, instant: int) -> bool | None:
        """Claim an instant, as ``Coordinator.claim`` does; ``None`` if that has to be asked again."""
        try:
            is_ours = self._coordinator.claim(job_id, instant)
        except Unavailable as error:
            self.begin_outage(error)
            return None
        self.end_outage()
        return is_ours

    def latest_or_skip(self, job_id: str, due: int) -> int | None:
        """Return the latest instant claimed for a job; where there never was one, ``due`` counts as done.

        Raises:
            Unavailable: Ask again.
        """
        last = self._coordinator.latest(job_id)
        if last is None:
            self._coordinator.skip(job_id, due)
        return last

    def begin_outage(self, reason: Exception) -> None:
        """Say once that shared jobs are paused."""
        with self._lock:
            begins, self._is_out = not self._is_out, True
        if begins:
            self._application.logger.warning(
                "jobs with `once: application` are paused, others keep running; will retry: %s", reason
            )

    def end_outage(self) -> None:
        """Say that shared jobs are resumed, if they were paused."""
        with self._lock:
            ends, self._is_out = self._is_out, False
        if ends:
            self._application.logger.info("jobs with `once: application` are resumed")

    # -- the end -----------------------------------------------------------------------------------------------------

    def drain(self, timeout: float) -> None:
        """Wait for runs that an engine brought here."""
        self._coordinator.drain(timeout)

    def leave(self, timeout: float) -> Moment | None:
        """Leave, and return when, if this was the last process, so that the end is its to report.

        Also a process that has not joined leaves: the join may have been made, and its answer lost.
        """
        try:
            return self._coordinator.leave(timeout)
        except (Unavailable, CannotCoordinate) as error:
            if self.joined is not None:
                self._application.logger.warning("the end of the application may stay unreported: %s", error)
            return None

    def finish(self, timeout: float) -> None:
        """Note that the end has been reported; where that cannot be noted, the next start reports the same event."""
        with contextlib.suppress(Unavailable):
            self._coordinator.finish(timeout)

    def close(self) -> None:
        """Give back what was opened."""
        self._coordinator.close()

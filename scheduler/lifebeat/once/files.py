"""One application of many processes on a host: who is the first in, who the last out, who runs a job's instant.

Members hold a shared ``flock`` on one file, which the kernel drops when a process dies; so ``kill -9`` needs no
clean-up. They come and go one at a time, through a gate that is a lock as well: who can have the members' lock all to
itself is alone, the first in or the last out. What has to be remembered (the run, the claims) is in a small SQLite
database that is opened only inside the gate.

Reloads. A server that reloads starts new workers and at once stops the old ones. So the last one out looks for *heirs*:
processes of its kind that are starting and have not come yet (``processes``). It hands the run over and waits,
within its time, what becomes of them: one comes (others remain), all die (it was the last after all), or neither yet.
Whoever was starting at that moment continues the run whenever it comes. If a process that started later comes first,
the heirs never came: it begins a new run and is told of the one that nobody ended.

What this cannot see: a server whose *only* worker is recycled (gunicorn's ``max_requests`` with one worker) starts the
successor when the old one has ended. Nobody is coming while that one leaves, nor does it differ from a stop; so that is
a shutdown and a startup. Two workers, or a master that has joined as well, are enough to avoid it. So it is without
``/proc`` (macOS, BSD) at any reload in which all old workers have left before a new one has come.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from lifebeat.clock import Moment, now
from lifebeat.errors import LifebeatError
from lifebeat.once import processes as siblings
from lifebeat.once import protocol
from lifebeat.once.claims import Arrival, Departure, Handover, Roster, Unfinished
from lifebeat.once.protocol import Joined, RunInstant
from lifebeat.storage.forks import guard
from lifebeat.storage.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from lifebeat.clock import Clock

__all__ = ["Arrival", "Departure", "Presence", "PresenceUnavailable", "Unfinished"]

# A claim that gives up lets a job run twice, and on a machine with too much to do it was seen to take seven seconds.
_CLAIM_TIMEOUT = 15.0
_GATE_POLL = 0.002
_POLL = 0.02
# How long the last of several that leave together waits for others that are being started in their place.
_PATIENCE = 0.8


class PresenceUnavailable(LifebeatError):
    """The state directory cannot be used for this; the process counts as an application of its own."""


class Presence:
    """The processes of one application, which share a directory.

    A forked child is not what its parent is: it has not joined, and may join by itself. A master process that wants to
    keep the application together joins as well. ``join`` and ``leave`` are for one thread at a time, the rest for any.

    Args:
        directory: The state directory, the same for all processes; made if it is not there.
        clock: For the times that are told and kept.
        key: Which application, where several share a directory: letters, digits, ``.``, ``_`` and ``-``.

    Raises:
        ValueError: ``key`` has other characters in it.
    """

    def __init__(self, directory: Path, *, clock: Clock, key: str = "application") -> None:
        if not re.fullmatch(r"[\w.-]+", key, re.ASCII):
            raise ValueError(f"Presence: key is {key!r}, must be letters, digits, '.', '_' and '-': it names files")
        name = "presence" if key == "application" else f"presence-{key}"
        self._directory = directory
        self._clock = clock
        self._gate = directory / f"{name}.gate"
        self._queue = directory / f"{name}.queue"
        self._roster = Roster(directory / f"{name}.sqlite3")
        self._lock = FileLock(directory / f"{name}.lock")
        self._joined: tuple[int, Arrival] | None = None

    def join(self, timeout: float = 5.0) -> Arrival:
        """Come in; a process that is in already is told the same again.

        Args:
            timeout: Seconds to wait, at most, for others that come or go.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within ``timeout``. Not joined then.
        """
        if (arrival := self._arrival()) is None:
            deadline = time.monotonic() + timeout
            with self._inside(timeout):
                try:
                    arrival = self._arrive(deadline)
                except BaseException:
                    _drop(self._lock)
                    raise
            self._joined = (os.getpid(), arrival)
        return arrival

    def leave(self, timeout: float = 1.0) -> Departure:
        """Go out; true for the last one out. For a process that is not in, nothing happens: others remain.

        Args:
            timeout: Seconds to wait, at most, for others that come or go, and for those that are starting.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within ``timeout``. It is out all the
                same, but whether it was the last one is not known.
        """
        if self._arrival() is None:
            return Departure.OTHERS_REMAIN
        self._joined = None
        deadline = time.monotonic() + timeout
        try:
            patient_until = time.monotonic() + min(timeout, _PATIENCE)
            while (outcome := self._depart(deadline, patient_until)) is None:
                time.sleep(_POLL)
        finally:
            _drop(self._lock)
        return outcome if isinstance(outcome, Departure) else self._settle(outcome, deadline)

    def claim(self, job_id: str, instant: float) -> bool:
        """Whether a job's instant is the caller's to run.

        True for one caller over all processes and restarts, as long as the instant is among the last 100 claimed for
        that job. Which those are does not depend on the time, so that a clock that jumps forth and back harms nothing.

        Args:
            job_id: The job.
            instant: When it is due, in seconds since the Unix epoch: the same number from everyone who asks.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within 15 seconds.
        """
        with self._inside(_CLAIM_TIMEOUT):
            return self._roster.claim(job_id, instant)

    def last_claim(self, job_id: str) -> float | None:
        """The latest instant claimed for a job, to catch up after a downtime; ``None`` if there is none.

        Instants that lie in the future, from a clock that was ahead, do not count.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within 15 seconds.
        """
        with self._inside(_CLAIM_TIMEOUT):
            return self._roster.last_claim(job_id, until=self._clock.time())

    def _arrival(self) -> Arrival | None:
        return self._joined[1] if self._joined is not None and self._joined[0] == os.getpid() else None

    def _arrive(self, deadline: float) -> Arrival:
        alone = self._enter(deadline)
        arrival = self._roster.arrive(alone=alone, at=self._clock.time())
        # Changing how a lock is held is not atomic, but nobody else tries for it outside the gate.
        if alone and not self._lock.acquire(shared=True, timeout=max(0.0, deadline - time.monotonic())):
            raise self._unavailable("somebody else holds it who should not")
        return arrival

    def _enter(self, deadline: float) -> bool:
        """Take the members' lock, and say whether nobody else has it."""
        while True:
            if _take(self._lock):
                return True
            if _take(self._lock, shared=True):
                return False
            # A last one out that started a program in the same moment: that keeps the lock until its exec.
            if time.monotonic() >= deadline:
                raise self._unavailable("somebody has held it all the time")
            time.sleep(_POLL)

    def _depart(self, deadline: float, patient_until: float) -> Departure | Handover | None:
        """Try to go; ``None`` if it is too early to say how, and this process is still in."""
        with self._inside(max(_POLL, deadline - time.monotonic())):
            # If others have it too, trying has given up our share.
            if not _take(self._lock):
                # Only for the patience of the last one: on a full disk this one is still not the last.
                with contextlib.suppress(OSError):
                    self._roster.leave_to_others(at=self._clock.time())
                _drop(self._lock)
                return Departure.OTHERS_REMAIN
            outcome = self._roster.depart(at=self._clock.time(), may_wait=time.monotonic() < patient_until)
            if outcome is None:
                _take(self._lock, shared=True)
            else:
                _drop(self._lock)
        return outcome

    def _settle(self, handover: Handover, deadline: float) -> Departure:
        """Wait what becomes of the heirs, until the deadline."""
        try:
            while (outcome := self._look(handover, deadline)) is None and time.monotonic() < deadline:
                time.sleep(_POLL)
        except PresenceUnavailable:
            outcome = None
        return Departure.HANDED_OVER if outcome is None else outcome

    def _look(self, handover: Handover, deadline: float) -> Departure | None:
        heirs_live = any(map(siblings.lives, handover.heirs))
        with self._inside(max(_POLL, deadline - time.monotonic())):
            return self._roster.outcome(handover, heirs_live=heirs_live)

    @contextlib.contextmanager
    def _inside(self, timeout: float) -> Generator[None]:
        """The gate: one process at a time."""
        # Who wants the gate waits in the queue, which holds one: a process that comes back again and again would
        # otherwise find the gate free each time, and those who look now and then never.
        queue, gate = FileLock(self._queue), FileLock(self._gate)
        deadline = time.monotonic() + timeout
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for lock in (queue, gate):
                while not _take(lock):
                    if time.monotonic() >= deadline:
                        raise self._unavailable(f"other processes have held {lock.path.name!r} for {timeout:.3g} s")
                    time.sleep(_GATE_POLL)
            _drop(queue)
            yield
        except OSError as error:
            raise self._unavailable(str(error)) from error
        finally:
            _drop(queue)
            _drop(gate)

    def _unavailable(self, reason: str) -> PresenceUnavailable:
        return PresenceUnavailable(
            f"presence in {str(self._directory)!r}: {reason}; every process of the application must be able to write "
            "there: set telemetryStateDir to a directory where they can"
        )


def _take(lock: FileLock, *, shared: bool = False) -> bool:
    with guard:
        return lock.acquire(shared=shared)


def _drop(lock: FileLock) -> None:
    with guard:
        lock.release()


class FileCoordinator:
    """A stand-in on ``Presence``, until the coordinator of files is there."""

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        self._clock = clock
        self._presence = Presence(directory, clock=clock)

    def start(self, run: RunInstant) -> None:
        """Need nothing."""

    def join(self, timeout: float) -> Joined:
        with _unavailable():
            found = self._presence.join(timeout)
        here = now(self._clock)

        def moment(wall: float) -> Moment:
            return Moment(wall, here.boot - (here.wall - wall), here.boot_id)

        earlier = found.unfinished
        return Joined(
            found.first,
            moment(found.started_at),
            found.run,
            None
            if earlier is None
            else protocol.Unfinished(earlier.run, moment(earlier.started_at), moment(earlier.left_at)),
        )

    def agree(self, candidate: str) -> str:
        return candidate

    def claim(self, job_id: str, instant: int) -> bool:
        with _unavailable():
            return self._presence.claim(job_id, instant / 1e6)

    def skip(self, job_id: str, instant: int) -> None:
        self.claim(job_id, instant)

    def end(self, job_id: str, instant: int) -> None:
        """Need nothing."""

    def latest(self, job_id: str) -> int | None:
        with _unavailable():
            last = self._presence.last_claim(job_id)
        return None if last is None else round(last * 1e6)

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - nothing runs here
        return True

    def leave(self, timeout: float) -> bool:
        with _unavailable():
            return bool(self._presence.leave(timeout))

    def close(self) -> None:
        """Need nothing."""


@contextlib.contextmanager
def _unavailable() -> Generator[None]:
    try:
        yield
    except PresenceUnavailable as error:
        raise protocol.Unavailable(str(error)) from error

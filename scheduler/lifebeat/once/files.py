"""The processes of one machine: who is in, by a shared file lock, and whose an instant is, by a row in the database.

Members hold a shared ``flock`` on one file, which the kernel drops when a process dies; so ``kill -9`` needs no
clean-up. They join and leave one at a time, inside a transaction of the database: who can have the lock all to itself
then is alone, the first in or the last out. What has to be remembered (the run, the claims) stands in that database.

Reloads. A server that reloads starts new workers and at once stops the old ones. So the last one out looks for
*successors*: processes of its kind that are starting and have not joined yet (``processes``). It leaves the run to
them, and is not the last. A process that was starting at that moment continues the run when it joins. If a process that
started later joins first, the successors never came: it begins a new run and learns of the one that was not ended.

What this cannot see: a server whose *only* worker is recycled (gunicorn's ``max_requests`` with one worker) starts the
successor when the old one has ended. No other is coming while that one leaves, as in a stop; so that is
a shutdown and a startup. Two workers, or a master that has joined as well, are enough to avoid it. So it is without
``/proc`` (macOS, BSD) at any reload in which all old workers have left before a new one has joined.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from lifebeat import clock as clocks
from lifebeat.once import rows
from lifebeat.once.protocol import Unavailable
from lifebeat.storage import state_dir
from lifebeat.storage.forks import in_child
from lifebeat.storage.locks import FileLock
from lifebeat.storage.sqlite import Database, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lifebeat.clock import Clock, Moment
    from lifebeat.once.protocol import Exchange, Joined, RunInstant
    from lifebeat.storage.sqlite import Access, Connection

T = TypeVar("T")
LOCK_FILE = "lock"
# A claim that gives up is asked again, and on a machine with too much to do one was seen to take seven seconds.
CLAIM_TIMEOUT = 15.0
_POLL = 0.02
# How long the last of several that leave together waits for others that are being started in their place.
_PATIENCE = 0.8


class FileCoordinator:
    """What the processes of one application on one machine agree on, in a directory that they share.

    A forked child is not what its parent is: it has not joined, and may join by itself. A master process that wants to
    keep the application together joins as well. ``join`` and ``leave`` are for one thread at a time, the rest for any.

    Args:
        directory: The state directory, the same for all processes; made if it is not there.
        clock: For the times that are returned and kept.
        remembers: Returns whether runs are remembered, so that each claim makes a row of ``history``.
    """

    def __init__(self, directory: Path, *, clock: Clock, remembers: Callable[[], bool] = lambda: False) -> None:
        self._directory = directory
        self._clock = clock
        self._remembers = remembers
        self._database = Database(directory / state_dir.DATABASE_FILE, rows.SCHEMA, warn=_warn)
        self._lock = FileLock(directory / LOCK_FILE)
        self._joined: Joined | None = None
        in_child(self.close)  # a child is not in; the lock sees to itself

    def start(self, run: RunInstant, exchange: Exchange) -> None:
        """Do nothing: what is claimed here is run here, and a machine's processes have one record of orders."""

    def join(self, timeout: float) -> Joined:
        """Join the application within ``timeout`` seconds; a process that is in already gets the same answer.

        Raises:
            Unavailable: The directory cannot be used, or was not free in time. Not joined then; it may be asked again.
        """
        if self._joined is None:
            deadline = time.monotonic() + timeout
            try:
                while (joined := self._change(self._try_to_join, deadline)) is None and time.monotonic() < deadline:
                    time.sleep(_POLL)
            except BaseException:
                self._lock.release()
                raise
            if joined is None:
                raise Unavailable(f"{self._lock.path}: another process holds the lock; try again")
            self._joined = joined
        return self._joined

    def leave(self, timeout: float) -> Moment | None:
        """Leave the application within ``timeout`` seconds; return when, if this was the last process.

        Where the database cannot be used, being alone is all that can be known, and is the answer. The last process
        keeps the lock, so that no process joins before the end is reported, or this process dead.
        """
        if self._joined is None:
            return None
        deadline = time.monotonic() + timeout
        patient_until = time.monotonic() + min(timeout / 2, _PATIENCE)
        left, last = clocks.now(self._clock), None
        try:
            while (last := self._change(partial(self._try_to_leave, left, patient_until), deadline)) is None:
                time.sleep(_POLL)
        except Unavailable:
            last = bool(self._joined) and self._lock.acquire()  # it may be out, and only the commit have failed
        finally:
            if not last:
                self.close()
        self._joined = None
        return left if last else None

    def finish(self, timeout: float) -> None:
        """Note that the end of the run has been reported, and let others join."""
        try:
            self._run(rows.finish, "update", None, timeout=timeout)
        finally:
            self.close()

    def agree(self, candidate: str) -> str:
        """Return the instance ID that all processes agree on: the candidate, a UUID, if there was none."""
        try:
            return state_dir.agree_on_id(self._directory / state_dir.ID_FILE, candidate)
        except state_dir.StateNotWritable as error:
            raise Unavailable(str(error)) from error

    def claim(self, job_id: str, instant: int) -> bool:
        """Claim an instant, and return whether the caller is to run it now.

        True for one caller over all processes and restarts, as long as the instant is among the last 100 claimed for
        that job. Which those are does not depend on the time, so that a clock that jumps forth and back harms nothing.
        """
        remembers, now = self._remembers(), self._now()

        def claim(connection: Connection) -> bool:
            is_ours = rows.claim(job_id, instant, now, connection)
            if is_ours and remembers:
                rows.begin_run(job_id, instant, now, connection)
            return is_ours

        return self._run(claim, "create", missing=False)

    def skip(self, job_id: str, instant: int) -> None:
        """Count an instant as done without a run, where a job has no claims yet."""
        self._run(partial(rows.skip, job_id, instant), "create", None)

    def latest(self, job_id: str) -> int | None:
        """Return the latest instant claimed for a job, none in the future; ``None`` if there is none."""
        return self._run(partial(rows.latest, job_id, self._now()), "read", None)

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - the protocol's
        """Return true: no engine brings runs here."""
        return True

    def close(self) -> None:
        """Be out without a word, as a process that was killed is."""
        self._joined = None
        self._lock.release()

    # -- inside the transaction, in which one process is at a time ---------------------------------------------

    def _try_to_join(self, connection: Connection) -> Joined | None:
        alone = self._lock.acquire()
        # Changing how a lock is held is not atomic, but no other tries for it outside the transaction. Only a last
        # one out that started a program in the same moment keeps it until its exec.
        if not self._lock.acquire(shared=True):
            return None
        return rows.join(connection, alone=alone, now=clocks.now(self._clock))

    def _try_to_leave(self, left: Moment, patient_until: float, connection: Connection) -> bool | None:
        """Return whether this was the last; ``None`` if it is too early to say, and this process is still in."""
        if self._joined is None:  # it was out already, when the file was moved away
            return False
        if not self._lock.acquire():
            self.close()  # now, or the next to leave would still find us in
            rows.leave_to_others(connection, clocks.now(self._clock))
            return False
        last = rows.leave(connection, left, self._clock, may_wait=time.monotonic() < patient_until)
        if last is None:
            self._lock.acquire(shared=True)
        return last

    # -- the database ------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return int(self._clock.time() * 1_000_000)

    def _change(self, work: Callable[[Connection], T], deadline: float) -> T | None:
        return self._run(work, "create", None, timeout=max(deadline - time.monotonic(), 0.0))

    def _run(self, work: Callable[[Connection], T], access: Access, missing: T, timeout: float = CLAIM_TIMEOUT) -> T:
        sync: Literal["NORMAL"] = "NORMAL"  # no wait for the disk is longer than the safety of the file needs
        try:
            return self._database.run(work, access, missing, timeout=timeout, sync=sync)
        except DatabaseUnavailable as error:
            raise Unavailable(
                f"{error}; every process of the application must be able to write in {str(self._directory)!r}"
            ) from error
        except OSError as error:  # of the lock
            raise Unavailable(f"{self._lock.path}: cannot be locked: {error.strerror}") from error


def _warn(message: str) -> None:
    logging.getLogger("lifebeat").warning("%s", message)

"""One application of many processes on a host: who is the first in, who the last out, who runs a job's instant.

Members hold a shared ``flock`` on one file, which the kernel drops when a process dies; so ``kill -9`` needs no
clean-up. They come and go one at a time, through a gate that is a lock as well: who can have the members' lock all to
itself is alone, the first in or the last out. What has to be remembered (the run, the claims) is in a small SQLite
database that is opened only inside the gate.

Reloads. A server that reloads starts new workers and at once stops the old ones. So the last one out looks for *heirs*:
processes of its kind that are starting and have not come yet (``lifebeat.siblings``). It hands the run over and waits,
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
import enum
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from lifebeat import siblings
from lifebeat.errors import LifebeatError
from lifebeat.locks import FileLock, held

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.siblings import Process

T = TypeVar("T")

_CLAIM_TIMEOUT = 2.0
_KEPT_CLAIMS = 100
_KEPT_MEMBERS = 1000
_POLL = 0.02
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, started_at REAL NOT NULL, ended INTEGER NOT NULL,
    handover TEXT, left_at REAL, world TEXT, ticks INTEGER);
CREATE TABLE IF NOT EXISTS members (
    number INTEGER PRIMARY KEY, world TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS claims (
    number INTEGER PRIMARY KEY, job TEXT NOT NULL, instant REAL NOT NULL, UNIQUE (job, instant));
"""


class PresenceUnavailable(LifebeatError):  # noqa: N818 - it says what is so, as the built-in names do
    """The state directory cannot be used for this; the process counts as an application of its own."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run whose last process left for others to continue, and none came.

    Attributes:
        run: The random ID of that run.
        started_at: When that run's first process came, in seconds since the Unix epoch.
        left_at: When its last process left, in seconds since the Unix epoch.
    """

    run: str
    started_at: float
    left_at: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a process found the application when it came.

    Attributes:
        first: Nobody was there: the application starts with this process.
        started_at: When the run's first process came, in seconds since the Unix epoch.
        run: The random ID of this run of the application.
        unfinished: The run before, if nobody has told that it ended; ``None`` if it was told, and if it was killed.
            Told to one process only.
    """

    first: bool
    started_at: float
    run: str
    unfinished: Unfinished | None = None


class Departure(enum.Enum):
    """How a process left the application. True where it was the last, so that the end is its to tell."""

    LAST = "last"
    """Nobody is left and nobody is coming: the application ends with this process."""
    OTHERS_REMAIN = "others remain"
    """Others are there; or this process was none of them."""
    HANDED_OVER = "handed over"
    """Nobody is left, but others are starting: they continue the run, or whoever comes next tells that it ended."""

    def __bool__(self) -> bool:
        return self is Departure.LAST


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
        self._database = directory / f"{name}.sqlite3"
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
                    self._lock.release()
                    raise
            self._joined = (os.getpid(), arrival)
        return arrival

    def leave(self, timeout: float = 1.0) -> Departure:
        """Go out, in any case; true for the last one out. A process that is not in remains without.

        Args:
            timeout: Seconds to wait, at most, for others that come or go, and for those that are starting.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within ``timeout``; nobody then knows
                that this process left, unless it was the last.
        """
        if self._arrival() is None:
            return Departure.OTHERS_REMAIN
        self._joined = None
        deadline = time.monotonic() + timeout
        try:
            with self._inside(timeout):
                outcome = self._depart()
        finally:
            self._lock.release()
        return outcome if isinstance(outcome, Departure) else self._settle(outcome, deadline)

    def claim(self, job_id: str, instant: float) -> bool:
        """Whether a job's instant is the caller's to run.

        True for one caller over all processes and restarts, as long as the instant is among the last 100 claimed for
        that job. Which those are does not depend on the time, so that a clock that jumps forth and back harms nothing.

        Args:
            job_id: The job.
            instant: When it is due, in seconds since the Unix epoch: the same number from everyone who asks.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within two seconds.
        """
        with self._inside(_CLAIM_TIMEOUT):
            return self._transact(partial(_claim, job_id, instant))

    def last_claim(self, job_id: str) -> float | None:
        """The latest instant claimed for a job, to catch up after a downtime; ``None`` if there is none.

        Instants that lie in the future, from a clock that was ahead, do not count.

        Raises:
            PresenceUnavailable: The directory cannot be used, or was not free within two seconds.
        """
        with self._inside(_CLAIM_TIMEOUT):
            return self._transact(partial(_last_claim, job_id, self._clock.time()))

    def _arrival(self) -> Arrival | None:
        return self._joined[1] if self._joined is not None and self._joined[0] == os.getpid() else None

    def _arrive(self, deadline: float) -> Arrival:
        alone = self._enter(deadline)
        arrival = self._transact(partial(_arrive, alone, self._clock.time()))
        # Changing how a lock is held is not atomic, but nobody else tries for it outside the gate.
        if alone and not self._lock.acquire(shared=True, timeout=max(0.0, deadline - time.monotonic())):
            raise self._unavailable("somebody else holds it who should not")
        return arrival

    def _enter(self, deadline: float) -> bool:
        """Take the members' lock, and say whether nobody else has it."""
        while True:
            if self._lock.acquire():
                return True
            if self._lock.acquire(shared=True):
                return False
            # A last one out that started a program in the same moment: that keeps the lock until its exec.
            if time.monotonic() >= deadline:
                raise self._unavailable("somebody has held it all the time")
            time.sleep(_POLL)

    def _depart(self) -> Departure | _Handover:
        # If others have it too, trying has given up our share.
        if not self._lock.acquire():
            return Departure.OTHERS_REMAIN
        return self._transact(partial(_depart, self._clock.time()))

    def _settle(self, handover: _Handover, deadline: float) -> Departure:
        """Wait what becomes of the heirs, until the deadline."""
        try:
            while (outcome := self._look(handover, deadline)) is None and time.monotonic() < deadline:
                time.sleep(_POLL)
        except PresenceUnavailable:
            outcome = None
        return outcome or Departure.HANDED_OVER

    def _look(self, handover: _Handover, deadline: float) -> Departure | None:
        heirs_live = any(map(siblings.lives, handover.heirs))
        with self._inside(max(_POLL, deadline - time.monotonic())):
            return self._transact(partial(_outcome, handover, heirs_live))

    @contextlib.contextmanager
    def _inside(self, timeout: float) -> Iterator[None]:
        """The gate: one process at a time."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with held(self._gate, timeout=timeout) as free:
                if not free:
                    raise self._unavailable(f"another process has held {self._gate.name!r} for {timeout:.3g} s")
                yield
        except OSError as error:
            raise self._unavailable(str(error)) from error

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do it wholly or not at all, in a database that is set aside if it is broken."""
        import sqlite3  # noqa: PLC0415 - only where there are jobs that the application shares

        # SQLITE_ERROR: tables that are not ours.
        broken = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
        try:
            try:
                return self._try(work)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in broken:
                    raise
                self._set_aside(error)
                return self._try(work)
        except sqlite3.Error as error:
            raise self._unavailable(f"{self._database.name!r}: {error}") from error

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        import sqlite3  # noqa: PLC0415 - as above

        # Without SQLite's own locks, which the gate makes needless: a child that is forked while another thread has
        # the database open would inherit them, and find it locked for ever.
        uri = f"{self._database.absolute().as_uri()}?nolock=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            # A process that dies loses nothing with it; after a power cut a claim may be given twice, no worse.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(f"BEGIN; {_SCHEMA}")
            done = work(connection)
            connection.execute("COMMIT")
        return done

    def _set_aside(self, error: Exception) -> None:
        aside = self._database.with_name(f"{self._database.name}.corrupt")
        self._database.replace(aside)
        # It would be played back into the new database.
        self._database.with_name(f"{self._database.name}-journal").unlink(missing_ok=True)
        logging.getLogger("lifebeat").warning(
            "%s: %s; set aside as %r, goes on with a new one", self._database, error, aside.name
        )

    def _unavailable(self, reason: str) -> PresenceUnavailable:
        return PresenceUnavailable(
            f"presence in {str(self._directory)!r}: {reason}; every process of the application must be able to write "
            "there: set telemetryStateDir to a directory where they can"
        )


class _Run(NamedTuple):
    """The current run; the last four are set while it is handed over to heirs."""

    id: str
    started_at: float
    ended: int
    handover: str | None
    left_at: float | None
    world: str | None
    ticks: int | None

    def falls_to(self, me: Process | None) -> bool:
        """Whether it was handed over, and ``me`` was starting then."""
        return (
            self.handover is not None
            and self.ticks is not None
            and me is not None
            and self.world == siblings.world()
            and me.started <= self.ticks
        )

    def unfinished(self) -> Unfinished | None:
        return None if self.left_at is None else Unfinished(self.id, self.started_at, self.left_at)


class _Handover(NamedTuple):
    run: str
    token: str
    heirs: list[Process]


def _arrive(alone: bool, at: float, db: sqlite3.Connection) -> Arrival:
    run, me = _current(db), siblings.find(os.getpid())
    if run is not None and not run.ended and (not alone or run.falls_to(me)):
        db.execute("UPDATE run SET handover = NULL, left_at = NULL, world = NULL, ticks = NULL")
        arrival = Arrival(first=False, started_at=run.started_at, run=run.id)
    else:
        # Others are in, but no run is known: the database was lost on the way.
        first = alone or run is not None
        arrival = Arrival(first, at, os.urandom(16).hex(), run.unfinished() if run is not None else None)
        db.execute("INSERT OR REPLACE INTO run VALUES (1, ?, ?, 0, NULL, NULL, NULL, NULL)", (arrival.run, at))
    if me is not None:
        _enrol(db, me)
    return arrival


def _enrol(db: sqlite3.Connection, me: Process) -> None:
    """Put ``me`` on the list of those who have come, who are no heirs any more; take those off who are dead."""
    if (world := siblings.world()) is None:
        return
    db.execute("INSERT INTO members (world, pid, started) VALUES (?, ?, ?)", (world, *me.identity))
    dead = _members(db, world)
    dead = {identity for identity in dead if (found := siblings.find(identity[0])) is None or found.identity != identity}
    db.executemany("DELETE FROM members WHERE world = ? AND pid = ? AND started = ?", [(world, *one) for one in dead])
    # Those of other containers, which cannot be looked up from here.
    db.execute("DELETE FROM members WHERE number <= (SELECT max(number) FROM members) - ?", (_KEPT_MEMBERS,))


def _depart(at: float, db: sqlite3.Connection) -> Departure | _Handover:
    run, world, heirs = _current(db), siblings.world(), _heirs(db)
    if run is None or not heirs:
        db.execute("UPDATE run SET ended = 1")
        return Departure.LAST
    token = os.urandom(8).hex()
    db.execute("UPDATE run SET handover = ?, left_at = ?, world = ?, ticks = ?", (token, at, world, siblings.now()))
    return _Handover(run.id, token, heirs)


def _heirs(db: sqlite3.Connection) -> list[Process]:
    """Who is starting and has not come yet."""
    world, me = siblings.world(), siblings.find(os.getpid())
    if world is None or me is None:
        return []
    came = _members(db, world)
    return [other for other in siblings.starting(me, siblings.now()) if other.identity not in came]


def _outcome(handover: _Handover, heirs_live: bool, db: sqlite3.Connection) -> Departure | None:
    """What became of a run that was handed over; ``None`` while the heirs are still starting."""
    run = _current(db)
    if run is None or run.id != handover.run:
        return Departure.HANDED_OVER
    if run.handover != handover.token:
        return Departure.OTHERS_REMAIN
    if heirs_live:
        return None
    db.execute("UPDATE run SET ended = 1, handover = NULL, left_at = NULL, world = NULL, ticks = NULL")
    return Departure.LAST


def _current(db: sqlite3.Connection) -> _Run | None:
    row = db.execute("SELECT id, started_at, ended, handover, left_at, world, ticks FROM run").fetchone()
    return None if row is None else _Run(*row)


def _members(db: sqlite3.Connection, world: str) -> set[tuple[int, int]]:
    return set(db.execute("SELECT pid, started FROM members WHERE world = ?", (world,)))


def _claim(job_id: str, instant: float, db: sqlite3.Connection) -> bool:
    if not db.execute("INSERT OR IGNORE INTO claims (job, instant) VALUES (?, ?)", (job_id, instant)).rowcount:
        return False
    oldest = "SELECT number FROM claims WHERE job = ? ORDER BY number DESC LIMIT 1 OFFSET ?"
    db.execute(f"DELETE FROM claims WHERE job = ? AND number <= ({oldest})", (job_id, job_id, _KEPT_CLAIMS))  # noqa: S608 - no value in it
    return True


def _last_claim(job_id: str, now: float, db: sqlite3.Connection) -> float | None:
    row = db.execute("SELECT max(instant) FROM claims WHERE job = ? AND instant <= ?", (job_id, now)).fetchone()
    return None if row is None else row[0]

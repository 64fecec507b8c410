"""What the processes of an application remember together: the run, who came, which instants are claimed.

A small SQLite database that is opened by one process at a time, inside the gate of ``lifebeat.once.files``.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from lifebeat.once import processes as siblings
from lifebeat.storage.forks import guard

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

    from lifebeat.once.processes import Process

T = TypeVar("T")

_KEPT_CLAIMS = 100
_LATELY = 2.0
_KEPT_MEMBERS = 1000
# Only for somebody who looks into the database with another program: among ourselves the gate keeps order.
_BUSY = 0.5
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, started_at REAL NOT NULL, ended INTEGER NOT NULL,
    handover TEXT, left_at REAL, world TEXT, ticks INTEGER, heirs TEXT,
    last_departure REAL);
CREATE TABLE IF NOT EXISTS members (
    number INTEGER PRIMARY KEY, world TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL,
    UNIQUE (world, pid, started));
CREATE TABLE IF NOT EXISTS claims (
    number INTEGER PRIMARY KEY, job TEXT NOT NULL, instant REAL NOT NULL, UNIQUE (job, instant));
CREATE TABLE IF NOT EXISTS forgotten (job TEXT PRIMARY KEY, instant REAL NOT NULL);
"""


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


class Handover(NamedTuple):
    """A run that its last process has left to heirs."""

    run: str
    token: str
    heirs: list[Process]


class Roster:
    """The database. Only for whom the gate lets in; every method raises ``OSError`` where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def arrive(self, *, alone: bool, at: float) -> Arrival:
        """This process has come, at that time, and has found nobody or somebody there."""
        return self._transact(partial(_arrive, alone, at))

    def leave_to_others(self, *, at: float) -> None:
        """This process goes, and others remain."""
        self._transact(partial(_leave_to_others, at))

    def depart(self, *, at: float, may_wait: bool) -> Departure | Handover | None:
        """This process, the last one in, goes: the run ends, or is handed over to those who are starting.

        ``None`` if it ``may_wait`` and it is too early to say: others have just left, and if they were recycled, their
        server starts others in their place as soon as they have ended.
        """
        return self._transact(partial(_depart, at, may_wait))

    def outcome(self, handover: Handover, *, heirs_live: bool) -> Departure | None:
        """What became of a run that this process has handed over; ``None`` while the heirs are starting."""
        return self._transact(partial(_outcome, handover, heirs_live))

    def claim(self, job_id: str, instant: float) -> bool:
        """Take a job's instant; false if it is taken."""
        return self._transact(partial(_claim, job_id, instant), durable=True)

    def last_claim(self, job_id: str, *, until: float) -> float | None:
        """The latest instant of a job that is taken, none after ``until``; ``None`` if there is none."""
        return self._transact(partial(_last_claim, job_id, until))

    def _transact(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False) -> T:
        """Do it wholly or not at all, in a database that is set aside if it is broken."""
        with guard:
            return self._transact_unforked(work, durable=durable)

    def _transact_unforked(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        import sqlite3

        # SQLITE_ERROR: tables that are not ours.
        broken = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
        try:
            try:
                return self._try(work, durable=durable)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF not in broken:
                    raise
                self._set_aside(error)
                return self._try(work, durable=durable)
        except sqlite3.Error as error:
            raise OSError(f"{self.path.name!r}: {error}") from error

    def _try(self, work: Callable[[sqlite3.Connection], T], *, durable: bool) -> T:
        import sqlite3

        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY, isolation_level=None)) as connection:
            # What dies with a process is safe either way; this is about power cuts. A run does not outlive one, so that
            # nobody waits for the disk while others come and go. Of the claims the last may be lost with NORMAL, at
            # worst, and be given a second time.
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
            connection.executescript(f"BEGIN; {_SCHEMA}")
            done = work(connection)
            connection.execute("COMMIT")
        return done

    def _set_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.corrupt")
        self.path.replace(aside)
        # It would be played back into the new database.
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        logging.getLogger("lifebeat").warning(
            "%s: %s; set aside as %r, goes on with a new one", self.path, error, aside.name
        )


class Run(NamedTuple):
    """The current run; the last five are set while it is handed over to heirs."""

    id: str
    started_at: float
    ended: int
    handover: str | None
    left_at: float | None
    world: str | None
    ticks: int | None
    heirs: str | None

    def falls_to(self, me: Process | None) -> bool:
        """Whether it was handed over, and ``me`` was starting then."""
        if self.ticks is None or self.heirs is None or me is None or self.world != siblings.world():
            return False
        # A tick is long enough to start in after the handing over, so in that very tick only those who were seen count.
        return me.started < self.ticks or list(me.identity) in json.loads(self.heirs)

    def unfinished(self) -> Unfinished | None:
        return None if self.left_at is None else Unfinished(self.id, self.started_at, self.left_at)


def _arrive(alone: bool, at: float, db: sqlite3.Connection) -> Arrival:
    run, me = _current(db), siblings.find(os.getpid())
    if run is not None and not run.ended and (not alone or run.falls_to(me)):
        db.execute("UPDATE run SET handover = NULL, left_at = NULL, world = NULL, ticks = NULL, heirs = NULL")
        arrival = Arrival(first=False, started_at=run.started_at, run=run.id)
    else:
        # Others are in, but no run is known: the database was lost on the way.
        first = alone or run is not None
        arrival = Arrival(first, at, os.urandom(16).hex(), run.unfinished() if run is not None else None)
        db.execute(
            "INSERT OR REPLACE INTO run VALUES (1, ?, ?, 0, NULL, NULL, NULL, NULL, NULL, NULL)", (arrival.run, at)
        )
    if me is not None:
        _enrol(db, me)
    return arrival


def _enrol(db: sqlite3.Connection, me: Process) -> None:
    """Put ``me`` on the list of those who have come, who are no heirs any more; take those off who are dead."""
    if (world := siblings.world()) is None:
        return
    db.execute("INSERT OR REPLACE INTO members (world, pid, started) VALUES (?, ?, ?)", (world, *me.identity))
    found = ((identity, siblings.find(identity[0])) for identity in _members(db, world))
    dead = [identity for identity, process in found if process is None or process.identity != identity]
    db.executemany("DELETE FROM members WHERE world = ? AND pid = ? AND started = ?", [(world, *one) for one in dead])
    # Those of other containers, which cannot be looked up from here.
    db.execute("DELETE FROM members WHERE number <= (SELECT max(number) FROM members) - ?", (_KEPT_MEMBERS,))


def _leave_to_others(at: float, db: sqlite3.Connection) -> None:
    db.execute("UPDATE run SET last_departure = ?", (at,))


def _depart(at: float, may_wait: bool, db: sqlite3.Connection) -> Departure | Handover | None:
    run, world, heirs = _current(db), siblings.world(), _heirs(db)
    if may_wait and run is not None and not heirs and world is not None and _others_left_lately(at, db):
        return None
    if run is None or not heirs:
        db.execute("UPDATE run SET ended = 1")
        return Departure.LAST
    token = os.urandom(8).hex()
    seen = json.dumps([heir.identity for heir in heirs])
    values = (token, at, world, siblings.now(), seen)
    db.execute("UPDATE run SET handover = ?, left_at = ?, world = ?, ticks = ?, heirs = ?", values)
    return Handover(run.id, token, heirs)


def _others_left_lately(at: float, db: sqlite3.Connection) -> bool:
    row = db.execute("SELECT last_departure FROM run").fetchone()
    return row is not None and row[0] is not None and 0 <= at - row[0] < _LATELY


def _heirs(db: sqlite3.Connection) -> list[Process]:
    """Who is starting and has not come yet."""
    world, me = siblings.world(), siblings.find(os.getpid())
    if world is None or me is None:
        return []
    came = _members(db, world)
    return [other for other in siblings.starting(me, siblings.now()) if other.identity not in came]


def _outcome(handover: Handover, heirs_live: bool, db: sqlite3.Connection) -> Departure | None:
    """What became of a run that was handed over; ``None`` while the heirs are still starting."""
    run = _current(db)
    if run is None or run.id != handover.run:
        return Departure.HANDED_OVER
    if run.handover != handover.token:
        return Departure.OTHERS_REMAIN
    if heirs_live:
        return None
    db.execute("UPDATE run SET ended = 1, handover = NULL, left_at = NULL, world = NULL, ticks = NULL, heirs = NULL")
    return Departure.LAST


def _current(db: sqlite3.Connection) -> Run | None:
    row = db.execute("SELECT id, started_at, ended, handover, left_at, world, ticks, heirs FROM run").fetchone()
    return None if row is None else Run(*row)


def _members(db: sqlite3.Connection, world: str) -> set[tuple[int, int]]:
    return set(db.execute("SELECT pid, started FROM members WHERE world = ?", (world,)))


def _claim(job_id: str, instant: float, db: sqlite3.Connection) -> bool:
    known = "SELECT 1 FROM forgotten WHERE job = ? AND instant >= ?"
    if db.execute(known, (job_id, instant)).fetchone() is not None:
        return False
    if not db.execute("INSERT OR IGNORE INTO claims (job, instant) VALUES (?, ?)", (job_id, instant)).rowcount:
        return False
    _forget(job_id, instant, db)
    return True


def _forget(job_id: str, now: float, db: sqlite3.Connection) -> None:
    """Delete the oldest claims of a job, and remember up to where, so that none of them is given again.

    What a clock that was ahead has claimed says nothing: it would have everything refused until that time.
    """
    oldest = "SELECT number FROM claims WHERE job = :job ORDER BY number DESC LIMIT 1 OFFSET :kept"
    values = {"job": job_id, "now": now, "kept": _KEPT_CLAIMS}
    db.execute(
        "INSERT INTO forgotten SELECT job, max(instant) FROM claims "  # noqa: S608 - no value in it
        f"WHERE job = :job AND instant <= :now AND number <= ({oldest}) GROUP BY job "
        "ON CONFLICT (job) DO UPDATE SET instant = max(instant, excluded.instant)",
        values,
    )
    db.execute(f"DELETE FROM claims WHERE job = :job AND number <= ({oldest})", values)  # noqa: S608 - no value in it


def _last_claim(job_id: str, now: float, db: sqlite3.Connection) -> float | None:
    row = db.execute("SELECT max(instant) FROM claims WHERE job = ? AND instant <= ?", (job_id, now)).fetchone()
    return None if row is None else row[0]

"""The rows that processes of one machine share: the run, who has joined, which instants are claimed, and their runs.

All of it is done inside a transaction of the database, in which one process is at a time.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from lifebeat import clock as clocks
from lifebeat.clock import Moment
from lifebeat.once import processes
from lifebeat.once.protocol import Joined, Unfinished

if TYPE_CHECKING:
    from lifebeat.clock import Clock
    from lifebeat.once.processes import Process
    from lifebeat.storage.sqlite import Connection

KEPT_CLAIMS = 100
_LATELY = 2.0
_KEPT_MEMBERS = 1000
SCHEMA = {
    "run": """CREATE TABLE run (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        id TEXT NOT NULL,
        started TEXT NOT NULL,
        ended INTEGER NOT NULL DEFAULT 0,
        others_left TEXT,
        left TEXT,
        world TEXT,
        ticks INTEGER,
        successors TEXT
    )""",
    "member": """CREATE TABLE member (
        number INTEGER PRIMARY KEY, world TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL,
        UNIQUE (world, pid, started)
    )""",
    "claim": """CREATE TABLE claim (
        number INTEGER PRIMARY KEY, job TEXT NOT NULL, instant INTEGER NOT NULL, UNIQUE (job, instant)
    )""",
    "skipped": "CREATE TABLE skipped (job TEXT PRIMARY KEY, instant INTEGER NOT NULL)",
    "runs": """CREATE TABLE runs (
        number INTEGER PRIMARY KEY, job TEXT NOT NULL, instant INTEGER NOT NULL, scope TEXT NOT NULL,
        begun REAL NOT NULL, took REAL, outcome TEXT NOT NULL, attempts INTEGER NOT NULL, by_hand INTEGER NOT NULL,
        reason TEXT, pid INTEGER NOT NULL, origin TEXT NOT NULL, UNIQUE (job, instant, scope)
    )""",
    "forgotten": "CREATE TABLE forgotten (job TEXT PRIMARY KEY, instant INTEGER NOT NULL)",
}


class Run(NamedTuple):
    """The current run; what follows ``left`` is set while it is left to successors.

    Attributes:
        id: Its random ID.
        started: When its first process joined.
        ended: Whether its end has been reported.
        left: When its last process left it, to successors or for good.
        world: Where ``ticks`` and ``successors`` are counted.
        ticks: When that was, in clock ticks since the machine started.
        successors: Who was seen to be starting then.
    """

    id: str
    started: str
    ended: int
    left: str | None
    world: str | None
    ticks: int | None
    successors: str | None

    def goes_on_with(self, me: Process | None) -> bool:
        """Return whether it was left to successors, and ``me`` was starting then."""
        if self.ticks is None or self.successors is None or me is None or self.world != processes.world():
            return False
        # A tick is long enough to start in after the leaving, so in that very tick only those who were seen count.
        return me.started < self.ticks or list(me.identity) in json.loads(self.successors)

    @property
    def unfinished(self) -> Unfinished | None:
        """Return the run, if it was left, and neither continued by a successor nor reported as ended."""
        return None if self.left is None else Unfinished(self.id, _moment(self.started), _moment(self.left))


# -- who is in -------------------------------------------------------------------------------------------------------


def join(connection: Connection, *, alone: bool, now: Moment) -> Joined:
    """Join, having found others in or none."""
    run, me = _current(connection), processes.find(os.getpid())
    if run is not None and not run.ended and (not alone or run.goes_on_with(me)):
        connection.execute("UPDATE run SET left = NULL, world = NULL, ticks = NULL, successors = NULL")
        joined = Joined(first=False, started=_moment(run.started), run=run.id)
    else:
        # Others are in, but no run is known: the database was lost on the way.
        first, unfinished = alone or run is not None, None if run is None or run.ended else run.unfinished
        joined = Joined(first, now, os.urandom(16).hex(), unfinished)
        values = (joined.run, _text(now))
        connection.execute("INSERT OR REPLACE INTO run (one, id, started) VALUES (1, ?, ?)", values)
    if me is not None:
        _enrol(connection, me)
    if run is None and not alone:
        _begin_anew(connection, int(now.wall * 1_000_000))
    return joined


def leave_to_others(connection: Connection, now: Moment) -> None:
    """Leave while others are in."""
    connection.execute("UPDATE run SET others_left = ?", (_text(now),))


def leave(connection: Connection, left: Moment, clock: Clock, *, may_wait: bool) -> bool | None:
    """Leave alone, and return whether the run ends; it does not if others are starting, to whom it is left.

    ``None`` if it ``may_wait`` and it is too early to say: others have just left, and if they were recycled, their
    server starts others in their place as soon as they have ended.
    """
    run, world, successors = _current(connection), processes.world(), _successors(connection)
    if run is None or not successors:
        if may_wait and run is not None and world is not None and _others_left_lately(connection, clock):
            return None
        connection.execute("UPDATE run SET left = ?", (_text(left),))
        return True
    seen = json.dumps([one.identity for one in successors])
    values = (_text(left), world, processes.now(), seen)
    connection.execute("UPDATE run SET left = ?, world = ?, ticks = ?, successors = ?", values)
    return False


def finish(connection: Connection) -> None:
    """Note that the end of the run has been reported."""
    connection.execute("UPDATE run SET ended = 1")


def _others_left_lately(connection: Connection, clock: Clock) -> bool:
    row = connection.execute("SELECT others_left FROM run").fetchone()
    return row is not None and row[0] is not None and clocks.seconds_since(_moment(row[0]), clock) < _LATELY


def _successors(connection: Connection) -> list[Process]:
    """Return who is starting and has not joined yet."""
    world, me = processes.world(), processes.find(os.getpid())
    if world is None or me is None:
        return []
    joined = _members(connection, world)
    return [other for other in processes.starting(me, processes.now()) if other.identity not in joined]


def _enrol(connection: Connection, me: Process) -> None:
    """Put ``me`` on the list of those who have joined, who are no successors any more; take off those who are dead."""
    if (world := processes.world()) is None:
        return
    connection.execute("INSERT OR REPLACE INTO member (world, pid, started) VALUES (?, ?, ?)", (world, *me.identity))
    found = ((identity, processes.find(identity[0])) for identity in _members(connection, world))
    dead = [(world, *identity) for identity, process in found if process is None or process.identity != identity]
    connection.executemany("DELETE FROM member WHERE world = ? AND pid = ? AND started = ?", dead)
    # Those of other containers, which cannot be looked up from here.
    connection.execute("DELETE FROM member WHERE number <= (SELECT max(number) FROM member) - ?", (_KEPT_MEMBERS,))


def _current(connection: Connection) -> Run | None:
    row = connection.execute("SELECT id, started, ended, left, world, ticks, successors FROM run").fetchone()
    return None if row is None else Run(*row)


def _members(connection: Connection, world: str) -> set[tuple[int, int]]:
    return set(connection.execute("SELECT pid, started FROM member WHERE world = ?", (world,)))


def _text(moment: Moment) -> str:
    return json.dumps([moment.wall, moment.boot, moment.boot_id])


def _moment(text: str) -> Moment:
    return Moment(*json.loads(text))


# -- whose an instant is ---------------------------------------------------------------------------------------------


def claim(job_id: str, instant: int, now: int, connection: Connection) -> bool:
    """Take a job's instant; false if it is taken, or so old that it may have been."""
    if _current(connection) is None:
        _begin_anew(connection, now)
    known = "SELECT 1 FROM forgotten WHERE job IN (?, '') AND instant >= ? AND instant <= ?"
    if connection.execute(known, (job_id, instant, now)).fetchone() is not None:
        return False
    if not connection.execute("INSERT OR IGNORE INTO claim (job, instant) VALUES (?, ?)", (job_id, instant)).rowcount:
        return False
    _forget(job_id, now, connection)
    return True


def begin_run(job_id: str, instant: int, now: int, connection: Connection) -> None:
    """Remember that this process has begun what it has claimed, so that no claim is without a row of ``history``."""
    connection.execute(
        "INSERT INTO runs (job, instant, scope, begun, outcome, attempts, by_hand, pid, origin)"
        " VALUES (?, ?, '', ?, 'running', 1, 0, ?, ?) ON CONFLICT (job, instant, scope) DO UPDATE SET"
        " begun = excluded.begun, took = NULL, outcome = 'running', reason = NULL,"
        " pid = excluded.pid, origin = excluded.origin",
        (job_id, instant, now / 1_000_000, os.getpid(), processes.origin()),
    )


def skip(job_id: str, instant: int, connection: Connection) -> None:
    """Count an instant of a new job as done; a process that came earlier, and has it due, may still take it."""
    connection.execute("INSERT OR IGNORE INTO skipped (job, instant) VALUES (?, ?)", (job_id, instant))


def latest(job_id: str, now: int, connection: Connection) -> int | None:
    """Return the latest instant that is taken or skipped; what a clock that was ahead has claimed says nothing."""
    both = "SELECT job, instant FROM claim UNION ALL SELECT job, instant FROM skipped"
    query = f"SELECT max(instant) FROM ({both}) WHERE job = ? AND instant <= ?"  # noqa: S608 - no value in it
    row = connection.execute(query, (job_id, now)).fetchone()
    return None if row is None else row[0]


def _begin_anew(connection: Connection, now: int) -> None:
    """Take all that was due so far: the database was lost under running processes, which may have claimed it."""
    connection.execute("INSERT OR IGNORE INTO forgotten (job, instant) VALUES ('', ?)", (now,))


def _forget(job_id: str, now: int, connection: Connection) -> None:
    """Delete the oldest claims of a job, and remember up to where, so that none of them is given again.

    What a clock that was ahead has claimed says nothing: it would have everything refused until that time.
    """
    oldest = "SELECT number FROM claim WHERE job = :job ORDER BY number DESC LIMIT 1 OFFSET :kept"
    values = {"job": job_id, "now": now, "kept": KEPT_CLAIMS}
    connection.execute(
        "INSERT INTO forgotten SELECT job, max(instant) FROM claim "  # noqa: S608 - no value in it
        f"WHERE job = :job AND instant <= :now AND number <= ({oldest}) GROUP BY job "
        "ON CONFLICT (job) DO UPDATE SET instant = max(instant, excluded.instant)",
        values,
    )
    connection.execute(f"DELETE FROM claim WHERE job = :job AND number <= ({oldest})", values)  # noqa: S608 - no value in it

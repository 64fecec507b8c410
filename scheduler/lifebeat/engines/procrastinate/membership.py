"""What the processes of an application share in PostgreSQL: who is in, the run, the claims, what they agreed on.

One table in the connection's current schema, so that two applications in one database have a schema each. Each function
is one transaction, gives the same answer when it is asked again after an answer was lost, and raises what psycopg does.
A process is in as long as it renews its row; all times are the server's.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lifebeat.once import processes

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.AsyncConnection[Any]
    Orders = dict[str, dict[str, Any]]

RENEW_EVERY = 5.0
GONE_AFTER = 30.0
# After an outage of the server no row has been renewed; those who live have so long to do it.
RETURNING = 10.0
DUTY_EVERY = 5.0

_SCHEMA = """
CREATE TABLE lifebeat (
    kind text NOT NULL, key text NOT NULL, instant bigint NOT NULL DEFAULT 0, value jsonb NOT NULL DEFAULT '{}',
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (kind, key, instant))
"""
_ROWS = "INSERT INTO lifebeat (kind, key) VALUES ('run', ''), ('duty', '') ON CONFLICT DO NOTHING"
_PUT = """
INSERT INTO lifebeat (kind, key, value) VALUES (%(kind)s, %(key)s, %(value)s)
ON CONFLICT (kind, key, instant) DO UPDATE SET value = excluded.value, renewed_at = clock_timestamp()
"""
_OTHERS = """
SELECT key, value, extract(epoch FROM renewed_at)::float8, extract(epoch FROM clock_timestamp())::float8
FROM lifebeat WHERE kind = 'member' AND key <> %s
"""
_RENEW = """
WITH duty AS (
    UPDATE lifebeat SET renewed_at = clock_timestamp()
    WHERE kind = 'duty' AND renewed_at < clock_timestamp() - make_interval(secs => %(every)s) RETURNING key),
member AS (
    INSERT INTO lifebeat (kind, key, value) VALUES ('member', %(key)s, %(value)s)
    ON CONFLICT (kind, key, instant) DO UPDATE SET value = excluded.value, renewed_at = clock_timestamp())
SELECT count(*), (SELECT jsonb_object_agg(key, value) FROM lifebeat WHERE kind = 'order') FROM duty
"""
# One row of the queue for each instant: Procrastinate remembers only a job's newest claim, and an older one that is
# claimed late, by a process that was frozen, comes a second time. The same row again is one that a dead worker left.
# Row 0 is an instant that was skipped: who came before it, and had it due, may still run it.
_BEGIN = """
INSERT INTO lifebeat AS known (kind, key, instant, value) VALUES ('began', %(job)s, %(instant)s, to_jsonb(%(row)s))
ON CONFLICT (kind, key, instant) DO UPDATE SET renewed_at = clock_timestamp(), value = excluded.value
WHERE known.value IN (excluded.value, '0')
RETURNING key
"""
_LATEST = """
SELECT max(instant) FROM lifebeat
WHERE kind = 'began' AND key = %(job)s AND instant <= extract(epoch FROM clock_timestamp()) * 1000000
"""
_FORGET = """
DELETE FROM lifebeat AS old
USING (
    SELECT key, max(instant) AS newest FROM lifebeat
    WHERE kind = 'began' AND instant <= extract(epoch FROM clock_timestamp()) * 1000000 GROUP BY key) AS of
WHERE old.kind = 'began' AND old.key = of.key AND old.instant < of.newest
AND old.renewed_at < clock_timestamp() - interval '1 hour'
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A process that is in.

    Attributes:
        key: Its random name.
        value: What it says of itself: its machine, its number there, the rows of the queue that it has in hand.
        renewed: When it said so last.
        now: The time at which this was read.
    """

    key: str
    value: dict[str, Any]
    renewed: float
    now: float

    @property
    def is_seen_dead(self) -> bool:
        """Return whether it was a process of this machine that has ended."""
        return self._is_here and _start_of(self.value["pid"]) != self.value["started"]

    @property
    def is_seen_alive(self) -> bool:
        """Return whether it is a process of this machine that lives."""
        return self._is_here and not self.is_seen_dead

    def is_overdue(self, seconds: float) -> bool:
        """Return whether it has not renewed its row for so long."""
        return self.now - self.renewed > seconds

    @property
    def _is_here(self) -> bool:
        return self.value.get("world") is not None and self.value.get("world") == processes.world()


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the application. Times are the server's, in seconds since the Unix epoch.

    Attributes:
        id: Its random ID; empty before the first run of all.
        started: When its first process joined.
        starter: That process.
        ended_by: The last process that left; ``None`` while it goes on.
        left: When a process left and could not see whether the others live; ``None`` if none did, or one joined since.
    """

    id: str = ""
    started: float = 0.0
    starter: str = ""
    ended_by: str | None = None
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a process finds when it joins.

    Attributes:
        run: The run that it has joined.
        unfinished: The run before, if its end was not reported.
        now: The server's time.
    """

    run: Run
    unfinished: Run | None
    now: float


@dataclass(slots=True)
class Me:
    """This process as a member.

    Attributes:
        gone_after: Seconds after which a process that does not renew its row is gone.
        key: Its random name.
        arrived: When it asked to join for the first time.
        rows: The rows of the queue that run here, and those that ended here lately.
        is_leaving: Whether its stop has begun.
    """

    gone_after: float = GONE_AFTER
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    arrived: float | None = None
    rows: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    is_leaving: bool = False

    def as_json(self) -> str:
        """Return what it says of itself."""
        pid = os.getpid()
        own = {"machine": socket.gethostname(), "pid": pid, "started": _start_of(pid), "world": processes.world()}
        return json.dumps({**own, **self.rows, "leaving": self.is_leaving})


async def lock(connection: Connection) -> None:
    """Keep others from making tables until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('lifebeat', 0))")


async def prepare(connection: Connection) -> None:
    """Make the table if it is not there; where it is there no right to make one is needed."""
    if (await _row(connection, "SELECT to_regclass('lifebeat')"))[0] is None:
        await connection.execute(_SCHEMA)
    await connection.execute(_ROWS)


async def join(connection: Connection, me: Me) -> Found | None:
    """Join; ``None`` while it cannot be said whether a member that is overdue lives: ask again."""
    run = await _locked(connection)
    members = await others(connection, me)
    now = members[0].now if members else await _time(connection)
    me.arrived = me.arrived or now
    if run.starter != me.key or run.ended_by is not None:
        lives = [_lives(member, me, now) for member in members]
        if None in lives and True not in lives:
            return None
        if True not in lives or run.ended_by is not None:
            dead = [member.key for member, alive in zip(members, lives, strict=True) if not alive]
            return await _begin(connection, me, run, members, dead)
    me.arrived = None
    run = Run(run.id or uuid.uuid4().hex, run.started or now, run.starter)
    await _keep(connection, run)
    await connection.execute(_PUT, {"kind": "member", "key": me.key, "value": me.as_json()})
    return Found(run, None, now)


async def leave(connection: Connection, me: Me) -> bool:
    """Leave, and return whether this was the last process."""
    run = await _locked(connection)
    deleted = await connection.execute("DELETE FROM lifebeat WHERE kind = 'member' AND key = %s", [me.key])
    if run.ended_by is not None or not deleted.rowcount:
        return run.ended_by == me.key
    staying = [one for one in await others(connection, me) if not (one.is_seen_dead or one.is_overdue(me.gone_after))]
    if not staying:
        await _keep(connection, Run(run.id, run.started, run.starter, ended_by=me.key))
        return True
    if not any(member.is_seen_alive for member in staying):
        await _keep(connection, Run(run.id, run.started, run.starter, left=staying[0].now))
    return False


async def renew(connection: Connection, me: Me) -> tuple[bool, Orders]:
    """Renew this process's row; return whether it is its turn to do what one has to do for all, and the orders."""
    values = {"key": me.key, "value": me.as_json(), "every": DUTY_EVERY}
    is_on_duty, orders = await _row(connection, _RENEW, values)
    return bool(is_on_duty), orders or {}


async def order(connection: Connection, orders: Orders) -> None:
    """Put down orders that are to hold on all machines."""
    for name, one in orders.items():
        await connection.execute(_PUT, {"kind": "order", "key": name, "value": json.dumps(one)})


async def restore(connection: Connection, run: Run, instance_id: str | None) -> None:
    """Put back what this process knows into tables that were made again."""
    if not (await _locked(connection)).id:
        await _keep(connection, run)
    if instance_id is not None:
        await agree(connection, instance_id)


async def others(connection: Connection, me: Me) -> list[Member]:
    """Return the other members, the dead among them included."""
    found = await connection.execute(_OTHERS, [me.key])
    return [Member(*row) for row in await found.fetchall()]


async def begin(connection: Connection, job_id: str, instant: int, row: int | None) -> bool:
    """Begin a run, and return whether it is this row of the queue that is to do it; ``None`` for one that is none's."""
    found = await connection.execute(_BEGIN, {"job": job_id, "instant": instant, "row": row or 0})
    return await found.fetchone() is not None


async def forget(connection: Connection) -> None:
    """Delete what will not be asked for again."""
    await connection.execute(_FORGET)


async def latest(connection: Connection, job_id: str) -> int | None:
    """Return the latest instant that a job has run for, none in the future; ``None`` if none ever was."""
    found: int | None = (await _row(connection, _LATEST, {"job": job_id}))[0]
    return found


async def agree(connection: Connection, candidate: str) -> str:
    """Return the instance ID that all agree on: the candidate if there was none."""
    query = "INSERT INTO lifebeat (kind, key, value) VALUES ('id', '', to_jsonb(%s::text)) ON CONFLICT DO NOTHING"
    await connection.execute(query, [candidate])
    return str((await _row(connection, "SELECT value FROM lifebeat WHERE kind = 'id'"))[0])


def _lives(member: Member, me: Me, now: float) -> bool | None:
    """Return whether a member lives, for a process that wants to join; ``None`` if only time will tell."""
    assert me.arrived is not None
    if member.is_overdue(me.gone_after):
        return False if now - me.arrived >= RETURNING or member.is_seen_dead else None
    if member.is_seen_dead:
        return False
    return True if member.is_seen_alive or member.renewed > me.arrived else None


async def _begin(connection: Connection, me: Me, former: Run, members: list[Member], dead: list[str]) -> Found:
    """Begin a new run of the application."""
    run = Run(uuid.uuid4().hex, await _time(connection), me.key)
    # A kill is no end, but who left was the last one if none has renewed its row since; or one that was leaving, and
    # was killed before it had or could not reach the server.
    latest = max(members, key=lambda member: member.renewed, default=None)
    if latest is not None and latest.value.get("leaving"):
        former = replace(former, left=latest.renewed)
    left_last = former.left is not None and (latest is None or latest.renewed <= former.left)
    unfinished = former if former.ended_by is None and left_last else None
    await connection.execute("DELETE FROM lifebeat WHERE kind = 'member' AND key = ANY(%s)", [dead])
    await _keep(connection, run)
    await connection.execute(_PUT, {"kind": "member", "key": me.key, "value": me.as_json()})
    me.arrived = None
    return Found(run, unfinished, run.started)


async def _locked(connection: Connection) -> Run:
    """Return the run; until the transaction ends no other joins or leaves."""
    await connection.execute(_ROWS)
    return Run(**(await _row(connection, "SELECT value FROM lifebeat WHERE kind = 'run' FOR UPDATE"))[0])


async def _keep(connection: Connection, run: Run) -> None:
    value = json.dumps({name: getattr(run, name) for name in Run.__slots__})
    await connection.execute(_PUT, {"kind": "run", "key": "", "value": value})


async def _time(connection: Connection) -> float:
    now: float = (await _row(connection, "SELECT extract(epoch FROM clock_timestamp())::float8"))[0]
    return now


async def _row(connection: Connection, query: str, values: Any = None) -> tuple[Any, ...]:
    row = await (await connection.execute(query.encode(), values)).fetchone()
    assert row is not None, "the row of table 'lifebeat' was deleted by another program"
    return tuple(row)


def _start_of(pid: int) -> int | None:
    found = processes.find(pid)
    return found.started if found else None

"""The rows of the outbox: its tables, and what is done to them, each time inside a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from lifebeat.clock import Moment
    from lifebeat.storage.sqlite import Connection

State = Literal["waiting", "delivered", "dropped", "suppressed"]
SCHEMA = {
    "event": """CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        event TEXT NOT NULL,
        body TEXT NOT NULL,
        size INTEGER NOT NULL,
        recorded_at REAL NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'dropped', 'suppressed')),
        boot_id TEXT,
        since REAL NOT NULL,
        age REAL NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        tried REAL,
        wait REAL NOT NULL DEFAULT 0,
        status INTEGER,
        answer TEXT,
        finished_at REAL
    )""",
    "note": "CREATE TABLE note (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "waiting": "CREATE INDEX waiting ON event (id, size) WHERE state = 'waiting'",
    "finished": "CREATE INDEX finished ON event (id, size) WHERE state <> 'waiting'",
}
# Boot times of an earlier boot say nothing now: there, only the time since this boot is known to have passed.
AGE = "(age + CASE WHEN boot_id IS :boot_id AND since <= :boot THEN :boot - since ELSE :boot END)"
LEFT = (
    "CASE WHEN tried IS NULL THEN 0 WHEN boot_id IS :boot_id AND tried <= :boot THEN max(wait - (:boot - tried), 0)"
    " ELSE max(wait - :boot, 0) END"
)
NEW_BOOT = (
    "UPDATE event SET age = age + max(coalesce(tried, since) - since, 0), since = 0, boot_id = :boot_id,"
    " tried = CASE WHEN tried IS NOT NULL THEN 0 END WHERE boot_id IS NOT :boot_id OR since > :boot OR tried > :boot"
)
DROPPED = "outbox:dropped"
OVERFLOW_SAID = "outbox:overflow-said"


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept. What waits beyond them is dropped, the oldest first; the ledger forgets its oldest rows.

    Attributes:
        events: How many events may wait.
        bytes: How many bytes their bodies may have together; the ledger's finished rows are held to as many.
        age: How long an event may wait, in seconds that the machine was up.
        ledger_age: How long the ledger remembers an event after its end, in seconds that the machine was up.
        ledger_rows: How many finished events the ledger remembers.
    """

    events: int = 1000
    bytes: int = 5 * 1024 * 1024
    age: float = 30 * 86400.0
    ledger_age: float = 90 * 86400.0
    ledger_rows: int = 1000


class Recorded(NamedTuple):
    """An event, and the moment in which it was to be recorded."""

    uuid: str
    event: str
    body: str
    moment: Moment


def times(now: Moment) -> dict[str, object]:
    return {"wall": now.wall, "boot": now.boot, "boot_id": now.boot_id}


def insert(connection: Connection, one: Recorded) -> bool:
    sql = (
        "INSERT OR IGNORE INTO event (uuid, event, body, size, recorded_at, state, boot_id, since)"
        " VALUES (?, ?, ?, ?, ?, 'waiting', ?, ?)"
    )
    values = (
        one.uuid,
        one.event,
        one.body,
        len(one.body.encode()),
        one.moment.wall,
        one.moment.boot_id,
        one.moment.boot,
    )
    return connection.execute(sql, values).rowcount == 1


def enforce(connection: Connection, bounds: Bounds, now: Moment) -> list[str]:
    """Drop what waits beyond the bounds; returns how many and why, a phrase for each reason."""
    count, size, oldest = connection.execute(
        f"SELECT count(*), coalesce(sum(size), 0), max({AGE}) FROM event WHERE state = 'waiting'",
        times(now),
    ).fetchone()
    if count <= bounds.events and size <= bounds.bytes and (oldest or 0) <= bounds.age:
        return []
    lost = [
        _drop(connection, now, f"larger than the {bounds.bytes} bytes that may wait", "size > :limit", bounds.bytes),
        _drop(connection, now, f"waited longer than {bounds.age / 86400:g} days", f"{AGE} > :limit", bounds.age),
    ]
    for reason, rows, total in (
        (f"more than {bounds.events} events waited", bounds.events, float("inf")),
        (f"more than {bounds.bytes} bytes waited", float("inf"), bounds.bytes),
    ):
        last = _last_in_excess(connection, "state = 'waiting'", rows, total)
        lost.append(_drop(connection, now, reason, "id <= :limit", last))
    return [phrase for phrase in lost if phrase]


def _drop(connection: Connection, now: Moment, reason: str, which: str, limit: float) -> str:
    number = finish(connection, "dropped", now, reason, which, limit=limit)
    count_dropped(connection, number)
    return f"{number}: {reason}" if number else ""


def prune(connection: Connection, bounds: Bounds, now: Moment) -> None:
    """Forget the oldest of the ledger; never the newest, however large it is."""
    last = _last_in_excess(connection, "state <> 'waiting'", bounds.ledger_rows, bounds.bytes)
    connection.execute(
        f"DELETE FROM event WHERE state <> 'waiting' AND (id <= :last OR {AGE} > :age)"
        " AND id < (SELECT max(id) FROM event WHERE state <> 'waiting')",
        {"last": last, "age": bounds.ledger_age, **times(now)},
    )


def _last_in_excess(connection: Connection, which: str, rows: float, size: float) -> int:
    """Return the ID of the last of the oldest events that have to go for the others to fit; 0 if all fit."""
    last: int
    last, too_many, too_large = connection.execute(
        f"SELECT 0, count(*) - ?, coalesce(sum(size), 0) - ? FROM event WHERE {which}",
        (rows, size),
    ).fetchone()
    oldest_first = connection.execute(f"SELECT id, size FROM event WHERE {which} ORDER BY id")
    while too_many > 0 or too_large > 0:
        last, one = oldest_first.fetchone()
        too_many, too_large = too_many - 1, too_large - one
    oldest_first.close()
    return last


def finish(
    connection: Connection, state: State, now: Moment, answer: str, which: str = "1", **values: str | float
) -> int:
    sql = (
        "UPDATE event SET state = :state, finished_at = :wall, answer = :answer, boot_id = :boot_id, since = :boot,"
        f" age = 0, tried = NULL WHERE state = 'waiting' AND {which}"
    )
    return connection.execute(sql, {"state": state, "answer": answer, **times(now), **values}).rowcount


def count_dropped(connection: Connection, number: int) -> None:
    if number:
        set_note(connection, DROPPED, str(int(note(connection, DROPPED) or 0) + number))


def set_note(connection: Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO note (key, value) VALUES (?, ?)", (key, value))


def add_note(connection: Connection, key: str, value: str) -> bool:
    return connection.execute("INSERT OR IGNORE INTO note (key, value) VALUES (?, ?)", (key, value)).rowcount == 1


def note(connection: Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM note WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]

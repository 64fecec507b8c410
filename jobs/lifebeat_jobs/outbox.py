"""The outbox: the durable queue of events and the ledger of what became of each.

An event is a row and its state changes; nothing is moved. How long it has been in its state is counted by boot time:
over a reboot the time that the machine was up is added up, so that no clock that is set makes an event older.
"""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from lifebeat import clock as clocks
from lifebeat.storage.forks import in_child
from lifebeat.storage.locks import FileLock
from lifebeat.storage.safe_file import absolute
from lifebeat.storage.sqlite import TIMEOUT, Database, DatabaseUnavailable
from lifebeat_jobs import rows
from lifebeat_jobs.rows import Bounds, Recorded, State

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from lifebeat.clock import Clock, Moment
    from lifebeat.storage.sqlite import Access, Connection

OutboxUnavailable = DatabaseUnavailable
__all__ = ["Bounds", "Entry", "Outbox", "OutboxUnavailable", "State", "Waiting"]
LONGEST_BACKOFF = 6 * 3600.0
SENDING_FILE = "sending"

_T = TypeVar("_T")
_UNRECORDED = 100  # events, in memory, of each outbox
_VALUES = 500  # in a statement; SQLite took 999 at most, before 2020


class Entry(NamedTuple):
    """One event and what has become of it. Times ending in ``_at`` are in seconds since the Unix epoch.

    Attributes:
        uuid: The event's own ID.
        event: Its name.
        body: The exact JSON text that is sent.
        recorded_at: When it was recorded, as the wall clock said then.
        state: What has become of it.
        attempts: How often it was sent, successfully or not.
        next_attempt: When it is due, as the wall clock is set now; ``None`` when it no longer waits.
        status: The HTTP status of the last attempt; ``None`` if there was no answer.
        answer: The last answer, or the reason for its end, in words; ``None`` if there is nothing to say.
        finished_at: When it was delivered, dropped or suppressed; ``None`` while it waits.
        age: For how long it has been in that state, in seconds that the machine was up.
    """

    uuid: str
    event: str
    body: str
    recorded_at: float
    state: State
    attempts: int
    next_attempt: float | None
    status: int | None
    answer: str | None
    finished_at: float | None
    age: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits.

    Attributes:
        count: How many events wait.
        since: When the oldest was recorded, in seconds since the Unix epoch; ``None`` if none waits.
        due_in: In how many seconds the first is due, zero if it is; ``None`` if none waits.
        dropped: How many events were dropped since the outbox was made.
        unrecorded: How many events wait in memory only, as they could not be recorded.
    """

    count: int = 0
    since: float | None = None
    due_in: float | None = None
    dropped: int = 0
    unrecorded: int = 0


# By the outbox's path, as an outbox is made again for each use. A child leaves them to its parent.
_unrecorded: dict[object, deque[Recorded]] = {}
_being_sent: dict[object, object] = {}
in_child(_unrecorded.clear)
in_child(_being_sent.clear)


class Outbox:
    """The events of one installation, shared by all its processes. Makes no file and reads none until it is used.

    Every method but ``record`` may raise ``OutboxUnavailable``.

    Args:
        path: The SQLite file. ``None`` keeps everything in this object, for this process.
        bounds: How much is kept.
        clock: Where the time comes from.
        warn: Told, in one sentence, what a person should know of.
        busy_timeout: How long to wait for other processes and threads, in seconds, before giving up.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        clock: Clock,
        warn: Callable[[str], None],
        busy_timeout: float = TIMEOUT,
    ) -> None:
        self._bounds = bounds
        self._clock = clock
        self._warn = warn
        self._database = Database(path, rows.SCHEMA, warn=warn, timeout=busy_timeout)
        self._key: object = id(self) if path is None else absolute(path)

    # -- recording ---------------------------------------------------------------------------------------------

    def record(self, uuid: str, event: str, body: str) -> bool:
        """Let an event wait for delivery, and return whether it is on the disk: no kill and no power cut loses it then.

        Otherwise it is kept in memory, as one of the last 100, and recorded with its own moment as soon as that is
        possible: with the next operation, or when ``retry`` is called. A ``uuid`` that is known changes nothing.
        """
        kept = _unrecorded.setdefault(self._key, deque(maxlen=_UNRECORDED))
        kept.append(Recorded(uuid, event, body, clocks.now(self._clock)))
        return self.retry()

    def retry(self) -> bool:
        """Record what could not be recorded at its moment, and return whether all of it is on the disk now."""
        kept = _unrecorded.get(self._key)
        if not kept:
            return True
        first = list(kept)
        try:
            self._run(partial(_insert_all, first), "create", None)
        except OutboxUnavailable as error:
            if len(first) == 1:
                self._warn(f"{error}; events are kept in memory until they can be recorded")
            return False
        except BaseException:
            kept.clear()  # what can never be recorded must not stand in the way of the rest
            raise
        for one in first:
            with contextlib.suppress(ValueError):  # another thread was as fast, or it was turned off
                kept.remove(one)
        return not kept

    @property
    def unrecorded(self) -> int:
        """Return how many events wait in memory only."""
        return len(_unrecorded.get(self._key, ()))

    def suppressed(self, uuid: str, event: str, body: str, reason: str) -> None:
        """Write an event down that was made but is blocked; it is never sent."""

        def work(connection: Connection, now: Moment) -> None:
            if rows.insert(connection, Recorded(uuid, event, body, now)):
                rows.finish(connection, "suppressed", now, reason, "uuid = :uuid", uuid=uuid)

        self._write(work, "create", None)

    # -- delivery ----------------------------------------------------------------------------------------------

    def due(self, limit: int, *, early: bool = False) -> list[Entry]:
        """Return the events to send now, oldest first.

        Args:
            limit: How many at most.
            early: Whether events whose next attempt is still to come are wanted too.
        """
        which = f"state = 'waiting' AND (:early OR {rows.LEFT} <= 0) ORDER BY id LIMIT :limit"
        work = partial(_entries, which, {"early": early, "limit": limit})
        try:  # not only reading: who delivers undoes first what a killed process has left half done
            return self._write(work, "update", [])
        except OutboxUnavailable:  # such as on a full disk
            return self._read(work, [])

    def entries(self, limit: int = 100, state: State | None = None) -> list[Entry]:
        """Return the last events recorded, newest first; ``None`` means in any state."""
        which = "(:state IS NULL OR state = :state) ORDER BY id DESC LIMIT :limit"
        return self._read(partial(_entries, which, {"state": state, "limit": limit}), [])

    def delivered(self, uuids: Iterable[str], status: int) -> None:
        """Note that the server took these; that stands also if they were dropped or suppressed on their way."""
        all_of_them = list(uuids)

        def work(connection: Connection, now: Moment) -> None:
            for first in range(0, len(all_of_them), _VALUES):  # many at a time, which is twice as fast
                some = all_of_them[first : first + _VALUES]
                which = f"uuid IN ({', '.join('?' * len(some))}) AND state"
                again = connection.execute(
                    f"UPDATE event SET state = 'waiting' WHERE {which} = 'dropped'", some
                ).rowcount
                rows.count_dropped(connection, -again)
                connection.execute(
                    "UPDATE event SET state = 'delivered', attempts = attempts + 1, status = ?, answer = NULL,"
                    f" finished_at = ?, boot_id = ?, since = ?, age = 0, tried = NULL WHERE {which} <> 'delivered'",
                    (status, now.wall, now.boot_id, now.boot, *some),
                )
            connection.execute("DELETE FROM note WHERE key = ?", (rows.OVERFLOW_SAID,))

        if all_of_them:
            self._write(work, "update", None)

    def postponed(self, uuids: Iterable[str], *, wait: float, answer: str, status: int | None) -> None:
        """Note that an attempt failed: these wait for so many seconds from now."""
        updates = [(uuid,) for uuid in uuids]

        def work(connection: Connection, now: Moment) -> None:
            sql = "UPDATE event SET attempts = attempts + 1, tried = {}, wait = {}, answer = {}, status = {}"
            values = (now.boot, min(wait, LONGEST_BACKOFF), answer, status)
            which = " WHERE uuid = ? AND state = 'waiting'"
            connection.executemany(sql.format(*"????") + which, [(*values, *row) for row in updates])

        if updates:
            self._write(work, "update", None)

    def dropped(self, uuids: Iterable[str], answer: str, status: int | None = None) -> None:
        """Give these up because of ``answer``; a ``status`` means that they were sent and refused."""
        all_of_them = list(uuids)

        def work(connection: Connection, now: Moment) -> None:
            sql = "UPDATE event SET status = ?, attempts = attempts + ? WHERE uuid = ? AND state = 'waiting'"
            for uuid in all_of_them:
                connection.execute(sql, (status, status is not None, uuid))
                rows.count_dropped(
                    connection, rows.finish(connection, "dropped", now, answer, "uuid = :uuid", uuid=uuid)
                )

        if all_of_them:
            self._write(work, "update", None)

    def amended(self, uuid: str, *, new_uuid: str, body: str) -> bool:
        """Correct an event that has never left, and return whether that was so."""
        sql = (
            "UPDATE event SET uuid = ?, body = ?, size = ? WHERE uuid = ? AND state = 'waiting' AND attempts = 0"
            " AND NOT EXISTS (SELECT 1 FROM event WHERE uuid = ? AND uuid <> ?)"
        )
        values = (new_uuid, body, len(body.encode()), uuid, new_uuid, uuid)
        return self._write(lambda connection, _: connection.execute(sql, values).rowcount == 1, "update", missing=False)

    def suppress_waiting(self, reason: str) -> int:
        """Telemetry was turned off: see that what waits is never sent, and return how many events there were."""
        unrecorded = len(_unrecorded.pop(self._key, ()))
        return unrecorded + self._write(
            lambda connection, now: rows.finish(connection, "suppressed", now, reason), "update", 0
        )

    def waiting(self) -> Waiting:
        """Return what waits, since when, and until when."""
        unrecorded = self.unrecorded

        def work(connection: Connection, now: Moment) -> Waiting:
            count, first, due_in = connection.execute(
                f"SELECT count(*), min(id), min({rows.LEFT}) FROM event WHERE state = 'waiting'",
                rows.times(now),
            ).fetchone()
            dropped = int(rows.note(connection, rows.DROPPED) or 0)
            if not count:
                return Waiting(dropped=dropped, unrecorded=unrecorded)
            (since,) = connection.execute("SELECT recorded_at FROM event WHERE id = ?", (first,)).fetchone()
            return Waiting(count, since, due_in, dropped, unrecorded)

        return self._read(work, Waiting(unrecorded=unrecorded))

    @contextlib.contextmanager
    def sending(self) -> Generator[bool]:
        """Be the only one who delivers, among all processes and threads, for the length of the block.

        Never waits. Yields false if another process delivers, or if there is no outbox yet and so nothing to deliver.
        A child that is forked meanwhile does not keep others from delivering.
        """
        self.retry()
        token = object()
        if not self._database.exists or _being_sent.setdefault(self._key, token) is not token:
            yield False
            return
        path = self._database.path
        lock = None if path is None else FileLock(path.with_name(SENDING_FILE))
        try:
            yield lock is None or self._take(lock)
        finally:
            _being_sent.pop(self._key, None)
            if lock is not None:
                lock.release()

    def _take(self, lock: FileLock) -> bool:
        try:
            return lock.acquire()
        except OSError as error:
            raise OutboxUnavailable(f"{lock.path}: cannot be locked: {error.strerror}; make it writable") from None

    # -- notes -------------------------------------------------------------------------------------------------

    def note_once(self, key: str, value: str) -> bool:
        """Write a note down if there is none; true for exactly one caller, over all processes and for good."""
        return self._write(lambda connection, _: rows.add_note(connection, key, value), "create", missing=False)

    def set_note(self, key: str, value: str) -> None:
        """Write a note down, over the one that was there."""
        self._write(lambda connection, _: rows.set_note(connection, key, value), "create", None)

    def note(self, key: str) -> str | None:
        """Return the note of that key; ``None`` if there is none."""
        return self._read(lambda connection, _: rows.note(connection, key), None)

    # -- transactions ------------------------------------------------------------------------------------------

    def _read(self, work: Callable[[Connection, Moment], _T], missing: _T) -> _T:
        now = clocks.now(self._clock)
        return self._database.run(lambda connection: work(connection, now), "read", missing)

    def _write(self, work: Callable[[Connection, Moment], _T], access: Access, missing: _T) -> _T:
        """Record first what could not be recorded at its moment, if that is possible now."""
        self.retry()
        return self._run(work, access, missing)

    def _run(self, work: Callable[[Connection, Moment], _T], access: Access, missing: _T) -> _T:
        """Do it, and see to the bounds."""
        now = clocks.now(self._clock)

        def everything(connection: Connection) -> tuple[_T, list[str]]:
            connection.execute(rows.NEW_BOOT, rows.times(now))
            result = work(connection, now)
            lost = rows.enforce(connection, self._bounds, now)
            rows.prune(connection, self._bounds, now)
            return result, lost if lost and rows.add_note(connection, rows.OVERFLOW_SAID, str(now.wall)) else []

        nothing: tuple[_T, list[str]] = (missing, [])
        result, lost = self._database.run(everything, access, nothing)
        if lost:
            self._warn(
                f"{self._database.name}: telemetry events that could not be delivered are dropped, the oldest first "
                f"({'; '.join(lost)}); from now on they are only counted (see: lifebeat status)"
            )
        return result


def _entries(which: str, values: dict[str, object], connection: Connection, now: Moment) -> list[Entry]:
    columns = (
        "uuid, event, body, recorded_at, state, attempts,"
        f" CASE WHEN state = 'waiting' THEN :wall + {rows.LEFT} END, status, answer, finished_at, {rows.AGE}"
    )
    found = connection.execute(f"SELECT {columns} FROM event WHERE {which}", {**values, **rows.times(now)})
    return [Entry._make(row) for row in found]


def _insert_all(events: list[Recorded], connection: Connection, _now: Moment) -> None:
    for one in events:
        rows.insert(connection, one)

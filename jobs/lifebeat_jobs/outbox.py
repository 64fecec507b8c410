"""The outbox: the durable queue of events and the ledger of what became of each, in one SQLite file.

An event is a row and its state changes; nothing is moved. Every operation opens a connection, is one transaction and
closes it again, so that nothing is shared over threads, greenlets and forks. The rollback journal is truncated and
synced, not a write-ahead log: with a connection per operation that is the faster of the two, it leaves one file that
read-only readers can read, and it does not need memory shared between hosts.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from lifebeat.errors import LifebeatError
from lifebeat.storage.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path
    from sqlite3 import Connection

    from lifebeat.clock import Clock

State = Literal["waiting", "delivered", "dropped", "suppressed"]
LONGEST_BACKOFF = 6 * 3600.0
SCHEMA_VERSION = 1

_T = TypeVar("_T")
_Access = Literal["read", "update", "create"]  # only the last one makes the file
_APPLICATION = 0x4C494645
_SCHEMA = (
    """CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        event TEXT NOT NULL,
        body TEXT NOT NULL,
        size INTEGER NOT NULL,
        recorded_at REAL NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('waiting', 'delivered', 'dropped', 'suppressed')),
        attempts INTEGER NOT NULL DEFAULT 0,
        next_attempt REAL,
        status INTEGER,
        answer TEXT,
        finished_at REAL
    )""",
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE INDEX waiting ON event (id, size, recorded_at, next_attempt, state) WHERE state = 'waiting'",
    "CREATE INDEX finished ON event (id, size, finished_at, state) WHERE state <> 'waiting'",
)
_ENTRIES = (
    "SELECT uuid, event, body, recorded_at, state, attempts, next_attempt, status, answer, finished_at"
    " FROM event WHERE "
)
_SIZES = "SELECT id, size FROM event WHERE "
_DROPPED = "outbox:dropped"
_OVERFLOW_SAID = "outbox:overflow-said"
_PRAGMAS = (
    "journal_mode = TRUNCATE",
    "synchronous = FULL",
    "fullfsync = ON",  # macOS: fsync alone leaves it in the drive's cache
)
_COMPANIONS = ("-journal", "-wal", "-shm")
_VALUES = 500  # in a statement; SQLite took 999 at most, before 2020
_FORK_PATIENCE = 5.0
_POLL = 0.005

_WRITABLE = "make its directory writable for this user, or set telemetryStateDir to one that is"
_SPACE = "free some space on its file system, or set telemetryStateDir to another"
_BUSY = "another process is using it; try again"
_BROKEN_CODES = frozenset({1, 11, 24, 26})  # SQLITE_ERROR (other tables than ours), _CORRUPT, _FORMAT, _NOTADB
_CONSTRAINT = 19
_REMEDIES = {3: _WRITABLE, 5: _BUSY, 6: _BUSY, 8: _WRITABLE, 13: _SPACE, 14: _WRITABLE}
_FULL_DISK = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class OutboxUnavailable(LifebeatError):
    """The outbox can be neither read nor written now; the message says why and what to do."""


class _Broken(Exception):
    """What is on the disk is not an outbox."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept. What waits beyond them is dropped, the oldest first; the ledger forgets its oldest rows.

    Attributes:
        events: How many events may wait.
        bytes: How many bytes their bodies may have together; the ledger's finished rows are held to as many.
        age: How long an event may wait, in seconds.
        ledger_age: How long the ledger remembers an event after its end, in seconds.
        ledger_rows: How many finished events the ledger remembers.
    """

    events: int = 1000
    bytes: int = 5 * 1024 * 1024
    age: float = 30 * 86400.0
    ledger_age: float = 90 * 86400.0
    ledger_rows: int = 1000


class Entry(NamedTuple):
    """One event and what has become of it. Times are in seconds since the Unix epoch.

    Attributes:
        uuid: The event's own ID.
        event: Its name.
        body: The exact JSON text that is sent.
        recorded_at: When it was recorded.
        state: What has become of it.
        attempts: How often it was sent, successfully or not.
        next_attempt: When it is due; ``None`` when it no longer waits.
        status: The HTTP status of the last attempt; ``None`` if there was no answer.
        answer: The last answer, or the reason for its end, in words; ``None`` if there is nothing to say.
        finished_at: When it was delivered, dropped or suppressed; ``None`` while it waits.
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


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits. Times are in seconds since the Unix epoch.

    Attributes:
        count: How many events wait.
        bytes: How many bytes their bodies have together.
        since: When the oldest was recorded; ``None`` if none waits.
        next_attempt: When the first is due, which may be in the past; ``None`` if none waits.
        dropped: How many events were dropped since the outbox was made.
    """

    count: int = 0
    bytes: int = 0
    since: float | None = None
    next_attempt: float | None = None
    dropped: int = 0


class Outbox:
    """The events of one installation, shared by all its processes. Makes no file and reads none until it is used.

    Every method may raise ``OutboxUnavailable``. A damaged file is set aside under a new name, which ``warn`` is told,
    and the method goes on with a fresh one.

    Args:
        path: The SQLite file; its directory must exist. ``None`` keeps everything in this object, for this process.
        bounds: How much is kept.
        clock: Where the time comes from.
        warn: Told, in one sentence, what a person should know of.
        busy_timeout: How long to wait for other processes and threads, in seconds, before giving up.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        bounds: Bounds = Bounds(),
        clock: Clock,
        warn: Callable[[str], None],
        busy_timeout: float = 5.0,
    ) -> None:
        self._bounds = bounds
        self._clock = clock
        self._warn = warn
        self._store = _Memory(busy_timeout) if path is None else _File(path, busy_timeout, clock, warn)

    def record(self, uuid: str, event: str, body: str) -> None:
        """Let an event wait for delivery; when this returns, neither a kill nor a power cut loses it.

        A ``uuid`` that is known already changes nothing, so that a call that failed may be repeated.
        """
        now = self._clock.time()

        def work(connection: Connection) -> list[str]:
            _insert(connection, uuid, event, body, now)
            lost = _enforce(connection, self._bounds, now)
            _prune(connection, self._bounds, now)
            return lost if lost and _add_note(connection, _OVERFLOW_SAID, str(now)) else []

        nothing: list[str] = []
        lost = self._store.run(work, "create", nothing)
        if lost:
            self._warn(
                f"{self._store.name}: telemetry events that could not be delivered are dropped, the oldest first "
                f"({'; '.join(lost)}); from now on they are only counted (see: lifebeat status)"
            )

    def suppressed(self, uuid: str, event: str, body: str, reason: str) -> None:
        """Write an event down that was made but is not let out; it is never sent."""
        now = self._clock.time()

        def work(connection: Connection) -> None:
            if _insert(connection, uuid, event, body, now):
                _finish(connection, "suppressed", now, reason, "uuid = ?", uuid)
                _prune(connection, self._bounds, now)

        self._store.run(work, "create", None)

    def due(self, limit: int, *, early: bool = False, skip: int = 0) -> list[Entry]:
        """The events to send now, oldest first.

        One whose next attempt lies further ahead than any backoff is due as well: the clock was set back meanwhile.

        Args:
            limit: How many at most.
            early: Whether events whose next attempt is still to come are wanted too.
            skip: How many of the oldest are not wanted.
        """
        now = self._clock.time()
        which = "state = 'waiting' AND (next_attempt <= ? OR next_attempt > ? OR ?) ORDER BY id LIMIT ? OFFSET ?"
        return self._entries(which, (now, now + LONGEST_BACKOFF, early, limit, skip))

    def is_waiting(self, uuid: str) -> bool:
        """Whether the event of that ID waits."""
        sql = "SELECT count(*) FROM event WHERE uuid = ? AND state = 'waiting'"
        return self._store.run(
            lambda connection: connection.execute(sql, (uuid,)).fetchone() == (1,), "read", missing=False
        )

    def entries(self, limit: int = 100, state: State | None = None) -> list[Entry]:
        """The last events recorded, newest first; ``None`` means in any state."""
        return self._entries("state = ? OR ? ORDER BY id DESC LIMIT ?", (state, state is None, limit))

    def delivered(self, uuids: Iterable[str], status: int) -> None:
        """The server took these; that stands also if they were dropped or suppressed while they were on the way."""
        now, rows = self._clock.time(), [(uuid,) for uuid in uuids]
        sql = (
            "UPDATE event SET state = 'delivered', attempts = attempts + 1, next_attempt = NULL, status = ?,"
            " answer = NULL, finished_at = ? WHERE state {} AND uuid IN ({})"
        )

        def update(connection: Connection, which: str) -> int:
            """In statements with many values each, which is twice as fast as one for each event."""
            return sum(
                connection.execute(
                    sql.format(which, ", ".join("?" * len(some))), (status, now, *(uuid for (uuid,) in some))
                ).rowcount
                for some in (rows[first : first + _VALUES] for first in range(0, len(rows), _VALUES))
            )

        def work(connection: Connection) -> None:
            if update(connection, "= 'waiting'") < len(rows):
                again = "UPDATE event SET state = 'waiting' WHERE uuid = ? AND state = 'dropped'"
                _count_dropped(connection, -connection.executemany(again, rows).rowcount)
                update(connection, "<> 'delivered'")
            connection.execute("DELETE FROM meta WHERE key = ?", (_OVERFLOW_SAID,))

        if rows:
            self._store.run(work, "update", None)

    def postponed(self, uuids: Iterable[str], *, until: float, answer: str, status: int | None) -> None:
        """An attempt failed: these wait until ``until``, in seconds since the Unix epoch."""
        sql = (
            "UPDATE event SET attempts = attempts + 1, next_attempt = ?, answer = ?, status = ?"
            " WHERE uuid = ? AND state = 'waiting'"
        )
        rows = [(until, answer, status, uuid) for uuid in uuids]
        if rows:
            self._store.run(lambda connection: connection.executemany(sql, rows).rowcount, "update", 0)

    def dropped(self, uuids: Iterable[str], answer: str, status: int | None = None) -> None:
        """These are given up because of ``answer``; a ``status`` means that they were sent and refused."""
        now, sent = self._clock.time(), int(status is not None)
        rows = [(status, sent, now, answer, uuid) for uuid in uuids]
        sql = (
            "UPDATE event SET state = 'dropped', status = ?, attempts = attempts + ?, finished_at = ?, answer = ?,"
            " next_attempt = NULL WHERE uuid = ? AND state = 'waiting'"
        )
        if rows:
            self._store.run(
                lambda connection: _count_dropped(connection, connection.executemany(sql, rows).rowcount),
                "update",
                None,
            )

    def suppress_waiting(self, reason: str) -> int:
        """Telemetry was turned off: what waits is never sent, and stays in the ledger. Says how many there were."""
        now = self._clock.time()
        return self._store.run(lambda connection: _finish(connection, "suppressed", now, reason), "update", 0)

    def waiting(self) -> Waiting:
        """What waits, since when, and until when."""
        now = self._clock.time()

        def work(connection: Connection) -> Waiting:
            count, size, first, due = connection.execute(
                "SELECT count(*), coalesce(sum(size), 0), min(id),"
                " min(CASE WHEN next_attempt > ? THEN ? ELSE next_attempt END) FROM event WHERE state = 'waiting'",
                (now + LONGEST_BACKOFF, now),
            ).fetchone()
            since = connection.execute("SELECT recorded_at FROM event WHERE id = ?", (first,)).fetchone()
            dropped = int(_note(connection, _DROPPED) or 0)
            return Waiting(count, size, None if since is None else since[0], due, dropped)

        return self._store.run(work, "read", Waiting())

    def note_once(self, key: str, value: str) -> bool:
        """Write a note down if there is none; true for exactly one caller, over all processes and for good."""
        return self._store.run(lambda connection: _add_note(connection, key, value), "create", missing=False)

    def set_note(self, key: str, value: str) -> None:
        """Write a note down, over the one that was there."""
        sql = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
        self._store.run(lambda connection: connection.execute(sql, (key, value)).rowcount, "create", 0)

    def note(self, key: str) -> str | None:
        """The note of that key; ``None`` if there is none."""
        return self._store.run(lambda connection: _note(connection, key), "read", None)

    @contextlib.contextmanager
    def sending(self) -> Generator[bool]:
        """Be the only one who delivers, among all processes and threads, for the length of the block.

        Never waits. Yields false if somebody else delivers, or if there is no outbox yet and so nothing to deliver.
        """
        key, token = (os.getpid(), self._store.key), object()
        if _being_sent.setdefault(key, token) is not token:
            yield False
            return
        with contextlib.ExitStack() as stack:
            stack.callback(_being_sent.pop, key)
            yield self._store.take_sending_lock(stack)

    def _entries(self, which: str, values: tuple[object, ...]) -> list[Entry]:
        def read(connection: Connection) -> list[Entry]:
            return [Entry._make(row) for row in connection.execute(_ENTRIES + which, values)]

        def work(connection: Connection) -> list[Entry]:
            import sqlite3

            connection.text_factory = str  # in C, for all but damaged texts
            try:
                return read(connection)
            except sqlite3.OperationalError:
                connection.text_factory = _text
                return read(connection)

        return self._store.run(work, "read", [])


# What is done to the rows, each time inside a transaction


def _insert(connection: Connection, uuid: str, event: str, body: str, now: float) -> bool:
    sql = (
        "INSERT OR IGNORE INTO event (uuid, event, body, size, recorded_at, state, next_attempt)"
        " VALUES (?, ?, ?, ?, ?, 'waiting', ?)"
    )
    return connection.execute(sql, (uuid, event, body, len(body.encode()), now, now)).rowcount == 1


def _enforce(connection: Connection, bounds: Bounds, now: float) -> list[str]:
    """Drop what waits beyond the bounds; says how many and why, a phrase for each reason."""
    count, size, oldest = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0), min(recorded_at) FROM event WHERE state = 'waiting'"
    ).fetchone()
    if count <= bounds.events and size <= bounds.bytes and (oldest is None or oldest >= now - bounds.age):
        return []
    lost = [
        _drop(connection, now, f"larger than the {bounds.bytes} bytes that may wait", "size > ?", bounds.bytes),
        _drop(connection, now, f"waited longer than {bounds.age / 86400:g} days", "recorded_at < ?", now - bounds.age),
    ]
    for reason, rows, size in (
        (f"more than {bounds.events} events waited", bounds.events, float("inf")),
        (f"more than {bounds.bytes} bytes waited", float("inf"), bounds.bytes),
    ):
        last = _last_in_excess(connection, "state = 'waiting'", rows, size)
        lost.append(_drop(connection, now, reason, "id <= ?", last))
    return [phrase for phrase in lost if phrase]


def _drop(connection: Connection, now: float, reason: str, which: str, value: float) -> str:
    number = _finish(connection, "dropped", now, reason, which, value)
    _count_dropped(connection, number)
    return f"{number}: {reason}" if number else ""


def _prune(connection: Connection, bounds: Bounds, now: float) -> None:
    """Forget the oldest of the ledger; never the newest, however large it is."""
    count, size, oldest = connection.execute(
        "SELECT count(*), coalesce(sum(size), 0), min(finished_at) FROM event WHERE state <> 'waiting'"
    ).fetchone()
    if count > bounds.ledger_rows or size > bounds.bytes or (oldest is not None and oldest < now - bounds.ledger_age):
        last = _last_in_excess(connection, "state <> 'waiting'", bounds.ledger_rows, bounds.bytes)
        connection.execute(
            "DELETE FROM event WHERE state <> 'waiting' AND (id <= ? OR finished_at < ?)"
            " AND id < (SELECT max(id) FROM event WHERE state <> 'waiting')",
            (last, now - bounds.ledger_age),
        )


def _last_in_excess(connection: Connection, which: str, rows: float, size: float) -> int:
    """The ID of the last of the oldest events that have to go for the others to fit; 0 if all fit."""
    last: int
    last, too_many, too_large = connection.execute(
        f"SELECT 0, count(*) - ?, coalesce(sum(size), 0) - ? FROM event WHERE {which}",  # noqa: S608 - ours, both
        (rows, size),
    ).fetchone()
    oldest_first = connection.execute(f"{_SIZES}{which} ORDER BY id")
    while too_many > 0 or too_large > 0:
        last, one = oldest_first.fetchone()
        too_many, too_large = too_many - 1, too_large - one
    oldest_first.close()
    return last


def _finish(
    connection: Connection, state: State, now: float, answer: str, which: str = "1", *values: str | float
) -> int:
    sql = "UPDATE event SET state = ?, finished_at = ?, answer = ?, next_attempt = NULL WHERE state = 'waiting' AND "
    return connection.execute(sql + which, (state, now, answer, *values)).rowcount


def _count_dropped(connection: Connection, number: int) -> None:
    if number:
        total = int(_note(connection, _DROPPED) or 0) + number
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (_DROPPED, str(total)))


def _add_note(connection: Connection, key: str, value: str) -> bool:
    return connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (key, value)).rowcount == 1


def _note(connection: Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


# Where the rows are kept


class _Gate:
    """One operation at a time in this process, and none while it forks.

    SQLite remembers, per process, what it has locked. A child forked in the middle of an operation would inherit that
    memory and find the database locked for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._close, after_in_parent=self._open, after_in_child=self._renew)

    @contextlib.contextmanager
    def passed(self, timeout: float, name: str) -> Generator[None]:
        lock = self._lock
        if not lock.acquire(timeout=timeout):
            raise OutboxUnavailable(f"{name}: the outbox was in use for {timeout:g} s; {_BUSY}")
        try:
            yield
        finally:
            lock.release()

    def _close(self) -> None:
        self._closed = self._lock.acquire(timeout=_FORK_PATIENCE)

    def _open(self) -> None:
        if self._closed:
            self._lock.release()

    def _renew(self) -> None:
        self._lock = threading.Lock()


_gate = _Gate()
_being_sent: dict[tuple[int, str], object] = {}


class _Memory:
    """An image of the database, opened for each operation as a file would be. A forked child begins with none."""

    def __init__(self, busy_timeout: float) -> None:
        self.name = "the outbox in memory"
        self.key = f"memory {id(self)}"
        self._busy_timeout = busy_timeout
        self._owner = os.getpid()
        self._image = b""

    def run(self, work: Callable[[Connection], _T], access: _Access, missing: _T) -> _T:
        with _gate.passed(self._busy_timeout, self.name):
            if not self._mine() and access != "create":
                return missing
            with contextlib.closing(_connect(":memory:", self._busy_timeout)) as connection:
                if self._mine():
                    connection.deserialize(self._image)
                else:
                    _make_schema(connection)
                result = _in_transaction(connection, work, access)
                self._owner, self._image = os.getpid(), connection.serialize()
                return result

    def take_sending_lock(self, _stack: contextlib.ExitStack) -> bool:
        return self._mine()

    def _mine(self) -> bool:
        return bool(self._image) and self._owner == os.getpid()


class _File:
    """The SQLite file: made whole or not at all, and set aside when it is damaged.

    Its lock is held shared by whoever works with the file, and alone by whoever makes it or sets it aside. So nobody
    writes into a file that has just been set aside, and nobody sets aside one that has just been made.
    """

    def __init__(self, path: Path, busy_timeout: float, clock: Clock, warn: Callable[[str], None]) -> None:
        self.name = str(path)
        self.key = os.path.abspath(path)  # noqa: PTH100 - Path.resolve would ask the file system
        self._path = path
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._warn = warn

    def run(self, work: Callable[[Connection], _T], access: _Access, missing: _T) -> _T:
        try:
            return self._once(work, access, missing)
        except _Broken:
            self._set_aside()
        try:
            return self._once(work, access, missing)
        except _Broken as error:
            raise self._unavailable(str(error), "move it away") from error

    def take_sending_lock(self, stack: contextlib.ExitStack) -> bool:
        lock = FileLock(self._path.with_name(f"{self._path.name}.sending"))
        with self._readable_errors():
            stack.callback(lock.release)
            return self._path.exists() and lock.acquire()

    def _once(self, work: Callable[[Connection], _T], access: _Access, missing: _T) -> _T:
        with (
            _gate.passed(self._busy_timeout, self.name),
            self._readable_errors(),
            self._in_place(access) as there,
        ):
            if not there:
                return missing
            with self._opened() as connection:
                return _in_transaction(connection, work, access)

    @contextlib.contextmanager
    def _in_place(self, access: _Access) -> Generator[bool]:
        """Keep the file from being replaced, make it first if need be; yields whether it is there."""
        lock = FileLock(self._lock_path)
        try:
            if access == "create":
                self._take_or_make(lock)
            elif self._lock_path.exists():
                with contextlib.suppress(OSError):  # a reader of a read-only directory does without
                    self._take(lock, shared=True)
            yield self._path.exists()
        finally:
            lock.release()

    def _take(self, lock: FileLock, *, shared: bool) -> None:
        if not lock.acquire(shared=shared, timeout=self._busy_timeout):
            raise self._unavailable(f"in use for {self._busy_timeout:g} s", _BUSY)

    def _take_or_make(self, lock: FileLock) -> None:
        """Take the lock shared; or alone, and make the file, as long as there is none."""
        deadline = time.monotonic() + self._busy_timeout
        while not lock.acquire(shared=(there := self._path.exists())) or (there and not self._path.exists()):
            if time.monotonic() >= deadline:
                raise self._unavailable(f"in use for {self._busy_timeout:g} s", _BUSY)
            time.sleep(_POLL)
        if not there:
            self._make()

    def _make(self) -> None:
        """Make the file under another name, whole and on the disk, before it gets its own."""
        if self._path.exists():
            return
        fresh = self._path.with_name(f"{self._path.name}.new")
        for leftover in (fresh, *self._companions(self._path)):
            leftover.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with contextlib.closing(_connect(_uri(fresh), self._busy_timeout)) as connection:
            connection.execute("PRAGMA journal_mode = MEMORY")
            _make_schema(connection)
        fresh.rename(self._path)
        _sync_directory(self._path.parent)

    @contextlib.contextmanager
    def _opened(self) -> Generator[Connection]:
        with contextlib.closing(_connect(_uri(self._path), self._busy_timeout)) as connection:
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION or version < SCHEMA_VERSION:
                raise _Broken("not an outbox")
            if version > SCHEMA_VERSION:
                raise self._unavailable(
                    f"made by a newer Lifebeat: schema {version!r}, this one knows {SCHEMA_VERSION}",
                    "upgrade lifebeat, or set telemetryStateDir to another directory",
                )
            yield connection

    def _set_aside(self) -> None:
        """Give a damaged file, and what SQLite keeps beside it, another name; says so unless another process did."""
        with _gate.passed(self._busy_timeout, self.name), self._readable_errors(), self._alone():
            if not self._path.exists() or self._is_sound():
                return
            aside = self._free_name()
            for companion in self._companions(self._path):  # first: a journal must never meet a fresh database
                _move(companion, aside.with_name(aside.name + companion.name.removeprefix(self._path.name)))
            self._path.rename(aside)
            _sync_directory(self._path.parent)
        self._warn(
            f"{self.name}: the outbox was damaged and has been set aside as {aside.name}; "
            "events that waited in it are not sent, new ones are"
        )

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        lock = FileLock(self._lock_path)
        try:
            self._take(lock, shared=False)
            yield
        finally:
            lock.release()

    def _is_sound(self) -> bool:
        try:
            with self._readable_errors(), self._opened() as connection:
                made = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master")}
                checked: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except _Broken:
            return False
        return made.issuperset(_SCHEMA) and checked == "ok"

    def _free_name(self) -> Path:
        name = f"{self._path.name}.corrupt-{int(self._clock.time())}"
        taken = {path.name for path in self._path.parent.iterdir()}
        number = next(number for number in itertools.count(1) if _numbered(name, number) not in taken)
        return self._path.with_name(_numbered(name, number))

    @staticmethod
    def _companions(path: Path) -> tuple[Path, ...]:
        return tuple(path.with_name(path.name + suffix) for suffix in _COMPANIONS)

    def _unavailable(self, reason: str, remedy: str) -> OutboxUnavailable:
        return OutboxUnavailable(f"{self.name}: the outbox cannot be used: {reason}; {remedy}")

    @contextlib.contextmanager
    def _readable_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            remedy = _SPACE if error.errno in _FULL_DISK else _WRITABLE
            raise self._unavailable(error.strerror or str(error), remedy) from error
        except Exception as error:
            import sqlite3

            code = getattr(error, "sqlite_errorcode", _CONSTRAINT) & 0xFF
            if not isinstance(error, sqlite3.DatabaseError) or code == _CONSTRAINT:
                raise  # the caller's mistake, not the file's
            if code in _BROKEN_CODES:
                raise _Broken(str(error)) from error
            raise self._unavailable(str(error), _REMEDIES.get(code, "look after its file system")) from error


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _move(companion: Path, aside: Path) -> None:
    if companion.exists() and companion.stat().st_size:
        companion.rename(aside)
    else:
        companion.unlink(missing_ok=True)


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=rw"  # never makes the file


def _connect(database: str, timeout: float) -> Connection:
    import sqlite3

    connection = sqlite3.connect(database, uri=True, timeout=timeout, isolation_level=None)
    connection.text_factory = _text
    return connection


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")  # one damaged text must not keep all the others from being read


def _make_schema(connection: Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in (*_SCHEMA, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {SCHEMA_VERSION}"):
        connection.execute(statement)
    connection.execute("COMMIT")


def _in_transaction(connection: Connection, work: Callable[[Connection], _T], access: _Access) -> _T:
    """Commit what ``work`` does; if it raises, closing the connection undoes it."""
    if access == "read":
        connection.execute("BEGIN")
    else:
        _begin(connection)
    result = work(connection)
    connection.execute("COMMIT")
    return result


def _begin(connection: Connection) -> None:
    """Begin to write, or try again soon: in SQLite's own waiting, which grows to 100 ms, others are faster for ever."""
    import sqlite3

    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + patience / 1000
    connection.execute("PRAGMA busy_timeout = 0")
    for attempt in itertools.count(1):
        try:
            connection.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.1, 1) * min(_POLL, attempt * _POLL / 8))  # noqa: S311 - no secret
    connection.execute(f"PRAGMA busy_timeout = {patience}")


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

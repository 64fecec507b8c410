"""The one kind of SQLite file: opened for each operation, one transaction, and moved away when it is damaged.

Nothing is shared over threads, greenlets and forks. The rollback journal is truncated and synced, not a write-ahead
log: with a connection per operation that is the faster of the two, it leaves one file, and it needs no memory shared
between hosts. One file serves several parts of Lifebeat, each with tables of its own.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import stat
import threading
import time
from typing import TYPE_CHECKING, Literal, TypeVar

from lifebeat.errors import LifebeatError
from lifebeat.storage import safe_file
from lifebeat.storage.forks import guard, in_child
from lifebeat.storage.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path
    from sqlite3 import Connection as Connection  # noqa: PLC0414 - for those who write what is done in a transaction

    Identity = tuple[int, int]

Access = Literal["read", "update", "create"]
"""A read changes no byte, an update makes no file, and only creating makes one."""
SCHEMA_VERSION = 1
TIMEOUT = 5.0

_T = TypeVar("_T")
_APPLICATION = 0x4C494645
_COMPANIONS = ("-journal", "-wal", "-shm")
_POLL = 0.005
_SETTLES = 0.2  # who looks without a lock may see half of a write

_WRITABLE = "make its directory writable for this user, or set telemetryStateDir to one that is"
_SPACE = "free some space on its file system, or set telemetryStateDir to another"
_BUSY_CODES, _CONSTRAINT = frozenset({5, 6}), 19
_MOVED = 1032  # SQLITE_READONLY_DBMOVED
_DAMAGE_CODES = frozenset({1, 11, 24, 26})  # SQLITE_ERROR (other tables than ours), _CORRUPT, _FORMAT, _NOTADB
_CANNOT_RECOVER = frozenset({8, 14})  # what reading answers where a journal would have to be played back first
_REASONS = {
    3: ("this user may not use it", _WRITABLE),
    8: ("it cannot be written", _WRITABLE),
    10: ("its disk has an error", "check its file system"),
    13: ("its file system is full", _SPACE),
    14: ("it cannot be opened", _WRITABLE),
}
_FULL_DISK = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class DatabaseUnavailable(LifebeatError):
    """The database can be neither read nor written now; the message says why and what to do."""


class _Busy(Exception):
    """Another process or thread uses it."""


class _Damaged(Exception):
    """What is on the disk is not our database."""


class Database:
    """An SQLite file that all processes of an installation share. Touches nothing until it is used.

    Every wait for others is bounded. The disk's own pace is not, as nothing inside a process can cut a sync short:
    a caller that must not wait for that runs the operation in a thread.

    Args:
        path: The file; it and its directory are made when something is written, for whom the directory belongs to.
            ``None`` keeps everything in this object, for this process: a forked child begins with nothing.
        schema: The tables and indexes of this user of the file, as ``CREATE`` statements by name.
        warn: Told, in one sentence, what a person should know of.
        timeout: How long to wait for other processes and threads, in seconds, where ``run`` is not given any.
    """

    def __init__(
        self,
        path: Path | None,
        schema: Mapping[str, str],
        *,
        warn: Callable[[str], None],
        timeout: float = TIMEOUT,
    ) -> None:
        self.path = path
        self.schema = schema
        self.warn = warn
        self.timeout = timeout
        self._memory = None if path is not None else _Memory()

    @property
    def name(self) -> str:
        """Return what to call it in messages."""
        return "the state in memory" if self.path is None else safe_file.printable(self.path)

    @property
    def exists(self) -> bool:
        """Return whether there is a file, or here something in memory."""
        if self.path is not None:
            return safe_file.exists(self.path)
        return self._memory is not None and self._memory.is_filled

    def run(
        self,
        work: Callable[[Connection], _T],
        access: Access,
        missing: _T,
        *,
        timeout: float | None = None,
        sync: Literal["FULL", "NORMAL"] = "FULL",
    ) -> _T:
        """Do something in one transaction, wholly or not at all, and return what it returns.

        Args:
            work: Given a connection. It may be called again, if the file was moved away meanwhile.
            access: Whether it only reads, changes what is there, or may make the file.
            missing: What to return where there is no file yet, and none is made.
            timeout: How long to wait for others, in seconds.
            sync: ``NORMAL`` is faster, and a power cut may then lose the last transactions.

        Raises:
            DatabaseUnavailable: It cannot be used now.
        """
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        damaged = moved = False
        for attempt in itertools.count(1):
            try:
                with guard, self._in_our_words():
                    if damaged and not moved:
                        self._move_away()
                        moved = True
                    if self._memory is not None:
                        return self._memory.run(work, access, missing, self.schema)
                    return self._attempt(work, access, missing, deadline, sync)
            except _Busy:
                if time.monotonic() >= deadline:
                    raise self._unavailable(f"in use for {seconds:g} s", "try again") from None
            except _Damaged as error:
                if access == "read" and time.monotonic() >= deadline - seconds + _SETTLES:
                    remedy = "the application moves it away and starts with a new one when it next writes"
                    raise self._unavailable(str(error), remedy) from None
                if moved:
                    raise self._unavailable(str(error), "move it away") from None
                damaged = access != "read"
            # In SQLite's own waiting, which grows to 100 ms, others are faster for ever.
            time.sleep(random.uniform(0.1, 1) * min(_POLL, attempt * _POLL / 8))  # noqa: S311 - no secret
        raise AssertionError

    # -- one attempt -------------------------------------------------------------------------------------------

    def _attempt(self, work: Callable[[Connection], _T], access: Access, missing: _T, deadline: float, sync: str) -> _T:
        assert self.path is not None
        if access == "create":
            self._make(self.path)
        identity = self._check(self.path)
        if identity is None:
            if access == "create":  # another process has moved it away just now
                raise _Busy
            return missing
        with self._unmoved(self.path, identity):
            if access == "read":
                return self._read(self.path, work, missing)
            with _opened(self.path, "mode=rw") as connection:
                # fullfsync: on macOS fsync alone leaves it in the drive's cache.
                for pragma in ("journal_mode = TRUNCATE", f"synchronous = {sync}", "fullfsync = ON"):
                    connection.execute(f"PRAGMA {pragma}")
                connection.execute("BEGIN IMMEDIATE")
                if self._check(self.path) != identity:
                    raise _Busy
                if not self._prepare(connection, may_make=access == "create"):
                    return missing
                connection.execute(f"PRAGMA busy_timeout = {max(int((deadline - time.monotonic()) * 1000), 0)}")
                result = work(connection)
                connection.execute("COMMIT")
                return result

    @contextlib.contextmanager
    def _unmoved(self, path: Path, identity: Identity) -> Generator[None]:
        """Have the attempt repeated if the file was moved away meanwhile, whatever came of it."""
        try:
            yield
        except Exception:
            if self._check(path) != identity:
                raise _Busy from None
            raise
        if self._check(path) != identity:
            raise _Busy

    def _read(self, path: Path, work: Callable[[Connection], _T], missing: _T) -> _T:
        """Read without a trace: what is not ours is not opened as SQLite would, which may add files beside it.

        Where a killed process has left a transaction to be undone, that is left to those who write.
        """
        import sqlite3

        if not path.stat().st_size:
            return missing
        with _opened(path, "mode=ro&immutable=1") as connection:
            _check_header(connection)
        for query in ("mode=ro", "mode=ro&immutable=1"):
            try:
                with _opened(path, query) as connection:
                    connection.execute("BEGIN")
                    return work(connection) if self._has_tables(connection) else missing
            except sqlite3.OperationalError as error:
                if query != "mode=ro" or error.sqlite_errorcode & 0xFF not in _CANNOT_RECOVER:
                    raise
        raise AssertionError

    def _prepare(self, connection: Connection, *, may_make: bool) -> bool:
        """Make our tables where they may be made, and return whether they are there."""
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            _check_header(connection)
        if self._has_tables(connection):
            return True
        if may_make:
            _make_tables(connection, self.schema)
        return may_make

    def _has_tables(self, connection: Connection) -> bool:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return there.issuperset(self.schema)

    # -- the file ----------------------------------------------------------------------------------------------

    def _make(self, path: Path) -> None:
        """Make an empty file, which is an empty database; the tables come with the first transaction."""
        if path.exists():
            return
        safe_file.make_directory(path.parent)
        with _alone(path.parent):
            if not path.exists():
                for companion in _companions(path):  # of one that was deleted: it would be played back into the new one
                    companion.unlink(missing_ok=True)
                os.close(safe_file.create(path))
                safe_file.sync_directory(path.parent)

    def _check(self, path: Path) -> Identity | None:
        """Return which file it is, ``None`` for none; not one that others may have written."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        directory = path.parent.stat()
        if not stat.S_ISREG(found.st_mode):
            raise self._unavailable("it is no regular file", "move it away")
        if found.st_mode & stat.S_IWOTH or (directory.st_mode & stat.S_IWOTH and not directory.st_mode & stat.S_ISVTX):
            remedy = f"take that right away: chmod o-w {safe_file.printable(path.parent)!r} {path.name!r}"
            raise self._unavailable("every user of this machine may write it", remedy)
        trusted = {os.geteuid() if hasattr(os, "geteuid") else 0, directory.st_uid, 0}
        if directory.st_mode & stat.S_IWOTH and found.st_uid not in trusted:
            raise self._unavailable(f"it belongs to user {found.st_uid}", "move it away")
        return found.st_dev, found.st_ino

    def _move_away(self) -> None:
        """Give a damaged file, and what SQLite keeps beside it, another name, unless another process did."""
        assert self.path is not None
        with _alone(self.path.parent):
            if not self.path.exists() or self._is_sound(self.path):
                return
            aside = _free_name(self.path)
            for companion in _companions(self.path):  # first: a journal must never meet a fresh database
                with contextlib.suppress(FileNotFoundError):
                    if not companion.stat().st_size:
                        companion.unlink()
                        continue
                    companion.rename(aside.with_name(aside.name + companion.name.removeprefix(self.path.name)))
            self.path.rename(aside)
            safe_file.sync_directory(self.path.parent)
        self.warn(
            f"{self.name}: damaged; moved to {aside.name!r}; starting with a new one; "
            "events that were waiting in it are not sent"
        )

    def _is_sound(self, path: Path) -> bool:
        try:
            with self._in_our_words(), _opened(path, "mode=rw") as connection:
                if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    return True
                _check_header(connection)
                made = dict(connection.execute("SELECT name, sql FROM sqlite_master"))
                checked: str = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except _Damaged:
            return False
        return checked == "ok" and all(made.get(name, sql) == sql for name, sql in self.schema.items())

    # -- errors ------------------------------------------------------------------------------------------------

    def _unavailable(self, reason: str, remedy: str) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"{self.name}: cannot be used: {reason}; {remedy}")

    @contextlib.contextmanager
    def _in_our_words(self) -> Generator[None]:
        try:
            yield
        except (DatabaseUnavailable, _Busy, _Damaged):
            raise
        except safe_file.WrongOwner as error:
            raise self._unavailable("it cannot be made", error.strerror or "") from None
        except OSError as error:
            remedy = _SPACE if error.errno in _FULL_DISK else _WRITABLE
            raise self._unavailable(os.strerror(error.errno or 0).lower(), remedy) from None
        except MemoryError:
            raise self._unavailable("memory is used up", "free some") from None
        except Exception as error:
            import sqlite3

            extended = getattr(error, "sqlite_errorcode", _CONSTRAINT)
            code = extended & 0xFF
            if not isinstance(error, sqlite3.DatabaseError) or code == _CONSTRAINT:
                raise  # the caller's mistake, not the file's
            if code in _BUSY_CODES or extended == _MOVED:
                raise _Busy from None
            if code in _DAMAGE_CODES:
                raise _Damaged("it is damaged, or not Lifebeat's") from error
            reason, remedy = _REASONS.get(code, (f"SQLite has error {code}", "check its file system"))
            raise self._unavailable(reason, remedy) from error


class _Memory:
    """An image of a database, opened for each operation as a file would be."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._image = b""
        in_child(self._forget)

    @property
    def is_filled(self) -> bool:
        return bool(self._image)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._image = b""

    def run(self, work: Callable[[Connection], _T], access: Access, missing: _T, schema: Mapping[str, str]) -> _T:
        import sqlite3

        if not self._image and access != "create":
            return missing
        if not self._lock.acquire(timeout=_POLL):
            raise _Busy
        try:
            with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
                if self._image:
                    connection.deserialize(self._image)
                connection.execute("BEGIN")
                if not self._image:
                    _make_tables(connection, schema)
                result = work(connection)
                connection.execute("COMMIT")
                self._image = connection.serialize()
                return result
        finally:
            self._lock.release()


@contextlib.contextmanager
def _opened(path: Path, query: str) -> Generator[Connection]:
    import sqlite3

    # Not a path: as a URI its name may have any bytes in it, and no file is made.
    uri = f"{path.absolute().as_uri()}?{query}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
        connection.text_factory = _text
        yield connection


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")  # one damaged text must not keep all the others from being read


def _check_header(connection: Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise _Damaged("it is not Lifebeat's")
    if version > SCHEMA_VERSION:
        raise DatabaseUnavailable(
            f"the state was made by a newer Lifebeat: schema {version!r}, expected at most {SCHEMA_VERSION}; "
            "upgrade lifebeat, or set telemetryStateDir to another directory"
        )


def _make_tables(connection: Connection, schema: Mapping[str, str]) -> None:
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    for name, statement in schema.items():
        if name not in there:
            connection.execute(statement)


@contextlib.contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Make or move the file alone; where the file system locks no directories, without that."""
    lock = FileLock(directory)
    try:
        with contextlib.suppress(OSError):
            if not lock.acquire():
                raise _Busy
        yield
    finally:
        lock.release()


def _companions(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(path.name + suffix) for suffix in _COMPANIONS)


def _free_name(path: Path) -> Path:
    """Return a name for a damaged file that no file has yet."""
    taken = {entry.name for entry in path.parent.iterdir()}
    names = (f"{path.name}.damaged-{number}" for number in itertools.count(1))
    return path.with_name(next(name for name in names if name not in taken))

"""A look at the state changes nothing, whatever is there; what others may write is not used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hosts import DEADLINE
from lifebeat.storage.sqlite import Database, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lifebeat.storage.sqlite import Access

SCHEMA = {"thing": "CREATE TABLE thing (name TEXT)"}
DIES = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.executemany("INSERT INTO thing VALUES (?)", [("x" * 3000,)] * 100)
os._exit(0)
"""


def add(database: Database, name: str = "a") -> None:
    """Write a row."""
    database.run(lambda connection: connection.execute("INSERT INTO thing VALUES (?)", (name,)).rowcount, "create", 0)


def count(database: Database) -> int:
    """Look how many rows there are."""
    return database.run(lambda connection: connection.execute("SELECT count(*) FROM thing").fetchone()[0], "read", -1)


def tree(directory: Path) -> dict[str, tuple[bytes, int]]:
    """What is in a directory, byte for byte, and when it was changed."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def half_done(path: Path) -> None:
    subprocess.run([sys.executable, "-c", DIES, str(path)], check=True, timeout=DEADLINE)
    assert path.with_name(f"{path.name}-journal").stat().st_size


def foreign_with_a_log(path: Path) -> None:
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE thing (name TEXT)")


CONDITIONS: dict[str, Callable[[Path], object]] = {
    "sound": lambda _: None,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"no database\n" * 1000),
    "foreign": foreign_with_a_log,
    "half done": half_done,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_look_changes_no_byte(tmp_path: Path, condition: str) -> None:
    """Whatever a look finds, it answers or says why not, and leaves the directory as it was."""
    path = tmp_path / "lifebeat.sqlite3"
    add(Database(path, SCHEMA, warn=pytest.fail))
    CONDITIONS[condition](path)
    before = tree(tmp_path)
    with contextlib.suppress(DatabaseUnavailable):
        assert count(Database(path, SCHEMA, warn=pytest.fail)) in {1, -1, 101}
    assert tree(tmp_path) == before


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_others_may_write_is_not_used(tmp_path: Path, what: str) -> None:
    """A database that every user may write or replace is neither read nor written, and the reason says what to do."""
    directory = tmp_path / "state"
    database = Database(directory / "lifebeat.sqlite3", SCHEMA, warn=pytest.fail)
    add(database)
    (directory if what == "directory" else directory / "lifebeat.sqlite3").chmod(0o777)
    for attempt in (add, count):
        with pytest.raises(DatabaseUnavailable, match=r"every user of this machine may write it; .*chmod o-w"):
            attempt(database)


def test_parts_share_a_file(tmp_path: Path) -> None:
    """Each user of a file has tables of its own in it, made when it first writes; before that there is nothing."""
    path = tmp_path / "lifebeat.sqlite3"
    one = Database(path, SCHEMA, warn=pytest.fail)
    other = Database(path, {"other": "CREATE TABLE other (name TEXT)"}, warn=pytest.fail)
    add(one)
    assert other.run(lambda _: 1, "read", 0) == other.run(lambda _: 1, "update", 0) == 0
    assert other.run(lambda _: 1, "create", 0) == other.run(lambda _: 1, "read", 0) == 1
    assert count(one) == 1


def test_name_that_is_no_utf8(tmp_path: Path) -> None:
    """A directory with such a name holds a database like any other."""
    directory = type(tmp_path)(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    database = Database(directory / "lifebeat.sqlite3", SCHEMA, warn=pytest.fail)
    add(database)
    assert count(database) == 1


def test_file_that_was_moved_away_in_the_middle(tmp_path: Path) -> None:
    """What went into a file that another process has just moved away is done again in the new one."""
    path = tmp_path / "lifebeat.sqlite3"
    database, calls = Database(path, SCHEMA, warn=pytest.fail), list[int]()
    add(database)

    def work(connection: sqlite3.Connection) -> None:
        if not calls:
            path.rename(tmp_path / "away")
        calls.append(connection.execute("INSERT INTO thing VALUES ('b')").rowcount)

    database.run(work, "create", None)
    assert count(database) == 1


@pytest.mark.parametrize("access", ["read", "update", "create"])
def test_file_that_another_process_moves_away_just_now_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, access: Access
) -> None:
    """Between the look at the file and its opening it gets another name: nothing is said, a new one is used."""
    path = tmp_path / "state.sqlite3"
    database = Database(path, SCHEMA, warn=pytest.fail)
    add(database)
    connect = sqlite3.connect

    def moved_before(*args: Any, **options: Any) -> sqlite3.Connection:
        monkeypatch.undo()
        path.rename(tmp_path / "aside")
        return connect(*args, **options)

    monkeypatch.setattr(sqlite3, "connect", moved_before)
    insert = "INSERT INTO thing VALUES ('b')"
    query = "SELECT * FROM thing" if access == "read" else insert
    changed = database.run(lambda connection: len(connection.execute(query).fetchall()), access, -1)
    assert changed == (0 if access == "create" else -1)
    assert count(database) == (1 if access == "create" else -1)


def test_look_at_half_of_a_write_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header is read without a lock; what is only there for a moment is not called damage."""
    path = tmp_path / "state.sqlite3"
    database = Database(path, SCHEMA, warn=pytest.fail)
    add(database)
    whole, connect = path.read_bytes(), sqlite3.connect
    looks = iter([b"half of it" * 200, b"half of it" * 200, whole])

    def written_meanwhile(*args: Any, **options: Any) -> sqlite3.Connection:
        path.write_bytes(next(looks, whole))
        return connect(*args, **options)

    monkeypatch.setattr(sqlite3, "connect", written_meanwhile)
    assert count(database) == 1

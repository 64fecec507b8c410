"""The runs of jobs as they are remembered: noted in memory, written behind, read by commands and pages.

A claim on this machine writes the row of its run in its own transaction, so that each claimed instant has one; how it
ended follows within a second. A kill loses the last second of that, and never a claim.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Literal, TypeVar

from lifebeat.errors import LifebeatError, in_words
from lifebeat.once import processes, rows
from lifebeat.storage import threads
from lifebeat.storage.forks import in_child
from lifebeat.storage.sqlite import Database, DatabaseUnavailable
from lifebeat.storage.state_dir import DATABASE_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from datetime import timedelta
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.storage.sqlite import Connection

    Key = tuple[str, int, str]

T = TypeVar("T")
Outcome = Literal["running", "ok", "failed", "timed out", "left behind", "skipped", "missed"]
FAILED: tuple[Outcome, ...] = ("failed", "timed out", "left behind", "missed")
KEPT_RUNS = 2000  # of each job
WRITE_EVERY = 0.7  # not a whole second, at which jobs claim
_PATIENCE = 2.0  # of those who look, in seconds
FORGET_EVERY = 60.0
_LONGEST_WAIT = 60.0
_MOST_PENDING = 10_000
_SCHEMA = {"runs": rows.SCHEMA["runs"]}
_LOST = "its process ended before the run did, or in the second after"
_COLUMNS = ("job", "instant", "scope", "begun", "took", "outcome", "attempts", "by_hand", "reason", "pid", "origin")
_NAMES = ", ".join(_COLUMNS)
_INSERT = f"INTO runs ({_NAMES}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
_CHANGED = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[3:])
_PUT = f"INSERT {_INSERT} ON CONFLICT (job, instant, scope) DO UPDATE SET {_CHANGED}"


class LeftBehind(LifebeatError):
    """A run did not end in time, and what it does cannot be cut short."""


@dataclass(slots=True)
class Run:
    """One run. Times are in seconds since the Unix epoch.

    Attributes:
        job: The job's ID.
        instant: The instant that it was planned for, in microseconds since the epoch; by hand, when it was ordered.
        scope: Empty for a job that the application shares, else the process that each has a run of its own.
        begun: When it began; of one that did not, when that was noted.
        took: How many seconds it took; ``None`` while it is under way.
        outcome: How it ended.
        attempts: How many times it was called.
        by_hand: Whether somebody ordered it.
        reason: Why it ended so, in a line; ``None`` where there is nothing to say.
        pid: Its process.
        origin: What tells that process from others of that number.
    """

    job: str
    instant: int
    scope: str
    begun: float
    took: float | None = None
    outcome: Outcome = "running"
    attempts: int = 1
    by_hand: bool = False
    reason: str | None = None
    pid: int = 0
    origin: str = field(default="", repr=False)

    @property
    def ended(self) -> float | None:
        """Return when it ended; ``None`` while it is under way."""
        return None if self.took is None else self.begun + self.took

    @property
    def has_failed(self) -> bool:
        """Return whether it did not end well."""
        return self.outcome in FAILED


class History:
    """The runs of one process, on their way to the disk.

    Args:
        directory: The state directory; ``None`` where there is none, and nothing is remembered.
        clock: Where the time comes from.
        kept: Returns how long runs are remembered; zero for not at all.
        may_make: Returns whether the database may be made for it; where it is there, it is used.
        warn: Told, in one sentence, what a person should know of.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        clock: Clock,
        kept: Callable[[], timedelta],
        may_make: Callable[[], bool],
        warn: Callable[[str], None],
    ) -> None:
        self._database = None if directory is None else Database(directory / DATABASE_FILE, _SCHEMA, warn=warn)
        self._clock = clock
        self._kept = kept
        self._may_make = may_make
        self._warn = warn
        self._pending: dict[Key, tuple[Run, bool]] = {}
        self._forgets_at = 0.0
        self._begin()
        in_child(self._begin)

    def _begin(self) -> None:
        """Begin with nothing; also in a forked child, which leaves all to its parent."""
        self._lock, self._storing, self._closed = threading.Lock(), threading.Lock(), threading.Event()
        self._pending = {}
        self._is_writing = False

    @contextmanager
    def run(
        self, job: str, instant: int, *, shared: bool, timeout: float | None, by_hand: bool = False, attempt: int = 1
    ) -> Generator[None]:
        """Remember a run that is made inside, and how it ends.

        Args:
            job: The job's ID.
            instant: The instant, in microseconds since the epoch.
            shared: Whether it is the application's run, and not this process's.
            timeout: How many seconds it may take.
            by_hand: Whether somebody ordered it.
            attempt: How many times it has been called for that instant, this one included.
        """
        run = self._made(job, instant, shared=shared)
        run.attempts, run.by_hand = attempt, by_hand
        began = self._clock.monotonic()
        outcome: Outcome = "ok"
        self._put(run)
        try:
            yield
        except BaseException as error:
            is_over = timeout is not None and self._clock.monotonic() - began >= timeout
            timed_out = is_over and isinstance(error, TimeoutError)
            outcome = "left behind" if isinstance(error, LeftBehind) else "timed out" if timed_out else "failed"
            run = replace(run, reason=f"longer than {timeout:g} s" if timed_out else in_words(error))
            raise
        finally:
            self._put(replace(run, outcome=outcome, took=self._clock.monotonic() - began))

    def pass_over(
        self,
        job: str,
        instant: int,
        outcome: Outcome,
        reason: str | None = None,
        *,
        shared: bool,
        by_hand: bool = False,
    ) -> None:
        """Remember an instant without a run, unless another process ran it."""
        run = self._made(job, instant, shared=shared)
        run.outcome, run.reason, run.by_hand = outcome, reason, by_hand
        self._put(run, over=False)

    def _made(self, job: str, instant: int, *, shared: bool) -> Run:
        pid, origin = os.getpid(), processes.origin()
        scope = "" if shared else f"{pid} {origin}"
        return Run(job, instant, scope, self._clock.time(), pid=pid, origin=origin)

    def _put(self, run: Run, *, over: bool = True) -> None:
        if self._database is None or (not self._kept() and self._clock.monotonic() < self._forgets_at):
            return
        key = (run.job, run.instant, run.scope)
        with self._lock:
            if self._kept() and (over or key not in self._pending):
                self._pending[key] = (run, over)
            while len(self._pending) > _MOST_PENDING:
                del self._pending[next(iter(self._pending))]
            starts, self._is_writing = not self._is_writing and not self._closed.is_set(), True
        if starts and not threads.start("history", self._write, wait=False):
            self._is_writing = False

    # -- writing -----------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Write now and then, as long as there is anything to write; nothing of this is a thread at rest."""
        wait = WRITE_EVERY
        while not self._closed.wait(wait):
            wait = WRITE_EVERY if self.flush() else min(wait * 2, _LONGEST_WAIT)
            with self._lock:
                if not self._pending:
                    self._is_writing = False
                    return

    def flush(self, timeout: float | None = None) -> bool:
        """Write what is pending, within ``timeout`` seconds of waiting for others; return whether it is written."""
        if self._database is None or not self._storing.acquire(timeout=-1 if timeout is None else timeout):
            return False
        with self._lock:
            pending, self._pending = self._pending, {}
        try:
            if not pending and self._clock.monotonic() < self._forgets_at:
                return True
            store = partial(self._store, [run for run, over in pending.values() if over],
                            [run for run, over in pending.values() if not over])  # fmt: skip
            self._database.run(
                store, "create" if pending and self._may_make() else "update", None, timeout=timeout, sync="NORMAL"
            )
        except DatabaseUnavailable as error:
            self._warn(f"{error}; runs are remembered when it can be used again")
            with self._lock:
                self._pending = pending | self._pending
            return False
        finally:
            self._storing.release()
        return True

    def close(self, timeout: float) -> None:
        """Write what is pending, and no more after that."""
        self._closed.set()
        self.flush(timeout)

    def _store(self, runs: list[Run], passed_over: list[Run], connection: Connection) -> None:
        connection.executemany(_PUT, map(asdict, runs))
        connection.executemany(f"INSERT OR IGNORE {_INSERT}", map(asdict, passed_over))
        if self._clock.monotonic() < self._forgets_at:
            return
        self._forgets_at = self._clock.monotonic() + FORGET_EVERY
        connection.execute("DELETE FROM runs WHERE begun < ?", (self._clock.time() - self._kept().total_seconds(),))
        for (job,) in connection.execute("SELECT DISTINCT job FROM runs").fetchall():
            oldest = "SELECT instant FROM runs WHERE job = ? ORDER BY instant DESC LIMIT 1 OFFSET ?"
            connection.execute(f"DELETE FROM runs WHERE job = ? AND instant <= ({oldest})", (job, job, KEPT_RUNS))  # noqa: S608 - no value in it


# -- reading ---------------------------------------------------------------------------------------------------------


def read(
    state_dir: Path | None, *, job: str | None = None, since: float = 0.0, failed: bool = False, limit: int = 1000
) -> list[Run]:
    """Return the runs that are remembered, the newest first. Changes nothing.

    Args:
        state_dir: The state directory.
        job: Of this job only.
        since: Those that began since then, in seconds since the epoch.
        failed: Those that did not end well only.
        limit: How many at most.

    Raises:
        DatabaseUnavailable: They cannot be read now.
    """

    def work(connection: Connection) -> list[Run]:
        outcomes = f"outcome IN {(*FAILED, 'running')}" if failed else "TRUE"  # of these some have been left behind
        which = f"begun >= :since AND (:job IS NULL OR job = :job) AND {outcomes} ORDER BY begun DESC, number DESC"
        found = _select(connection, which, {"since": since, "job": job})
        return list(islice((run for run in found if run.has_failed or not failed), limit))

    return _read(state_dir, work, [])


def tally(state_dir: Path | None, *, since: float, step: float, steps: int) -> dict[str, list[tuple[int, int]]]:
    """Return how many runs of each job failed and how many ended well, in each of some steps of time.

    Raises:
        DatabaseUnavailable: They cannot be read now.
    """
    ended = (*FAILED, "ok")

    def work(connection: Connection) -> dict[str, list[tuple[int, int]]]:
        counted = "SELECT job, CAST((begun - ?) / ? AS INTEGER), SUM(outcome <> 'ok'), SUM(outcome = 'ok') FROM runs"
        which = f"WHERE begun >= ? AND outcome IN ({', '.join('?' * len(ended))}) GROUP BY 1, 2"
        found: dict[str, list[tuple[int, int]]] = {}
        for job, number, failed, well in connection.execute(f"{counted} {which}", (since, step, since, *ended)):
            if number < steps:
                found.setdefault(job, [(0, 0)] * steps)[number] = (failed, well)
        return found

    return _read(state_dir, work, {})


def latest(state_dir: Path | None) -> dict[str, Run]:
    """Return the latest run of each job.

    Raises:
        DatabaseUnavailable: They cannot be read now.
    """

    def work(connection: Connection) -> dict[str, Run]:
        which = "job = :job ORDER BY instant DESC, number DESC LIMIT 1"
        jobs = connection.execute("SELECT DISTINCT job FROM runs").fetchall()
        return {job: run for (job,) in jobs for run in _select(connection, which, {"job": job})}

    return _read(state_dir, work, {})


def failing(state_dir: Path | None) -> dict[str, Run]:
    """Return the jobs whose latest run did not end well, and that run.

    Raises:
        DatabaseUnavailable: They cannot be read now.
    """

    def work(connection: Connection) -> dict[str, Run]:
        found: dict[str, Run] = {}
        for (job,) in connection.execute("SELECT DISTINCT job FROM runs ORDER BY job").fetchall():
            runs = _select(connection, "job = :job ORDER BY instant DESC, number DESC", {"job": job})
            ended = next((run for run in runs if run.outcome not in {"running", "skipped"}), None)
            if ended is not None and ended.has_failed:
                found[job] = ended
        return found

    return _read(state_dir, work, {})


def _read(state_dir: Path | None, work: Callable[[Connection], T], missing: T) -> T:
    if state_dir is None:
        return missing
    database = Database(state_dir / DATABASE_FILE, _SCHEMA, warn=lambda _: None, timeout=_PATIENCE)
    return database.run(work, "read", missing)


def _select(connection: Connection, which: str, values: dict[str, str | float | None]) -> Iterator[Run]:
    """Return runs one by one; one that was under way when its process ended was left behind."""
    for row in connection.execute(f"SELECT {_NAMES} FROM runs WHERE {which}", values):  # noqa: S608 - no value in it
        run = Run(*row)
        run.by_hand = bool(run.by_hand)
        if run.outcome == "running" and processes.is_gone(run.pid, run.origin):
            run.outcome, run.reason = "left behind", _LOST
        yield run

"""The runs that a process has in hand: as long as it lives, nobody takes them for those of a dead one.

Procrastinate's worker gives up its own heartbeat before it waits for what runs, and tells once, or never, that a run
has ended. So the process says both for itself, over its own session, until the database knows.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Generator

    import psycopg

# Procrastinate itself notes the end within moments; what it could not note until then is noted here.
SETTLING = 5.0
# A worker that started in the meantime may have deleted ours, and its runs would be nobody's.
ALIVE = """
WITH mine AS (
    SELECT jobs.id, jobs.worker_id
    FROM procrastinate_jobs AS jobs JOIN unnest(%(ids)s::bigint[], %(attempts)s::int[]) AS one(id, attempts)
    ON jobs.id = one.id AND jobs.attempts = one.attempts WHERE jobs.status = 'doing'),
beat AS (
    UPDATE procrastinate_workers SET last_heartbeat = now() WHERE id IN (SELECT worker_id FROM mine)),
worker AS (
    INSERT INTO procrastinate_workers (last_heartbeat) SELECT now() FROM mine WHERE worker_id IS NULL LIMIT 1
    RETURNING id)
UPDATE procrastinate_jobs AS jobs SET worker_id = worker.id FROM worker, mine
WHERE jobs.id = mine.id AND jobs.status = 'doing' AND jobs.worker_id IS NULL
"""
# A run that others were to do again, and have not begun, is over too.
NOTE = """
WITH ended AS MATERIALIZED (
    SELECT jobs.id, one.become FROM procrastinate_jobs AS jobs
    JOIN unnest(%(ids)s::bigint[], %(attempts)s::int[], %(become)s::text[]) AS one(id, attempts, become)
    ON jobs.id = one.id WHERE (jobs.status = 'doing' AND jobs.attempts = one.attempts)
    OR (jobs.status = 'todo' AND jobs.attempts > one.attempts AND one.become <> 'todo')
    FOR UPDATE OF jobs)
SELECT CASE become WHEN 'todo' THEN procrastinate_retry_job_v2(id, now(), NULL, NULL, NULL)
ELSE procrastinate_finish_job_v1(id, become::procrastinate_job_status, become = 'succeeded') END FROM ended
"""
End = Literal["succeeded", "failed", "todo"]


class NotHere(Exception):
    """This process cannot run the job; another may."""


class NotNow(NotHere):
    """This process cannot run the job at the moment; later it can, or another."""


class Row(NamedTuple):
    """A run in Procrastinate's queue, as this process was given it."""

    id: int
    attempts: int


class InHand:
    """What runs here, and what has ended here and may not be known to have; for any thread.

    Args:
        settling: Seconds that Procrastinate has for noting an end itself.
    """

    def __init__(self, *, settling: float = SETTLING) -> None:
        self._settling = settling
        self._running: dict[int, Row] = {}
        self._ended: dict[int, tuple[Row, End, float]] = {}
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, row: Row) -> Generator[bool]:
        """Have a run in hand; false if it has ended here before.

        Raises:
            NotNow: It is under way here: others thought that this process was dead.
        """
        with self._changed:
            if row.id in self._running:
                raise NotNow(f"run {row.id} is under way")
            begins = row.id not in self._ended or self._ended[row.id][1] == "todo"
            self._running[row.id] = row
        end: End = "failed"
        try:
            yield begins
            end = "succeeded"
        except NotHere:
            end = "todo"
            raise
        finally:
            with self._changed:
                del self._running[row.id]
                self._ended[row.id] = (row, end, time.monotonic())
                self._changed.notify_all()

    def is_empty(self, timeout: float = 0.0) -> bool:
        """Whether nothing is in hand, or comes to be within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running and not self._ended, timeout)

    def tell(self, connection: psycopg.Connection[Any]) -> None:
        """Tell the database what runs, and what has ended."""
        with self._changed:
            running = list(self._running.values())
            known_by = time.monotonic() - self._settling
            ended = [one for one in self._ended.values() if one[2] <= known_by]
        if running:
            connection.execute(ALIVE, _columns(running))
        if ended:
            columns = _columns([row for row, _, _ in ended])
            connection.execute(NOTE, {**columns, "become": [end for _, end, _ in ended]})
        with self._changed:
            for one in ended:
                if self._ended.get(one[0].id) is one:
                    del self._ended[one[0].id]
            self._changed.notify_all()


def _columns(rows: list[Row]) -> dict[str, Any]:
    return {"ids": [row.id for row in rows], "attempts": [row.attempts for row in rows]}

"""What is due goes into Procrastinate's queue: the claim and the run in one statement."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from lifebeat.engines.timetable import Due, Timetable
from lifebeat.schedule.instants import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lifebeat.clock import Clock
    from lifebeat.engines.postgres import Installation
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.schedule.instants import Instants

TASK = "lifebeat.run"
LOOK_EVERY = 3.0
UPKEEP_EVERY = 10.0
# A worker that has not been heard of for so long is dead, and its runs are others'. A frozen one that comes back later
# than that may end a run that another has run again.
STALLED = 20.0
KEPT_CLAIMS = 100
KEPT_HOURS = 24
WAITS = (0.5, 1.0, 2.0, 5.0)
CLAIM_AND_SEND = """
WITH due AS (
    SELECT job, instant FROM unnest(%(jobs)s::text[], %(instants)s::bigint[]) AS one(job, instant)
    WHERE NOT EXISTS (
        SELECT FROM lifebeat_forgotten AS old WHERE old.job = one.job AND old.instant >= one.instant)
    ORDER BY job, instant),
taken AS (
    INSERT INTO lifebeat_claims (job, instant) SELECT job, instant FROM due ON CONFLICT DO NOTHING
    RETURNING job, instant)
SELECT procrastinate_defer_jobs_v1(array_agg(
    ROW(%(queue)s, %(task)s, 0, NULL, NULL, jsonb_build_object('job', job, 'instant', instant), NULL)
    ::procrastinate_job_to_defer_v1)) AS ids
FROM taken HAVING count(*) > 0
"""
# A job that nobody has ever seen starts from now: its latest instant counts as run.
SEEN = """
INSERT INTO lifebeat_claims (job, instant)
SELECT one.job, one.instant FROM unnest(%(jobs)s::text[], %(instants)s::bigint[]) AS one(job, instant)
WHERE NOT EXISTS (SELECT FROM lifebeat_claims AS claims WHERE claims.job = one.job)
ORDER BY job ON CONFLICT DO NOTHING
"""
# What is to be forgotten is refused from now on, and deleted the next time: by then nobody is still at it who has not
# seen that. Only what the server's own clock has seen: a clock that was ahead for a while must not stop a job.
FORGET = """
WITH deleted AS (
    DELETE FROM lifebeat_claims AS claims USING lifebeat_forgotten AS old
    WHERE old.job = claims.job AND old.instant >= claims.instant)
INSERT INTO lifebeat_forgotten AS known (job, instant)
SELECT job, instant FROM (
    SELECT job, instant, row_number() OVER (PARTITION BY job ORDER BY instant DESC) AS age
    FROM lifebeat_claims WHERE instant <= extract(epoch FROM now()) * 1000000) AS aged
WHERE age = %(kept)s + 1
ON CONFLICT (job) DO UPDATE SET instant = greatest(known.instant, excluded.instant)
"""


class Dispatch:
    """One process's part: it looks at its own clock, and the database decides who was first.

    Args:
        installation: The process's session.
        clock: Where the time comes from.
        queue: The queue of the runs.
        failed: Told what went wrong; it is tried again.
        works: Told at the start and after a failure that it works.
    """

    def __init__(
        self,
        installation: Installation,
        clock: Clock,
        queue: str,
        failed: Callable[[str], None],
        works: Callable[[], None] = lambda: None,
    ) -> None:
        self._installation = installation
        self._clock = clock
        self._queue = queue
        self._failed = failed
        self._works = works
        self._timetable = Timetable()
        self._unseen: list[Due] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None

    def put(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], *, make_up: bool) -> None:
        """Put a job on the timetable, from the latest instant on if that may have been missed."""
        now = self._now()
        since = now
        if make_up:
            latest = instants.latest(now)
            if latest is not None and latest + jitter(latest) > now:
                latest = instants.latest(latest - 1)
            since = now if latest is None else latest - 1
            self._unseen.append(Due(spec.id, 0 if latest is None else latest))
        self._timetable.put(spec, instants, jitter, since=since)
        self._wake()

    def remove(self, job_id: str) -> None:
        """Take a job away."""
        self._timetable.remove(job_id)

    async def run(self, app: Any) -> None:
        """Send what is due, with the connections of a Procrastinate app, until cancelled."""
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        upkeep = asyncio.create_task(self._keep_up(app))
        failures: int | None = None
        try:
            while True:
                try:
                    if failures != 0:
                        await app.connector.execute_query_async("SELECT 1")
                        self._works()
                        failures = 0
                    await self._send(app)
                except Exception as error:  # noqa: BLE001 - a host's worker must not end because of us
                    self._failed(f"PostgreSQL: {in_a_line(error)}")
                    failures = failures or 0
                    await asyncio.sleep(WAITS[min(failures, len(WAITS) - 1)])
                    failures += 1
        finally:
            upkeep.cancel()

    async def _send(self, app: Any) -> None:
        assert self._changed is not None
        self._changed.clear()
        unseen, self._unseen = self._unseen, []
        due = self._timetable.due(self._now())
        try:
            if unseen:
                await app.connector.execute_query_async(SEEN, **_columns(unseen))
                unseen = []
            if due:
                columns = _columns(due)
                await app.connector.execute_query_async(CLAIM_AND_SEND, **columns, queue=self._queue, task=TASK)
        except BaseException:
            self._unseen += unseen
            self._timetable.give_back(due)
            raise
        following = self._timetable.next()
        left = LOOK_EVERY if following is None else min((following - self._now()) / SECOND, LOOK_EVERY)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), max(left, 0.001))

    async def _keep_up(self, app: Any) -> None:
        """What one process does for all: dead workers' runs are run again, old rows go."""
        while True:
            await asyncio.sleep(UPKEEP_EVERY)
            with contextlib.suppress(Exception):  # what fails now is done next time
                if await asyncio.to_thread(self._installation.leads):
                    # After an outage all look dead; those who live have that long to say so.
                    if self._installation.age >= STALLED:
                        await self._revive(app)
                    await app.connector.execute_query_async(FORGET, kept=KEPT_CLAIMS)
                    await app.job_manager.delete_old_jobs(KEPT_HOURS, queue=self._queue, include_failed=True)

    async def _revive(self, app: Any) -> None:
        stalled = await app.job_manager.get_stalled_jobs(
            queue=self._queue, task_name=TASK, seconds_since_heartbeat=STALLED
        )
        for job in stalled:
            await app.job_manager.retry_job(job)

    def _wake(self) -> None:
        if self._loop is not None and self._changed is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._changed.set)

    def _now(self) -> int:
        return int(self._clock.time() * SECOND)


def _columns(due: Sequence[Due]) -> dict[str, Any]:
    return {"jobs": [one.job_id for one in due], "instants": [one.instant for one in due]}


def in_a_line(error: BaseException) -> str:
    """What went wrong; Procrastinate's own text is that something did."""
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else repr(cause)

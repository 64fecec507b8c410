"""The executor of Lifebeat's jobs on APScheduler: daemon threads that live as long as there is work.

APScheduler's own pool keeps its threads for ever and makes the interpreter wait for them at exit; and it does not tell
a function which instant it runs for.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.base import BaseExecutor

MAX_THREADS = 20
LINGER = 1.0  # seconds that a thread waits for more to do: starting one takes longer than many a job


class DaemonExecutor(BaseExecutor):  # type: ignore[misc]  # APScheduler ships no types
    """Runs ``job.func(run_time)`` in a daemon thread; at most ``MAX_THREADS`` at once, the rest in line."""

    def __init__(self) -> None:
        super().__init__()
        # Python's own queue, in C, wakes a thread up in half the time of a condition.
        self._line: queue.SimpleQueue[tuple[Any, list[datetime]] | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._promised = 0  # what is in line or about to be; a thread does not end while there is something
        self._running = 0
        self.is_awaited = False

    def shutdown(self, wait: bool = True) -> None:
        """Forget what waits in line.

        APScheduler calls this while it holds its locks, which a running job may be waiting for; so ``wait`` is only
        noted here, and whoever hears of the stop waits, when the locks are free.
        """
        self.is_awaited = wait
        with self._changed:
            self._running -= self._empty()
            for _ in range(self._idle):
                self._promised += 1
                self._line.put(None)
            self._changed.notify_all()

    def _empty(self) -> int:
        """Take what is in line out of it; says how many runs that were."""
        taken = 0
        with contextlib.suppress(queue.Empty):
            while True:
                taken += self._line.get_nowait() is not None
                self._promised -= 1
        return taken

    def drain(self, timeout: float | None) -> bool:
        """Wait until nothing runs, for at most ``timeout`` seconds (``None``: for ever); says whether nothing does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, timeout)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        with self._changed:
            self._promised += 1
            self._running += 1
            more = self._idle < self._promised and self._threads < MAX_THREADS
            self._threads += more
            self._idle += more
        try:
            if more:
                threading.Thread(target=self._work, name="lifebeat-job", daemon=True).start()
        except RuntimeError:  # the system has no thread left, or the interpreter ends
            with self._changed:
                self._promised -= 1
                self._running -= 1
                self._threads -= 1
                self._idle -= 1
            raise
        self._line.put((job, run_times))

    def _await_more(self) -> tuple[Any, list[datetime]] | None:
        """The next of the line; ``None`` where there is nothing more to do, and the thread ends."""
        while True:
            with contextlib.suppress(queue.Empty):
                more = self._line.get(timeout=LINGER)
                with self._changed:
                    self._promised -= 1
                    self._idle -= 1
                return more
            with self._changed:
                if not self._promised:
                    self._idle -= 1
                    return None

    def _work(self) -> None:
        try:
            while (more := self._await_more()) is not None:
                self._run_all(*more)
                with self._changed:
                    self._idle += 1
        finally:
            with self._changed:
                self._threads -= 1

    def _run_all(self, job: Any, run_times: list[datetime]) -> None:
        try:
            base: Any = super()
            base._run_job_success(job.id, _run(job, run_times, self._logger))  # noqa: SLF001 - our own base class
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()


def _run(job: Any, run_times: list[datetime], logger: Any) -> list[JobExecutionEvent]:
    events: list[JobExecutionEvent] = []
    for run_time in run_times:
        late, grace = datetime.now(tz=UTC) - run_time, job.trigger.misfire_grace
        if grace is not None and late > grace:
            logger.warning("the run of job %s at %s was missed by %.1f s", job.name, run_time, late.total_seconds())
            events.append(JobExecutionEvent(EVENT_JOB_MISSED, job.id, job._jobstore_alias, run_time))  # noqa: SLF001 - APScheduler's own executors use it
        else:
            events.append(_run_once(job, run_time, logger))
    return events


def _run_once(job: Any, run_time: datetime, logger: Any) -> JobExecutionEvent:
    alias = job._jobstore_alias  # noqa: SLF001 - APScheduler's own executors use it
    try:
        value = job.func(run_time.astimezone(UTC))
    except BaseException as error:  # a job that calls sys.exit() ends neither its thread nor its further runs
        logger.exception("job %s failed", job.name)
        return JobExecutionEvent(EVENT_JOB_ERROR, job.id, alias, run_time, exception=error, traceback="")
    return JobExecutionEvent(EVENT_JOB_EXECUTED, job.id, alias, run_time, retval=value)


def on_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # a host that has not imported it has no loop, and need not pay for it
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

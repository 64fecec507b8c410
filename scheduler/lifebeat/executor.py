"""The executor of Lifebeat's jobs on APScheduler: daemon threads that live as long as there is work.

APScheduler's own pool keeps its threads for ever and makes the interpreter wait for them at exit; and it does not tell
a function which instant it runs for.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
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
        self._line: deque[tuple[Any, list[datetime]]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._running = 0
        self.is_awaited = False
        self._is_over = False

    def start(self, scheduler: Any, alias: str) -> None:
        """The scheduler has started, perhaps not for the first time."""
        self._is_over = False
        base: Any = super()
        base.start(scheduler, alias)

    def shutdown(self, wait: bool = True) -> None:
        """Forget what waits in line.

        APScheduler calls this while it holds its locks, which a running job may be waiting for; so ``wait`` is only
        noted here, and whoever hears of the stop waits, when the locks are free.
        """
        self.is_awaited = wait
        with self._changed:
            self._running -= len(self._line)
            self._line.clear()
            self._is_over = True
            self._changed.notify_all()

    def drain(self, timeout: float | None) -> bool:
        """Wait until nothing runs, for at most ``timeout`` seconds (``None``: for ever); says whether nothing does."""
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, timeout)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        with self._changed:
            self._line.append((job, run_times))
            self._running += 1
            if self._idle >= len(self._line):
                self._changed.notify_all()
                return
            if self._threads >= MAX_THREADS:
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="lifebeat-job", daemon=True).start()
        except RuntimeError:  # the system has no thread left, or the interpreter ends
            with self._changed:
                self._threads -= 1
                self._running -= 1
                self._line.remove((job, run_times))
            raise

    def _await_more(self) -> bool:
        self._idle += 1
        try:
            self._changed.wait_for(lambda: self._line or self._is_over, LINGER)
        finally:
            self._idle -= 1
        return bool(self._line)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._await_more():
                    self._threads -= 1
                    return
                job, run_times = self._line.popleft()
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
    except Exception as error:
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

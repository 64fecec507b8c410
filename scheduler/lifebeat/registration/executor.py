"""The executor of Lifebeat's jobs on APScheduler: daemon threads that live as long as there is work.

APScheduler's own pool keeps its threads for ever and makes the interpreter wait for them at exit; and it does not tell
a function which instant it runs for.
"""

from __future__ import annotations

import threading
from collections import deque
from datetime import UTC, datetime
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.executors.base import BaseExecutor

from lifebeat.log import get_logger
from lifebeat.storage import threads

ALIAS = "lifebeat"
MAX_THREADS = 20

logger = get_logger()


class DaemonExecutor(BaseExecutor):  # type: ignore[misc]  # APScheduler ships no types
    """Runs ``job.func(run_time)`` in a daemon thread; at most ``MAX_THREADS`` at once, the rest wait in line.

    Attributes:
        is_awaited: Whether the stop of the scheduler asked to wait for running jobs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._line: deque[tuple[Any, list[datetime]]] = deque()
        self._running: dict[int, bool] = {}
        self._threads = 0
        self._changed = threading.Condition()
        self.is_awaited = False

    def shutdown(self, wait: bool = True) -> None:
        """Forget what waits in line.

        APScheduler calls this while it holds its locks, which a running job may be waiting for; so ``wait`` is only
        noted here, and the listener of the shutdown waits, when the locks are free.
        """
        self.is_awaited = wait
        with self._changed:
            self._line.clear()

    def drain(self, timeout: float | None, *, hosts: bool | None = None, but: int | None = None) -> bool:
        """Wait until nothing runs, and return whether nothing does.

        Args:
            timeout: Seconds to wait at most; ``None`` for as long as it takes.
            hosts: Wait for the host's own jobs only, or for Lifebeat's only; ``None`` for all.
            but: The thread (its ident) that is not waited for: a job that stops the scheduler would wait for itself.
        """

        def is_done() -> bool:
            return not any(hosts in {None, own} for thread, own in self._running.items() if thread != but)

        with self._changed:
            return self._changed.wait_for(is_done, timeout)

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        with self._changed:
            self._line.append((job, run_times))
            if self._threads >= MAX_THREADS:
                return
            self._threads += 1
        if not threads.start("job", self._work, wait=False):
            with self._changed:
                self._threads -= 1
                self._line.remove((job, run_times))
            raise RuntimeError("the system has no thread left")

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            with self._changed:
                if not self._line:
                    self._threads -= 1
                    return
                job, run_times = self._line.popleft()
                self._running[me] = getattr(job.func, "is_hosts", False)
            try:
                events = _run(job, run_times)
                self._run_job_success(job.id, events)  # pyright: ignore[reportUnknownMemberType]  # APScheduler ships no types
            finally:
                with self._changed:
                    del self._running[me]
                    self._changed.notify_all()


def _run(job: Any, run_times: list[datetime]) -> list[JobExecutionEvent]:
    events: list[JobExecutionEvent] = []
    for run_time in run_times:
        late, grace = datetime.now(tz=UTC) - run_time, job.trigger.misfire_grace
        if grace is not None and late > grace:
            logger.warning("job %s: the run at %s was missed by %.1f s", job.name, run_time, late.total_seconds())
            events.append(JobExecutionEvent(EVENT_JOB_MISSED, job.id, ALIAS, run_time))
        else:
            events.append(_run_once(job, run_time))
    return events


def _run_once(job: Any, run_time: datetime) -> JobExecutionEvent:
    try:
        value: object = job.func(run_time.astimezone(UTC))
    except BaseException as error:  # a job that calls sys.exit() ends neither its thread nor its further runs
        logger.exception("job %s failed", job.name)
        value = error
    if isinstance(value, BaseException):
        return JobExecutionEvent(EVENT_JOB_ERROR, job.id, ALIAS, run_time, exception=value, traceback="")
    return JobExecutionEvent(EVENT_JOB_EXECUTED, job.id, ALIAS, run_time, retval=value)

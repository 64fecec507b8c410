"""One job called: its arguments, its context, async functions, its timeout, its failure."""

from __future__ import annotations

import inspect
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat.clock import Deadline
from lifebeat.history import LeftBehind
from lifebeat.jobfile import targets
from lifebeat.schedule.instants import to_instant
from lifebeat.storage import threads
from lifebeat.storage.forks import guard

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from lifebeat.clock import Moment
    from lifebeat.history import History
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.application import Application


class Runner:
    """Runs the jobs of one application in this process.

    Args:
        application: What it runs.
        history: Where its runs are remembered.
        event_loop: Returns the asyncio loop that the scheduler runs on; ``None`` if it runs in threads.
        background: What a job's context offers for work in a thread.
        later: What a job's context offers for work after some time.
    """

    def __init__(
        self,
        application: Application,
        history: History,
        *,
        event_loop: Callable[[], Any],
        background: Callable[[str, Callable[[], None]], object],
        later: Callable[[str, timedelta, Callable[[], None]], None],
    ) -> None:
        self._application = application
        self._history = history
        self._event_loop = event_loop
        self._background = background
        self._later = later

    def call(
        self,
        spec: JobSpec,
        instant: datetime,
        started: Moment,
        *,
        timeout: timedelta | None = None,
        uptime: timedelta | None = None,
        by_hand: bool = False,
        attempt: int = 1,
    ) -> None:
        """Run a job in this thread, and remember that.

        Args:
            spec: The job.
            instant: The instant that the run belongs to.
            started: When the application started, or for a job of the process the process.
            timeout: How long it may take; ``None`` for the job's own timeout.
            uptime: How long ago ``started`` was; ``None`` for now.
            by_hand: Whether somebody ordered it.
            attempt: How many times it has been called for that instant, this one included.

        Raises:
            LeftBehind: It did not end in time, and goes on.
            Exception: What a host's job raises. Telemetry's failures are logged, once each.
        """
        timeout = spec.timeout if timeout is None else timeout
        seconds = None if timeout is None else timeout.total_seconds()
        shared = spec.once == "application"
        try:
            with self._history.run(
                spec.id, to_instant(instant), shared=shared, timeout=seconds, by_hand=by_hand, attempt=attempt
            ):
                self.call_unnoted(spec, instant, started, timeout=timeout, uptime=uptime)
        except Exception as error:
            if not spec.is_telemetry:
                raise
            self._application.say_once(f"{spec.id}:{error}", f"{spec.id}: {error}")
            self._application.logger.debug("job %s failed", spec.id, exc_info=True)

    def call_unnoted(
        self,
        spec: JobSpec,
        instant: datetime,
        started: Moment,
        *,
        timeout: timedelta | None = None,
        uptime: timedelta | None = None,
    ) -> None:
        """Call a job's function in this thread, as ``call`` does, and remember nothing.

        Raises:
            LeftBehind: It did not end in time, and goes on.
            Exception: What the function raises.
        """
        with guard:  # a child that is forked while another thread imports would wait for that thread for ever
            target = targets.find(spec.run)
        args = dict(spec.args)
        if targets.takes_context(target):
            args["context"] = self._application.context(
                spec.id,
                instant=instant,
                started=started,
                uptime=uptime,
                timeout=timeout,
                background=self._background,
                later=self._later,
            )
        work = partial(target, **args)
        is_plain = timeout is not None and not spec.is_telemetry and not inspect.iscoroutinefunction(target)
        self._await(self._within(spec, timeout.total_seconds(), work) if timeout and is_plain else work(), timeout)

    def _within(self, spec: JobSpec, seconds: float, work: Callable[[], Any]) -> Any:
        """Run a function that cannot be cancelled, and leave it behind when its time is up; return what it returns."""
        deadline = Deadline(self._application.clock, seconds)
        failed: list[BaseException] = []
        returned: list[Any] = []
        done = threading.Event()

        def keep() -> None:
            try:
                returned.append(work())
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                failed.append(error)
            finally:
                done.set()

        if not threads.start(spec.id, keep):
            return work()
        if not done.wait(deadline.left):
            raise LeftBehind(f"job {spec.id} did not end within its timeout of {seconds:g} s and was left behind")
        if failed:
            raise failed[0]
        return returned[0]

    def _await(self, result: Any, timeout: timedelta | None) -> None:
        """Let an async function's work be done: on the scheduler's loop if it has one, else here."""
        if not hasattr(result, "__await__"):
            targets.refuse_result(result)
            return
        import asyncio

        from lifebeat.lifecycle import coroutines

        seconds = None if timeout is None else timeout.total_seconds()
        loop = self._event_loop()

        async def bounded() -> None:
            await asyncio.wait_for(result, seconds)

        if loop is not None and loop.is_running():
            asyncio.run_coroutine_threadsafe(bounded(), loop).result()
        else:
            coroutines.complete(bounded())

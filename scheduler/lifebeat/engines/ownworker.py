"""A process's own worker of Procrastinate, in a thread. When one cannot go on, another takes its place at once.

The old one ends what it runs meanwhile: Procrastinate waits for that without a limit, and shared jobs must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lifebeat.engines.dispatch import STALLED, WAITS, in_a_line

if TYPE_CHECKING:
    import logging
    from collections.abc import Awaitable, Callable

    import procrastinate
    from procrastinate.worker import Worker

# As many as Python's own pool would have threads: more of them are slower, and what is taken has to begin at once.
CONCURRENCY = min(10, (os.cpu_count() or 1) + 4)
THREADS = 3 * CONCURRENCY  # for those as well that old workers have to end yet
HEARTBEAT = 5.0
OPENING = 3.0


class OwnWorker:
    """A thread with a worker in it, as long as there is a database.

    Args:
        make: Makes the Procrastinate app, which knows its task.
        queue: The queue of the runs.
        send: Puts what is due into the queue, until cancelled.
        ill: Told that it does not work, and why.
        well: Told that it works.
        logger: For what is only of interest to whoever looks for it.
    """

    def __init__(
        self,
        make: Callable[[], procrastinate.App],
        queue: str,
        send: Callable[[Any], Awaitable[None]],
        *,
        ill: Callable[[str], None],
        well: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._make = make
        self._queue = queue
        self._send = send
        self._ill = ill
        self._well = well
        self._logger = logger
        self._ended = asyncio.Event()
        self._failures = 0
        self._loop = asyncio.new_event_loop()
        self._database_is_there = asyncio.Event()
        self._current: asyncio.Task[None] | None = None
        self._all: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="lifebeat-worker", daemon=True)

    def start(self) -> None:
        """Begin; nothing is opened before the first ``resume``."""
        self._thread.start()

    def resume(self) -> None:
        """The database is there."""
        self._tell(self._database_is_there.set)

    def retire(self) -> None:
        """The database is away: the worker ends what it runs, and another begins when the database is there again."""
        self._tell(self._retire)

    def drain(self, timeout: float) -> bool:
        """Begin nothing more, and wait for what runs; says whether nothing runs."""
        self._tell(self._end)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _tell(self, work: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(work)

    def _retire(self) -> None:
        self._database_is_there.clear()
        if self._current is not None:
            # Once only: a second time would make it leave its runs behind.
            self._current.cancel()
            self._current = None

    def _end(self) -> None:
        self._ended.set()
        self._retire()
        self._database_is_there.set()

    # -- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="lifebeat-run"))
        # An end that Procrastinate could not note, above all, which is noted later.
        self._loop.set_exception_handler(lambda _, what: self._logger.debug("worker: %s", what))
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._work())

    async def _work(self) -> None:
        while await self._may_begin():
            retired = asyncio.Event()
            self._current = task = asyncio.create_task(self._work_once(retired))
            self._all.add(task)
            task.add_done_callback(self._all.discard)
            await retired.wait()
            self._current = None
            if not self._ended.is_set():
                self._ill("PostgreSQL: the worker's connections failed")
        while self._all:
            await asyncio.wait(self._all)

    async def _may_begin(self) -> bool:
        """Wait until a worker may begin; false at the end."""
        if self._failures:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), WAITS[min(self._failures, len(WAITS)) - 1])
        self._failures += 1
        await self._database_is_there.wait()
        return not self._ended.is_set()

    async def _work_once(self, retired: asyncio.Event) -> None:
        try:
            await self._serve(self._make(), retired)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, another has to take its place
            self._ill(f"PostgreSQL: {in_a_line(error)}")
        finally:
            retired.set()

    async def _serve(self, app: procrastinate.App, retired: asyncio.Event) -> None:
        async with app.open_async():
            sending = asyncio.ensure_future(self._send(app))

            def retire() -> None:
                sending.cancel()
                retired.set()

            worker: Any = make_worker(app, self._queue, retire)
            self._failures = 1
            self._well()
            try:
                await worker.run()
            finally:
                retire()


def make_worker(app: procrastinate.App, queue: str, retire: Callable[[], None]) -> Worker:
    """A worker that says when it takes nothing more, which is before its last run has ended."""
    import procrastinate.worker

    class Retiring(procrastinate.worker.Worker):
        async def _shutdown(self, side_tasks: list[asyncio.Task[Any]]) -> None:
            retire()
            await super()._shutdown(side_tasks)

    return Retiring(
        app,
        queues=[queue],
        name="lifebeat",
        concurrency=CONCURRENCY,
        install_signal_handlers=False,
        delete_jobs="successful",
        update_heartbeat_interval=HEARTBEAT,
        stalled_worker_timeout=STALLED,
    )


def make_app(database: str) -> procrastinate.App:
    """A Procrastinate app on that database; it says within seconds that the database is not there."""
    import procrastinate
    import psycopg_pool

    class Impatient(psycopg_pool.AsyncConnectionPool[Any]):
        async def open(self, wait: bool = False, timeout: float = OPENING) -> None:  # noqa: ASYNC109 - as it was
            await super().open(wait, timeout)

    connector = procrastinate.PsycopgConnector(
        pool_factory=Impatient, conninfo=database, min_size=1, max_size=4, timeout=5.0, reconnect_timeout=OPENING
    )
    return procrastinate.App(connector=connector)

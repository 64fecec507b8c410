"""Connections to PostgreSQL that never wait without end, and need no session: they work behind a pooler too."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, TypeVar

import procrastinate
import psycopg
import psycopg.conninfo
import psycopg_pool
from procrastinate import exceptions
from procrastinate.jobs import Status

from lifebeat.once.protocol import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterable

    from procrastinate.connector import Notify

T = TypeVar("T")

QUERY_TIMEOUT = 5.0
_LISTEN_AGAIN = 0.5
QUEUE = "lifebeat"
_MEMBERS = """
SELECT concat(value->>'machine', ':', value->>'pid') FROM lifebeat
WHERE kind = 'member' AND renewed_at > clock_timestamp() - interval '30 seconds' ORDER BY 1
"""
_LAST = """
SELECT key, instant FROM lifebeat WHERE kind = 'began' AND value <> '0' ORDER BY renewed_at DESC LIMIT 1
"""
_POOL_NAME = "lifebeat"
_CONNECTING: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "application_name": "lifebeat",
}
# For the transaction only, since a pooler gives the session to others. It ends what a frozen process would hold up.
_LIMITS = (
    "SELECT set_config('idle_in_transaction_session_timeout', '1s', true), "
    "set_config('statement_timeout', '4s', true), set_config('lock_timeout', '3s', true)"
)
FAILURES = (psycopg.Error, psycopg_pool.PoolTimeout, exceptions.ConnectorException, OSError, TimeoutError)


class Connector(procrastinate.PsycopgConnector):
    """Procrastinate's connector, with queries that end in time.

    Attributes:
        retired: Set when a worker on it takes nothing more, which is before its last run has ended: Procrastinate
            cancels the listening first of all.
    """

    def __init__(self, database: str) -> None:
        self._database = conninfo(database)
        make: Any = super()  # its types are incomplete
        make.__init__(
            conninfo=self._database,
            name=_POOL_NAME,
            kwargs={"prepare_threshold": None},
            configure=_configure,
            min_size=0,
            max_size=4,
            timeout=QUERY_TIMEOUT - 1,
            reconnect_timeout=QUERY_TIMEOUT - 2,
        )
        self.retired = asyncio.Event()
        logging.getLogger("psycopg.pool").addFilter(_is_not_ours)

    async def probe(self) -> None:
        """Connect once, as a pool does not tell why it cannot."""
        async with await psycopg.AsyncConnection.connect(self._database):
            pass

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        await _answered(super().execute_query_async(query, **arguments))

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        return await _answered(super().execute_query_one_async(query, **arguments))

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
        return await _answered(super().execute_query_all_async(query, **arguments))

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        """Listen, and again after the session was cut; behind a pooler, where nothing can be heard, look often."""
        channels = list(channels)
        try:
            while True:
                with contextlib.suppress(exceptions.ConnectorException):
                    if not await _answered(self._is_pooled()):
                        await super().listen_notify(on_notification, channels)
                await asyncio.sleep(_LISTEN_AGAIN)
                # Something may have come while it did not listen.
                await on_notification(channel=channels[0], payload='{"type": "job_inserted", "job_id": 0}')
        finally:
            self.retired.set()

    async def _is_pooled(self) -> bool:
        async with self.pool.connection() as connection:
            cursor = await connection.execute("SELECT pg_backend_pid()")
            return await cursor.fetchone() != (connection.info.backend_pid,)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
        """Do something wholly or not at all."""
        async with self.pool.connection() as connection, connection.transaction():
            await connection.execute(_LIMITS)
            yield connection


def conninfo(database: str) -> str:
    """Return what to connect with: what the operator gave, and our time-outs where nothing is said of them.

    Raises:
        psycopg.ProgrammingError: It cannot be read; the error's text may quote the password.
    """
    return psycopg.conninfo.make_conninfo("", **{**_CONNECTING, **psycopg.conninfo.conninfo_to_dict(database)})


def look(url: str, app_name: str) -> dict[str, Any]:  # noqa: ARG001 - applications have a schema each
    """Return how an application stands in that database: who is in, what waits, and what ran last.

    Raises:
        Unavailable: The database cannot be asked.
    """
    try:
        return asyncio.run(_look(Connector(url)))
    except FAILURES as error:
        raise Unavailable(f"PostgreSQL: {reason(error)}") from error


async def _look(connector: Connector) -> dict[str, Any]:
    await connector.probe()
    app = procrastinate.App(connector=connector)
    async with app.open_async(), connector.transaction() as connection:
        tables = await connection.execute("SELECT to_regclass('lifebeat'), to_regclass('procrastinate_jobs')")
        if None in (await tables.fetchone() or ()):
            return {"members": [], "waiting": 0, "last_run": None}
        members = await (await connection.execute(_MEMBERS)).fetchall()
        last = await (await connection.execute(_LAST)).fetchone()
        waiting = list(await app.job_manager.list_jobs_async(queue=QUEUE, status=Status.TODO.value))
    last_run = {"job_id": last[0], "instant": last[1]} if last else None
    return {"members": [name for (name,) in members], "waiting": len(waiting), "last_run": last_run}


def reason(error: BaseException) -> str:
    """Return what went wrong, in a line; Procrastinate's own text is only that something did."""
    cause = error.__cause__ or error
    if isinstance(cause, (psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn)):
        return (
            "the database has the tables of an older Procrastinate; apply its migrations: "
            "https://procrastinate.readthedocs.io/en/stable/howto/production/migrations.html"
        )
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else repr(cause)


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Await something for so long at most; what does not even end when it is cancelled is left behind.

    Raises:
        TimeoutError: It took longer.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        ended = task.done() or not task.cancel()
    if not ended:
        raise TimeoutError
    return task.result()


async def _answered(query: Awaitable[T]) -> T:
    try:
        return await within(QUERY_TIMEOUT, query)
    except TimeoutError as error:
        raise exceptions.ConnectorException from error


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Return whether a line is of another pool; what ours would say at each attempt is said once elsewhere."""
    return not (isinstance(record.args, tuple) and record.args[:1] == (_POOL_NAME,))


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.set_autocommit(True)

"""What five processes at rest ask of their server, beside the engine's own workers: at most half as much again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from celerycluster import CeleryCluster
from cluster import Cluster
from hosts import eventually
from redisserver import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hosts import Installation
    from postgresql import PostgreSQL

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("postgresql")]

PROCESSES = 5
SETTLING, WINDOW = 20.0, 60.0
MOST = 1.5
PLAIN_PROCRASTINATE = """
    import asyncio, os, procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE"]))

    async def main():
        async with app.open_async():
            await app.run_worker_async()

    asyncio.run(main())
"""
PLAIN_CELERY = """
import os
from celery import Celery

app = Celery("notes", broker=os.environ["BROKER"])
"""


class Cost(NamedTuple):
    """What processes ask of a server.

    Attributes:
        statements: How many a second.
        connections: How many they hold.
    """

    statements: float
    connections: int


def measure(statements: Callable[[], int], connections: Callable[[], int]) -> Cost:
    """Watch for a minute what is asked, when all have settled."""
    time.sleep(SETTLING)
    before = statements()
    time.sleep(WINDOW)
    return Cost((statements() - before) / WINDOW, connections())


def compare(ours: Cost, plain: Cost) -> None:
    """Print both, and hold the bound."""
    print(f"\n{PROCESSES} processes at rest: {ours}; the engine's workers alone: {plain}")
    assert ours.statements <= MOST * plain.statements
    assert ours.connections <= MOST * plain.connections


def test_procrastinate(installation: Installation, postgresql: PostgreSQL) -> None:
    """Statements as PostgreSQL logs them, and its backends."""
    postgresql.sql("ALTER SYSTEM SET log_min_duration_statement = 0")
    postgresql.sql("SELECT pg_reload_conf()")
    database = postgresql.schema()
    cluster = Cluster(installation, database, jobs=1, every="1h", telemetry=True)

    def connections() -> int:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return int(postgresql.sql(query)[0][0])

    try:
        cluster.start(PROCESSES)
        query = "SELECT count(*) FROM lifebeat WHERE kind = 'member'"
        eventually(lambda: postgresql.sql("SELECT to_regclass('lifebeat')", database) != [(None,)])
        eventually(lambda: postgresql.sql(query, database) == [(PROCESSES,)])
        ours = measure(postgresql.count_statements, connections)
        cluster.end()
        workers = [installation.script(PLAIN_PROCRASTINATE, DATABASE=database) for _ in range(PROCESSES)]
        plain = measure(postgresql.count_statements, connections)
        for worker in workers:
            worker.kill()
    finally:
        postgresql.sql("ALTER SYSTEM RESET log_min_duration_statement")
        postgresql.sql("SELECT pg_reload_conf()")
    compare(ours, plain)


def test_celery(installation: Installation) -> None:
    """Requests as Redis reads them, and its clients."""
    server = RedisServer()
    cluster = CeleryCluster(installation, server.url, jobs=1, every="1h", telemetry=True, lifebeat_gone_after=30)

    def statements() -> int:
        return int(server.client().info("stats")["total_reads_processed"])

    def connections() -> int:
        return int(server.client().info("clients")["connected_clients"]) - 1

    try:
        for _ in range(PROCESSES):
            cluster.worker("-P", "solo")
        eventually(lambda: server.client().zcard("lifebeat:{notes}:members") == PROCESSES, 60)
        ours = measure(statements, connections)
        cluster.drop()
        server.empty()
        (installation.directory / "app.py").write_text(PLAIN_CELERY)
        for _ in range(PROCESSES):
            cluster.worker("-P", "solo")
        plain = measure(statements, connections)
        cluster.drop()
    finally:
        server.close()
    compare(ours, plain)

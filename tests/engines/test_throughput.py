"""A thousand jobs that are due at once, beside the engine used directly: each runs once; prints how long both took."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from celerycluster import CeleryCluster
from cluster import Cluster, missed, twice
from hosts import eventually
from redisserver import RedisServer

if TYPE_CHECKING:
    from hosts import Installation
    from postgresql import PostgreSQL

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("postgresql")]

JOBS = int(os.environ.get("JOBS", "1000"))
AHEAD = 90.0  # seconds in which a thousand jobs are registered, however busy the machine is
NOTE = """
    import os, time

    def write(job, instant):
        file = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{job} {instant} {os.getpid()} {time.time():.6f}\\n".encode())
        os.close(file)
"""
PROCRASTINATE = (
    NOTE
    + """
    import asyncio, procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE"]))

    @app.task(name="note")
    def note(job, timestamp):
        write(job, timestamp)

    async def defer(number, at):
        run = app.configure_task("note", task_kwargs={"job": f"tick-{number}", "timestamp": at}).job
        await app.job_manager.defer_periodic_job(run, periodic_id=f"tick-{number}", defer_timestamp=at)

    async def main():
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            worker = asyncio.create_task(
                app.run_worker_async(concurrency=10, delete_jobs="successful", install_signal_handlers=False)
            )
            await asyncio.sleep(float(os.environ["AT"]) - time.time())
            await asyncio.gather(*(defer(number, int(os.environ["AT"])) for number in range(int(os.environ["JOBS"]))))
            await worker

    asyncio.run(main())
"""
)
CELERY = (
    NOTE.replace("\n    ", "\n")
    + """
import threading
from celery import Celery
from celery.signals import worker_ready

app = Celery("notes", broker=os.environ["BROKER"])

@app.task(name="note", acks_late=True, ignore_result=True)
def note(job, instant):
    write(job, instant)

def send():
    time.sleep(max(float(os.environ["AT"]) - time.time(), 0))
    for number in range(int(os.environ["JOBS"])):
        note.delay(f"tick-{number}", int(os.environ["AT"]))

@worker_ready.connect
def ready(**_):
    threading.Thread(target=send, daemon=True).start()
"""
)


def instant() -> int:
    """A moment in a while, at which all is due."""
    return int(time.time() + AHEAD)


def took(cluster: Cluster, at: int, timeout: float = 300) -> float:
    """Wait until all have run once; return how many seconds after the instant that was."""
    eventually(lambda: len(cluster.runs()) >= JOBS, timeout)
    runs = cluster.runs()
    assert (twice(runs), missed(runs, 1.0), len(runs)) == ([], [], JOBS)
    return max(run.begun for run in runs) - at


def compare(engine: str, ours: float, plain: float) -> None:
    """Print both."""
    print(f"\n{engine}: {JOBS} jobs due at once: {ours:.1f} s; the engine alone: {plain:.1f} s ({plain / ours:.2f} x)")


def test_procrastinate(installation: Installation, postgresql: PostgreSQL) -> None:
    """One process claims and runs all of them, as one worker does that defers and runs as many tasks."""
    at = instant()
    cluster = Cluster(installation, postgresql.schema(), jobs=JOBS, every="1h", fields=f"phase: {at % 3600}s")
    cluster.start()
    ours = took(cluster, at)
    cluster.end()
    cluster.runs_file.unlink()
    at = instant()
    plain = installation.script(
        PROCRASTINATE, DATABASE=postgresql.schema(), RUNS=str(cluster.runs_file), AT=str(at), JOBS=str(JOBS)
    )
    compare("Procrastinate", ours, took(cluster, at))
    plain.kill()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_celery(installation: Installation, pool: str) -> None:
    """One worker claims, sends and runs all of them, as one does that sends and runs as many tasks."""
    server = RedisServer()
    at = instant()
    cluster = CeleryCluster(installation, server.url, jobs=JOBS, every="1h", fields=f"phase: {at % 3600}s")
    try:
        cluster.worker("-P", pool)
        ours = took(cluster, at)
        cluster.drop()
        server.empty()
        cluster.runs_file.unlink()
        (installation.directory / "app.py").write_text(CELERY)
        at = instant()
        cluster.worker("-P", pool, AT=str(at), JOBS=str(JOBS))
        compare(f"Celery, {pool}", ours, took(cluster, at))
        cluster.drop()
    finally:
        server.close()

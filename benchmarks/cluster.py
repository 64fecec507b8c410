"""Runs a second on PostgreSQL: many jobs due at once, Procrastinate used directly beside the same with Lifebeat."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from measure import Side, once

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from postgresql import PostgreSQL

# Counted in the database by the worker's own end, so that both sides are measured by the same eye.
WATCH = """
import asyncio, json, logging, os, threading, time
import procrastinate, psycopg

DATABASE, NUMBER = os.environ["LIFEBEAT_DATABASE"], int(os.environ["NUMBER"])
done, first = 0, 0.0
lock, over = threading.Lock(), threading.Event()

def count():
    global done, first
    with lock:
        first = first or time.perf_counter()
        done += 1
        if done == NUMBER:
            over.set()

def left():
    unfinished = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    with psycopg.connect(DATABASE, autocommit=True) as connection:
        while connection.execute(unfinished).fetchone()[0]:
            time.sleep(0.01)
"""
DIRECT = (
    WATCH
    + """
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=DATABASE, min_size=1, max_size=4))

@app.task(name="noop", queue="lifebeat")
def noop(job, instant):
    count()

async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await noop.batch_defer_async(*({"job": f"job-{n}", "instant": 0} for n in range(NUMBER)))
        worker = asyncio.create_task(app.run_worker_async(
            queues=["lifebeat"], concurrency=10, install_signal_handlers=False, delete_jobs="successful"))
        await asyncio.to_thread(over.wait)
        await asyncio.to_thread(left)
        taken = time.perf_counter() - first
        worker.cancel()
        try:
            await worker
        except asyncio.CancelledError:
            pass
        tell(rate=NUMBER / taken, memory=memory())

asyncio.run(main())
"""
)
LIFEBEAT = (
    WATCH
    + """
import sys
sys.path.insert(0, os.getcwd())
import noop
noop.count = count
from lifebeat.cli.main import main

logging.getLogger("apscheduler").setLevel(logging.ERROR)
logging.getLogger("procrastinate").setLevel(logging.CRITICAL)

def watch():
    over.wait()
    left()
    tell(rate=NUMBER / (time.perf_counter() - first), memory=memory())
    os._exit(0)

threading.Thread(target=watch, daemon=True).start()
main(["run", "--engine", "procrastinate", "--allow", "noop"])
"""
)
NOOP = "count = None\n\ndef job():\n    count()\n"


def job_file(number: int, at: str) -> str:
    """Jobs that are all due at once."""
    lines = [f"  job-{n}: {{run: 'noop:job', at: '{at}', once: application}}\n" for n in range(number)]
    return "jobs:\n" + "".join(lines)


def measured(number: int, rounds: int) -> dict[str, float]:
    """The medians of runs a second, and their ratio."""
    found: dict[str, list[float]] = {"direct": [], "lifebeat": []}
    postgresql = PostgreSQL()
    try:
        for _ in range(rounds):
            environ = {"LIFEBEAT_DATABASE": postgresql.schema(), "NUMBER": str(number)}
            found["direct"].append(once(Side("direct", DIRECT, environ))["rate"])
            environ["LIFEBEAT_DATABASE"] = postgresql.schema()
            due = datetime.now(tz=UTC) + timedelta(seconds=5 + number / 1000)
            files = {"config/jobs.yaml": job_file(number, due.isoformat(timespec="seconds")), "noop.py": NOOP}
            found["lifebeat"].append(once(Side("lifebeat", LIFEBEAT, environ, files))["rate"])
    finally:
        postgresql.close()
    direct, ours = (statistics.median(found[side]) for side in ("direct", "lifebeat"))
    return {"jobs": number, "direct": direct, "lifebeat": ours, "ratio": ours / direct}


def main() -> None:
    """Print the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true", help="one JSON object, for programs")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--jobs", type=int, nargs="+", default=[1000, 10_000])
    args = options.parse_args()
    with tempfile.TemporaryDirectory():
        rows = [measured(number, args.rounds) for number in args.jobs]
    if args.json:
        sys.stdout.write(json.dumps({"procrastinate": rows}) + "\n")
        return
    for row in rows:
        sys.stdout.write(
            f"{row['jobs']:>6.0f} jobs due at once: Procrastinate directly {row['direct']:.0f}/s, "
            f"with Lifebeat {row['lifebeat']:.0f}/s, {row['ratio']:.2f} x\n"
        )


if __name__ == "__main__":
    main()

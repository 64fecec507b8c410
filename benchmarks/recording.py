"""Durable records: how long one takes, alone and with eight processes at the same outbox."""

from __future__ import annotations

from measure import Side, compare

ALONE = """
import uuid
from pathlib import Path
from lifebeat.clock import SystemClock
from lifebeat_jobs.outbox import Bounds, Outbox

def record(number, name="outbox.sqlite3"):
    outbox = Outbox(Path(name), clock=SystemClock(), warn=print, bounds=Bounds(events=1_000_000))
    times = []
    for _ in range(number):
        start = time.perf_counter()
        outbox.record(str(uuid.uuid4()), "startup", '{"event": "startup", "properties": {}}')
        times.append(time.perf_counter() - start)
    return times
"""
ONE = (
    ALONE
    + """
times = sorted(record(1000))
tell(p50=times[500], p99=times[990], rate=1000 / sum(times))
"""
)
EIGHT = (
    ALONE
    + """
import multiprocessing
context = multiprocessing.get_context("fork")
start = time.perf_counter()
with context.Pool(8) as pool:
    times = sorted(sum(pool.map(record, [125] * 8, chunksize=1), []))
tell(p50=times[500], p99=times[990], rate=1000 / (time.perf_counter() - start))
"""
)


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """The figures by the number of processes."""
    return compare([Side("1 process", ONE), Side("8 processes", EIGHT)], rounds=rounds)

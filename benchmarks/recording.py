"""Durable records: how long one takes, alone and with eight processes at the same outbox."""

from __future__ import annotations

import measure
from measure import Side
from page import Goal, span, table

ALONE = """
import random, uuid
from pathlib import Path
from lifebeat.clock import SystemClock
from lifebeat_jobs.outbox import Bounds, Outbox

RECORDS = int(os.environ["RECORDS"])

def record(number, pause=0.0, name="outbox.sqlite3"):
    outbox = Outbox(Path(name), clock=SystemClock(), warn=print, bounds=Bounds(events=1_000_000))
    times = []
    for _ in range(number):
        time.sleep(random.uniform(0, 2 * pause))
        start = time.perf_counter()
        outbox.record(str(uuid.uuid4()), "startup", '{"event": "startup", "properties": {}}')
        times.append(time.perf_counter() - start)
    return times

def tell_all(times, seconds):
    times.sort()
    tell(p50=times[len(times) // 2], p99=times[len(times) * 99 // 100], rate=len(times) / seconds)
"""
ONE = (
    ALONE
    + """
times = record(RECORDS)
tell_all(times, sum(times))
"""
)
EIGHT = (
    ALONE
    + """
import multiprocessing
context = multiprocessing.get_context("fork")
start = time.perf_counter()
with context.Pool(8) as pool:
    times = sum(pool.starmap(record, [(RECORDS // 8, float(os.environ["PAUSE"]))] * 8, chunksize=1), [])
tell_all(times, time.perf_counter() - start)
"""
)
# What the disk itself takes: as many syncs as a transaction of the outbox has, without a database.
DISK = """
RECORDS = int(os.environ["RECORDS"])
files = [os.open(name, os.O_RDWR | os.O_CREAT) for name in ("journal", "database")]
times = []
for number in range(RECORDS):
    start = time.perf_counter()
    for file in files:
        os.pwrite(file, number.to_bytes(8, "big") * 512, 0)
        os.fsync(file)
    times.append(time.perf_counter() - start)
times.sort()
tell(p50=times[len(times) // 2], p99=times[len(times) * 99 // 100], rate=len(times) / sum(times))
"""
RECORDS = 2000
PAUSE = 0.1  # between two records of a process, on average
PACED = f"8 processes, {1 / PAUSE:.0f} a second each"
GOAL = 0.005


def measured(*, tiny: bool = False) -> dict[str, dict[str, float]]:
    """The figures by the number of processes."""
    environ = {"RECORDS": str(40 if tiny else RECORDS)}
    sides = [
        Side("1 process", ONE, environ),
        Side("8 processes", EIGHT, {**environ, "PAUSE": "0"}),
        Side(PACED, EIGHT, {**environ, "PAUSE": str(PAUSE)}),
        Side("two syncs", DISK, environ),
    ]
    return measure.compare(sides, rounds=1 if tiny else 5)


def goals(found: dict[str, dict[str, float]]) -> list[Goal]:
    """What was to be shown."""
    disk = span(found["two syncs"]["p99"])
    return [
        Goal(
            f"a durable record, p99, from {name}",
            f"≤ {span(GOAL)}",
            span(found[name]["p99"]),
            f"{found[name]['rate']:,.0f} a second; the disk alone: {disk}",
            found[name]["p99"] <= GOAL,
            "SQLite lets one writer in at a time, and most of a record is that one's five syncs, so that with eight "
            "that record without a pause a record in a fair queue would take eight times as long as alone. The queue "
            "is not fair: who has just written asks again first. Two fair ones were tried, by locks that are asked for "
            "more often the longer one waits; the asking took so much of the processors that fewer records were "
            "written, and the slowest were hardly faster. An application records an event a day.",
        )
        for name in ("1 process", "8 processes", PACED)
    ]


def section(found: dict[str, dict[str, float]]) -> str:
    """What the page says."""
    rows = [[name, f"{side['rate']:,.0f}", span(side["p50"]), span(side["p99"])] for name, side in found.items()]
    return (
        "## Records that are on the disk\n\n"
        f"{RECORDS:,} events, one transaction each, synced before `record` returns; with eight processes all of\n"
        "them without a pause, or each at some rate. `two syncs` is what the disk takes for a transaction, without a\n"
        "database.\n\n" + table(["", "records a second", "p50", "p99"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

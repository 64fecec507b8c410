"""Cost as it grows: one application with more and more replicas, each with a state of its own, on PostgreSQL.

Each replica is a ``lifebeat run --engine procrastinate``, forked by a parent that has imported everything.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import measure
from growing import least_in_a_period, most_in_a_period
from measure import Side
from page import Goal, table

from lifebeat.testing import PostHogServer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from postgresql import PostgreSQL

REPLICAS = """
import logging, signal
import lifebeat.engines.procrastinate, lifebeat_jobs.telemetry
import procrastinate, psycopg
from lifebeat.cli.main import main

REPLICAS, SECONDS = int(os.environ["REPLICAS"]), float(os.environ["SECONDS"])
os.mkdir("config")
for name in ("procrastinate", "psycopg.pool"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
children = []
for number in range(REPLICAS):
    pid = os.fork()
    if pid == 0:
        os.environ["TELEMETRY_STATE_DIR"] = f"replica-{number}"
        main(["run", "--engine", "procrastinate"])
        os._exit(0)
    children.append(pid)
time.sleep(SECONDS)
for pid in children:
    os.kill(pid, signal.SIGTERM)
for pid in children:
    os.waitpid(pid, 0)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
tell(cpu=used.ru_utime + used.ru_stime, megabytes=used.ru_maxrss / 1024)
"""
NUMBERS = [1, 10, 50]
PERIOD, PERIODS = 4.0, 5


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """The figures by the number of replicas."""
    numbers, period, periods = ([2], 1.0, 2) if tiny else (NUMBERS, PERIOD, PERIODS)
    postgresql = PostgreSQL()
    try:
        found = {str(number): _with(number, period, periods, postgresql.schema()) for number in numbers}
    finally:
        postgresql.close()
    return {"period": period, "replicas": found}


def _with(number: int, period: float, periods: int, database: str) -> dict[str, float]:
    with PostHogServer() as server:
        environ = {
            "TELEMETRY_API_KEY": "phc_test",
            "TELEMETRY_HOST": server.url,
            "TELEMETRY_HEARTBEAT_INTERVAL": f"{period:g}s",
            "TELEMETRY_SHUTDOWN_TIMEOUT": "5s",
            "LIFEBEAT_DATABASE": database,
            "REPLICAS": str(number),
            "SECONDS": f"{period * periods + number / 4:g}",
        }
        figures = measure.once(Side(f"{number} replicas", REPLICAS, environ))
        deadline = time.monotonic() + 5
        while "shutdown" not in server.names() and time.monotonic() < deadline:
            time.sleep(0.02)
        events = server.events
    names = [event["event"] for event in events]
    return {
        "startup": names.count("startup"),
        "shutdown": names.count("shutdown"),
        "heartbeats": names.count("heartbeat"),
        "ids": len({event["distinct_id"] for event in events}),
        "most": most_in_a_period(events, period),
        "least": least_in_a_period(events, period),
        "cpu": figures["cpu"] / number,
    }


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    numbers = " / ".join(found["replicas"])
    seen = {
        side[figure]
        for side in found["replicas"].values()
        for figure in ("startup", "shutdown", "most", "least", "ids")
    }
    figure = f"{min(seen)}" if len(seen) == 1 else f"{min(seen)} to {max(seen)}"
    what = f"startups, heartbeats in a period, shutdowns and instance IDs from {numbers} replicas"
    return [Goal(what, "1", figure, "", seen == {1}, "a replica that cannot reach PostgreSQL waits for it.")]


def section(found: dict[str, Any]) -> str:
    """What the page says."""
    rows = [
        [
            number,
            str(side["startup"]),
            str(side["heartbeats"]),
            str(side["most"]) if side["most"] == side["least"] else f"{side['least']} to {side['most']}",
            str(side["shutdown"]),
            str(side["ids"]),
            f"{side['cpu'] * 1000:.0f} ms",
        ]
        for number, side in found["replicas"].items()
    ]
    headings = ["replicas", "startups", "heartbeats", "in a period", "shutdowns", "instance IDs", "CPU per replica"]
    return (
        "## One application, many replicas\n\n"
        "Each with a state directory of its own, together on one PostgreSQL, with a heartbeat every\n"
        f"{found['period']:g} s: what arrived at PostHog from the start to the end.\n\n" + table(headings, rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

"""Cost as it grows: one application with more and more processes on a host, and what it sends.

Each process is forked by a parent that has imported everything, as a server's workers are, and attaches by itself.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import measure
from measure import Side
from page import Goal, table

from lifebeat.testing import PostHogServer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifebeat.testing import Event

APPLICATION = """
import signal
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat, lifebeat.lifecycle.life, lifebeat.once.files, lifebeat_jobs.telemetry

PROCESSES, SECONDS = int(os.environ["PROCESSES"]), float(os.environ["SECONDS"])
os.mkdir("config")

def work(go):
    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
    scheduler.start()
    os.read(go, 1)
    scheduler.shutdown()
    os._exit(0)

end, go = os.pipe()
children = []
for _ in range(PROCESSES):
    pid = os.fork()
    if pid == 0:
        os.close(go)
        work(end)
    children.append(pid)
time.sleep(SECONDS)
os.close(go)
for pid in children:
    os.waitpid(pid, 0)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
tell(cpu=used.ru_utime + used.ru_stime, megabytes=used.ru_maxrss / 1024)
"""
NUMBERS = [1, 8, 64]
PERIOD, PERIODS = 3.0, 5


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """The figures by the number of processes."""
    numbers, period, periods = ([1, 2], 0.3, 1) if tiny else (NUMBERS, PERIOD, PERIODS)
    return {"period": period, "processes": {str(number): _with(number, period, periods) for number in numbers}}


def _with(number: int, period: float, periods: int) -> dict[str, float]:
    with PostHogServer() as server:
        environ = {
            "TELEMETRY_API_KEY": "phc_test",
            "TELEMETRY_HOST": server.url,
            "TELEMETRY_HEARTBEAT_INTERVAL": f"{period:g}s",
            "TELEMETRY_SHUTDOWN_TIMEOUT": "5s",
            "PROCESSES": str(number),
            "SECONDS": f"{period * periods + number / 16:g}",
        }
        figures = measure.once(Side(f"{number} processes", APPLICATION, environ))
        _await(server, "shutdown")
        events = server.events
    names = [event["event"] for event in events]
    return {
        "startup": names.count("startup"),
        "shutdown": names.count("shutdown"),
        "heartbeats": names.count("heartbeat"),
        "most": most_in_a_period(events, period),
        "least": least_in_a_period(events, period),
        "cpu": figures["cpu"] / number,
    }


def _await(server: PostHogServer, name: str) -> None:
    deadline = time.monotonic() + 5
    while all(event["event"] != name for event in server.events) and time.monotonic() < deadline:
        time.sleep(0.02)


def _numbers(events: Sequence[Event], period: float) -> list[int]:
    """For each heartbeat the number of its period, counted from the first one."""
    at = sorted(datetime.fromisoformat(one["timestamp"]).timestamp() for one in events if one["event"] == "heartbeat")
    return [round((one - at[0]) / period) for one in at]


def most_in_a_period(events: Sequence[Event], period: float) -> int:
    """The most heartbeats that belong to one period."""
    numbers = _numbers(events, period)
    return max((numbers.count(number) for number in numbers), default=0)


def least_in_a_period(events: Sequence[Event], period: float) -> int:
    """The fewest heartbeats in a period between the first and the last."""
    numbers = _numbers(events, period)
    return min((numbers.count(number) for number in range(max(numbers, default=0) + 1)), default=0)


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    numbers = " / ".join(found["processes"])
    return [
        _goal(found, f"heartbeats in a period from {numbers} processes on a host", ("least", "most")),
        _goal(found, f"startups and shutdowns from {numbers} processes on a host", ("startup", "shutdown")),
    ]


def _goal(found: dict[str, Any], what: str, figures: tuple[str, str]) -> Goal:
    seen = {side[figure] for side in found["processes"].values() for figure in figures}
    figure = f"{min(seen)}" if len(seen) == 1 else f"{min(seen)} to {max(seen)}"
    limit = (
        "a process that cannot come in within its time, because many others do, counts as an application of its own."
    )
    return Goal(what, "1", figure, "", seen == {1}, limit)


def section(found: dict[str, Any]) -> str:
    """What the page says."""
    rows = [
        [
            number,
            str(side["startup"]),
            str(side["heartbeats"]),
            str(side["most"]) if side["most"] == side["least"] else f"{side['least']} to {side['most']}",
            str(side["shutdown"]),
            f"{side['cpu'] * 1000:.0f} ms",
        ]
        for number, side in found["processes"].items()
    ]
    headings = ["processes", "startups", "heartbeats", "in a period", "shutdowns", "CPU per process in its life"]
    return (
        "## One application, many processes\n\n"
        f"Forked workers of one installation, with a heartbeat every {found['period']:g} s, from the start to the\n"
        "end: what arrived at PostHog.\n\n" + table(headings, rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

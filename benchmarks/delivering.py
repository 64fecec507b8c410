"""A backlog on its way: events a second from the outbox on disk, beside the SDK's queue in memory.

Both go to one server in a process of its own, which takes each request whole and answers at once; what it takes from a
side that does nothing but send is told as well, so that one sees that nobody waits for it. The SDK's queue is filled
while its first request is held back, the outbox in one go; the making of the events counts on neither side.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import measure
import servers
from measure import Side
from page import Goal, table, times

EVENTS = 100_000
GOAL = 0.8
SDK = """
import threading
from posthog import Posthog

EVENTS = int(os.environ["EVENTS"])
client = Posthog("phc_test", host=os.environ["URL"], max_queue_size=2 * EVENTS, timeout=300{options})

gate, ready = threading.Event(), threading.Event()

import posthog.consumer as consumer
asked = consumer.batch_post

def batch_post(*args, **kwargs):
    ready.set()
    gate.wait()
    return asked(*args, **kwargs)

consumer.batch_post = batch_post
begin = time.perf_counter()
for number in range(EVENTS):
    client.capture("heartbeat", distinct_id="6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52",
                   properties={{"uptime_hours": number, "uptime_days": 0, "app_version": "1.4.2", "release": "1.4.2"}})
ready.wait()
start, cpu = time.perf_counter(), time.process_time()
gate.set()
client.shutdown()
tell(rate=EVENTS / (time.perf_counter() - start), making=EVENTS / (start - begin),
     cpu=(time.process_time() - cpu) / EVENTS)
os._exit(0)
"""
OURS = """
import contextlib, sqlite3
from datetime import UTC, datetime
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat
from lifebeat.clock import SystemClock
from lifebeat_jobs import events
from lifebeat_jobs.outbox import Outbox

EVENTS = int(os.environ["EVENTS"])
os.mkdir("config")
handle = lifebeat.attach(BackgroundScheduler(), app_name="notes", app_version="1.4.2")
shared = dict(instance_id="6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52", os_platform="linux", os_release="6.1",
              python_version="3.11.7", app_version="1.4.2", release="1.4.2")
now = datetime.now(UTC)
event = events.Heartbeat(**shared, uptime_hours=1, uptime_days=0)
body, first = events.serialize(event, now)
import pathlib
outbox = Outbox(pathlib.Path("config/outbox.sqlite3"), clock=SystemClock(), warn=print)
outbox.record(first, event.name, body)
rows = ((one, body.replace(first, one), len(body), now.timestamp(), now.timestamp())
        for one in (events.uuid7(now) for _ in range(EVENTS - 1)))
with contextlib.closing(sqlite3.connect("config/outbox.sqlite3")) as connection, connection:
    connection.executemany(
        "INSERT INTO event (uuid, event, body, size, recorded_at, state, next_attempt)"
        " VALUES (?, 'heartbeat', ?, ?, ?, 'waiting', ?)", rows)
start, cpu = time.perf_counter(), time.process_time()
delivered = handle.flush(600.0)
seconds = time.perf_counter() - start
assert delivered == EVENTS, delivered
tell(rate=EVENTS / seconds, cpu=(time.process_time() - cpu) / EVENTS)
os._exit(0)
"""
BARE = """
import http.client

EVENTS = int(os.environ["EVENTS"])
connection = http.client.HTTPConnection(os.environ["URL"].partition("//")[2])
body = b" " * 70_000
start, cpu = time.perf_counter(), time.process_time()
for _ in range(EVENTS // 100):
    connection.request("POST", "/batch/", body)
    connection.getresponse().read()
tell(rate=EVENTS / (time.perf_counter() - start), cpu=(time.process_time() - cpu) / EVENTS)
"""


def measured(*, tiny: bool) -> dict[str, Any]:
    """Events a second of each side."""
    events = 200 if tiny else EVENTS
    with servers.serving("healthy") as server:
        environ = {"URL": server.url, "EVENTS": str(events)}
        settings = {
            "TELEMETRY_API_KEY": "phc_test",
            "TELEMETRY_HOST": server.url,
            "TELEMETRY_OUTBOX_EVENTS": str(2 * events),
            "TELEMETRY_OUTBOX_BYTES": str(2000 * events),
        }
        side = partial(Side, environ=environ)
        sides = [
            side("nothing but sending", BARE),
            side("posthog", SDK.format(options="")),
            side("posthog, gzip", SDK.format(options=", gzip=True")),
            Side("lifebeat", OURS, {**environ, **settings}),
        ]
        return {"events": events, "sides": measure.compare(sides, rounds=1 if tiny else 3)}


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    ours, sdk, zipped = (found["sides"][name]["rate"] for name in ("lifebeat", "posthog", "posthog, gzip"))
    return [
        Goal(
            f"a backlog of {found['events']:,}, events a second",
            f"≥ {GOAL} ×",
            f"{ours:,.0f}",
            f"{times(ours / sdk)} of the SDK's queue in memory ({sdk:,.0f}), {times(ours / zipped)} of that with gzip",
            ours >= GOAL * sdk,
            "the SDK's own call makes the request on both sides. The rest is what the SDK does not do: read the event "
            "from the disk and write its end there, look whether it names the machine or a person, compare what "
            "leaves with what was recorded, and compress it.",
        )
    ]


def section(found: dict[str, Any]) -> str:
    """What the page says."""
    sides = found["sides"]
    rows = [
        [
            name,
            f"{side['rate']:,.0f}",
            times(side["rate"] / sides["posthog"]["rate"]),
            f"{side['cpu'] * 1e6:.0f} µs",
            f"{side['whole_megabytes']:.0f} MB",
        ]
        for name, side in sides.items()
    ]
    return (
        f"## A backlog of {found['events']:,} events\n\n"
        "Bounds raised, to a server in another process that answers at once. The SDK's queue is in memory and is lost\n"
        "with the process. Lifebeat reads each event from the disk, looks at what leaves, sends it with gzip,\n"
        "and has written to the disk what became of it before it goes on. `nothing but sending` is what the server\n"
        "takes.\n\n" + table(["side", "events a second", "beside the SDK", "CPU per event", "memory at most"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

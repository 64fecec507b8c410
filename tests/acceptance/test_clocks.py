"""The wall clock is set and the machine sleeps, while a real host runs: a library moves its clocks, and no others.

A file says by how many seconds: ``wall`` for a clock that was set, ``slept`` for a sleep, which boot time counts and
monotonic time does not. Each case takes a minute, within which a changed clock is noticed.

``pytest -m soak -s tests/acceptance/test_clocks.py`` prints a row for each.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from hosts import end, eventually
from lifebeat.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs LD_PRELOAD and a compiler"),
]

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long said(const char *file) {
    char text[24] = {0};
    int fd = open(file, O_RDONLY);
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int answer = ((int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime"))(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += said("wall") + said("slept");
    if (clock == CLOCK_BOOTTIME) now->tv_sec += said("slept");
    return answer;
}
"""
HOST = """
import time
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat, ticks

scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", allow=["ticks"])
scheduler.start()
while True:
    time.sleep(60)
"""
TICKS = """
import time

def tick(context):
    with open(context.job_id, "a") as file:
        print(context.instant.timestamp(), time.time(), file=file)
"""
JOBS = """
jobs:
  often: {run: ticks:tick, every: 20s}
  hourly: {run: ticks:tick, every: 1h, misfire_grace: 12h}
  startup: {run: lifebeat_jobs.telemetry:startup, when: start, once: application}
  shutdown: {run: lifebeat_jobs.telemetry:shutdown, when: shutdown, once: application, timeout: 20s}
"""
HOUR, DAY, YEAR = 3600, 86400, 365 * 86400
NOTICED = 65.0  # a minute, and a little for a busy machine


class Clocked:
    """A host whose clocks are moved."""

    def __init__(self, installation: Installation, **offsets: int) -> None:
        self.directory = installation.directory
        (self.directory / "shim.c").write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], cwd=self.directory, check=True)
        (self.directory / "ticks.py").write_text(TICKS)
        (self.directory / "config/jobs.yaml").write_text(JOBS)
        self.move(**offsets)
        self.process = installation.script(
            HOST, LD_PRELOAD=str(self.directory / "shim.so"), PYTHONPATH=str(self.directory)
        )

    def move(self, **offsets: int) -> None:
        """Move the clocks to so many seconds off, each in one step."""
        for name, seconds in offsets.items():
            (self.directory / f"{name}.new").write_text(str(seconds))
            (self.directory / f"{name}.new").replace(self.directory / name)

    def runs(self, job: str) -> list[tuple[float, float]]:
        """The runs of a job: its instant, and the wall clock then."""
        path: Path = self.directory / job
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(instant), float(now)) for instant, now in map(str.split, lines)]


@pytest.mark.parametrize("by", [HOUR, -HOUR, DAY, -DAY, 10 * YEAR, -10 * YEAR])
def test_a_clock_that_is_set_moves_no_instant(installation: Installation, receiver: PostHogServer, by: int) -> None:
    """Within a minute the instants are those of the new time, none twice; the uptime is that of the process."""
    host = Clocked(installation)
    receiver.wait_for(lambda server: "startup" in server.names(), timeout=30)
    eventually(lambda: host.runs("often"), timeout=40)
    before, begin = len(host.runs("often")), time.monotonic()
    host.move(wall=by)
    eventually(lambda: len(host.runs("often")) >= before + 3, timeout=NOTICED + 60)
    waited = time.monotonic() - begin
    end(host.process)
    instants = [instant for instant, _ in host.runs("often")]
    late = [now - instant for instant, now in host.runs("often")[before:]]
    uptimes = [event["properties"]["total_runtime_hours"] for event in receiver.events if event["event"] == "shutdown"]
    print(f"\nROW| set by {by / HOUR:g} h | {waited:.0f} s for three runs | latest {max(late):.1f} s | {uptimes} |")
    assert len(set(instants)) == len(instants)
    assert all(0 <= one < NOTICED for one in late)
    assert waited < NOTICED + 60
    is_set = time.time() + by >= SystemClock().earliest()
    assert uptimes == ([0] if is_set else [])  # one of a clock that is not set waits
    assert "shutdown" in installation.run("log", "--config", "config")[1]


@pytest.mark.parametrize("slept", [20, 300, HOUR, 9 * HOUR])
def test_a_sleep_around_an_instant_makes_it_late_by_a_minute(
    installation: Installation, receiver: PostHogServer, slept: int
) -> None:
    """The latest of the instants that were slept through is run within a minute of the wake-up, once; others follow."""
    until_hour = HOUR - time.time() % HOUR
    host = Clocked(installation, wall=int(until_hour) - 15)  # the hour is 15 s away
    receiver.wait_for(lambda server: "startup" in server.names(), timeout=12)
    assert host.runs("hourly") == []
    host.move(slept=slept)
    begin = time.monotonic()
    eventually(lambda: host.runs("hourly"), timeout=NOTICED + 15)
    waited = time.monotonic() - begin
    end(host.process)
    ((instant, now),) = host.runs("hourly")
    uptimes = [event["properties"]["total_runtime_hours"] for event in receiver.events if event["event"] == "shutdown"]
    print(
        f"\nROW| slept {slept} s | run {waited:.0f} s after it | of the instant {now - instant:.0f} s ago | {uptimes} |"
    )
    assert now - instant < HOUR
    assert waited < NOTICED
    assert uptimes == [slept // HOUR]


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("boots_at", [0.0, SystemClock().earliest() - 60 * DAY], ids=["1970", "60 days behind"])
def test_a_board_whose_clock_is_not_set_tells_the_right_time(
    installation: Installation, receiver: PostHogServer, boots_at: float, *, online: bool
) -> None:
    """What was recorded before the clock was set leaves afterwards, with the time at which it happened."""
    if not online:
        receiver.answer(503)
    begun = time.time()
    host = Clocked(installation, wall=int(boots_at - begun))
    eventually(lambda: "startup" in installation.run("log", "--config", "config")[1])
    assert receiver.connections == 0
    host.move(wall=0)
    if online:
        receiver.wait_for(lambda server: "startup" in server.names(), timeout=2 * NOTICED)
    end(host.process)
    if not online:
        receiver.resume()
        assert installation.run("flush", "--config", "config")[0] == 0
    startup = next(event for event in receiver.events if event["event"] == "startup")
    reported = datetime.fromisoformat(startup["timestamp"]).timestamp()
    way = "online" if online else "offline"
    boot = "1970" if not boots_at else "60 days before the release"
    print(f"\nROW| boot at {boot}, {way} | startup reported {reported - begun:.1f} s after the start |")
    assert abs(reported - begun) < 15
    assert abs((uuid.UUID(startup["uuid"]).int >> 80) / 1000 - reported) < 1
    assert sorted(set(receiver.names())) == ["shutdown", "startup"]

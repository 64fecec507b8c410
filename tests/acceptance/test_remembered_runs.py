"""Eight processes under kills: every claimed instant is remembered once, as what it was, and none is invented."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import statistics
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from hosts import Installation, end
from lifebeat import history

if TYPE_CHECKING:
    import subprocess

SECONDS = float(os.environ.get("LIFEBEAT_SOAK_SECONDS", "300"))
JOB = """
import os, time

def note(context, fails=False):
    line = f"{context.job_id} {int(context.instant.timestamp() * 1e6 + 0.5)} {os.getpid()}"
    log = os.open("ran.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{line} begin {time.time()}\\n".encode())
    time.sleep(0.05)
    fails = fails and context.instant.second % 2
    os.write(log, f"{line} {'failed' if fails else 'ok'} 0\\n".encode())
    os.close(log)
    if fails:
        raise ValueError("an odd second")
"""
HOST = """
import signal, time
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1", config_dir="config", allow=["noting"])
scheduler.start()
while True:
    time.sleep(1)
"""


def start(installation: Installation) -> subprocess.Popen[str]:
    """One more process of the application."""
    code = installation.directory / "host.py"
    code.write_text(HOST)
    more = {"PYTHONPATH": str(installation.directory), "TELEMETRY_ENABLED": "false"}
    return installation.start(sys.executable, str(code), **more)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kept", ["30d", "0s"])
def test_each_claimed_instant_is_remembered_once_as_what_it_was(installation: Installation, kept: str) -> None:
    """8 processes, 10 jobs on a grid of a second, a kill every few seconds; lateness is printed, with and without."""
    (installation.directory / "noting.py").write_text(JOB)
    jobs = [
        f"  job{n}: {{run: 'noting:note', every: 1s, once: application, args: {{fails: {n == 9}}}}}" for n in range(10)
    ]
    (installation.config / "jobs.yaml").write_text("jobs:\n" + "\n".join(jobs).lower() + "\n")
    installation.write(runHistory=kept)
    living = [start(installation) for _ in range(8)]
    killed: set[int] = set()
    chance = random.Random(1)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(chance.uniform(2, 4))
        victim = living.pop(chance.randrange(len(living)))
        victim.send_signal(signal.SIGKILL)
        killed.add(victim.pid)
        victim.communicate()
        living.append(start(installation))
    for process in living:
        end(process, signal.SIGTERM)
    did: dict[tuple[str, int], list[tuple[int, str, float]]] = defaultdict(list)
    for line in (installation.directory / "ran.txt").read_text().splitlines():
        job, instant, pid, what, at = line.split()
        did[job, int(instant)].append((int(pid), what, float(at)))
    late = [at - instant / 1e6 for (_, instant), lines in did.items() for _, what, at in lines if what == "begin"]
    print(
        f"runHistory {kept}: {len(did)} instants, {len(killed)} kills, late p50 {statistics.median(late) * 1e3:.1f} ms"
    )
    runs = history.read(installation.config / "lifebeat", limit=1_000_000)
    if kept == "0s":
        assert runs == []
        return
    rows = {(run.job, run.instant): run for run in runs}
    assert len(rows) == len(runs)
    with sqlite3.connect(installation.config / "lifebeat" / "lifebeat.sqlite3") as database:
        claims = set(database.execute("SELECT job, instant FROM claim"))
    database.close()
    assert claims - rows.keys() == set()
    assert did.keys() - rows.keys() == set()
    for key, run in rows.items():
        happened = [(pid, what) for pid, what, _ in did.get(key, [])]
        if run.outcome in {"ok", "failed"}:
            assert happened == [(run.pid, "begin"), (run.pid, run.outcome)], run
        elif run.outcome == "left behind":
            assert run.pid in killed, run
            assert {pid for pid, _ in happened} <= {run.pid}
        else:
            assert (run.outcome in {"skipped", "missed"}, happened) == (True, []), run
    assert sum(run.outcome == "left behind" for run in runs) <= 20 * len(killed)

"""Processes of one application are killed, stopped, frozen and started for minutes: each run once, counts the truth."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cluster import Cluster, freeze, lateness, missed, twice
from hosts import eventually

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer
    from postgresql import PostgreSQL

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("postgresql")]

SECONDS = float(os.environ.get("CHAOS_SECONDS", "300"))


def disturb(cluster: Cluster, seconds: float, chance: random.Random) -> Counter[str]:
    """Kill, stop and freeze processes, and start others, so that six to eleven are there; return what was done."""
    done: Counter[str] = Counter()
    freezes: list[threading.Thread] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(chance.uniform(2, 5))
        victim, what = chance.choice(cluster.processes), chance.choice(["kill", "stop", "freeze"])
        done[what] += 1
        if what == "kill":
            cluster.kill(victim)
        elif what == "stop":
            victim.send_signal(signal.SIGTERM)
            victim.send_signal(signal.SIGCONT)
            cluster.processes.remove(victim)
        else:
            freezes.append(threading.Thread(target=freeze, args=(victim, chance.uniform(2, 15))))
            freezes[-1].start()
        if len(cluster.processes) < 6:
            cluster.start(chance.randrange(1, 3))
    for one in freezes:
        one.join()
    return done


def test_procrastinate(installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer) -> None:
    """Nothing is missed or twice, and there is one startup and one shutdown, told by the last to leave."""
    cluster = Cluster(installation, postgresql.schema(), jobs=5, every="2s", telemetry=True, fields="coalesce: false")
    cluster.start(6)
    cluster.await_instants(2, 60)
    done = disturb(cluster, SECONDS, random.Random(1))
    eventually(lambda: missed(cluster.runs(), 2.0) == [], 60)
    cluster.end()
    eventually(lambda: receiver.names().count("shutdown") == 1, 10)
    runs, told = cluster.runs(), Counter(receiver.names())
    p50, p99 = lateness(runs)
    print(f"\n{dict(done)}: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}, ", end="")
    print(f"startups {told['startup']}, shutdowns {told['shutdown']}, late {p50 * 1000:.0f}/{p99 * 1000:.0f} ms")
    assert (told["startup"], told["shutdown"]) == (1, 1)
    assert twice(runs) == []

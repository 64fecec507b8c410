"""Kill -9 at any moment: every event that was recorded arrives, and counts once."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from conftest import eventually
from lifebeat.clock import SystemClock
from lifebeat_jobs.outbox import Outbox

if TYPE_CHECKING:
    from conftest import Installation
    from lifebeat.testing import PostHogServer

HOST = """
    import logging, sys
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", signals=True)
    scheduler.start()
    import time
    time.sleep(60)
"""


def recorded(installation: Installation) -> dict[str, str]:
    """What the outbox knows of, by the events' own IDs: their names."""
    outbox = Outbox(installation.config / "outbox.sqlite3", clock=SystemClock(), warn=print)
    return {entry.uuid: entry.event for entry in outbox.entries(limit=100_000)}


def kill_at_random(
    installation: Installation, receiver: PostHogServer, kills: int, dice: random.Random
) -> dict[str, str]:
    """Start and kill a host again and again, while the receiver is now well and now not; all that was recorded."""
    installation.write(telemetryHeartbeatInterval="100ms", telemetryOutboxEvents=100_000)
    behaviours: list[Any] = [receiver.resume, lambda: receiver.answer(503), receiver.hang, receiver.resume]
    known: dict[str, str] = {}
    for _ in range(kills):
        dice.choice(behaviours)()
        process = installation.script(HOST)
        time.sleep(dice.uniform(0.2, 1.2))  # the moment of the kill is the experiment
        process.kill()
        process.communicate()
        known |= recorded(installation) if (installation.config / "outbox.sqlite3").exists() else {}
    receiver.resume()
    return known


@pytest.mark.parametrize("kills", [6, pytest.param(220, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_kill_nine(installation: Installation, receiver: PostHogServer, kills: int) -> None:
    """After kills at random moments the next start delivers everything; what PostHog keeps is what was recorded."""
    known = kill_at_random(installation, receiver, kills, random.Random(kills))
    code, out, err = installation.run("flush", "--timeout", "60", "--config", "config")
    assert code == 0, (out, err)
    known |= recorded(installation)
    eventually(lambda: {one[0] for one in receiver.distinct()} >= set(known))
    arrived = {one[0]: one[2] for one in receiver.distinct()}
    print(f"{kills} kills: {len(known)} recorded, {len(receiver.events)} received, {len(receiver.distinct())} distinct")
    assert arrived == known
    assert len(receiver.distinct()) == len(arrived)
    assert known

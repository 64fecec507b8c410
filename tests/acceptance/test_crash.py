"""Kill -9 at any moment: every event that was recorded arrives, and counts once."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat.clock import SystemClock
from lifebeat_jobs.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hosts import Installation
    from lifebeat.testing import PostHogServer
    from lifebeat_jobs.outbox import Entry

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


def entries(installation: Installation) -> list[Entry]:
    """What the outbox knows of."""
    return Outbox(installation.config / "lifebeat/lifebeat.sqlite3", clock=SystemClock(), warn=print).entries(
        limit=100_000
    )


def recorded(installation: Installation) -> dict[str, str]:
    """The names of recorded events by their own IDs."""
    return {entry.uuid: entry.event for entry in entries(installation)}


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
        known |= recorded(installation) if (installation.config / "lifebeat/lifebeat.sqlite3").exists() else {}
    if not known:  # each of them was over before it had begun, on a busy machine
        process = installation.script(HOST)
        eventually(lambda: (installation.config / "lifebeat/lifebeat.sqlite3").exists() and recorded(installation))
        process.kill()
        process.communicate()
    receiver.resume()
    return known


@pytest.mark.parametrize("kills", [6, pytest.param(220, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_kills_at_random_moments_lose_and_repeat_nothing(
    installation: Installation, receiver: PostHogServer, kills: int
) -> None:
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


class Gated(ThreadingHTTPServer):
    """A PostHog that answers when it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _GatedRequest)
        self.open = threading.Event()
        self.batches: list[list[dict[str, Any]]] = []
        self.answered = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _GatedRequest(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.batches.append(json.loads(gzip.decompress(body))["batch"])
        if server.open.wait(30):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")
            server.answered.set()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        """Say nothing."""


@pytest.fixture
def gated() -> Iterator[Gated]:
    """A PostHog that answers when it is told to."""
    with Gated() as server:
        yield server
        server.open.set()
        server.shutdown()


@pytest.mark.parametrize("answered", [False, True], ids=["before the answer", "before it is written down"])
def test_kill_after_sending_sends_the_same_events_again(
    installation: Installation, receiver: PostHogServer, gated: Gated, *, answered: bool
) -> None:
    """Killed when PostHog has the events but nobody knows it, the next start sends the same events again."""
    installation.write(telemetryHost=gated.url)
    process = installation.script(HOST)
    eventually(lambda: gated.batches)
    # With this nothing can be written down: the answer arrives, and there it stops.
    with contextlib.closing(
        sqlite3.connect(installation.config / "lifebeat/lifebeat.sqlite3", isolation_level=None)
    ) as held:
        if answered:
            held.execute("BEGIN EXCLUSIVE")
            gated.open.set()
            assert gated.answered.wait(10)
            time.sleep(0.2)  # for the answer to be read
        process.kill()
        process.communicate()
    (batch,) = gated.batches
    assert [entry.state for entry in entries(installation)] == ["waiting"]
    installation.write(telemetryHost=receiver.url)
    assert installation.run("flush", "--timeout", "10", "--config", "config")[0] == 0
    assert receiver.events == batch
    assert [entry.state for entry in entries(installation)] == ["delivered"]

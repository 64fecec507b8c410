"""One application, eight workers of gunicorn: one startup, one heartbeat per instant, one shutdown."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import signal
import socket
import sys
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from hosts import end, eventually
from lifebeat.schedule.instants import SECOND, spread

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer

APP = """
    import logging, os, sys
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", signals=True)
    scheduler.start()

    def wsgi(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]

    async def asgi(scope, receive, send):
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
"""
WORKERS, FEW = 8, 3  # the soak has all, with eight
INTERVAL = 1.0
INSTANCE_ID = "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"
KINDS = {"sync": "wsgi", "gthread": "wsgi", "uvicorn_worker.UvicornWorker": "asgi"}
EVENTS = ("reload", "kill", "recycle", "calm")


class Gunicorn:
    """A gunicorn with workers that embed Lifebeat."""

    def __init__(self, installation: Installation, kind: str, workers: int, *, preload: bool, recycle: bool) -> None:
        # An ID that is there already, so that the phase of the heartbeat is the same from the first moment on.
        installation.write(telemetryHeartbeatInterval=f"{INTERVAL:.0f}s", telemetryInstanceId=INSTANCE_ID)
        (installation.directory / "app.py").write_text("\n".join(line[4:] for line in APP.splitlines()))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        options = ["--preload"] * preload + ["--max-requests", "5", "--max-requests-jitter", "20"] * recycle
        self.process = installation.start(
            sys.executable, "-m", "gunicorn", "-w", str(workers), "-k", kind, "-b", f"127.0.0.1:{self.port}",
            "--no-control-socket", *options, f"app:{KINDS[kind]}",
        )  # fmt: skip

    def ask(self) -> int | None:
        """The process ID of the worker that answers; ``None`` if none does just now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return int(connection.getresponse().read())
        return None

    def happen(self, what: str) -> None:
        """Let something happen to the workers."""
        if what == "reload":
            self.process.send_signal(signal.SIGHUP)
        elif what == "kill":
            victim = eventually(self.ask)
            import os

            os.kill(victim, signal.SIGKILL)
        elif what == "recycle":
            for _ in range(60):
                self.ask()


def told(receiver: PostHogServer) -> list[tuple[str, str]]:
    """The events with their times, in order; one that was sent twice is one, as PostHog keeps it."""
    return sorted((timestamp, event) for _, timestamp, event, _ in receiver.distinct())


def off_the_grid(receiver: PostHogServer, phase: float) -> list[str]:
    """The times of heartbeats that are no instant of the grid, to the millisecond, or are there more than once."""
    beats = [time for time, event in told(receiver) if event == "heartbeat"]
    offsets = {one: (datetime.fromisoformat(one).timestamp() - phase) % INTERVAL for one in beats}
    return [one for one in beats if 0.002 < offsets[one] < INTERVAL - 0.002 or beats.count(one) > 1]


def live(
    installation: Installation, receiver: PostHogServer, kind: str, what: str, *, preload: bool, workers: int
) -> Counter[str]:
    """A life of some seconds in which something happens; the events by name."""
    gunicorn = Gunicorn(installation, kind, workers, preload=preload, recycle=what == "recycle")
    receiver.wait_for(lambda server: server.names().count("heartbeat") >= 1, timeout=30)
    eventually(gunicorn.ask)
    gunicorn.happen(what)
    before = len(receiver.events)
    receiver.wait_for(lambda server: len(server.events) >= before + 3, timeout=30)
    code, out, err = end(gunicorn.process)
    assert code == 0, (out, err)
    # asyncio's own note of a signal that came after uvicorn had closed its loop is not ours.
    assert "Traceback" not in (out + err).replace("signal wakeup fd:\nTraceback", ""), out + err
    # On a busy machine the last event may be on disk only when the last worker has to go; it counts all the same.
    installation.run("flush", "--config", "config")
    return Counter(event for _, event in told(receiver))


def check(names: Counter[str], receiver: PostHogServer, *, successors: bool = False) -> None:
    """One startup, at the beginning; one shutdown, at the end; one heartbeat per instant.

    Where a worker was being started as the last one left, it might have gone on: the next start reports that end.
    """
    events = told(receiver)
    assert names["startup"] == 1, events
    assert names["shutdown"] == 1 or (successors and names["shutdown"] == 0), events
    assert events[0][1] == "startup", events
    assert names["shutdown"] == 0 or events[-1][1] == "shutdown", events
    assert off_the_grid(receiver, spread(f"phase:{INSTANCE_ID}:heartbeat", int(INTERVAL * SECOND)) / SECOND) == [], (
        events
    )


@pytest.mark.parametrize(
    ("kind", "what", "preload"),
    [
        ("sync", "reload", False),
        ("gthread", "kill", True),
    ],
)
def test_workers_are_one_application(
    installation: Installation, receiver: PostHogServer, kind: str, what: str, *, preload: bool
) -> None:
    """Several workers are one application, through a rolling reload and a kill -9."""
    names = live(installation, receiver, kind, what, preload=preload, workers=FEW)
    check(names, receiver, successors=what == "reload")


@pytest.mark.soak
@pytest.mark.parametrize(("kind", "what", "preload"), [*itertools.product(KINDS, EVENTS, (False, True))])
def test_each_kind_of_worker(
    installation: Installation, receiver: PostHogServer, kind: str, what: str, *, preload: bool
) -> None:
    """Every kind of worker, with and without preload, through everything that happens to workers."""
    names = live(installation, receiver, kind, what, preload=preload, workers=WORKERS)
    check(names, receiver, successors=what in {"recycle", "reload"})
    print(f"{kind}, {what}, {'preload' if preload else 'no preload'}: {dict(names)}")

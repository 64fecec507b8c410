"""How long a stop takes, whatever the network does: real processes, for a host that embeds and for ``lifebeat run``.

The bound is ``telemetryShutdownTimeout`` and a quarter of a second for writing things down. For a host that embeds, the
time is taken inside the process, around ``scheduler.shutdown()``; for the standalone host from the signal to the
process's end, with what the same host takes with telemetry off allowed for. A machine at work on other things can make
a process wait for its turn, so the best of up to three tries counts: the bound is what is tested, not the load.

``pytest -s`` prints the table.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from hosts import DEADLINE, Installation, eventually
from lifebeat.clock import SystemClock
from lifebeat.testing import FakeClock, PostHogServer
from lifebeat_jobs import events
from lifebeat_jobs.outbox import Outbox
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT = 1.0
TOLERANCE = 0.25
TRIES = 3
BACKLOG = 10_000

EMBEDDED = """
    import pathlib, time
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
    scheduler.start()
    while not pathlib.Path("stop").exists():
        time.sleep(0.01)
    begin = time.monotonic()
    scheduler.shutdown()
    print(time.monotonic() - begin)
"""
# A resolver that never answers, from the moment on at which there is a file: what a lost name server is to a process.
RESOLVER = """
import os, socket, time

answering = socket.getaddrinfo

def getaddrinfo(*args, **kwargs):
    while os.path.exists(os.environ["NO_DNS"]):
        time.sleep(0.05)
    return answering(*args, **kwargs)

socket.getaddrinfo = getaddrinfo
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One way of a network to be.

    Attributes:
        name: In words.
        befall: Makes it so, told of one installation.
        waits: Whether the stop has to wait for its time to be up.
        from_start: Whether it is so from the start, so that a request is under way when the stop comes.
        backlog: How many events wait already.
    """

    name: str
    befall: Callable[[Installation], object]
    waits: bool = False
    from_start: bool = False
    backlog: int = 0


def nothing(_: Installation) -> None:
    """All is well."""


def hung_tls(installation: Installation) -> None:
    """Speak TLS to a socket that never speaks."""
    installation.receiver.hang_at_connect()
    installation.write(telemetryHost=installation.receiver.url.replace("http:", "https:"))


def too_many(installation: Installation) -> None:
    """Ask to be left alone for a minute."""
    installation.receiver.answer(429, headers={"Retry-After": "60"})


ROWS = [
    Row("healthy", nothing),
    Row("refused", lambda one: one.receiver.refuse()),
    Row("DNS never answers", lambda one: (one.directory / "no-dns").touch(), waits=True),
    Row("DNS never answers, from the start", lambda one: (one.directory / "no-dns").touch(), True, from_start=True),
    Row("accepts, never answers", lambda one: one.receiver.hang_at_connect(), waits=True),
    Row("the same, from the start", lambda one: one.receiver.hang_at_connect(), waits=True, from_start=True),
    Row("TLS handshake hangs", hung_tls, waits=True),
    Row("drips 1 byte/s", lambda one: one.receiver.drip(1.0), waits=True),
    Row("429, Retry-After 60", too_many),
    Row("503", lambda one: one.receiver.answer(503)),
    Row("10,000 events wait", nothing, backlog=BACKLOG),
    Row("10,000 events wait, 503", lambda one: one.receiver.answer(503), backlog=BACKLOG),
]


class Stop:
    """One host of its own, to be stopped."""

    def __init__(self, directory: Path, row: Row, host: str, **settings: Any) -> None:
        directory.mkdir()
        self.row, self.host = row, host
        self.receiver = PostHogServer()
        self.receiver.start()
        self.installation = Installation(directory, self.receiver)
        self.installation.write(
            telemetryHost=self.receiver.url.replace("127.0.0.1", "localhost"),
            telemetryShutdownTimeout=f"{TIMEOUT:g}s",
            telemetryInstanceId=INSTANCE_ID,
            telemetryOutboxEvents=2 * BACKLOG,
            telemetryOutboxBytes=64 * 1024 * 1024,
            **settings,
        )
        (directory / "site").mkdir()
        (directory / "site" / "sitecustomize.py").write_text(RESOLVER)

    def take(self) -> float:
        """Start, stop and check the host; how long the stop took, in seconds."""
        if self.row.backlog:
            fill(self)
        if self.row.from_start:
            self.row.befall(self.installation)
        process = self.start()
        eventually(self._is_up)
        if not self.row.from_start:
            self.row.befall(self.installation)
        return self._stopped(process)

    @property
    def outbox_path(self) -> Path:
        """The outbox's file."""
        return self.installation.config / "lifebeat/lifebeat.sqlite3"

    @property
    def outbox(self) -> Outbox:
        """The outbox, seen from outside the host."""
        return Outbox(self.outbox_path, clock=SystemClock(), warn=print)

    def states(self) -> dict[str, str]:
        """What became of the last two events, which are this life's own, by their names."""
        return {entry.event: entry.state for entry in self.outbox.entries(limit=2)}

    def check(self) -> str:
        """The end is on record, as what is returned, and every event has arrived or still waits."""
        state = self.states()["shutdown"]
        assert state in {"delivered", "waiting"}
        waiting = {entry.uuid for entry in self.outbox.entries(limit=2 * BACKLOG, state="waiting")}
        arrived = {event["uuid"] for event in self.receiver.events}
        assert len(waiting | arrived) == self.row.backlog + 2
        return state

    def start(self) -> subprocess.Popen[str]:
        """Start the host."""
        directory = self.installation.directory
        environ = {"PYTHONPATH": str(directory / "site"), "NO_DNS": str(directory / "no-dns")}
        if self.host == "embedded":
            return self.installation.script(EMBEDDED, **environ)
        return self.installation.lifebeat("run", "--config", "config", **environ)

    def _is_up(self) -> bool:
        if self.row.from_start or self.row.backlog:
            return self.outbox_path.exists() and "startup" in self.states()
        return "startup" in self.receiver.names() and self.states()["startup"] == "delivered"

    def _stopped(self, process: subprocess.Popen[str]) -> float:
        if self.host == "embedded":
            (self.installation.directory / "stop").touch()
            out, err = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0
            assert "Traceback" not in err
            return float(out)
        return until_gone(process)

    def close(self) -> None:
        """Leave nothing running."""
        for process in self.installation.started:
            with contextlib.suppress(OSError):
                process.kill()
            process.communicate()
        self.receiver.stop()


def until_gone(process: subprocess.Popen[str]) -> float:
    """Send SIGTERM; how long until the process was gone, by that signal."""
    begin = time.monotonic()
    process.terminate()
    process.wait()  # without a timeout: with one, the wait would look only every 50 ms
    taken = time.monotonic() - begin
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGTERM
    assert "Traceback" not in err
    return taken


def fill(stop: Stop) -> None:
    """Let events wait in the outbox, written in one go."""
    now, config = datetime.now(UTC), stop.installation.config
    application = Application(config, state_dir=stop.outbox_path.parent, clock=FakeClock(now.timestamp()))
    shared = events.surroundings(application.settings(), INSTANCE_ID)
    first = events.uuid7(now)
    body = json.dumps(events.serialize(events.Startup(**shared), now, first))
    application.outbox.record(first, "earlier", body)
    others = [events.uuid7(now) for _ in range(stop.row.backlog - 1)]
    rows = [(one, body.replace(first, one), len(body), now.timestamp()) for one in others]
    with contextlib.closing(sqlite3.connect(stop.outbox_path)) as connection, connection:
        connection.executemany(
            "INSERT INTO event (uuid, event, body, size, recorded_at, state, since)"
            " VALUES (?, 'earlier', ?, ?, ?, 'waiting', 0)",
            rows,
        )


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long ``lifebeat run`` takes to stop with telemetry off, in seconds; the best of three."""
    taken: list[float] = []
    for number in range(TRIES):
        stop = Stop(tmp_path_factory.mktemp("off") / str(number), ROWS[0], "standalone", telemetryEnabled=False)
        with contextlib.closing(stop):
            process = stop.start()
            assert process.stderr is not None
            while "started" not in process.stderr.readline():
                assert process.poll() is None
            taken.append(until_gone(process))
    print(f"\n{'telemetry off':38} standalone {min(taken):6.3f} s")
    return min(taken)


def best(directory: Path, row: Row, host: str, bound: float) -> float:
    """The best of up to three tries, in seconds; the first one that is as it should be is good enough."""
    good = {"delivered"} if row == ROWS[0] else {"delivered", "waiting"}
    taken: list[float] = []
    for number in range(TRIES):
        with contextlib.closing(Stop(directory / f"{host}-{number}", row, host)) as stop:
            seconds, state = stop.take(), stop.check()
        taken += [seconds] if state in good else []
        if taken and min(taken) <= bound:
            break
    assert taken, "where all is well the last event was never delivered in time"
    return min(taken)


HOSTS = ("embedded", "standalone")
# The soak has all; those that keep a processor busy take, beside other tests, as long as these let them.
QUICK = {
    *(("healthy", host) for host in HOSTS),
    *((row.name, "embedded") for row in ROWS if not (row.backlog or row.from_start or "Retry-After" in row.name)),
    ("accepts, never answers", "standalone"),
}


@pytest.mark.parametrize(
    ("row", "host"),
    [
        pytest.param(row, host, id=f"{row.name}-{host}", marks=[] if (row.name, host) in QUICK else pytest.mark.soak)
        for row in ROWS
        for host in HOSTS
    ],
)
def test_a_stop_is_over_in_time(tmp_path: Path, row: Row, host: str, request: pytest.FixtureRequest) -> None:
    """Both hosts stop within ``telemetryShutdownTimeout`` and a quarter of a second, and the end is on record."""
    without: float = request.getfixturevalue("without") if host == "standalone" else 0.0
    bound = TIMEOUT + TOLERANCE + without
    taken = best(tmp_path, row, host, bound)
    print(f"\n{row.name:38} {host:10} {taken:6.3f} s")
    assert taken <= bound
    if row.waits:  # else the network was not as it should have been
        assert taken > TIMEOUT / 2

"""What a service manager is told: on a real socket, by a real host."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import pytest

from hosts import DEADLINE, end, eventually
from lifebeat.host.systemd import Notifier
from lifebeat.registration.executor import MAX_THREADS
from lifebeat.registration.watchdog import Pulse
from lifebeat.testing import FakeClock

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from hosts import Installation

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd needs Linux")
WATCHDOG = 0.5
INSTANCE_ID = "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52"

OWN_JOBS = """
import json, os, re, subprocess, sys, threading, time
from pathlib import Path

from apscheduler.events import EVENT_JOB_SUBMITTED

here = Path(__file__).parent


def tick():
    (here / "ticked").touch()


def environment():
    asked = "import json, os; print(json.dumps(dict(os.environ)))"
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout
    (here / "environment.new").write_text(told)
    (here / "environment.new").rename(here / "environment")


def slow():
    (here / "running").touch()
    while not (here / "enough").exists():
        time.sleep(0.02)


def block(event):
    if (here / "block").exists():
        (here / "blocked").touch()
        threading.Event().wait()


def stick():
    # What a listener of a host's own can do: it is called in the scheduler's thread, and never comes back.
    thread = next(one for one in threading.enumerate() if one.name == "APScheduler")
    thread._target.__self__.add_listener(block, EVENT_JOB_SUBMITTED)


def hang():
    (here / f"hung-{threading.get_ident()}").touch()
    threading.Event().wait()


def grab():
    # Backtracking in C, which lets no other thread run: an hour of it, and more.
    (here / "blocked").touch()
    re.match("(a+)+b", "a" * 60)
"""


class Manager:
    """The listening end of a notify socket, as systemd has it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.messages: list[dict[str, str]] = []

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def receive(self) -> list[dict[str, str]]:
        """Everything that has come so far, oldest first."""
        while True:
            try:
                told = self._socket.recv(4096).decode()
            except BlockingIOError:
                return self.messages
            self.messages.append(dict(line.split("=", 1) for line in told.splitlines()))

    def having(self, name: str) -> list[dict[str, str]]:
        """The messages so far with that field."""
        return [message for message in self.receive() if name in message]

    def await_(self, name: str, number: int = 1) -> dict[str, str]:
        """Wait for the ``number``-th message with that field."""
        messages: list[dict[str, str]] = eventually(lambda: len(found := self.having(name)) >= number and found)
        return messages[number - 1]

    def beats_within(self, seconds: float) -> int:
        """How many beats come from now on, for that long."""
        before, until = len(self.having("WATCHDOG")), time.monotonic() + seconds
        eventually(lambda: time.monotonic() >= until)
        return len(self.having("WATCHDOG")) - before


@pytest.fixture(params=["path", "abstract"])
def each_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    """A manager with a socket in the file system, and one without."""
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@lifebeat-{uuid.uuid4()}")
    yield made
    made.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A manager."""
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.close()


class Start(Protocol):
    """Starts a host with one job, by its name and the other words on it."""

    def __call__(self, job: str = ..., words: str = ..., **environ: str) -> subprocess.Popen[str]: ...


@pytest.fixture
def start(installation: Installation, manager: Manager) -> Start:
    """Starts hosts with telemetry off under the manager."""
    installation.write(telemetryEnabled=False)
    (installation.directory / "own_jobs.py").write_text(OWN_JOBS)

    def started(job: str = "tick", words: str = "every: 100ms", **environ: str) -> subprocess.Popen[str]:
        write_jobs(installation.config, job, words)
        environ = {"NOTIFY_SOCKET": manager.address, "PYTHONPATH": str(installation.directory), **environ}
        return installation.lifebeat("run", "--config", "config", "--allow", "own_jobs", **environ)

    return started


def write_jobs(config: Path, job: str, words: str) -> None:
    """A job file with one job of the host's own and none of telemetry."""
    new = config / "jobs.new"
    new.write_text(f"jobs:\n  {job}:\n    run: own_jobs:{job}\n    {words}\n")
    new.rename(config / "jobs.yaml")


def watchdog(seconds: float = WATCHDOG) -> str:
    """The value of WATCHDOG_USEC."""
    return str(int(seconds * 1e6))


# -- the protocol ----------------------------------------------------------------------------------------------------


def test_messages(each_manager: Manager) -> None:
    """Each message has the fields of the protocol, on a socket in the file system and on an abstract one."""
    notifier = Notifier(each_manager.address)
    notifier.ready("3 jobs")
    notifier.status("two\nlines=1")
    notifier.stopping("stopping", within=1.5)
    notifier.failed("no", errno=22)
    notifier.beat()
    assert each_manager.receive() == [
        {"READY": "1", "STATUS": "3 jobs"},
        {"STATUS": "two lines=1"},
        {"STOPPING": "1", "STATUS": "stopping", "EXTEND_TIMEOUT_USEC": "1500000"},
        {"STATUS": "no", "ERRNO": "22"},
        {"WATCHDOG": "1"},
    ]


def test_a_reload_says_when(manager: Manager) -> None:
    """A reload carries the moment by the clock that systemd compares it with."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier(manager.address).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (message,) = manager.receive()
    assert message["RELOADING"] == "1"
    assert before <= int(message["MONOTONIC_USEC"]) <= after


def test_a_long_status_is_not_lost(manager: Manager) -> None:
    """A status of any length and any text fits into what systemd reads at once, and is text."""
    Notifier(manager.address).status("\U0001f9ea\udc80" * 5000)
    assert manager.receive()[0]["STATUS"].startswith("\U0001f9ea?\U0001f9ea?")


@pytest.mark.parametrize(
    "address", [None, "", "relative", "/missing/notify", "/" + "x" * 300, "@nobody", "/a\0b", "vsock:2:3"]
)
def test_nobody_listens(address: str | None) -> None:
    """Without a manager that listens nothing happens."""
    Notifier(address).ready("3 jobs")


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager) -> None:
    """With the manager's queue full a message is given up after a while."""
    notifier = Notifier(manager.address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.sendto(b"X=1", manager.address)
    begin = time.monotonic()
    notifier.ready("3 jobs")
    assert time.monotonic() - begin < DEADLINE


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
    ids=["for all", "for this process", "for another process", "zero", "no number", "none"],
)
def test_the_watchdog_is_for_whom_it_names(said: dict[str, str], expected: float | None) -> None:
    """The watchdog's time holds for the process that it names, or where it names none."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "OTHER": "1", **said}
    assert Notifier.from_environ(environ).watchdog == expected
    assert environ == {"OTHER": "1"}
    assert Notifier.from_environ(said).watchdog is None


def test_the_pulse_follows_the_clock_that_never_goes_back() -> None:
    """Beats come by the period, not each time that the scheduler asks, whatever time the wall shows."""
    clock, beats = FakeClock(), list[float]()
    pulse = Pulse(10.0, lambda: beats.append(clock.monotonic()), clock)
    wall = datetime.now(tz=UTC)
    for jump in (0, 5, 5, -3600, 10):
        clock.advance(abs(jump)) if jump > 0 else None
        assert pulse.get_due_jobs(wall) == []
        wall = datetime.fromtimestamp(wall.timestamp() + jump, tz=UTC)
    eventually(lambda: len(beats) == 3)
    assert (pulse.get_next_run_time() - datetime.now(tz=UTC)).total_seconds() == pytest.approx(10, abs=1)


# -- the host --------------------------------------------------------------------------------------------------------


def test_ready_says_how_it_stands(start: Start, manager: Manager, installation: Installation) -> None:
    """A host whose state cannot be read is ready all the same, says how it stands, and runs its jobs."""
    state = installation.directory / "state"
    state.mkdir()
    os.mkfifo(state / "instance-id")
    start(STATE_DIRECTORY=str(state))
    assert manager.await_("READY")["STATUS"] == "1 job; telemetry is off (config/config.json)"
    eventually((installation.directory / "ticked").exists)


def test_a_start_that_fails_is_never_ready(start: Start, manager: Manager) -> None:
    """With a mistake in the job file the manager is told the mistake, and not that the host is ready."""
    process = start(words="evry: 100ms")
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 3
    (message,) = manager.receive()
    assert message["ERRNO"] == "22"
    assert message["STATUS"].startswith("config/jobs.yaml:4:5: job 'tick': unknown field 'evry'")


def test_the_socket_is_not_inherited(start: Start, manager: Manager, installation: Installation) -> None:
    """What a job starts cannot speak for the host."""
    start("environment", WATCHDOG_USEC=watchdog(60), OTHER="here")
    eventually((installation.directory / "environment").exists)
    told = (installation.directory / "environment").read_text()
    assert '"OTHER": "here"' in told
    assert "NOTIFY_SOCKET" not in told
    assert "WATCHDOG" not in told


def test_reload(start: Start, manager: Manager, installation: Installation) -> None:
    """SIGHUP makes it say that it reloads, and then that it is ready, with what is so now."""
    process = start()
    manager.await_("READY")
    write_jobs(installation.config, "tick", "evry: 1h")
    process.send_signal(signal.SIGHUP)
    assert "unknown field 'evry'" in manager.await_("READY", 2)["STATUS"]
    write_jobs(installation.config, "environment", "every: 1h")
    process.send_signal(signal.SIGHUP)
    assert manager.await_("READY", 3)["STATUS"] == "1 job; telemetry is off (config/config.json)"
    steps = [name for message in manager.receive() for name in ("READY", "RELOADING") if name in message]
    assert steps == ["READY", "RELOADING", "READY", "RELOADING", "READY"]


def test_an_edit_changes_the_status(start: Start, manager: Manager, installation: Installation) -> None:
    """An edit that is noticed without a signal is seen in the status."""
    start()
    manager.await_("READY")
    write_jobs(installation.config, "tick", "evry: 1h")
    eventually(lambda: "unknown field 'evry'" in manager.receive()[-1].get("STATUS", ""))
    assert manager.receive()[-1]["STATUS"].startswith("the edited config is not used: config/jobs.yaml:4:5")


def test_stopping_is_said_at_once(start: Start, manager: Manager, installation: Installation) -> None:
    """At SIGTERM it says that it stops, and how long that may take, while a job is still running."""
    installation.write(telemetryShutdownTimeout="30s")
    process = start("slow")
    eventually((installation.directory / "running").exists)
    process.terminate()
    assert manager.await_("STOPPING")["EXTEND_TIMEOUT_USEC"] == watchdog(10 + 30 + 5)
    assert process.poll() is None
    (installation.directory / "enough").touch()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGTERM
    assert "STOPPING" in manager.receive()[-1]


# -- the watchdog ----------------------------------------------------------------------------------------------------


def test_it_beats_while_it_lives(start: Start, manager: Manager) -> None:
    """The beat comes twice in the watchdog's time, first after the host is ready; where nobody asks there is none."""
    process = start(words="every: 1h", WATCHDOG_USEC=watchdog())
    manager.await_("WATCHDOG", 2)
    assert "READY" in manager.receive()[0]
    begin = time.monotonic()
    manager.await_("WATCHDOG", len(manager.having("WATCHDOG")) + 3)
    assert time.monotonic() - begin > WATCHDOG / 2
    end(process)


def test_it_beats_for_nobody_else(start: Start, manager: Manager) -> None:
    """A watchdog for another process, or none, gets no beat."""
    start(WATCHDOG_USEC=watchdog(0.1), WATCHDOG_PID="1")
    manager.await_("READY")
    assert manager.beats_within(0.4) == 0


def test_a_stuck_scheduler_stops_the_beat(start: Start, manager: Manager, installation: Installation) -> None:
    """With the scheduler's thread held up the beat stops, although the process lives, answers and could send."""
    process = start("stick", WATCHDOG_USEC=watchdog())
    manager.await_("WATCHDOG", 2)
    (installation.directory / "block").touch()
    eventually((installation.directory / "blocked").exists)
    manager.beats_within(0.1)
    assert manager.beats_within(1.5 * WATCHDOG) == 0
    process.send_signal(signal.SIGHUP)
    manager.await_("READY", 2)
    assert process.poll() is None


def test_a_job_that_lets_nobody_else_run_stops_the_beat(
    start: Start, manager: Manager, installation: Installation
) -> None:
    """A job that holds up the whole interpreter stops the beat."""
    start("grab", "every: 700ms", WATCHDOG_USEC=watchdog())
    eventually((installation.directory / "blocked").exists)
    manager.beats_within(0.1)
    assert manager.beats_within(1.5 * WATCHDOG) == 0


def test_jobs_that_hang_do_not(start: Start, manager: Manager, installation: Installation) -> None:
    """Jobs that never end, as many as may run at once, leave the beat: long work would look the same."""
    start("hang", f"every: 50ms\n    max_instances: {MAX_THREADS * 2}", WATCHDOG_USEC=watchdog())
    eventually(lambda: len(list(installation.directory.glob("hung-*"))) == MAX_THREADS)
    manager.await_("WATCHDOG", len(manager.having("WATCHDOG")) + 3)

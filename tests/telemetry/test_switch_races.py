"""The switch goes off at every stage of a delivery, and around a frozen process: no body begins later than 2 s."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat_jobs.delivery import Delivery
from sending import INSTANCE_ID, Application
from tls import make_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

pytestmark = pytest.mark.soak
STAGES = ("look-up", "connect", "handshake", "body", "answer")
MOMENTS = (0.05, 0.4, 0.9, 1.5)  # seconds after the delivery began
SLOW = 4.5  # seconds that a stage takes: a look only before it would send 3 s and more after the switch
PROMISE = 2.0


class SlowServer:
    """A server that is slow at one stage, and notes when the first byte of a body reached it."""

    def __init__(self, stage: str, certificate: Path) -> None:
        self.stage = stage
        self.bodies: list[float] = []
        self.reached = threading.Event()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0 if stage == "connect" else 8)
        self.port = self._listener.getsockname()[1]
        self._fillers: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def fill(self) -> None:
        """Fill the queue of connections, so that no more are answered."""
        for _ in range(4):
            self._fillers.append(socket.socket())
            self._fillers[-1].setblocking(False)
            self._fillers[-1].connect_ex(("127.0.0.1", self.port))

    def _rest(self, stage: str) -> None:
        if stage == self.stage:
            self.reached.set()
            time.sleep(SLOW)

    def _serve(self) -> None:
        if self.stage == "connect":
            time.sleep(SLOW)
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._converse, args=(self._listener.accept()[0],), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self.stage == "handshake":
                self._rest("handshake")
                connection = stack.enter_context(self._tls.wrap_socket(connection, server_side=True))
            head = b""
            while b"\r\n\r\n" not in head:
                head += self._heard(connection, 1)
            self._heard(connection, 1)
            self.bodies.append(time.monotonic())  # when it reached the socket, however late the rest is read
            self._rest("body")
            self._heard(connection, 65536)
            self._rest("answer")

    def _heard(self, connection: socket.socket, size: int) -> bytes:
        if not (data := connection.recv(size)):
            raise ConnectionError
        return data

    def close(self) -> None:
        """Take no more."""
        for one in (self._listener, *self._fillers):
            one.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look up ``127.0.0.2`` only after a while."""
    find = socket.getaddrinfo

    def slowly(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "127.0.0.2":
            time.sleep(SLOW)
        return find("127.0.0.1" if host == "127.0.0.2" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)


def deliver(
    directory: Path, server: SlowServer, moment: float, *, switch_off: bool = True
) -> tuple[float, Application]:
    """Return when the config file was written, ``moment`` seconds after the stage began."""
    directory.mkdir()
    application = Application(directory, state_dir=directory)
    scheme = "https" if server.stage == "handshake" else "http"
    name = "127.0.0.2" if server.stage == "look-up" else "127.0.0.1"
    url = f"{scheme}://{name}:{server.port}"
    application.write(telemetryApiKey="phc_test", telemetryHost=url, telemetryInstanceId=INSTANCE_ID)
    application.record(3)
    if server.stage == "connect":
        server.fill()
    threading.Thread(target=Delivery(application.context(), application.outbox).run, daemon=True).start()
    if server.stage in {"handshake", "body", "answer"}:
        assert server.reached.wait(20)
    time.sleep(moment)
    application.write(telemetryEnabled=not switch_off)
    return time.monotonic(), application


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("slow_names")
@pytest.mark.parametrize("stage", STAGES)
def test_off_at_each_stage_of_a_delivery(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """At four moments of each of five stages: whatever the server is slow at, no body begins later than 2 s after."""
    importlib.import_module("posthog.request")  # the stages are to be those of the connection
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    late: dict[float, float] = {}

    def one(moment: float) -> None:
        with contextlib.closing(SlowServer(stage, certificate)) as server:
            off, application = deliver(tmp_path / f"at-{moment}", server, moment)
            time.sleep(SLOW + PROMISE)
            late[moment] = max(server.bodies, default=float("-inf")) - off
            eventually(lambda: {one.state for one in application.ledger().values()} == {"suppressed"})

    cases = [threading.Thread(target=one, args=(moment,)) for moment in MOMENTS]
    for case in cases:
        case.start()
    for case in cases:
        case.join()
    print(stage, {moment: round(seconds, 2) for moment, seconds in sorted(late.items())})
    assert sorted(late) == list(MOMENTS)
    assert max(late.values()) < PROMISE


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("slow_names")
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_passed_where_it_stays_on(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The same server, without the switch, gets the body: late where it is slow before it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with contextlib.closing(SlowServer(stage, certificate)) as server:
        began, _ = deliver(tmp_path / "on", server, 0.05, switch_off=False)
        eventually(lambda: server.bodies)
        is_early = stage in {"body", "answer"}
        assert (server.bodies[0] - began < PROMISE) is is_early


HOST = """
    import signal, threading
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", config_dir="config")
    scheduler.start()
    threading.Event().wait()
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("round_", range(5))
def test_four_processes_one_frozen_around_the_switch(
    installation: Installation, receiver: PostHogServer, round_: int
) -> None:
    """Frozen before the switch and woken long after it, none of the four sends a thing: not then, not at the end."""
    installation.write(telemetryHeartbeatInterval="200ms")
    processes = [installation.script(HOST) for _ in range(4)]
    receiver.wait_for(lambda server: server.names().count("heartbeat") >= 3, timeout=30)
    frozen = processes[round_ % 4]
    time.sleep(0.05 * round_)
    os.kill(frozen.pid, signal.SIGSTOP)
    assert installation.run("setconfig", "telemetryEnabled", "false", "--config", "config")[0] == 0
    time.sleep(PROMISE)
    before = len(receiver.events)
    os.kill(frozen.pid, signal.SIGCONT)
    time.sleep(PROMISE)
    for process in processes:
        process.terminate()
    for process in processes:
        process.communicate(timeout=30)
    print("after the switch:", len(receiver.events) - before)
    assert len(receiver.events) == before

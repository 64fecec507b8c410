"""Each way of turning telemetry off: nothing is attempted at all."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from hosts import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

# An audit hook sees every socket, look-up, file and process of the interpreter, whoever asks for it.
WATCHED_HOST = """
    import os, sys, threading

    attempted = []

    def watch(event, args):
        if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto",
                     "subprocess.Popen", "os.mkdir", "os.rename", "os.remove", "sqlite3.connect"):
            attempted.append((event, str(args)))
        elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            attempted.append((event, str(args)))

    start = threading.Thread.start  # audit events tell of threads only since Python 3.12

    def watched_start(thread):
        attempted.append(("thread", thread.name))
        start(thread)

    threading.Thread.start = watched_start
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    sys.addaudithook(watch)
    scheduler = BackgroundScheduler()
    handle = lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", signals=False{argument})
    scheduler.start()
    import time; time.sleep(1.2)
    handle.flush(1)
    scheduler.shutdown()
    attempted = [one for one in attempted if one[1] != "APScheduler"]
    print(attempted)
    print([name for name in ("posthog", "requests", "sqlite3") if name in sys.modules])
"""


def files(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, and what is in it."""
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


WAYS = {
    "config.json": {},
    "config.yaml": {},
    "overlay": {"LIFEBEAT_DEPLOYMENT": "quiet"},
    "TELEMETRY_ENABLED=false": {"TELEMETRY_ENABLED": "false"},
    "TELEMETRY_ENABLED=0": {"TELEMETRY_ENABLED": "0"},
    "TELEMETRY_ENABLED=No": {"TELEMETRY_ENABLED": "No"},
    "TELEMETRY_ENABLED=OFF": {"TELEMETRY_ENABLED": "OFF"},
    "telemetryEnabled=false": {"telemetryEnabled": "false"},
    "setconfig": {},
    "DO_NOT_TRACK=1": {"DO_NOT_TRACK": "1"},
    "CI=true": {"CI": "true", "LIFEBEAT_TEST_MODE": ""},
    "host argument": {},
}


SPELLINGS = {"TELEMETRY_ENABLED=0", "TELEMETRY_ENABLED=No", "TELEMETRY_ENABLED=OFF"}  # tests of the settings read them


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.soak] * (way in SPELLINGS)) for way in WAYS])
def test_off_means_nothing(installation: Installation, receiver: PostHogServer, way: str) -> None:
    """No connection, no look-up, no file, no thread and no SDK, however it was turned off."""
    argument = ""
    if way == "config.json":
        installation.write(telemetryEnabled=False)
    elif way == "config.yaml":
        (installation.config / "config.yaml").write_text("telemetryEnabled: no\n")
    elif way == "overlay":
        (installation.config / "deployments").mkdir()
        (installation.config / "deployments" / "quiet.yaml").write_text("telemetryEnabled: false\n")
    elif way == "setconfig":
        assert installation.run("setconfig", "telemetryEnabled", "false", "--config", "config")[0] == 0
    elif way == "host argument":
        argument = ", enabled=False"
    environ = {**WAYS[way], "PYTHONDONTWRITEBYTECODE": "1"}
    code = WATCHED_HOST.replace("{argument}", argument)
    (installation.directory / "host_0.py").touch()
    before = {name for name in files(installation.directory) if not name.endswith(".py")}
    process = installation.script(code, **environ)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines() == ["[]", "[]"]
    assert receiver.connections == 0
    after = {name for name in files(installation.directory) if not name.endswith(".py")}
    assert after == before


def test_the_watch_sees_what_there_is_to_see(installation: Installation, receiver: PostHogServer) -> None:
    """The same host with telemetry on makes the watch report connections, files and threads."""
    process = installation.script(WATCHED_HOST.replace("{argument}", ""), PYTHONDONTWRITEBYTECODE="1")
    out, _ = process.communicate(timeout=20)
    seen = out.splitlines()[-2]
    assert all(word in seen for word in ("socket.connect", "'open'", "sqlite3.connect", "thread"))
    assert receiver.connections > 0


def test_setconfig_reaches_a_running_process(installation: Installation, receiver: PostHogServer) -> None:
    """Turned off while running, nothing more leaves, the end included; turned on again the heartbeat resumes."""
    installation.write(telemetryHeartbeatInterval="500ms")
    process = installation.lifebeat("run", "--config", "config")
    receiver.wait_for(2)
    assert installation.run("setconfig", "telemetryEnabled", "false", "--config", "config")[0] == 0
    silent_from = len(receiver.events)
    import time

    time.sleep(2.5)  # five heartbeats' time in which nothing may come
    assert len(receiver.events) <= silent_from + 1  # one may have been on its way
    silent_from = len(receiver.events)
    assert installation.run("setconfig", "telemetryEnabled", "true", "--config", "config")[0] == 0
    receiver.wait_for(lambda server: len(server.events) >= silent_from + 2)
    assert set(receiver.names()[silent_from:]) == {"heartbeat"}
    installation.run("setconfig", "telemetryEnabled", "false", "--config", "config")
    count = len(receiver.events)
    process.terminate()
    process.communicate(timeout=20)
    assert "shutdown" not in receiver.names()
    assert len(receiver.events) <= count + 1


def test_what_waits_is_not_sent_later(installation: Installation, receiver: PostHogServer) -> None:
    """Events that wait when telemetry is turned off are never sent, not even after it is turned on again."""
    receiver.refuse()
    installation.write(telemetryHeartbeatInterval="300ms")
    process = installation.lifebeat("run", "--config", "config")
    eventually(lambda: "startup" in installation.run("log", "--config", "config")[1])
    process.kill()
    process.communicate()
    installation.write(telemetryEnabled=False, telemetryHeartbeatInterval="24h")
    off = installation.lifebeat("run", "--config", "config")
    eventually(lambda: "waiting" not in installation.run("log", "--config", "config")[1])
    off.terminate()
    off.communicate(timeout=20)
    receiver.accept_again()
    installation.write(telemetryEnabled=True)
    code, out, _ = installation.run("flush", "--config", "config")
    assert (code, out) == (0, "0 delivered, 0 waiting\n")
    assert receiver.events == []
    states = {one["state"] for one in json.loads(installation.run("log", "--json", "--config", "config")[1])}
    assert states == {"suppressed"}


def test_environment_is_clean() -> None:
    """These tests themselves run where telemetry would be off: in a test run."""
    assert "PYTEST_CURRENT_TEST" in os.environ

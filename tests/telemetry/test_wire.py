"""What goes over the wire, compared as a whole."""

from __future__ import annotations

import contextlib
import gzip
import json
import platform
import re
import socket
import sys
import textwrap
import threading
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat.version import __version__
from lifebeat_jobs import events

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer

HOST = """
    import os, posthog, time
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    if "HOST_USES_POSTHOG" in os.environ:
        posthog.api_key = posthog.project_api_key = "phc_the_hosts_own"
        posthog.host = os.environ["HOST_USES_POSTHOG"]
        if hasattr(posthog, "new_context"):
            context = posthog.new_context()
            context.__enter__()
            if hasattr(posthog, "identify_context"):
                posthog.identify_context("ada@example.com")
            posthog.tag("email", "ada@example.com")
    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", release_version="2027.1")
    scheduler.start()
    time.sleep(2)
    scheduler.shutdown()
"""
COMMON = {
    "os_platform": sys.platform,
    "os_release": re.match(r"[\d.]*\d", platform.release()).group(),  # type: ignore[union-attr]
    "python_version": platform.python_version(),
    "app_version": "1.4.2",
    "release": "2027.1",
    "$lib": "lifebeat",
    "$lib_version": __version__,
    "$geoip_disable": True,
    "$process_person_profile": False,
    "$ip": "0.0.0.0",
    "$ignore_sent_at": True,
}
MORE: dict[str, dict[str, Any]] = {
    "startup": {},
    "heartbeat": {"uptime_hours": 0, "uptime_days": 0},
    "shutdown": {"total_runtime_hours": 0, "total_runtime_days": 0},
}


@pytest.mark.parametrize("host_uses_posthog", [False, True])
def test_nothing_else_leaves(installation: Installation, receiver: PostHogServer, *, host_uses_posthog: bool) -> None:
    """Events, headers and bodies are exactly the declared ones, whatever the host and ~/.netrc hold."""
    installation.write(telemetryHeartbeatInterval="300ms")
    (installation.directory / ".netrc").write_text("default login ada password secret\n")
    (installation.directory / ".netrc").chmod(0o600)
    more = {"HOST_USES_POSTHOG": receiver.url} if host_uses_posthog else {}
    process = installation.script(HOST, POSTHOG_RELEASE_ID="rel-1", **more)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err

    instance_id = json.loads((installation.config / "config.json").read_text())["telemetryInstanceId"]
    assert uuid.UUID(instance_id).version == 4
    assert set(receiver.names()) == set(MORE)
    for request in receiver.requests:
        _check_request(request, receiver)
    for event in receiver.events:
        _check_event(event, instance_id)


def _check_request(request: Any, receiver: PostHogServer) -> None:
    assert (request.method, request.path) == ("POST", "/batch/")
    assert dict(request.headers) == {
        "Host": receiver.url.removeprefix("http://"),
        **events.HEADERS,
        "Content-Length": str(len(request.raw)),
    }
    body = request.json()
    assert datetime.fromisoformat(body.pop("sent_at")).utcoffset() == timedelta(0)
    assert set(body) == {"api_key", "batch"}
    assert body["api_key"] == "phc_test"


def _check_event(event: dict[str, Any], instance_id: str) -> None:
    event_id, timestamp = event.pop("uuid"), event.pop("timestamp")
    assert uuid.UUID(event_id).version == 7
    assert uuid.UUID(event_id).int >> 80 == round(datetime.fromisoformat(timestamp).timestamp() * 1000)
    assert event == {
        "event": event["event"],
        "distinct_id": instance_id,
        "properties": {"instance_id": instance_id, **COMMON, **MORE[event["event"]]},
    }


class PlainSocket:
    """A server that keeps every byte and answers as PostHog does."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.requests.append(self._read(connection))
                    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}')

    def _read(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < int(
            data.partition(b"Content-Length: ")[2].split()[0]
        ):
            data += connection.recv(65536)
        return data

    def close(self) -> None:
        """Take no more."""
        self._listener.close()


def test_every_byte_at_a_plain_socket(installation: Installation) -> None:
    """Head and body of each request of a life are the declared ones, to the byte, whatever the process holds."""
    server = PlainSocket()
    with contextlib.closing(server):
        installation.write(telemetryHeartbeatInterval="300ms", telemetryHost=f"http://{server.address}")
        canary = "canary-atlas"
        process = installation.script(
            f"import posthog.request; posthog.request.USER_AGENT = {canary!r}\n" + textwrap.dedent(HOST),
            **dict.fromkeys(("USER_AGENT", "POSTHOG_RELEASE_ID", "HTTP_USER_AGENT", "LOGNAME", "COMPUTERNAME"), canary),
        )
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    assert server.requests
    names: list[str] = []
    for request in server.requests:
        head, _, zipped = request.partition(b"\r\n\r\n")
        lines = [f"{name}: {value}" for name, value in events.HEADERS.items()]
        expected = ["POST /batch/ HTTP/1.1", f"Host: {server.address}", *lines, f"Content-Length: {len(zipped)}"]
        assert head.decode().split("\r\n") == expected
        text = gzip.decompress(zipped).decode()
        body = json.loads(text)
        assert text == events.envelope(body["batch"], "phc_test", datetime.fromisoformat(body["sent_at"]))
        for event in body["batch"]:
            names.append(event["event"])
            _check_event(event, event["distinct_id"])
    assert set(names) == set(MORE)


def test_preview_is_what_is_sent(installation: Installation, receiver: PostHogServer) -> None:
    """``lifebeat preview`` shows the properties that go over the wire, and makes no connection."""
    code, out, err = installation.run("preview", "--json", "--config", "config", "--set", "appVersion=1.4.2")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert [one["event"] for one in shown] == list(MORE)
    for one in shown:
        assert set(one["properties"]) == {"instance_id", *COMMON, *MORE[one["event"]]}
    assert receiver.connections == 0
    assert [path.name for path in installation.config.iterdir()] == ["config.json"]


def test_redirects_are_not_followed(installation: Installation, receiver: PostHogServer) -> None:
    """A server that redirects does not get the events sent elsewhere."""
    from lifebeat.testing import PostHogServer as Elsewhere

    with Elsewhere() as elsewhere:
        receiver.answer(307, headers={"Location": f"{elsewhere.url}/batch/"})
        process = installation.script(HOST)
        process.communicate(timeout=20)
        assert receiver.requests
        assert elsewhere.connections == 0


@pytest.mark.soak
def test_a_poison_event_is_dropped_alone(installation: Installation, receiver: PostHogServer) -> None:
    """A batch that is rejected for one of its events is halved until that one stands alone; the rest is delivered."""
    receiver.refuse()
    installation.write(telemetryHeartbeatInterval="200ms")
    installation.script(HOST).communicate(timeout=20)
    poison = json.loads(installation.run("log", "--json", "--config", "config")[1])[1]["uuid"]
    receiver.reject_events(lambda event: event["uuid"] == poison)
    receiver.accept_again()
    code, out, _ = installation.run("flush", "--config", "config")
    entries = json.loads(installation.run("log", "--json", "--config", "config")[1])
    answers = [(one["event"], one["state"], one["answer"]) for one in entries]
    assert (code, {one["uuid"] for one in entries if one["state"] == "dropped"}) == (0, {poison}), (out, answers)
    assert {one["uuid"] for one in entries if one["state"] == "delivered"} == {one[0] for one in receiver.distinct()}
    assert len(entries) == len(receiver.events) + 1 > 4

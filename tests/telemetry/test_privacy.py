"""The guard at the door, and what is on the wire when everything around it holds something personal."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

from lifebeat.settings.table import KEYS
from lifebeat_jobs import events, privacy, telemetry
from lifebeat_jobs.privacy import Machine, leak_in, leak_in_body, leak_in_event
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

ATLAS = Machine(
    names=(
        ("the host name", "atlas.example.org"),
        ("the host name", "atlas"),
        ("the user name", "grace"),
        ("the home directory", "/srv/ghopper"),
    ),
    addresses=frozenset({"192.168.17.4", "fe80::1c2b:3a49:5867:7685", "fd00::2", "1c:2b:3a:49:58:67"}),
)
CAN_UNSHARE = sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("unshare") is not None


def body(**properties: Any) -> dict[str, Any]:
    """An event with properties in the place of a startup's own."""
    shared: dict[str, Any] = {"instance_id": INSTANCE_ID, "os_platform": "linux", "app_version": "1.4.2"}
    return {
        "event": "startup",
        "distinct_id": INSTANCE_ID,
        "uuid": "019ab0fe-8a3b-7cde-cafe-0123456789ab",
        "timestamp": "2026-11-23T12:30:15.123+00:00",
        "properties": {**shared, **properties, **events.PROTOCOL},
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1.4.2-atlas", "the host name"),
        ("1.4.2+ATLAS.example.org", "the host name"),
        ("built_on_atlas", "the host name"),
        ("grace", "the user name"),
        ("1.4.2.Grace", "the user name"),
        ("v/srv/ghopper/app", "the home directory"),
        ("ada@example.com", "an e-mail address"),
        ("root@localhost", "an e-mail address"),
        ("192.168.17.4", "an address of this machine"),
        ("v192.168.17.4-rc1", "an address of this machine"),
        ("fe80:0000:0000:0000:1c2b:3a49:5867:7685", "an address of this machine"),
        ("FD00::2", "an address of this machine"),
        ("1c:2b:3a:49:58:67", "a MAC address"),
        ("1C-2B-3A-49-58-67", "a MAC address"),
        ("1c2b3a495867", "a MAC address"),
        ("c232ab00-9414-11ec-b3c8-1c2b3a495867", "a MAC address"),
        ("02:42:ac:11:00:02", "a MAC address"),
        (["deep", {"down": ["atlas"]}], "the host name"),
    ],
)
def test_what_points_to_the_machine_or_a_person_is_found(value: object, reason: str) -> None:
    """Wherever in an event it is; the reason says what was found and does not repeat it."""
    found = leak_in(body(app_version=value), ATLAS)
    assert found == f"it holds {reason}"
    assert leak_in_body(json.dumps(body(app_version=value)), ATLAS) == found


def test_letters_that_json_escapes_are_seen() -> None:
    """A name with letters outside ASCII is found behind the escapes."""
    machine = Machine((("the host name", "büro-münchen"),), frozenset())
    assert leak_in_body(json.dumps(body(app_version="1.4.2-Büro-München")), machine) == "it holds the host name"


@pytest.mark.parametrize(
    "name",
    [
        *("linux", "root", "vm", "pi", "admin", "ubuntu", "localhost", "python", "server", "docker", "1234", "2026"),
        *("startup", "heartbeat", "shutdown", "instance_id", "instance", "version", "release", "uptime", "platform"),
        *("uuid", "timestamp", "event", "properties", "process", "person", "profile", "geoip", "ignore", "disable"),
        *("cafe", "019ab0fe", "8a3b", "0123456789ab", "lifebeat", "0.0.0.0", "dev12", "rc-1", "beta", "build7", "true"),
        *("/root", "/", "", "/home"),
    ],
)
def test_common_and_short_names_are_no_alarm(name: str) -> None:
    """A host or user of such a name can send; a name inside a UUID, a key or a longer word is nobody's."""
    machine = Machine((("the host name", name), ("the user name", name), ("the home directory", name)), frozenset())
    sent = body(uptime_hours=1234, app_version="1.4.2.dev12", release="3.0.0-rc-1.beta.build7", python_version="3.14")
    assert leak_in(sent, machine) is None


@pytest.mark.parametrize("version", ["2.192.168.17.4", "192.168.17.40", "192.168.17.4.1", "1.4.2", "10.0.0.1"])
def test_versions_are_no_addresses(version: str) -> None:
    """A version of four numbers is an alarm only if it is this machine's very address."""
    assert leak_in(body(app_version=version), ATLAS) is None


@pytest.mark.parametrize(
    "changed",
    [{"api_key": "phc_x"}, {"$set": {"email": "x"}}, {"properties": {**body()["properties"], "hostname": "x"}}],
)
def test_undeclared_keys_are_refused(changed: dict[str, Any]) -> None:
    """A key that the event does not declare is named, at whatever level it is."""
    refused = leak_in_event(json.dumps({**body(), **changed}), ATLAS)
    assert refused in {f"it holds undeclared keys: {name}" for name in ("api_key", "$set", "hostname")}


def test_a_damaged_body_does_not_leave() -> None:
    """What cannot be looked at is not sent."""
    assert leak_in_body('{"event": "sta', ATLAS) == "it is damaged"


def test_this_machine() -> None:
    """The guard knows this machine's names and addresses, and no loopback address."""
    machine = privacy.this_machine()
    assert ("the host name", socket.gethostname()) in machine.names
    assert {what for what, _ in machine.names} == {"the host name", "the user name", "the home directory"}
    assert not machine.addresses & {"", "127.0.0.1", "::1", "00:00:00:00:00:00", "0.0.0.0"}


@pytest.mark.skipif(not CAN_UNSHARE, reason="needs root on Linux, and unshare, for addresses of its own")
def test_addresses_are_found() -> None:
    """An address that an interface was given is known."""
    code = """
import fcntl, socket, struct
from lifebeat_jobs import privacy
def ask(name, request, payload):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, struct.pack("16s16s", name, payload))
ask(b"lo:1", 0x8916, struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton("10.123.45.67")))  # SIOCSIFADDR
ask(b"lo", 0x8914, struct.pack("H", 0x41))  # SIOCSIFFLAGS: up and running
print(sorted(privacy.this_machine().addresses))
"""
    done = subprocess.run(["unshare", "--net", sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'10.123.45.67'" in done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved(events.Event):
    """An event that a careless host has declared."""

    name: ClassVar[str] = "moved"

    to: Literal["elsewhere", "ada@example.com"]


def test_what_the_guard_refuses_is_in_the_ledger(
    tmp_path: Path, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is suppressed with the reason, said in the log without the value, and never sent; others are."""
    application = Application(tmp_path, state_dir=tmp_path)
    application.write(telemetryApiKey="phc_test", telemetryHost=receiver.url)
    assert telemetry.record(application.context(), Moved, to="ada@example.com") is False
    assert telemetry.record(application.context(), Moved, to="elsewhere") is True
    suppressed, delivered = application.ledger().values()
    assert (suppressed.state, suppressed.answer) == ("suppressed", "it holds an e-mail address")
    assert delivered.state == "delivered"
    assert [event["properties"]["to"] for event in receiver.events] == ["elsewhere"]
    assert "the event moved was not let out: it holds an e-mail address" in caplog.text
    assert "ada@" not in caplog.text


def test_what_has_become_telling_since_is_not_sent(tmp_path: Path, receiver: PostHogServer) -> None:
    """The bytes are looked at again right before they leave: the machine may have another name by then."""
    from lifebeat_jobs.delivery import Delivery

    application = Application(tmp_path, state_dir=tmp_path)
    application.write(telemetryApiKey="phc_test", telemetryHost=receiver.url)
    application.record(2)
    application.outbox.record("019ab0fe-8a3b-7cde-8afe-0123456789ab", "startup", json.dumps(body(release="1-atlas")))
    Delivery(application.context(), application.outbox, machine=ATLAS).run()
    entries = list(application.ledger().values())
    assert [entry.state for entry in entries] == ["delivered", "delivered", "dropped"]
    assert entries[2].answer == "not sent: it holds the host name"
    assert len(receiver.events) == 2


HOST = """
    import os, socket, sys, time
    if "CANARY_HOST" in os.environ:
        socket.sethostname(os.environ["CANARY_HOST"])
    import posthog
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    canaries = os.environ["CANARIES"].split()
    secret, mail = canaries[0], canaries[1]
    posthog.api_key = posthog.project_api_key = secret
    posthog.host = posthog.personal_api_key = secret
    posthog.super_properties = {"secret": secret, "$set": {"email": mail}}
    if hasattr(posthog, "new_context"):
        posthog.new_context().__enter__()
        posthog.tag("email", mail)
        posthog.tag("secret", secret)
        if hasattr(posthog, "identify_context"):
            posthog.identify_context(mail)
        if hasattr(posthog, "set_context_session"):
            posthog.set_context_session(secret)
    scheduler = BackgroundScheduler()
    lifebeat.attach(
        scheduler, app_name=secret, app_version=f"1.4.2-{secret}", release_version=f"2027.1+{canaries[2]}.{mail}"
    )
    scheduler.start()
    time.sleep(1.2)
    scheduler.shutdown()
"""
SECRET, MAIL, HOST_NAME, USER = "c4n4ryS3cret", "canary@example.com", "canaryhost", "canaryuser"


@pytest.mark.parametrize("version", ["1.4.2", f"1.4.2-{SECRET}", SECRET, MAIL, f"1.0-{USER}", f"1.0.{HOST_NAME}"])
def test_canaries_stay_at_home(installation: Installation, receiver: PostHogServer, version: str) -> None:
    """A secret, an e-mail address, names and a home planted wherever they could be picked up never reach the wire."""
    home = installation.directory / "canaryhome"
    home.mkdir()
    (home / ".netrc").write_text(f"default login {USER} password {SECRET}\n")
    (home / ".netrc").chmod(0o600)
    (home / ".gitconfig").write_text(f"[user]\n\temail = {MAIL}\n")
    settings = {key.name: version for key in KEYS if key.name in {"appName", "appVersion", "releaseVersion"}}
    installation.write(
        **settings,
        telemetryHeartbeatInterval="200ms",
        telemetryStateDir=f"state-{SECRET}",
        adminUsername=USER,
        adminMail=MAIL,
        spotify={"clientSecret": SECRET},
        telemetryProperties={"secret": SECRET},
    )
    _run(installation, home, ["unshare", "--uts"] if CAN_UNSHARE else [], version)
    assert set(receiver.names()) == {"startup", "heartbeat", "shutdown"}
    for request in receiver.requests:
        _assert_clean(repr(request.headers) + request.path + request.body.decode())


def _run(installation: Installation, home: Path, isolation: list[str], version: str) -> None:
    planted = dict.fromkeys(("POSTHOG_API_KEY", "POSTHOG_RELEASE_ID", "POSTHOG_PERSONAL_API_KEY", "TOKEN"), SECRET)
    planted |= {"USER": USER, "LOGNAME": USER, "EMAIL": MAIL, "HOME": str(home), "HOSTNAME": HOST_NAME}
    planted |= {"APP_NAME": SECRET, "TELEMETRY_DISTINCT_ID": USER, "SENTRY_RELEASE": SECRET, "GIT_AUTHOR_EMAIL": MAIL}
    planted |= {"CANARY_HOST": HOST_NAME} if isolation else {}
    planted |= {"CANARIES": f"{SECRET} {MAIL} {HOST_NAME}", "RELEASE_VERSION": version}
    path = installation.directory / f"{USER}.py"
    path.write_text(textwrap.dedent(HOST))
    process = installation.start(*isolation, sys.executable, str(path), **planted)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (0, False), err


def _assert_clean(wire: str) -> None:
    said = wire.lower()
    for canary in (SECRET, MAIL, HOST_NAME, USER, "canary", socket.gethostname() + ".", "/root"):
        assert canary.lower() not in said
        for text in (canary, f"{USER}:{SECRET}"):
            data = text.encode()
            digests = [hashlib.new(name, data).hexdigest()[:12] for name in ("md5", "sha1", "sha256", "blake2b")]
            for disguise in (base64.b64encode(data).decode().rstrip("=").lower()[:-1], data.hex(), *digests):
                assert disguise not in said + re.sub(r"[-:]", "", said)


def test_a_long_text_is_no_burden() -> None:
    """What takes a host's property of a megabyte to look through grows with its length, not with its square."""
    start = time.process_time()
    assert leak_in({"properties": {"noise": "0123456789abcdef" * (1 << 16)}}, ATLAS) is None
    assert time.process_time() - start < 2.0

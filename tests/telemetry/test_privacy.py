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

from hosts import DEADLINE, eventually
from lifebeat.settings.table import KEYS
from lifebeat_jobs import events, privacy, telemetry
from lifebeat_jobs.events import Count, Event, Version
from lifebeat_jobs.privacy import Machine, leak_in, why_withheld
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
FORMS = {kind.name: [events.form_of(kind), events.without_id(events.form_of(kind))] for kind in events.CATALOGUE}
CAN_UNSHARE = sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("unshare") is not None


def body(**properties: Any) -> dict[str, Any]:
    """An event with properties in the place of a startup's own."""
    shared: dict[str, Any] = {"instance_id": INSTANCE_ID, "os_platform": "linux", "os_release": "6.8.0"}
    shared |= {"python_version": "3.12.1", "app_version": "1.4.2", "release": "2027.1"}
    return {
        "event": "startup",
        "distinct_id": INSTANCE_ID,
        "uuid": "019ab0b1-8453-7cde-8afe-0123456789ab",
        "timestamp": "2025-11-23T12:30:15.123+00:00",
        "properties": {**shared, **events.PROTOCOL, **properties},
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
    ],
)
def test_what_points_to_the_machine_or_a_person_is_found(value: str, reason: str) -> None:
    """The reason says what was found and does not repeat it."""
    assert leak_in(["1.4.2", value], ATLAS) == f"it holds {reason}"


def test_names_outside_ascii_are_found() -> None:
    """A name with letters outside ASCII is found as well."""
    machine = Machine((("the host name", "büro-münchen"),), frozenset())
    assert leak_in(["1.4.2-Büro-München"], machine) == "it holds the host name"


@pytest.mark.parametrize(
    "name",
    [
        *("linux", "root", "vm", "pi", "admin", "ubuntu", "localhost", "python", "server", "docker", "1234", "2026"),
        *("startup", "heartbeat", "shutdown", "instance_id", "instance", "version", "release", "uptime", "platform"),
        *("uuid", "timestamp", "event", "properties", "process", "person", "profile", "geoip", "ignore", "disable"),
        *("cafe", "019ab0fe", "8a3b", "0123456789ab", "lifebeat", "0.0.0.0", "dev12", "rc-1", "beta", "build7", "true"),
        *("postgres", "batch", "darwin", "/root", "/", "", "/home"),
    ],
)
def test_names_that_others_have_are_no_alarm(name: str) -> None:
    """A host or user of such a name can send every shipped event; so can one called like a key or a platform."""
    machine = Machine((("the host name", name), ("the user name", name), ("the home directory", name)), frozenset())
    sent = body(
        app_version="1.4.2.dev12", release="3.0.0-rc-1.beta.build7", python_version="3.14", os_platform="darwin"
    )
    assert why_withheld(json.dumps(sent), FORMS, machine) is None


@pytest.mark.parametrize("version", ["2.192.168.17.4", "192.168.17.40", "192.168.17.4.1", "1.4.2", "10.0.0.1"])
def test_versions_are_no_addresses(version: str) -> None:
    """A version of four numbers is an alarm only if it is this machine's very address."""
    assert leak_in([version], ATLAS) is None


# -- an event has its declared form ------------------------------------------------------------------------------------


def properties(**changed: Any) -> dict[str, Any]:
    """Return the properties of a startup with something changed, in its place."""
    return {"properties": {**body()["properties"], **changed}}


def without(*names: str) -> dict[str, Any]:
    """Return the properties of a startup without some."""
    return {"properties": {name: value for name, value in body()["properties"].items() if name not in names}}


def test_a_declared_event_may_leave() -> None:
    """What the project's own code makes is of a declared form."""
    assert why_withheld(json.dumps(body()), FORMS, ATLAS) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"api_key": "phc_x"},
        {"$set": {"email": "x"}},
        properties(hostname="x"),
        properties(**{"$set": {"email": "x"}}),
        properties(**{"$ip": "192.0.2.7"}),
        properties(**{"$geoip_disable": 1}),
        properties(**{"$lib": "atlas"}),
        properties(**{"$lib_version": "atlas"}),
        properties(app_version=["1.4.2"]),
        properties(app_version="atlas and more"),
        properties(os_platform="atlas"),
        properties(instance_id="6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e53"),
        properties(instance_id=None),
        properties(age="2-4"),
        without("release"),
        without("$ip"),
        without("$process_person_profile"),
        {"properties": []},
        {"properties": None},
        {"event": "Startup"},
        {"event": "heartbeat"},
        {"event": ["startup"]},
        {"event": None},
        {"distinct_id": "atlas"},
        {"distinct_id": 7},
        {"uuid": "019ab0b1-8450-7cde-8afe-0123456789ab"},
        {"uuid": "c232ab00-9414-11ec-b3c8-1c2b3a495867"},
        {"uuid": None},
        {"timestamp": "2025-11-23T12:30:15.124+00:00"},
        {"timestamp": "2025-11-23T12:30:15.123+00:00 atlas"},
        {"timestamp": "2025-11-23T13:30:15.123+01:00"},
        {"timestamp": "2025-99-23T12:30:15.123+00:00"},
        {"timestamp": 1},
    ],
)
def test_what_is_not_of_a_declared_form_does_not_leave(changed: dict[str, Any]) -> None:
    """Name, keys, types, values, uuid and timestamp: whatever is otherwise, the event stays."""
    reason = why_withheld(json.dumps({**body(), **changed}), FORMS, ATLAS)
    assert reason is not None
    assert not any(word in reason for word in ("atlas", "phc_x", "192.0.2.7"))


@pytest.mark.parametrize("text", ['{"event": "sta', "[]", "null", '"startup"', "1", "{}", ""])
def test_a_damaged_body_does_not_leave(text: str) -> None:
    """What is no event is not sent."""
    assert why_withheld(text, FORMS, ATLAS) is not None


def test_an_earlier_lifebeat_s_event_may_leave() -> None:
    """After an upgrade what the earlier version has recorded still goes out."""
    assert why_withheld(json.dumps(body(**{"$lib_version": "0.0.1"})), FORMS, ATLAS) is None


def test_the_age_stands_in_the_place_of_the_id() -> None:
    """Where no ID is sent, an event has the age, and a distinct_id of its own."""
    sent = without("instance_id")["properties"]
    assert why_withheld(json.dumps({**body(), "properties": {**sent, "age": "25+"}}), FORMS, ATLAS) is None
    assert why_withheld(json.dumps({**body(), "properties": {**sent, "age": "26"}}), FORMS, ATLAS) is not None


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
class Moved(Event):
    """An event that a host has declared, with a user's name among its words."""

    name: ClassVar[str] = "moved"

    to: Literal["elsewhere", "grace", "atlas"]
    schema: Version


@pytest.fixture
def application(tmp_path: Path, receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> Application:
    """An installation on a machine that is called atlas."""
    monkeypatch.setattr(privacy, "this_machine", lambda: ATLAS)
    made = Application(tmp_path, state_dir=tmp_path)
    made.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryInstanceId=INSTANCE_ID)
    return made


def test_a_word_of_a_closed_list_is_no_alarm(application: Application, receiver: PostHogServer) -> None:
    """A word that the application's own code has is not the machine's, though it is called the same."""
    assert telemetry.record(application.context(), Moved, to="atlas", schema="v2") is True
    assert telemetry.record(application.context(), Moved, to="grace", schema="v2") is True
    assert [event["properties"]["to"] for event in receiver.events] == ["atlas", "grace"]


def test_what_the_guard_refuses_is_in_the_ledger(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is suppressed with the reason, said in the log without the value, and never sent; others are."""
    assert telemetry.record(application.context(), Moved, to="elsewhere", schema="192.168.17.4") is False
    assert telemetry.record(application.context(), Moved, to="elsewhere", schema="v2") is True
    suppressed, delivered = application.ledger().values()
    assert (suppressed.state, suppressed.answer) == ("suppressed", "it holds an address of this machine")
    assert delivered.state == "delivered"
    assert [event["properties"]["schema"] for event in receiver.events] == ["v2"]
    assert "the event moved was blocked by the privacy check: it holds an address of this machine" in caplog.text
    assert "192.168" not in caplog.text


@pytest.mark.parametrize(
    ("name", "field"), [("imported_on_atlas", "rows"), ("grace_imported", "rows"), ("sent", "by_grace")]
)
def test_names_of_events_and_properties_are_looked_at(
    application: Application, receiver: PostHogServer, name: str, field: str
) -> None:
    """A name that was made up on this machine, with its name or the user's in it, does not leave."""
    annotations = {"__annotations__": {field: Count}, "name": name, "__module__": __name__}
    kind = dataclass(frozen=True, kw_only=True)(type(name.title().replace("_", "") + field, (Event,), annotations))
    try:
        assert telemetry.record(application.context(), kind, **{field: 1}) is False
    finally:
        events.registry.pop(name)
    assert receiver.connections == 0


@pytest.mark.parametrize(
    ("release", "sent"), [("atlas-v1.4.2", "v1.4.2"), ("192.168.17.4", "unknown"), ("release-1.4.2", "release-1.4.2")]
)
def test_a_release_that_names_the_machine_loses_no_event(
    application: Application, receiver: PostHogServer, release: str, sent: str
) -> None:
    """A container that is called like its application, or a version like its address, costs the word, not the event."""
    application.write(appName="atlas", releaseVersion=release)
    telemetry.startup(application.context())
    assert [event["properties"]["release"] for event in receiver.events] == [sent]


def test_what_has_become_telling_since_is_not_sent(application: Application, receiver: PostHogServer) -> None:
    """The events are looked at again right before they leave: the machine may have another name by then."""
    from lifebeat_jobs.delivery import Delivery

    application.record(2)
    telling = body(release="2027.1-rc.1")
    application.outbox.record(telling["uuid"], "startup", json.dumps({**telling, **properties(release="192.168.17.4")}))
    Delivery(application.context(), application.outbox, machine=ATLAS).run()
    entries = list(application.ledger().values())
    assert [entry.state for entry in entries] == ["delivered", "delivered", "dropped"]
    assert entries[2].answer == "not sent: it holds an address of this machine"
    assert len(receiver.events) == 2


def test_what_somebody_else_wrote_is_not_sent(application: Application, receiver: PostHogServer) -> None:
    """A body that was replaced on the disk is dropped; the form that another process declared is known."""
    from lifebeat_jobs import agreement

    assert telemetry.record(application.context(), Moved, to="elsewhere", schema="v2") is True
    outbox = application.outbox
    kind = events.registry.pop("moved")  # as in a process that has not declared it
    try:
        forms = agreement.known_forms(outbox)
        (sent,) = receiver.events
        assert why_withheld(json.dumps(sent), forms, ATLAS) is None
        sent["properties"]["to"] = "a text"
        assert why_withheld(json.dumps(sent), forms, ATLAS) == "its properties are not the declared ones"
    finally:
        events.registry["moved"] = kind


def test_notes_that_somebody_else_wrote_add_nothing_to_a_shipped_event(application: Application) -> None:
    """A form in the notes can make a shipped event smaller, and nothing else."""
    from lifebeat_jobs import agreement, rules

    words = {"to": rules.Rule("words", words=("anything",))}
    wider = {"startup": [rules.as_data({**events.form_of(events.Startup), **words})]}
    application.outbox.set_note("forms", json.dumps(wider))
    forms = agreement.known_forms(application.outbox)
    assert why_withheld(json.dumps(body(to="anything")), forms, ATLAS) is not None


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
    import posthog.request
    posthog.request.USER_AGENT = secret
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
    while not os.path.exists("stop"):
        time.sleep(0.02)
    scheduler.shutdown()
"""
SECRET, MAIL, HOST_NAME, USER = "c4n4ryS3cret", "canary@example.com", "canaryhost", "canaryuser"


@pytest.mark.parametrize(
    "version",
    [
        f"1.4.2-{SECRET}",
        *(
            pytest.param(one, marks=pytest.mark.soak)
            for one in (f"1.0.{HOST_NAME}", "1.4.2", SECRET, MAIL, f"1.0-{USER}")
        ),
    ],
)
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
    eventually(lambda: "heartbeat" in installation.receiver.names())
    (installation.directory / "stop").touch()
    _, err = process.communicate(timeout=DEADLINE)
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
    """What a text of a megabyte takes to look through grows with its length, not with its square."""
    start = time.process_time()
    assert leak_in(["0123456789abcdef" * (1 << 16)], ATLAS) is None
    assert time.process_time() - start < 2.0

"""What an installation has agreed to: an upgrade that wants more sends the agreed part only, until somebody accepts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from lifebeat_jobs import description, events, telemetry
from lifebeat_jobs.events import Count, Event
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifebeat.testing import PostHogServer


@pytest.fixture
def application(tmp_path: Path, receiver: PostHogServer) -> Iterator[Application]:
    """An installation that has agreed to what version 1.0 sends, and nothing declared that other tests declare."""
    others = dict(events.registry)
    events.registry.clear()
    made = Application(tmp_path, state_dir=tmp_path)
    made.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryInstanceId=INSTANCE_ID)
    made.write(appVersion="1.0")
    telemetry.startup(made.context())
    yield made
    events.registry.clear()
    events.registry.update(others)


def add_a_property(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the heartbeat say one thing more, as a later version would."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Heartbeat(Event):
        name: ClassVar[str] = "heartbeat"

        uptime_hours: Count
        uptime_days: Count
        uptime_weeks: Count = 0

    monkeypatch.setattr(events, "Heartbeat", Heartbeat)
    monkeypatch.setattr(events, "CATALOGUE", (events.Startup, Heartbeat, events.Shutdown))


def imported() -> type[Event]:
    """Declare an event, as a later version would."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Imported(Event):
        name: ClassVar[str] = "imported"

        rows: Count

    return Imported


def heartbeats(receiver: PostHogServer) -> list[set[str]]:
    """Return which properties the heartbeats had that arrived."""
    return [set(event["properties"]) for event in receiver.events if event["event"] == "heartbeat"]


def test_an_upgrade_sends_what_was_agreed_to(
    application: Application,
    receiver: PostHogServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A property and an event that a later version adds wait for ``accept``; one line says so, with the command."""
    telemetry.heartbeat(application.context())
    caplog.clear()
    application.write(appVersion="2.0")
    add_a_property(monkeypatch)
    kind = imported()
    for _ in range(2):
        application.clock.advance(86400)
        telemetry.heartbeat(application.context())
        assert telemetry.record(application.context(), kind, rows=1) is False
    before, *after = heartbeats(receiver)
    assert after == [before, before]
    assert "imported" not in receiver.names()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "heartbeat.uptime_weeks" in lines[0]
    assert description.command(application.context(), "accept") in lines[0]
    assert "heartbeat.uptime_weeks" in telemetry.status(application.context())["unaccepted"]
    assert set(json.loads(telemetry.preview(application.context(), "heartbeat")[0])["properties"]) == before
    assert telemetry.preview(application.context(), "imported") == []

    accepted = telemetry.accept(application.context())
    assert {"heartbeat.uptime_weeks", "imported.rows"} <= set(accepted)
    application.clock.advance(86400)
    telemetry.heartbeat(application.context())
    assert telemetry.record(application.context(), kind, rows=1) is True
    assert heartbeats(receiver)[-1] == before | {"uptime_weeks"}
    assert "imported" in receiver.names()
    assert telemetry.status(application.context())["unaccepted"] == []


def test_what_waited_over_the_upgrade_and_the_accept_still_leaves(
    application: Application, receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events keep the form in which they were recorded, before the upgrade and before the accept."""
    receiver.refuse()
    telemetry.heartbeat(application.context())
    application.write(appVersion="2.0")
    add_a_property(monkeypatch)
    application.clock.advance(86400)
    telemetry.heartbeat(application.context())
    telemetry.accept(application.context())
    receiver.accept_again()
    telemetry.flush(application.context(), None)
    assert len(heartbeats(receiver)) == 2
    assert {entry.state for entry in application.ledger().values()} == {"delivered"}


def test_the_command_accepts_what_only_the_application_declares(application: Application) -> None:
    """What the running application has wanted to send is known to a process that has not declared it."""
    application.write(appVersion="2.0")
    telemetry.record(application.context(), imported(), rows=1)
    events.registry.pop("imported")
    assert "imported.rows" in telemetry.status(application.context())["unaccepted"]
    assert "imported.rows" in telemetry.accept(application.context())


def test_the_same_version_declares_late(application: Application, receiver: PostHogServer) -> None:
    """A host's event that is declared only when its module is first used belongs to the version that was agreed to."""
    assert telemetry.record(application.context(), imported(), rows=1) is True
    assert "imported" in receiver.names()
    assert telemetry.status(application.context())["unaccepted"] == []


def test_send_asks_nothing(application: Application, receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``telemetryNewFields: send`` what is new is sent."""
    application.write(appVersion="2.0", telemetryNewFields="send")
    add_a_property(monkeypatch)
    telemetry.heartbeat(application.context())
    assert "uptime_weeks" in heartbeats(receiver)[-1]


def test_an_upgrade_that_wants_nothing_more_says_nothing(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Another version of the same events is as before."""
    caplog.clear()
    application.write(appVersion="2.0")
    telemetry.heartbeat(application.context())
    assert (len(heartbeats(receiver)), caplog.records) == (1, [])


def test_what_was_recorded_without_the_list_is_trimmed_before_it_leaves(
    application: Application, receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the list could not be read as an event was made, what was not agreed to is taken off before it leaves."""
    application.write(appVersion="2.0")
    add_a_property(monkeypatch)
    receiver.refuse()
    shared, now = events.surroundings(application.settings(), INSTANCE_ID), application.context().instant
    kind: Any = imported()
    new: Any = events.Heartbeat
    for event in (new(**shared, uptime_hours=1, uptime_days=0, uptime_weeks=0), kind(**shared, rows=1)):
        body = events.serialize(event, now, events.uuid7(now))
        application.outbox.record(body["uuid"], body["event"], json.dumps(body))
    receiver.accept_again()
    telemetry.flush(application.context(), None)
    assert receiver.names() == ["startup", "heartbeat"]
    assert "uptime_weeks" not in heartbeats(receiver)[0]
    dropped = [entry.answer for entry in application.ledger().values() if entry.state == "dropped"]
    assert dropped == ["not sent: the installation has not agreed to this event"]


def test_looking_changes_nothing(application: Application) -> None:
    """Status and preview of an upgrade that wants more leave every byte of the state as it is."""

    def state() -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in application.directory.iterdir()}

    application.write(appVersion="2.0")
    imported()
    before = state()
    telemetry.status(application.context())
    telemetry.preview(application.context())
    telemetry.describe(application.context())
    assert state() == before

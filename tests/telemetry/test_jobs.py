"""What the three jobs record: lengths by boot time, heartbeats that merge, the notice, and whose ID it is."""

from __future__ import annotations

import sys
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pytest

from lifebeat_jobs import events, identity, telemetry
from lifebeat_jobs.delivery import AFTER_BOOT, Delivery, next_attempt
from lifebeat_jobs.events import Count, Event
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.testing import PostHogServer

WEEK = 7 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidied(Event):
    """Things were tidied up."""

    name: ClassVar[str] = "test_jobs_tidied"

    what: Literal["desk", "shelf"]
    things: Count


@pytest.fixture
def application(tmp_path: Path, receiver: PostHogServer) -> Application:
    """An installation whose telemetry goes to ``receiver``."""
    return make(tmp_path, receiver)


DAY = 86400


def make(directory: Path, receiver: PostHogServer) -> Application:
    """Return an installation with the tests' instance ID."""
    directory.mkdir(exist_ok=True)
    made = Application(directory, state_dir=directory)
    made.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryInstanceId=INSTANCE_ID, appName="notes")
    return made


# -- lengths and instants ----------------------------------------------------------------------------------------------


def test_uptime_is_by_boot_time(application: Application, receiver: PostHogServer) -> None:
    """What the context says counts, though the wall clock was set by years since the start."""
    context = replace(application.context(timeout=5), uptime=timedelta(hours=51))
    application.clock.jump(10 * 365 * 86400)
    telemetry.heartbeat(context)
    telemetry.shutdown(context)
    telemetry.leaving(context)
    heartbeat, shutdown = (event["properties"] for event in receiver.events)
    assert (heartbeat["uptime_hours"], heartbeat["uptime_days"]) == (51, 2)
    assert (shutdown["total_runtime_hours"], shutdown["total_runtime_days"]) == (51, 2)


def test_heartbeats_of_one_instant_are_one_event(tmp_path: Path, receiver: PostHogServer) -> None:
    """Three pods with one ID and no database tell the same instant alike, some seconds apart."""
    instant = make(tmp_path / "0", receiver).context().instant
    for number, late in enumerate((0.0, 2.5, 59.0)):
        pod = make(tmp_path / str(number), receiver)
        pod.clock.advance(late)
        telemetry.heartbeat(replace(pod.context(), instant=instant))
    keys = {(one["uuid"], one["timestamp"], one["event"], one["distinct_id"]) for one in receiver.events}
    assert (len(receiver.events), len(keys)) == (3, 1)
    ((event_id, timestamp, _, _),) = keys
    assert timestamp == events.timestamp(instant)
    assert uuid.UUID(event_id).int >> 80 == events.milliseconds(instant)


def test_heartbeats_of_two_instants_or_installations_are_two_events(tmp_path: Path, receiver: PostHogServer) -> None:
    """What merges is the instant of one installation, and nothing else."""
    first, second = make(tmp_path / "first", receiver), make(tmp_path / "second", receiver)
    telemetry.heartbeat(first.context())
    second.write(telemetryInstanceId=str(uuid.uuid4()))
    telemetry.heartbeat(second.context())
    first.clock.advance(86400)
    telemetry.heartbeat(first.context())
    assert len({one["uuid"] for one in receiver.events}) == 3


def test_a_heartbeat_that_is_made_up_for_has_its_own_moment(application: Application, receiver: PostHogServer) -> None:
    """Later than a minute after its instant it tells what is so now."""
    context = application.context()
    application.clock.advance(61)
    for _ in range(2):
        telemetry.heartbeat(replace(context, clock=application.clock))
    assert {one["timestamp"] for one in receiver.events} == {events.timestamp(context.instant + timedelta(seconds=61))}
    assert len({one["uuid"] for one in receiver.events}) == 2


# -- after a boot ------------------------------------------------------------------------------------------------------


def test_the_first_delivery_after_a_boot_waits_for_up_to_a_minute(
    application: Application, receiver: PostHogServer
) -> None:
    """The very first start of an installation is delivered at once, a restart too; one after a boot a little later."""
    telemetry.startup(application.context())
    telemetry.startup(application.context())
    assert (receiver.names(), application.scheduled) == (["startup"] * 2, {})
    application.clock.reboot(3600)
    telemetry.startup(application.context())
    assert len(receiver.events) == 2
    ((delay, work),) = application.scheduled.values()
    assert 1 <= delay.total_seconds() <= AFTER_BOOT
    assert next_attempt(application.context(), application.outbox) == application.clock.time() + delay.total_seconds()
    application.clock.advance(AFTER_BOOT)
    work()
    assert len(receiver.events) == 3


def test_a_stop_and_an_operator_do_not_wait_for_that(application: Application, receiver: PostHogServer) -> None:
    """A short life after a boot is delivered when it ends, and ``lifebeat flush`` delivers at once."""
    telemetry.startup(application.context())
    for deliver in (
        lambda: telemetry.flush(application.context(), None),
        lambda: telemetry.leaving(application.context()),
    ):
        application.clock.reboot(3600)
        Delivery(application.context(), application.outbox, draw=lambda: 1.0).run()
        telemetry.heartbeat(application.context())
        before = len(receiver.events)
        deliver()
        assert len(receiver.events) > before


# -- a clock that is not set yet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("online", [True, False])
@pytest.mark.parametrize("mode", [identity.INSTALLATION, identity.MONTHLY])
def test_an_event_of_an_unset_clock_gets_its_time_before_it_leaves(
    application: Application, receiver: PostHogServer, mode: str, *, online: bool
) -> None:
    """A board that boots in 1970 sends nothing until its clock is set; then with the time at which it happened."""
    application.write(telemetryIdentity=mode)
    right = application.clock.time()
    application.clock.jump(-right)
    telemetry.startup(application.context())
    application.clock.advance(90)
    assert receiver.connections == 0
    ((delay, work),) = application.scheduled.values()
    assert delay.total_seconds() >= 60
    application.clock.jump(right)
    if not online:
        receiver.answer(503, times=1)
    work()
    application.clock.advance(86400)
    telemetry.heartbeat(application.context())
    first = receiver.requests[0].json()["batch"][0]
    assert first["timestamp"] == events.timestamp(datetime.fromtimestamp(right, tz=UTC))
    assert uuid.UUID(first["uuid"]).int >> 80 == round(right * 1000)
    assert first == receiver.events[0]
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    assert receiver.names() == ["startup", "heartbeat"]


@pytest.mark.parametrize("was_ahead", [False, True])
def test_a_clock_that_is_earlier_than_before_the_boot_is_not_set(
    application: Application, receiver: PostHogServer, *, was_ahead: bool
) -> None:
    """A board that boots 60 days behind waits for its clock; where that was ahead before, for an hour at most."""
    clock = application.clock
    clock.advance(90 * DAY)
    clock.jump(60 * DAY * was_ahead)
    telemetry.startup(application.context())
    clock.jump(-60 * DAY * was_ahead)
    clock.reboot(300)
    clock.jump(-60 * DAY * (not was_ahead))
    happened = clock.time() + 60 * DAY * (not was_ahead)
    telemetry.startup(application.context())
    telemetry.leaving(application.context(timeout=5))
    assert receiver.names() == ["startup"]
    clock.advance(3600 if was_ahead else 90)
    clock.jump(60 * DAY * (not was_ahead))
    telemetry.heartbeat(application.context())
    assert receiver.names() == ["startup", "startup", "heartbeat"]
    assert datetime.fromisoformat(receiver.events[1]["timestamp"]).timestamp() == pytest.approx(happened, abs=0.01)


# -- the notice --------------------------------------------------------------------------------------------------------


def test_the_notice_comes_first_and_says_all(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Before anything is collected: every event and property, the host's own too, and whole commands; once."""
    telemetry.startup(application.context())
    telemetry.startup(application.context())
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        f"notes sends anonymous telemetry to {receiver.url}: the events startup, heartbeat, shutdown"
    )
    for name, form in events.declared().items():
        assert all(word in line for word in (name, *form))
    import sys

    words = f"{sys.executable} -m lifebeat setconfig telemetryEnabled false --config {application.directory}"
    assert words in line
    assert "DO_NOT_TRACK=1" in line


def test_without_an_id_nothing_is_recorded_and_that_is_said_once(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no ID can be kept nothing is recorded."""
    context = replace(application.context(), instance_id=None)
    for _ in range(2):
        telemetry.startup(context)
    assert receiver.connections == 0
    assert [record.getMessage()[:21] for record in caplog.records] == ["nothing is recorded: "]


def test_paused_records_sends_and_deletes_nothing(application: Application, receiver: PostHogServer) -> None:
    """While something has to be fixed, what waits stays, and nothing is made."""
    application.record(1)
    context = application.context(timeout=1)
    paused = replace(context, read_consent=lambda: replace(context.read_consent(), state="paused"))
    jobs = (telemetry.startup, telemetry.heartbeat, telemetry.shutdown)
    for job in (*jobs, telemetry.leaving, telemetry.withdrawn):
        job(paused)
    telemetry.flush(paused, timedelta(seconds=1))
    assert [entry.state for entry in application.ledger().values()] == ["waiting"]
    assert receiver.connections == 0


# -- whose ID ----------------------------------------------------------------------------------------------------------


def test_an_id_that_was_rotated_is_in_no_request_with_the_old_one(
    application: Application, receiver: PostHogServer
) -> None:
    """What waits under the old ID and what is recorded under the new one leave in requests of their own."""
    receiver.answer(503)
    telemetry.startup(application.context())
    application.write(telemetryInstanceId=str(uuid.uuid4()))
    telemetry.heartbeat(application.context())
    receiver.resume()
    telemetry.flush(application.context(), None)
    senders = [{one["distinct_id"] for one in request.json()["batch"]} for request in receiver.requests]
    assert all(len(found) == 1 for found in senders)
    assert len(receiver.events) == 2
    assert len({sender for found in senders for sender in found}) == 2


def test_monthly_ids_change_each_month_and_are_made_from_a_secret(tmp_path: Path, receiver: PostHogServer) -> None:
    """Within a month the ID stays, over restarts too; the next month has another; the installation's never leaves."""
    application, other = make(tmp_path / "one", receiver), make(tmp_path / "other", receiver)
    for one in (application, other):
        one.write(telemetryIdentity=identity.MONTHLY)
    for days in (1, 31, 1):
        telemetry.heartbeat(application.context())
        application = Application(application.directory, clock=application.clock, state_dir=application.state_dir)
        application.clock.advance(days * 86400)
    telemetry.heartbeat(other.context())
    sent = [event["distinct_id"] for event in receiver.events]
    assert (sent[0] == sent[1], sent[1] == sent[2], sent[3] in sent[:3]) == (True, False, False)
    assert [event["properties"]["instance_id"] for event in receiver.events] == sent
    assert INSTANCE_ID not in "".join(request.body.decode() for request in receiver.requests)
    assert all(uuid.UUID(one).version == 8 for one in sent)


def test_without_identity_no_two_events_are_linked(application: Application, receiver: PostHogServer) -> None:
    """Each event has an ID of its own and a request of its own, and the age in weeks instead of the instance's."""
    application.write(telemetryIdentity=identity.NONE)
    ages = {0: "1", 1: "2-4", 3: "2-4", 4: "5-24", 23: "5-24", 24: "25+", 300: "25+"}
    begin = application.clock.time()
    for week in ages:
        application.clock.advance(begin + week * WEEK - application.clock.time())
        telemetry.startup(application.context())
        telemetry.heartbeat(application.context())
    sent = receiver.events
    assert len({event["distinct_id"] for event in sent}) == len(sent) == 2 * len(ages)
    assert [event["properties"]["age"] for event in sent[::2]] == list(ages.values())
    assert all("instance_id" not in event["properties"] for event in sent)
    assert all(len(request.json()["batch"]) == 1 for request in receiver.requests)
    assert INSTANCE_ID not in "".join(request.body.decode() for request in receiver.requests)


# -- looks -------------------------------------------------------------------------------------------------------------


def test_preview_has_events_of_the_host_s_own(application: Application, receiver: PostHogServer) -> None:
    """All that may be sent is shown, an event of the host's own with an example; nothing is made or sent."""
    import json

    shown: dict[str, Any] = {body["event"]: body for body in map(json.loads, telemetry.preview(application.context()))}
    assert list(shown)[:3] == ["startup", "heartbeat", "shutdown"]
    own = shown["test_jobs_tidied"]["properties"]
    assert (own["what"], own["things"], own["instance_id"]) == ("desk", 0, INSTANCE_ID)
    (one,) = telemetry.preview(application.context(), "test_jobs_tidied")
    assert json.loads(one)["event"] == "test_jobs_tidied"
    assert (receiver.connections, [path.name for path in application.directory.iterdir()]) == (0, ["config.json"])


def test_the_whole_request_is_shown_as_it_goes_over_the_wire(application: Application, receiver: PostHogServer) -> None:
    """Line, headers and body are those that the receiver gets, but for times, IDs and the length."""
    import json

    shown = telemetry.request_preview(application.context(), "startup")
    head, _, text = shown.partition("\n\n")
    line, *headers = head.splitlines()
    telemetry.startup(application.context())
    (request,) = receiver.requests
    assert line == f"{request.method} {request.path} HTTP/1.1"
    told = dict(header.split(": ", 1) for header in headers)
    assert (told | {"Content-Length": ""}) == (dict(request.headers) | {"Content-Length": ""})
    assert list(told) == list(dict(request.headers))
    sent, expected = request.json(), json.loads(text)
    for document in (sent, expected):
        document["sent_at"] = document["batch"][0]["uuid"] = ""
    assert sent == expected
    assert datetime.fromisoformat(sent["batch"][0]["timestamp"]) == application.context().instant


def test_the_page_for_users_says_all(application: Application) -> None:
    """Where to, how often, every event and property, and how to turn it off; nothing of this machine is in it."""
    application.write(telemetryHost="https://ph.example.org")
    page = telemetry.describe(application.context())
    for words in ("notes", "https://ph.example.org", "every 24h", "setconfig telemetryEnabled false", "DO_NOT_TRACK=1"):
        assert words in page
    assert str(application.directory) not in page
    assert sys.executable not in page
    for name, form in events.declared().items():
        assert f"### {name}" in page
        assert all(f"`{field}`" in page for field in form)


def test_the_page_of_an_application_without_identity_has_the_age(application: Application) -> None:
    """What stands in the place of the ID is explained, and no ID is."""
    application.write(telemetryIdentity="none")
    page = telemetry.describe(application.context())
    assert "| `age` | How many weeks old the installation is. | one of 1, 2-4, 5-24, 25+ |" in page
    assert "| `instance_id` |" not in page


def test_the_contract_changes_with_what_can_be_sent(application: Application) -> None:
    """It is the same for each installation, names every property with its rule, and has no version in it."""
    import json

    contract = json.loads(telemetry.contract(application.context()))
    assert contract["events"]["test_jobs_tidied"]["what"] == "one of desk, shelf"
    assert contract["headers"]["User-Agent"] == "lifebeat/<version>"
    application.write(appVersion="2.0.0", telemetryHost="https://ph.example.org")
    assert json.loads(telemetry.contract(application.context())) == contract


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({"appVersion": "1.4.2", "releaseVersion": "notes-v1.4.2"}, []),
        ({"appVersion": "1.4.2-acme"}, ["appVersion: '1.4.2-acme' is sent as '1.4.2'"]),
        ({"releaseVersion": "acme-v1.4.2"}, ["releaseVersion: 'acme-v1.4.2' is sent as 'v1.4.2'"]),
        ({"releaseVersion": "summer"}, ["releaseVersion: 'summer' is sent as 'unknown'"]),
    ],
)
def test_what_is_cut_is_a_warning(application: Application, given: dict[str, str], warned: list[str]) -> None:
    """A version that is not sent as it was set is offered to ``lifebeat check``."""
    application.write(**given)
    assert [one.partition(";")[0] for one in telemetry.warnings(application.context())] == warned

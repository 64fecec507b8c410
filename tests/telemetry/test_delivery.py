"""What is due goes out, what fails is tried again without haste, and the ledger says what became of each event."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import pytest

from lifebeat.testing import telemetry_allowed
from lifebeat_jobs import telemetry
from lifebeat_jobs.answers import Answer
from lifebeat_jobs.delivery import (
    ASKED,
    FIRST_RETRY,
    LONGEST_ASKED,
    RARELY,
    Delivery,
    next_attempt,
    pause,
    resting,
)
from lifebeat_jobs.events import Count, Event, between
from lifebeat_jobs.outbox import LONGEST_BACKOFF
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    from lifebeat.testing import PostHogServer

TESTS = Path(__file__).parents[1] / "support"
HOUR = 3600.0


@pytest.fixture
def application(tmp_path: Path, receiver: PostHogServer) -> Application:
    """An installation whose telemetry goes to ``receiver``."""
    made = Application(tmp_path, state_dir=tmp_path)
    made.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryInstanceId=INSTANCE_ID)
    return made


def deliver(application: Application, *, chance: float = 0.5, all_waiting: bool = False) -> int:
    """One go at what is due; how many events were delivered."""
    delivery = Delivery(application.context(), application.outbox, draw=lambda: chance)
    delivery.run(all_waiting=all_waiting)
    return delivery.delivered


def sent(receiver: PostHogServer) -> list[list[str]]:
    """The UUIDs of every batch that arrived, whatever the answer was."""
    return [[event["uuid"] for event in request.json()["batch"]] for request in receiver.requests]


def states(application: Application) -> Counter[str]:
    """How many events are in which state."""
    return Counter(entry.state for entry in application.ledger().values())


# -- batches -----------------------------------------------------------------------------------------------------------


def test_batches_in_order(application: Application, receiver: PostHogServer) -> None:
    """250 events go out as three batches of at most 100, the oldest first, and progress is told after each."""
    recorded, told = application.record(250), list[int]()
    delivery = Delivery(application.context(), application.outbox, batch=100)
    delivery.run(progress=told.append)
    assert sent(receiver) == [recorded[:100], recorded[100:200], recorded[200:]]
    assert told == [100, 200, 250]
    assert states(application) == {"delivered": 250}


def test_a_poison_event_is_found_by_halves(application: Application, receiver: PostHogServer) -> None:
    """Of 64 events the one that is rejected is dropped alone, after at most two requests for each halving."""
    recorded = application.record(64)
    receiver.reject_events(lambda event: event["uuid"] == recorded[41])
    assert deliver(application) == 63
    dropped = application.ledger()[recorded[41]]
    assert (dropped.state, dropped.status, dropped.answer) == ("dropped", 400, "HTTP 400")
    assert states(application) == {"delivered": 63, "dropped": 1}
    assert [event["uuid"] for event in receiver.events] == [one for one in recorded if one != recorded[41]]
    assert len(receiver.requests) == 1 + 2 * 6


def test_a_batch_that_is_too_large_goes_in_parts(application: Application, receiver: PostHogServer) -> None:
    """413 is answered by smaller batches: nothing is dropped that fits alone."""
    recorded = application.record(16)
    receiver.limit_bytes(4000)
    assert deliver(application) == 16
    assert [event["uuid"] for event in receiver.events] == recorded
    assert len(receiver.requests) > 1


def test_an_event_that_is_too_large_alone_is_dropped(application: Application, receiver: PostHogServer) -> None:
    """413 for a single event is its end."""
    application.record(2)
    receiver.limit_bytes(100)
    assert deliver(application) == 0
    assert [(entry.state, entry.status) for entry in application.ledger().values()] == [("dropped", 413)] * 2


def test_a_failure_among_halves_ends_the_attempt(application: Application, receiver: PostHogServer) -> None:
    """A server that fails while a batch is being halved is left alone at once, and nothing is dropped for it."""

    def reject_then_fail(_: object) -> bool:
        receiver.answer(503)
        return True

    application.record(8)
    receiver.reject_events(reject_then_fail)
    assert deliver(application) == 0
    assert [len(batch) for batch in sent(receiver)] == [8, 4]
    assert [entry.attempts for entry in application.ledger().values()] == [1] * 4 + [0] * 4
    assert next_attempt(application.context(), application.outbox) == application.clock.time() + FIRST_RETRY / 2
    assert states(application) == {"waiting": 8}


def test_without_a_key_events_stay(application: Application, receiver: PostHogServer) -> None:
    """Nothing is sent while there is no project key; with one, all that waits is."""
    application.write(telemetryApiKey=None)
    application.record(3)
    assert deliver(application) == 0
    assert receiver.connections == 0
    application.write(telemetryApiKey="phc_late")
    assert deliver(application) == 3


# -- how long until the next attempt -----------------------------------------------------------------------------------

NO_ANSWER = Answer(None, "no answer")


@pytest.mark.parametrize("attempts", [0, 1, 2, 5, 8, 9, 20, 5000])
def test_backoff_doubles_with_full_jitter(attempts: int) -> None:
    """The next attempt is anywhere between at once and twice as far as before, and never beyond six hours."""
    furthest = min(FIRST_RETRY * 2.0 ** min(attempts, 60), LONGEST_BACKOFF)
    assert [pause(NO_ANSWER, attempts, draw=lambda at=at: at) for at in (0.0, 0.5, 1.0)] == [  # type: ignore[misc]
        0.0,
        furthest / 2,
        furthest,
    ]


@pytest.mark.parametrize("asked", [1.0, 60.0, 7200.0, LONGEST_ASKED])
@pytest.mark.parametrize("attempts", [0, 4, 30])
def test_retry_after_is_obeyed(asked: float, attempts: int) -> None:
    """Never earlier than the server asks, with jitter on top, and never beyond six hours."""
    answer = Answer(429, "HTTP 429", retry_after=asked)
    assert pause(answer, attempts, draw=lambda: 0.0) == asked
    latest = pause(answer, attempts, draw=lambda: 1.0)
    assert asked + FIRST_RETRY <= latest <= LONGEST_BACKOFF


def test_retry_after_is_capped() -> None:
    """A server that asks for a year is asked again the same day."""
    answer = Answer(503, "HTTP 503", retry_after=365 * 24 * HOUR)
    assert pause(answer, 0, draw=lambda: 0.0) == LONGEST_ASKED
    assert pause(answer, 30, draw=lambda: 1.0) == LONGEST_BACKOFF


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_only_an_edit_makes_good_is_tried_rarely(status: int) -> None:
    """A wrong key or address is tried again after three to six hours, from the first time on."""
    answer = Answer(status, f"HTTP {status}")
    assert (pause(answer, 0, draw=lambda: 0.0), pause(answer, 0, draw=lambda: 1.0)) == (RARELY, LONGEST_BACKOFF)


def test_a_fleet_does_not_come_back_as_one() -> None:
    """Of 1,000 clients that met the same outage of two hours, no minute after it sees more than 3 % succeed."""
    dice, outage = random.Random(1000), 2 * HOUR
    arrivals: Counter[int] = Counter()
    for _ in range(1000):
        now, attempts = 0.0, 0
        while now < outage:
            now += max(pause(NO_ANSWER, attempts, draw=dice.random), 1.0)
            attempts += 1
        arrivals[int((now - outage) // 60)] += 1
    assert max(arrivals.values()) <= 30
    assert max(arrivals) <= LONGEST_BACKOFF / 60


# -- failing and recovering --------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_written_down(application: Application, receiver: PostHogServer) -> None:
    """The ledger has the number of attempts, the last answer, and when the next one is."""
    (event_id,) = application.record(1)
    receiver.answer(503)
    for attempts, furthest in ((1, HOUR), (2, 2 * HOUR), (3, 4 * HOUR)):
        assert deliver(application) == 0
        entry = application.ledger()[event_id]
        assert (entry.state, entry.attempts, entry.status, entry.answer) == ("waiting", attempts, 503, "HTTP 503")
        assert entry.next_attempt == application.clock.time() + furthest / 2
        assert deliver(application) == 0
        assert len(receiver.requests) == attempts, "it was tried before its time"
        application.clock.advance(furthest / 2)
    receiver.resume()
    assert deliver(application) == 1


def test_one_line_when_it_fails_and_one_when_it_recovers(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it is tried, and over restarts, an outage is two lines."""
    receiver.refuse()
    for _ in range(4):
        again = Application(application.directory, clock=application.clock, state_dir=application.state_dir)
        again.record(1)
        assert deliver(again) == 0
        application.clock.advance(HOUR)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        f"telemetry cannot be delivered to {receiver.url}"
    ]
    receiver.accept_again()
    application.clock.advance(LONGEST_BACKOFF)
    assert [deliver(application), deliver(application)] == [4, 0]
    application.record(1)
    assert deliver(application) == 1
    assert [record.getMessage() for record in caplog.records][1:] == [f"telemetry is delivered to {receiver.url} again"]


@pytest.mark.parametrize("number", [1, 150])
def test_a_long_queue_is_no_reason_to_ask_more_often(
    application: Application, receiver: PostHogServer, number: int
) -> None:
    """A day of failing is ten requests, whether one event waits or two batches do; then all is delivered at once."""
    application.record(number)
    receiver.answer(503)
    end = application.clock.time() + 24 * HOUR
    while (due := next_attempt(application.context(), application.outbox)) is not None and due < end:
        application.clock.advance(due - application.clock.time())
        deliver(application)
    assert len(receiver.requests) == 10
    receiver.resume()
    application.clock.advance(LONGEST_BACKOFF)
    assert deliver(application) == number


def test_what_waits_goes_along(application: Application, receiver: PostHogServer) -> None:
    """A new event takes along what waits for its next attempt, in one request; so does the stop of a short life."""
    (first,) = application.record(1)
    receiver.answer(503, times=1)
    assert (deliver(application), deliver(application)) == (0, 0)
    telemetry.shutdown(application.context(timeout=5))
    telemetry.leaving(application.context(timeout=5))
    assert receiver.names() == ["startup", "shutdown"]
    assert [len(batch) for batch in sent(receiver)] == [1, 2]
    assert sent(receiver)[1][0] == first


def test_the_scheduler_comes_back(application: Application, receiver: PostHogServer) -> None:
    """A job whose event cannot be delivered has the scheduler try again later; no thread waits for that."""
    receiver.answer(503, times=1)
    telemetry.heartbeat(application.context())
    ((name, (delay, work)),) = application.scheduled.items()
    assert name == telemetry.DELIVERY
    assert 1 <= delay.total_seconds() <= FIRST_RETRY
    application.scheduled.clear()
    application.clock.advance(delay.total_seconds() + 1)
    work()
    assert (receiver.names(), application.scheduled) == (["heartbeat"], {})


def test_a_server_that_asks_to_wait_is_left_alone(application: Application, receiver: PostHogServer) -> None:
    """Until then nothing is sent, new events neither; not even after a restart."""
    application.record(1)
    receiver.answer(429, headers={"Retry-After": "120"}, times=1)
    assert deliver(application) == 0
    until = application.clock.time() + 120 + FIRST_RETRY / 2
    application.record(1)
    application.clock.advance(119 + FIRST_RETRY / 2)
    again = Application(application.directory, clock=application.clock, state_dir=application.state_dir)
    assert deliver(again) == 0
    assert next_attempt(again.context(), again.outbox) == pytest.approx(until)
    assert resting(again.context(), again.outbox, ASKED) == pytest.approx(until - application.clock.time())
    assert len(receiver.requests) == 1
    application.clock.advance(1)
    assert resting(again.context(), again.outbox, ASKED) == 0
    assert deliver(again) == 2


def test_an_operator_may_ask_all_the_same(application: Application, receiver: PostHogServer) -> None:
    """``lifebeat flush`` tries what waits for its time too."""
    application.record(2)
    receiver.answer(429, headers={"Retry-After": "600"}, times=1)
    assert deliver(application) == 0
    assert deliver(application, all_waiting=True) == 2


def test_another_host_has_not_asked_to_wait(application: Application, receiver: PostHogServer) -> None:
    """Once ``telemetryHost`` is edited, what the former host asked for is void."""
    application.record(1)
    receiver.answer(429, headers={"Retry-After": "600"}, times=1)
    assert deliver(application) == 0
    application.write(telemetryHost=f"{receiver.url}/")
    application.write(telemetryHost=receiver.url.replace("127.0.0.1", "localhost"))
    application.record(1)
    assert resting(application.context(), application.outbox, ASKED) == 0
    assert deliver(application) == 2


def test_a_clock_that_is_set_changes_no_wait(application: Application, receiver: PostHogServer) -> None:
    """What was to wait for an hour and a half waits for just that, though the clock was set back by a year."""
    application.record(1)
    receiver.answer(429, headers={"Retry-After": "3600"}, times=1)
    assert deliver(application) == 0
    application.clock.jump(-365 * 24 * HOUR)
    assert resting(application.context(), application.outbox, ASKED) == HOUR + FIRST_RETRY / 2
    application.clock.advance(HOUR + FIRST_RETRY / 2)
    assert deliver(application) == 1


def test_an_answer_that_is_lost(application: Application, receiver: PostHogServer) -> None:
    """The same bytes are sent again, UUID and timestamp included, so that PostHog counts them once."""
    application.record(3)
    receiver.drip()
    deadline = application.clock.monotonic() + 0.4
    Delivery(application.context(), application.outbox, deadline).run()
    receiver.resume()
    application.clock.advance(2 * HOUR)
    assert deliver(application) == 3
    first, second = (request.json()["batch"] for request in receiver.requests)
    assert first == second == receiver.events
    assert [entry.attempts for entry in application.ledger().values()] == [2, 2, 2]


def test_the_deadline_is_kept(application: Application, receiver: PostHogServer) -> None:
    """With a server that never answers, it is over when the time is up, and what was not sent waits."""
    application.record(150)
    receiver.hang()
    start = time.monotonic()
    Delivery(application.context(), application.outbox, application.clock.monotonic() + 0.5).run()
    assert 0.4 < time.monotonic() - start < 1.5
    assert len(receiver.requests) == 1
    assert states(application) == {"waiting": 150}


def test_no_time_left_is_no_connection(application: Application, receiver: PostHogServer) -> None:
    """Where the time is up before it begins, nothing is sent and no attempt is counted."""
    application.record(1)
    Delivery(application.context(), application.outbox, application.clock.monotonic()).run()
    assert receiver.connections == 0
    assert [entry.attempts for entry in application.ledger().values()] == [0]


def test_nothing_is_sent_after_an_opt_out(application: Application, receiver: PostHogServer) -> None:
    """Fifty events that waited in an outage are suppressed; turned on again, only what is new goes out."""
    receiver.refuse()
    old = application.record(50)
    assert deliver(application) == 0
    application.clock.advance(HOUR)
    application.write(telemetryEnabled=False)
    receiver.accept_again()
    assert deliver(application) == 0
    assert (states(application), receiver.requests) == ({"suppressed": 50}, [])
    reasons = {entry.answer for entry in application.ledger().values()}
    assert reasons == {f"off ({application.directory / 'config.json'})"}

    application.write(telemetryEnabled=True)
    (new,) = application.record(1)
    assert deliver(application, all_waiting=True) == 1
    assert sent(receiver) == [[new]]
    assert new not in old


def test_turned_off_between_two_batches(application: Application, receiver: PostHogServer) -> None:
    """The settings are looked at before each batch: what an opt-out finds unsent stays unsent."""
    application.record(150)
    delivery = Delivery(application.context(), application.outbox, batch=100)
    delivery.run(progress=lambda _: application.write(telemetryEnabled=False))
    assert len(receiver.requests) == 1
    assert states(application) == {"delivered": 100, "suppressed": 50}


@pytest.mark.parametrize(
    "body",
    [
        "", "null", "[]", '"startup"', '{"event": ["startup"], "distinct_id": {}}',
        '{"event": "startup", "properties": 7}',
        '{"event": "startup", "distinct_id": [], "timestamp": 0, "uuid": {}, "properties": []}',
    ],
)  # fmt: skip
def test_what_somebody_else_wrote_keeps_nothing_else_from_leaving(
    application: Application, receiver: PostHogServer, body: str
) -> None:
    """Whatever stands in the outbox, it is dropped alone."""
    application.outbox.record("changed", "startup", body)
    (event_id,) = application.record(1)
    assert deliver(application) == 1
    assert sent(receiver) == [[event_id]]
    assert states(application) == {"delivered": 1, "dropped": 1}


@pytest.mark.parametrize("misbehave", ["hang", "hang_at_connect", "drip"])
def test_turned_off_while_an_answer_is_awaited(
    application: Application, receiver: PostHogServer, misbehave: str
) -> None:
    """Within two seconds after the edit the connection is cut, and what waited is suppressed, not counted as tried."""
    getattr(receiver, misbehave)()
    application.record(3)
    delivery = Delivery(application.context(), application.outbox)
    thread = threading.Thread(target=delivery.run)
    thread.start()
    receiver.wait_for(lambda server: server.connections > 0)
    application.write(telemetryEnabled=False)
    start = time.monotonic()
    thread.join(10)
    assert time.monotonic() - start < 2
    assert (delivery.delivered, states(application)) == (0, {"suppressed": 3})
    assert [entry.attempts for entry in application.ledger().values()] == [0, 0, 0]


@pytest.mark.parametrize("then", ["on", "off"])
def test_a_pause_while_an_answer_is_awaited_deletes_nothing(
    application: Application, receiver: PostHogServer, then: str
) -> None:
    """A mistake in the settings cuts as well; what waited waits on, until somebody says off or mends it."""
    receiver.hang()
    application.record(1)
    thread = threading.Thread(target=lambda: Delivery(application.context(), application.outbox).run())
    thread.start()
    receiver.wait_for(lambda server: server.connections > 0)
    application.write(telemetryHeartbeatInterval="24 bananas")
    thread.join(10)
    assert states(application) == {"waiting": 1}
    receiver.resume()
    application.write(telemetryHeartbeatInterval="24h", telemetryEnabled=then == "on")
    assert deliver(application) == (then == "on")
    assert states(application) == {"delivered" if then == "on" else "suppressed": 1}


# -- events of the host's own ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorted(Event):
    """A host's own event: things were sorted."""

    name: ClassVar[str] = "test_delivery_sorted"

    by: Literal["size", "age"]
    things: Count
    percent: Annotated[int, between(0, 100)]


def test_turned_off_and_on_again_within_a_batch(application: Application) -> None:
    """What waited while a batch was on its way is not sent if telemetry was off for a moment meanwhile."""
    asked: list[list[str]] = []

    def ask(bodies: list[str], *_: object) -> Answer:
        asked.append(bodies)
        application.outbox.suppress_waiting("off for a moment")
        return Answer(200, "delivered", delivered=True)

    application.record(6)
    Delivery(application.context(), application.outbox, batch=2, reach=lambda: ask).run()
    assert [len(bodies) for bodies in asked] == [2]
    assert states(application) == {"delivered": 2, "suppressed": 4}


def test_a_host_s_own_event_is_delivered(application: Application, receiver: PostHogServer) -> None:
    """A declared event goes over the wire with its own properties and those that all have."""
    assert telemetry.record(application.context(), Sorted, by="size", things=12, percent=40) is True
    (event,) = receiver.events
    assert event["event"] == "test_delivery_sorted"
    own = {name: event["properties"][name] for name in ("by", "things", "percent", "instance_id", "$lib")}
    assert own == {"by": "size", "things": 12, "percent": 40, "instance_id": INSTANCE_ID, "$lib": "lifebeat"}


@pytest.mark.parametrize(
    "wrong", [{"percent": 101}, {"things": -1}, {"things": True}, {"by": "colour"}, {"percent": 0.5}]
)
def test_a_value_outside_its_range_is_refused(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    """It is not recorded and not sent, and one line says which value and what is expected; the host goes on."""
    telemetry.record(application.context(), Sorted, by="age", things=1, percent=1)
    caplog.clear()
    given: dict[str, Any] = {"by": "age", "things": 1, "percent": 1} | wrong
    assert telemetry.record(application.context(), Sorted, **given) is False
    assert len(caplog.records) == 1
    ((name, value),) = wrong.items()
    expected = (
        f"the event test_delivery_sorted was not recorded: test_delivery_sorted.{name}: {value!r} may not be sent"
    )
    assert caplog.records[0].getMessage().startswith(expected)
    assert (states(application), len(receiver.events)) == ({"delivered": 1}, 1)


def test_a_property_that_is_not_there_is_the_host_s_mistake(application: Application) -> None:
    """A missing or unknown property raises where the host can see it, whether telemetry is on or off."""
    for enabled in (True, False):
        application.write(telemetryEnabled=enabled)
        with pytest.raises(TypeError, match=r"expected \['by', 'percent', 'things'\]"):
            telemetry.record(application.context(), Sorted, by="age", colour="red")


def test_off_records_nothing(application: Application, receiver: PostHogServer) -> None:
    """While telemetry is off a host's own event is not even made."""
    application.write(telemetryEnabled=False)
    before = sorted(path.name for path in application.directory.iterdir())
    assert telemetry.record(application.context(), Sorted, by="age", things=1, percent=1) is False
    assert sorted(path.name for path in application.directory.iterdir()) == before
    assert receiver.connections == 0


OWN_EVENT = """
import sys
from pathlib import Path
import own_event
from sending import Application

directory = Path(sys.argv[1])
own_event.nightly_import(Application(directory, state_dir=directory).context())
"""


def test_the_documented_example_works(application: Application, receiver: PostHogServer, tmp_path: Path) -> None:
    """The example in ``docs/events.md``, as it stands there, puts its event on the wire."""
    page = (TESTS.parents[1] / "docs" / "events.md").read_text()
    section = page.split("\n## Events of your own\n")[1].split("\n## ")[0]
    (example,) = [part.split("\n```")[0] for part in section.split("```python\n")[1:]]
    (tmp_path / "own_event.py").write_text(example)
    # In a process of its own: a name can be declared once, and other tests declare this one too.
    environ = {**telemetry_allowed(), "PYTHONPATH": os.pathsep.join([str(TESTS), str(tmp_path)])}
    command = [sys.executable, "-c", OWN_EVENT, str(application.directory)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    (event,) = receiver.events
    assert event["event"] == "imported"
    assert {"source": "csv", "rows": 12, "percent_new": 40}.items() <= event["properties"].items()


# -- where nothing can be kept -----------------------------------------------------------------------------------------


def test_what_cannot_be_recorded_is_kept_and_delivered_later(
    application: Application, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no state directory can be made events are kept with their own time, and go out once it can."""
    blocked = application.directory / "state"
    blocked.touch()
    application.state_dir = blocked
    telemetry.startup(application.context())
    happened = application.context().instant
    application.clock.advance(HOUR)
    assert telemetry.record(application.context(), Sorted, by="age", things=1, percent=1) is True
    assert receiver.connections == 0
    assert len([record for record in caplog.records if "kept in memory" in record.getMessage()]) == 1
    blocked.unlink()
    application.clock.advance(HOUR)
    telemetry.shutdown(application.context(timeout=5))
    telemetry.leaving(application.context(timeout=5))
    assert receiver.names() == ["startup", "test_delivery_sorted", "shutdown"]
    assert datetime.fromisoformat(receiver.events[0]["timestamp"]) == happened
    assert "sends anonymous telemetry" in caplog.text


def test_what_cannot_be_recorded_until_the_stop_is_said_to_be_lost(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    """A disk that is full to the end does not fail the stop, and nothing is promised that will not be."""
    application.state_dir = application.directory / "state"
    application.state_dir.touch()
    telemetry.shutdown(application.context(timeout=1))
    telemetry.leaving(application.context(timeout=1))
    assert caplog.messages[-1] == "events that could not be recorded are lost as this process stops: 1"

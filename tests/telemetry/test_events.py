"""The declared events: closed types, fixed when they happen."""

from __future__ import annotations

import inspect
import json
import time
import uuid
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifebeat_jobs import events, rules
from lifebeat_jobs.events import Count, Event, Heartbeat, Platform, Startup, Uuid, Version, between

SHARED: dict[str, Any] = {
    "instance_id": "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52",
    "os_platform": "linux",
    "os_release": "6.8.0",
    "python_version": "3.12.1",
    "app_version": "1.4.2",
    "release": "2027.1",
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = datetime(2026, 11, 23, 12, 30, 15, 123999, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported(Event):
    """A file was imported.

    Attributes:
        source: Its kind.
        rows: How many rows it has.
        percent_new: How many of a hundred rows are new.
        complete: Whether every row could be read.
        schema: The version of its schema.
    """

    name: ClassVar[str] = "imported"

    source: Literal["csv", "json"]
    rows: Count
    percent_new: Annotated[int, between(-100, 100)]
    complete: bool
    schema: Version


def imported(**changed: Any) -> Imported:
    """An event with one thing changed."""
    own: dict[str, Any] = {"source": "csv", "rows": 12, "percent_new": 50, "complete": True, "schema": "v2"}
    return Imported(**{**SHARED, **own, **changed})


def test_a_host_declares_an_event_of_its_own() -> None:
    """A subclass with closed types is an event like ours, protocol fields included."""
    body = events.serialize(imported(), MOMENT, events.uuid7(MOMENT))
    own = {"source": "csv", "rows": 12, "percent_new": 50, "complete": True, "schema": "v2"}
    assert body["event"] == "imported"
    assert body["properties"] == {**SHARED, **own, **events.PROTOCOL}
    assert set(body["properties"]) == set(events.declared()["imported"]) | set(events.PROTOCOL)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "xml"),
        ("source", None),
        ("rows", -1),
        ("rows", 1_000_001),
        ("rows", 1.0),
        ("rows", True),
        ("rows", "12"),
        ("percent_new", 101),
        ("complete", 1),
        ("complete", "yes"),
        ("schema", "ada@example.com"),
        ("schema", "the quick brown fox"),
        ("schema", "1." + "1" * 60),
        ("instance_id", "atlas"),
        ("instance_id", "6C62B5AE-9D3C-4F4E-A9AB-8C1F4D1F0E52"),
        ("os_platform", "my laptop"),
        ("os_release", ["6.8.0"]),
        ("app_version", "/home/ada"),
        ("release", ""),
    ],
)
def test_a_value_outside_its_rule_is_refused(name: str, value: object) -> None:
    """No event can be made with such a value; the message says where and what is allowed."""
    with pytest.raises(ValueError, match=rf"imported\.{name}: .*may not be sent; expected "):
        imported(**{name: value})


@pytest.mark.parametrize("declaration", ["str", "int", "Any", "list[str]", "dict[str, int]", "Count | None", "object"])
def test_a_property_without_a_rule_cannot_be_declared(declaration: str) -> None:
    """A type that could hold anything is an error at the class itself, before any event is made."""
    with pytest.raises(TypeError, match=r"Open\.note: .*could hold anything; expected Version, Release, Uuid, "):
        type("Open", (Event,), {"__annotations__": {"note": eval(declaration)}, "name": "open", "__module__": __name__})
    assert "open" not in events.declared()


def test_a_type_that_is_there_for_checkers_only_cannot_be_declared() -> None:
    """What cannot be resolved at run time cannot be checked at run time."""
    with pytest.raises(TypeError, match=r"Open: name 'Hidden' is not defined; import it at run time"):
        type("Open", (Event,), {"__annotations__": {"note": "Hidden"}, "name": "open", "__module__": __name__})


@pytest.mark.parametrize("name", ["", "Imported", "$identify", "two words", "9lives", "x" * 51])
def test_an_event_has_a_plain_name(name: str) -> None:
    """A name is lower case, digits and underscores; one of PostHog's own cannot be taken."""
    with pytest.raises(TypeError, match="has no name; give it one such as"):
        type("Nameless", (Event,), {"name": name})


def test_a_name_is_taken_once() -> None:
    """Two events of one name would be one in PostHog."""
    with pytest.raises(TypeError, match=r"'startup' is taken by lifebeat_jobs\.events\.Startup"):
        type("Mine", (Event,), {"name": "startup"})
    assert set(events.declared()["startup"]) == set(SHARED)


@pytest.mark.parametrize("kind", [Event, *events.CATALOGUE])
def test_every_property_is_documented(kind: type[Event]) -> None:
    """The docstring of each event is its entry in the catalogue."""
    own = {field.name for field in fields(kind)} - {field.name for field in fields(Event) if kind is not Event}
    documented = inspect.getdoc(kind) or ""  # from Python 3.13 on __doc__ has no indentation
    assert [name for name in own if f"\n    {name}: " not in documented] == []


def test_every_protocol_field_has_its_reason() -> None:
    """The catalogue says why each is sent."""
    assert set(events.PROTOCOL_REASONS) == set(events.PROTOCOL)


@given(st.integers(0, 250_000_000_000_000_000).map(lambda since: EPOCH + timedelta(microseconds=since)))
def test_uuid_and_timestamp_are_of_the_same_millisecond(moment: datetime) -> None:
    """The UUID is of version 7, RFC 9562's variant, and has the very millisecond of the timestamp."""
    event_id = events.uuid7(moment)
    body = events.serialize(Startup(**SHARED), moment, event_id)
    stamp = datetime.fromisoformat(body["timestamp"])
    parsed = uuid.UUID(event_id)
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == (stamp - EPOCH) // timedelta(milliseconds=1)
    assert timedelta(0) <= moment - stamp < timedelta(milliseconds=1)
    assert body["uuid"] == event_id


def test_timestamps_are_in_utc() -> None:
    """A moment in another time zone is the same event."""
    from zoneinfo import ZoneInfo

    assert events.timestamp(MOMENT.astimezone(ZoneInfo("Asia/Tokyo"))) == "2026-11-23T12:30:15.123+00:00"


def test_uuids_never_repeat_and_sort_by_time() -> None:
    """Ten thousand of one millisecond all differ; those of later milliseconds sort after them."""
    same = {events.uuid7(MOMENT) for _ in range(10_000)}
    later = events.uuid7(MOMENT + timedelta(milliseconds=1))
    assert len(same) == 10_000
    assert max(same) < later


def test_a_clock_before_1970_makes_a_valid_uuid() -> None:
    """A machine without a battery for its clock still makes UUIDs of version 7."""
    assert uuid.UUID(events.uuid7(datetime(1969, 12, 31, tzinfo=UTC))).version == 7


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("1.4.2", "1.4.2"),
        ("v2", "v2"),
        ("2027.1", "2027.1"),
        ("3.0.0-rc.1", "3.0.0-rc.1"),
        ("1.4.3.dev12+g3f2a1bc.d20261123", "1.4.3.dev12"),
        ("1.0+ada.example", "1.0"),
        ("1.4.2-atlas", "1.4.2"),
        ("2.0.0b1-s3cr3t", "2.0.0b1"),
        ("1.0-SNAPSHOT", "1.0-SNAPSHOT"),
        ("latest", "latest"),
        (None, "unknown"),
        ("", "unknown"),
        ("ada@example.com", "unknown"),
        ("1.4.2 (built by ada)", "unknown"),
        ("phc_9f8e7d6c5b4a", "unknown"),
        ("4f3d9e2", "unknown"),
        ("+46701234567", "unknown"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "unknown"),
        ("10.0.0.12/24", "unknown"),
        ("1" * 41, "unknown"),
        ("1.2\n3", "unknown"),
    ],
)
def test_only_versions_are_sent_as_versions(written: str | None, sent: str) -> None:
    """What a host calls its version is sent if it is one."""
    assert rules.clean_version(written) == sent


COMMIT = "2414721b194453f058079d897d13c4e377f92dc6"


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("1.4.2", "1.4.2"),
        ("v1.4.2", "v1.4.2"),
        ("notes-v1.4.2", "notes-v1.4.2"),
        ("notes_1.4.2", "notes_1.4.2"),
        ("notes/v1.4.2-rc.1", "notes/v1.4.2-rc.1"),
        ("release-2026.11", "release-2026.11"),
        ("v1.4.2-14-g2414721", "v1.4.2-14-g2414721"),
        ("notes-v1.4.2-14-g2414721-dirty", "notes-v1.4.2-14-g2414721-dirty"),
        (COMMIT, COMMIT),
        (COMMIT[:7], COMMIT[:7]),
        (COMMIT[:6] + "b", COMMIT[:6] + "b"),
        ("edge", "edge"),
        ("1.4.2-acme", "1.4.2"),
        ("acme-v1.4.2", "v1.4.2"),
        ("acme-v1.4.2-14-g2414721", "v1.4.2-14-g2414721"),
        (COMMIT[:6] + "g", "unknown"),
        (COMMIT + "0", "unknown"),
        (COMMIT.upper(), "unknown"),
        ("acme", "unknown"),
        ("notes", "unknown"),
        ("ada@example.com", "unknown"),
        ("notes-", "unknown"),
        (None, "unknown"),
    ],
)
def test_only_releases_are_sent_as_releases(written: str | None, sent: str) -> None:
    """A version, a tag with a common prefix or the application's name, what git describes, or a commit."""
    assert rules.clean_release(written, "Notes") == sent
    assert Startup(**{**SHARED, "release": sent}).release == sent


@given(st.text(max_size=60) | st.from_regex(rules.TAG))
def test_a_cleaned_release_keeps_the_rule(written: str) -> None:
    """Whatever is given as a release, an event can be made with what comes of it."""
    assert Startup(**{**SHARED, "release": rules.clean_release(written, written[:5])}).release


@dataclass
class Rule:
    """A rule of a host's own."""

    kind: str = "words"

    def holds(self, _: object) -> bool:
        """Let anything pass."""
        return True


@pytest.mark.parametrize(
    "hint",
    [
        Annotated[str, Rule()],
        Annotated[str, rules.Rule("text")],
        Annotated[str, rules.Rule("words")],
        Annotated[int, rules.Rule("range", 0, 2**4096)],
        Literal["ada@example.com"],
        Literal["/home/ada"],
        Literal[b"bytes"],
        Literal[2**53],
    ],
)
def test_a_rule_of_a_host_s_own_is_refused(hint: Any) -> None:
    """No property is declared with anything but the closed types."""
    with pytest.raises(TypeError, match="could hold anything"):
        type("Open", (Event,), {"__annotations__": {"note": hint}, "name": "open", "__module__": __name__})


@pytest.mark.parametrize(("low", "high"), [(0, 2**53), (-(2**4096), 0), (1, 0), (0.5, 1), (False, True)])
def test_a_range_is_one_of_small_numbers(low: Any, high: Any) -> None:
    """Beyond 2**53 a number could carry a text, and JSON's readers would round it."""
    with pytest.raises(ValueError, match=r"nearer to zero than 2\*\*53"):
        between(low, high)


def test_a_form_survives_being_kept() -> None:
    """The form of an event can be kept as JSON, and is the same when it is read again."""
    form = events.form_of(Imported)
    assert rules.from_data(json.loads(json.dumps(rules.as_data(form)))) == form


@pytest.mark.parametrize("data", [None, [], {"x": 1}, {"x": {"kind": "text", "low": 0, "high": 0, "words": []}}])
def test_what_is_no_form_is_none(data: object) -> None:
    """Whoever can write where forms are kept cannot make up an open one."""
    assert rules.from_data(data) is None


@given(st.text(max_size=60))
def test_a_cleaned_version_keeps_the_rule(written: str) -> None:
    """Whatever is given as a version, an event can be made with what comes of it."""
    assert Startup(**{**SHARED, "app_version": rules.clean_version(written)}).app_version


@pytest.mark.parametrize(
    ("span", "hours", "days"),
    [
        (timedelta(minutes=59), 0, 0),
        (timedelta(hours=47, minutes=59), 47, 1),
        (timedelta(days=-1), 0, 0),
        (timedelta(days=400_000), 1_000_000, 41_666),
    ],
)
def test_hours_and_days(span: timedelta, hours: int, days: int) -> None:
    """Whole hours and days, none for a length below zero, and never more than an event can hold."""
    assert events.hours_and_days(span) == (hours, days)
    Heartbeat(**SHARED, uptime_hours=hours, uptime_days=days)


def test_what_is_given_must_be_the_properties() -> None:
    """A property that is missing, or one that nobody declared, is the host's mistake."""
    events.check_names(Heartbeat, {"uptime_hours": 1, "uptime_days": 0})
    with pytest.raises(TypeError, match=r"heartbeat was given \['uptime_hours', 'user'\]; expected \['uptime_days', "):
        events.check_names(Heartbeat, {"uptime_hours": 1, "user": "ada"})


def test_events_are_cheap() -> None:
    """Making and serializing an event takes less than a few milliseconds."""
    start = time.perf_counter()
    for _ in range(100):
        events.serialize(Startup(**SHARED), MOMENT, events.uuid7(MOMENT))
    assert (time.perf_counter() - start) / 100 < 0.01


_ = (Platform, Uuid)  # for the declarations that are evaluated here

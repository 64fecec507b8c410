"""The events, one frozen dataclass each, the only things that can ever be sent; and how they go over the wire.

A property is a version, a UUID, a word of a closed list, a yes or no, or a whole number in a range. There is no free
text, so there is no place for anything personal. The catalogue page is made from these docstrings.

A host declares events of its own in the same way, and its job functions give them to ``telemetry.record``::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Imported(Event):
        name: ClassVar[str] = "imported"

        source: Literal["csv", "json"]
        rows: Count
        percent_new: Annotated[int, between(0, 100)]
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, get_origin, get_type_hints

from lifebeat.version import __version__
from lifebeat_jobs.rules import (
    ALLOWED,
    PLATFORMS,
    UNKNOWN,
    Count,
    Form,
    Platform,
    Release,
    Rule,
    Uuid,
    Version,
    between,
    clean_release,
    clean_version,
    rule_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from lifebeat.settings.table import Settings

__all__ = ["Count", "Event", "Platform", "Release", "Uuid", "Version", "between"]

FIRST = datetime(2026, 1, 1, tzinfo=UTC)  # no Lifebeat is older, so an event of before has no time yet
AGES = {1: "1", 4: "2-4", 24: "5-24"}
OLDEST = "25+"
AGE = Rule("words", words=(*AGES.values(), OLDEST))
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME_BITS = (1 << 48) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event has.

    A subclass has a ``name``, and a rule for each property; what has none is a ``TypeError`` at its declaration.

    Attributes:
        instance_id: The random ID of this installation; also the `distinct_id`.
        os_platform: The operating system's family.
        os_release: The version of its kernel, numbers only.
        python_version: The version of Python.
        app_version: The application's version.
        release: The release that is running.
    """

    name: ClassVar[str] = ""

    instance_id: Uuid
    os_platform: Platform
    os_release: Version
    python_version: Version
    app_version: Version
    release: Release

    def __init_subclass__(cls) -> None:
        # Called twice for a class with slots, which dataclass() makes again: it is the same declaration.
        where = f"{cls.__module__}.{cls.__qualname__}"
        if not _NAME.fullmatch(cls.__dict__.get("name", "")):
            raise TypeError(f'{where} has no name; give it one such as name: ClassVar[str] = "imported"')
        former = registry.get(cls.name)
        if former is not None and (former.__module__, former.__name__) != (cls.__module__, cls.__name__):
            raise TypeError(f"{where}.name: {cls.name!r} is taken by {former.__module__}.{former.__qualname__}")
        form_of(cls)
        registry[cls.name] = cls

    def __post_init__(self) -> None:
        for field, rule in form_of(type(self)).items():
            value = getattr(self, field)
            if not rule.holds(value):
                raise ValueError(f"{self.name}.{field}: {value!r} may not be sent; expected {rule}")


registry: dict[str, type[Event]] = {}


def form_of(kind: type[Event]) -> Form:
    """Return the rule of each property of a kind of event.

    Raises:
        TypeError: A property could hold anything.
    """
    where = f"{kind.__module__}.{kind.__qualname__}"
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"{where}: {error}; import it at run time, outside `if TYPE_CHECKING`") from error
    form: Form = {}
    for field, hint in hints.items():
        if get_origin(hint) is ClassVar:
            continue
        rule = rule_of(hint)
        if rule is None or not _NAME.fullmatch(field):
            written = getattr(hint, "__name__", str(hint))
            raise TypeError(f"{where}.{field}: {written!r} could hold anything; expected {ALLOWED}")
        form[field] = rule
    return form


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup(Event):
    """The application started: its first process is running."""

    name: ClassVar[str] = "startup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Event):
    """The application is running; once per interval.

    Attributes:
        uptime_hours: Whole hours since the application started.
        uptime_days: Whole days since the application started.
    """

    name: ClassVar[str] = "heartbeat"

    uptime_hours: Count
    uptime_days: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown(Event):
    """The application stopped cleanly: its last process is ending.

    Attributes:
        total_runtime_hours: Whole hours from the application's start to its end.
        total_runtime_days: Whole days from the application's start to its end.
    """

    name: ClassVar[str] = "shutdown"

    total_runtime_hours: Count
    total_runtime_days: Count


CATALOGUE: tuple[type[Event], ...] = (Startup, Heartbeat, Shutdown)

PROTOCOL: dict[str, Any] = {
    "$lib": "lifebeat",
    "$lib_version": __version__,
    "$geoip_disable": True,
    "$process_person_profile": False,
    "$ip": "0.0.0.0",  # noqa: S104 - not an address to bind: any other text than a real address would do
    "$ignore_sent_at": True,
}
PROTOCOL_REASONS: dict[str, str] = {
    "$lib": "Names Lifebeat as the sender.",
    "$lib_version": "Lifebeat's version.",
    "$geoip_disable": "PostHog looks up no location.",
    "$process_person_profile": "PostHog keeps no person behind the ID.",
    "$ip": "PostHog would store the connection's address with the event; a text here prevents it.",
    "$ignore_sent_at": "Keeps the time as recorded, so that an event sent twice is the same event.",
}
ENVELOPE_REASONS: dict[str, str] = {
    "api_key": "The project key: `telemetryApiKey`.",
    "batch": "The events, all of one `distinct_id`.",
    "sent_at": "When the request was made, in UTC.",
}
PATH = "/batch/"
HEADERS: dict[str, str] = {
    "User-Agent": f"lifebeat/{__version__}",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "close",
    "Content-Type": "application/json",
    "Content-Encoding": "gzip",
}


# Forms


def kinds() -> list[type[Event]]:
    """Return every kind of event that this process has declared, the shipped ones first."""
    return list({kind.name: kind for kind in (*CATALOGUE, *registry.values())}.values())


def declared() -> dict[str, Form]:
    """Return the form of every kind of event that this process has declared."""
    return {kind.name: form_of(kind) for kind in kinds()}


def check_names(kind: type[Event], given: Collection[str]) -> None:
    """Raise ``TypeError`` unless a host gives exactly the properties that its event has.

    Raises:
        TypeError: They are not.
    """
    own = form_of(kind).keys() - form_of(Event).keys()
    if own != set(given):
        raise TypeError(f"the event {kind.name} was given {sorted(given)}; expected {sorted(own)}")


def without_id(form: Form) -> Form:
    """Return the form where no ID is sent: ``age`` in the place of ``instance_id``."""
    return {("age" if name == "instance_id" else name): (AGE if name == "instance_id" else form[name]) for name in form}


# Making an event


def surroundings(settings: Settings, instance_id: str) -> dict[str, str]:
    """Return the properties that every event has, as they are on this machine."""
    return {
        "instance_id": instance_id,
        "os_platform": next((name for name in PLATFORMS if sys.platform.startswith(name)), UNKNOWN),
        "os_release": _numbers(platform.release()),
        "python_version": clean_version(platform.python_version().rstrip("+")),
        "app_version": clean_version(settings.app_version),
        "release": clean_release(settings.release_version or settings.app_version, settings.app_name),
    }


def _numbers(release: str) -> str:
    match = re.match(r"\d{1,8}(?:\.\d{1,8}){0,3}", release)
    return match.group() if match else UNKNOWN


def hours_and_days(span: timedelta) -> tuple[int, int]:
    """Return whole hours and whole days, as many as an event can hold."""
    hours = min(max(span // timedelta(hours=1), 0), 1_000_000)
    return hours, hours // 24


def age_of(span: timedelta) -> str:
    """Return an installation's age: its week, the first being 1, in four groups."""
    week = max(span // timedelta(weeks=1), 0) + 1
    return next((word for last, word in AGES.items() if week <= last), OLDEST)


def serialize(event: Event, moment: datetime, event_id: str, *, age: str | None = None) -> dict[str, Any]:
    """Return the event as it goes over the wire.

    Args:
        event: What happened.
        moment: When; to the millisecond.
        event_id: Its UUID, of that moment.
        age: How old the installation is, in the place of its ID; ``None`` to send the ID.
    """
    own = dataclasses.asdict(event)
    if age is not None:
        own = {("age" if name == "instance_id" else name): own[name] for name in own} | {"age": age}
    return wire(event.name, event.instance_id, own, moment, event_id)


def wire(name: str, sent_as: str, own: dict[str, Any], moment: datetime, event_id: str) -> dict[str, Any]:
    """Return the document that goes over the wire."""
    return {
        "event": name,
        "distinct_id": sent_as,
        "uuid": event_id,
        "timestamp": timestamp(moment),
        "properties": {**own, **PROTOCOL},
    }


def is_plausible(body: dict[str, Any]) -> bool:
    """Return whether an event has a time: it was made while the clock was set, or got its time since."""
    try:
        return datetime.fromisoformat(body["timestamp"]) >= FIRST
    except (ValueError, TypeError, KeyError):
        return True  # whatever it is, it is not of the clock; the look at what leaves sees to it


def timestamp(moment: datetime) -> str:
    """Return a moment as an event tells it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def milliseconds(moment: datetime) -> int:
    """Return a moment in milliseconds since the Unix epoch, in as many bits as a UUID of version 7 has for it."""
    return (moment - _EPOCH) // timedelta(milliseconds=1) & _TIME_BITS


def uuid7(moment: datetime, *identity: str) -> str:
    """Return a UUID of version 7 for a moment, to the millisecond: PostHog wants its time to be the event's.

    Args:
        moment: The moment.
        identity: What makes this the same event in whichever process it is made; without it the UUID is random.
    """
    digest = hashlib.sha256("\n".join(identity).encode()).digest()[:10] if identity else os.urandom(10)
    random = int.from_bytes(digest)
    value = milliseconds(moment) << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))


def uuid8(digest: bytes) -> str:
    """Return a UUID of version 8 from a digest; by its version the dashboard knows that the ID is one month's."""
    value = int.from_bytes(digest[:16]) & ~(0xF << 76 | 3 << 62) | 8 << 76 | 2 << 62
    return str(uuid.UUID(int=value))


def envelope(batch: list[Any], api_key: str, now: datetime) -> str:
    """Return the body of a request: events, and what goes around them."""
    return json.dumps({"batch": batch, "sent_at": now.isoformat(), "api_key": api_key})

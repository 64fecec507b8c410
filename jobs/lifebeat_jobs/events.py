"""The events: one frozen dataclass each, the only things that can ever be sent.

A property is a version, a UUID, a word of a closed list, or a whole number in a range. There is no free text, so there
is no place for anything personal. The catalogue page is made from these docstrings.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_type_hints

from lifebeat.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.settings import Settings

UNKNOWN = "unknown"
PLATFORMS = ("linux", "darwin", "win32", "cygwin", "freebsd", "openbsd", "netbsd", "sunos", "aix", "android", "ios")
CHANNELS = ("main", "master", "dev", "edge", "nightly", "latest", "stable", "beta", "alpha", "rc", "lts")
_VERSION = re.compile(r"v?\d{1,8}(?:\.\d{1,8}){0,4}(?:[-+._]?[A-Za-z]{1,12}(?:[-.]?\d{1,8}){0,3}){0,3}")
_LONGEST_VERSION = 40
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Rule:
    """What a property may hold.

    Attributes:
        words: The rule in words, for the catalogue.
        holds: Whether a value keeps it.
    """

    words: str
    holds: Callable[[Any], bool]


def _is_version(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > _LONGEST_VERSION:
        return False
    return value in {UNKNOWN, *CHANNELS} or _VERSION.fullmatch(value) is not None


def _is_uuid(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


Version = Annotated[str, Rule("a version such as 1.4.2, or `unknown`", _is_version)]
Uuid = Annotated[str, Rule("a random UUID", _is_uuid)]
Platform = Annotated[str, Rule("one of " + ", ".join(PLATFORMS) + ", `unknown`", {*PLATFORMS, UNKNOWN}.__contains__)]
Count = Annotated[int, Rule(f"a whole number from 0 to {_MOST:,}", _is_count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says.

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
    release: Version

    def __post_init__(self) -> None:
        for field, rule in rules(type(self)).items():
            value = getattr(self, field)
            if not rule.holds(value):
                raise ValueError(f"{self.name}.{field}: {value!r} may not be sent; it takes {rule.words}")


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
    """The application stopped in good order: its last process is ending.

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


def rules(kind: type[Event]) -> dict[str, Rule]:
    """The rule of each property of a kind of event, by its name.

    Raises:
        TypeError: A property without a rule: it could hold anything, so it cannot be declared.
    """
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Rule] = {}
    for field in dataclasses.fields(kind):
        rule = next((one for one in get_args(hints[field.name])[1:] if isinstance(one, Rule)), None)
        if rule is None:
            raise TypeError(f"{kind.__name__}.{field.name} has no rule; declare it as Version, Uuid, Platform or Count")
        found[field.name] = rule
    return found


def declared(name: str) -> frozenset[str]:
    """The properties that an event of that name may have; none for a name that nobody declared."""
    kinds = {kind.name: kind for kind in _kinds(Event)}
    return frozenset(rules(kinds[name])) | frozenset(PROTOCOL) if name in kinds else frozenset()


def _kinds(kind: type[Event]) -> list[type[Event]]:
    below = kind.__subclasses__()
    return below + [deeper for one in below for deeper in _kinds(one)]


def surroundings(settings: Settings, instance_id: str) -> dict[str, str]:
    """The properties that every event has, as they are on this machine."""
    app_version = clean_version(settings.app_version)
    return {
        "instance_id": instance_id,
        "os_platform": next((name for name in PLATFORMS if sys.platform.startswith(name)), UNKNOWN),
        "os_release": _numbers(platform.release()),
        "python_version": platform.python_version().rstrip("+"),
        "app_version": app_version,
        "release": clean_version(settings.release_version) if settings.release_version else app_version,
    }


def clean_version(version: str | None) -> str:
    """The version if it is one, else ``unknown``: what a host calls its version is not sent unseen."""
    return version if version is not None and _is_version(version) else UNKNOWN


def _numbers(release: str) -> str:
    match = re.match(r"\d{1,8}(?:\.\d{1,8}){0,3}", release)
    return match.group() if match else UNKNOWN


def hours_and_days(span: timedelta) -> tuple[int, int]:
    """Whole hours and whole days; none for a clock that went back."""
    hours = min(max(span // timedelta(hours=1), 0), _MOST)
    return hours, hours // 24


def serialize(event: Event, moment: datetime) -> tuple[str, str]:
    """The event as it goes over the wire, and its UUID; both are fixed here, once and for all."""
    event_id = uuid7(moment.timestamp())
    body = {
        "event": event.name,
        "distinct_id": event.instance_id,
        "uuid": event_id,
        "timestamp": moment.astimezone(UTC).isoformat(timespec="milliseconds"),
        "properties": {**dataclasses.asdict(event), **PROTOCOL},
    }
    return json.dumps(body), event_id


def uuid7(moment: float | None = None) -> str:
    """A UUID of version 7 for a time in seconds since the epoch: PostHog wants its time to be the event's."""
    milliseconds = int((time.time() if moment is None else moment) * 1000)
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))

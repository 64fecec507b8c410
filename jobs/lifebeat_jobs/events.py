"""The events: one frozen dataclass each, the only things that can ever be sent.

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
import json
import os
import platform
import re
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from lifebeat.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lifebeat.settings.table import Settings

UNKNOWN = "unknown"
PLATFORMS = ("linux", "darwin", "win32", "cygwin", "freebsd", "openbsd", "netbsd", "sunos", "aix", "android", "ios")
CHANNELS = ("main", "master", "dev", "edge", "nightly", "latest", "stable", "beta", "alpha", "rc", "lts")
VERSION_WORDS = (
    "a|alpha|b|beta|build|c|canary|dev|edge|final|hotfix|lts|next|nightly|p|patch|post|pre|preview|r|rc|release|rev|"
    "snapshot|stable"
)
_VERSION = re.compile(
    rf"v?\d{{1,8}}(?:\.\d{{1,8}}){{0,4}}(?:[-+._]?(?:{VERSION_WORDS})(?:[-.]?\d{{1,8}}){{0,3}}){{0,3}}", re.IGNORECASE
)
_LIKE_A_VERSION = re.compile(r"v?\d[A-Za-z0-9.+_-]{0,99}")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,49}")
_LONGEST_VERSION = 40
_MOST = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALLOWED = "Version, Uuid, Platform, Count, bool, a Literal[...], or Annotated[int, between(low, high)]"


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


def between(low: int, high: int) -> Rule:
    """The rule of a whole number from ``low`` to ``high``, both included."""
    return Rule(f"a whole number from {low:,} to {high:,}", lambda value: type(value) is int and low <= value <= high)


Version = Annotated[str, Rule("a version such as 1.4.2, or `unknown`", _is_version)]
Uuid = Annotated[str, Rule("a random UUID", _is_uuid)]
Platform = Annotated[str, Rule("one of " + ", ".join(PLATFORMS) + ", `unknown`", {*PLATFORMS, UNKNOWN}.__contains__)]
Count = Annotated[int, between(0, _MOST)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event says.

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
    release: Version

    def __init_subclass__(cls) -> None:
        # Called twice for a class with slots, which dataclass() makes anew: it is the same declaration.
        where = f"{cls.__module__}.{cls.__qualname__}"
        if not _NAME.fullmatch(cls.__dict__.get("name", "")):
            raise TypeError(f'{where} has no name; give it one such as name: ClassVar[str] = "imported"')
        former = _declared.get(cls.name)
        if former is not None and former.__qualname__ != cls.__qualname__:
            raise TypeError(f"{where}.name: {cls.name!r} is taken by {former.__module__}.{former.__qualname__}")
        _rules_of(cls)
        _declared[cls.name] = cls

    def __post_init__(self) -> None:
        for field, rule in rules(type(self)).items():
            value = getattr(self, field)
            if not rule.holds(value):
                raise ValueError(f"{self.name}.{field}: {value!r} may not be sent; it takes {rule.words}")


_declared: dict[str, type[Event]] = {}


def _rules_of(kind: type[Event]) -> dict[str, Rule]:
    where = f"{kind.__module__}.{kind.__qualname__}"
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"{where}: {error}; import it at run time, outside `if TYPE_CHECKING`") from error
    hints = {field: hint for field, hint in hints.items() if get_origin(hint) is not ClassVar}
    found = {field: _rule_of(hint) for field, hint in hints.items()}
    for field, rule in found.items():
        if rule is None:
            written = getattr(hints[field], "__name__", str(hints[field]))
            raise TypeError(f"{where}.{field}: {written!r} could hold anything; it takes {_ALLOWED}")
    return {field: rule for field, rule in found.items() if rule is not None}


def _rule_of(hint: Any) -> Rule | None:
    if hint is bool:
        return Rule("true or false", lambda value: type(value) is bool)
    if get_origin(hint) is Literal:
        allowed: tuple[Any, ...] = get_args(hint)
        words = "one of " + ", ".join(str(one) for one in allowed)
        return Rule(words, lambda value: any(type(value) is type(one) and value == one for one in allowed))
    return next((one for one in get_args(hint)[1:] if isinstance(one, Rule)), None)


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
    """The rule of each property of a kind of event, by its name."""
    by_name = _rules_of(kind)
    return {field.name: by_name[field.name] for field in dataclasses.fields(kind)}


def check_names(kind: type[Event], given: Collection[str]) -> None:
    """See to it that what a host gives for its event are the properties of it, no more and no fewer.

    Raises:
        TypeError: They are not.
    """
    own = {name for name in rules(kind) if name not in rules(Event)}
    if own != set(given):
        raise TypeError(f"the event {kind.name} was given {sorted(given)}; it takes {sorted(own)}")


def declared(name: str) -> frozenset[str]:
    """The properties that an event of that name may have; none for a name that nobody declared."""
    kind = _declared.get(name)
    return frozenset() if kind is None else frozenset(rules(kind)) | frozenset(PROTOCOL)


def surroundings(settings: Settings, instance_id: str) -> dict[str, str]:
    """The properties that every event has, as they are on this machine."""
    app_version = clean_version(settings.app_version)
    return {
        "instance_id": instance_id,
        "os_platform": next((name for name in PLATFORMS if sys.platform.startswith(name)), UNKNOWN),
        "os_release": _numbers(platform.release()),
        "python_version": clean_version(platform.python_version().rstrip("+")),
        "app_version": app_version,
        "release": clean_version(settings.release_version) if settings.release_version else app_version,
    }


def clean_version(version: str | None) -> str:
    """As much from the beginning of what a host calls its version as is one, else ``unknown``.

    The words in a version are of a closed list: of ``1.4.2-acme`` and ``1.4.2+g3f2a1bc``, ``1.4.2`` is sent.
    """
    if version is None or (version not in CHANNELS and not _LIKE_A_VERSION.fullmatch(version)):
        return UNKNOWN
    ends = [len(version), *(found.start() for found in reversed([*re.finditer(r"[-+._]", version)]))]
    return next((version[:end] for end in ends if _is_version(version[:end])), UNKNOWN)


def _numbers(release: str) -> str:
    match = re.match(r"\d{1,8}(?:\.\d{1,8}){0,3}", release)
    return match.group() if match else UNKNOWN


def hours_and_days(span: timedelta) -> tuple[int, int]:
    """Whole hours and whole days; none for a clock that went back."""
    hours = min(max(span // timedelta(hours=1), 0), _MOST)
    return hours, hours // 24


def serialize(event: Event, moment: datetime) -> tuple[str, str]:
    """The event as it goes over the wire, and its UUID; both are fixed here, once and for all."""
    event_id = uuid7(moment)
    body = {
        "event": event.name,
        "distinct_id": event.instance_id,
        "uuid": event_id,
        "timestamp": moment.astimezone(UTC).isoformat(timespec="milliseconds"),
        "properties": {**dataclasses.asdict(event), **PROTOCOL},
    }
    return json.dumps(body), event_id


def uuid7(moment: datetime) -> str:
    """A UUID of version 7 for a moment, to the millisecond: PostHog wants its time to be the event's."""
    milliseconds = (moment - _EPOCH) // timedelta(milliseconds=1) & (1 << 48) - 1
    random = int.from_bytes(os.urandom(10))
    value = milliseconds << 80 | 7 << 76 | (random >> 68) << 64 | 2 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=value))

"""The last look before an event leaves: it is of a declared form, and points to no machine and to no person."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from lifebeat_jobs import events
from lifebeat_jobs.rules import CHANNELS, PLATFORMS, VERSION_WORDS, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lifebeat_jobs.rules import Form

SHORTEST = 4
_COMMON_WORDS = (
    "root admin administrator user users guest nobody daemon host hostname localhost local localdomain server "
    "client node main test testing prod production staging development desktop laptop computer machine home "
    "linux ubuntu debian fedora alpine arch centos rocky windows macos darwin docker podman container "
    "kubernetes python python3 service system runner worker default unknown posthog lifebeat data config http "
    "https true false null app apps application api web website backend frontend postgres postgresql mysql mariadb "
    "redis mongo mongodb sqlite nginx apache database jobs backup import export report cron scheduler heartbeat "
    "startup shutdown release version sync batch"
)
COMMON = frozenset(_COMMON_WORDS.split()) | {*PLATFORMS, *CHANNELS}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EMAIL = re.compile(r"[^\s@]@[^\s@]")
_MAC = re.compile(r"\b[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}\b")
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|(?<![0-9a-f])[0-9a-f]{0,4}:[0-9a-f.:]*")
_OF_VERSIONS = re.compile(rf"(?:{VERSION_WORDS})[.-]?\d*")
_NOBODYS = frozenset({"", "00:00:00:00:00:00", "::", "::1", "0.0.0.0", "127.0.0.1"})  # noqa: S104 - nothing is bound
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", re.ASCII)
_PROTECTING = {"$geoip_disable", "$process_person_profile", "$ip"}  # what PostHog must always get
_SHIPPED = frozenset(kind.name for kind in events.CATALOGUE)
_is_id = Rule("uuid").holds
_MOST_READ = 1 << 20
_COLONS = (6, 7)  # in an IPv6 address that leaves nothing out
_DOCUMENTATION = ("192.0.2.1", 9)  # an address that belongs to nobody


@dataclass(frozen=True, slots=True)
class Machine:
    """What must not leave.

    Attributes:
        names: Names by what they are, such as ``("the host name", "atlas")``.
        addresses: IP and MAC addresses of this machine, in their shortest form and in lower case.
    """

    names: tuple[tuple[str, str], ...]
    addresses: frozenset[str]


def this_machine() -> Machine:
    """Return what there is to find out about this machine without asking the network."""
    import socket

    host = socket.gethostname()
    names = [("the host name", host), ("the host name", host.partition(".")[0])]
    names += [("the user name", name) for name in _user_names()]
    homes = [os.path.expanduser("~"), os.environ.get("HOME", "")]  # noqa: PTH111 - stays text
    names += [("the home directory", home.rstrip("/")) for home in homes]
    return Machine(tuple(dict.fromkeys(names)), frozenset(_addresses()) - _NOBODYS)


def _user_names() -> Iterator[str]:
    """Yield who runs this, by the system and by the environment, which need not agree."""
    with contextlib.suppress(ImportError, KeyError):  # a user without an entry has no name
        import pwd

        yield pwd.getpwuid(os.getuid()).pw_name
    for variable in ("LOGNAME", "USER", "USERNAME", "SUDO_USER"):
        yield os.environ.get(variable, "")


def _addresses() -> Iterator[str]:
    import socket

    for path in Path("/sys/class/net").glob("*/address"):
        yield _read(path).strip().lower()
    known = _read(Path("/proc/net/fib_trie"))
    yield from re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host", known)
    for line in _read(Path("/proc/net/if_inet6")).splitlines():
        yield ipaddress.IPv6Address(int(line.split()[0], 16)).compressed
    if known:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.connect(_DOCUMENTATION)  # sends nothing; for systems without /proc, the address they would send from
        yield str(unused.getsockname()[0])


def _read(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(_MOST_READ)
    except OSError:
        return ""


def why_withheld(text: str, forms: Mapping[str, Sequence[Form]], machine: Machine) -> str | None:
    """Return why an event may not leave, in words that hold nothing of it; ``None`` if it may.

    It has to be of a declared form; and what is open in it, versions and the names that a host chose, is searched.

    Args:
        text: The event as it would go over the wire.
        forms: The declared forms.
        machine: What must not leave.
    """
    try:
        body: Any = json.loads(text)
    except ValueError:
        return "it is damaged"
    return _fault(body, forms) or leak_in(_open_texts(body, forms), machine)


def _fault(body: Any, forms: Mapping[str, Sequence[Form]]) -> str | None:
    """Return why an event may not leave: it is not of a declared form. ``None`` if it is.

    Args:
        body: The event as it would go over the wire.
        forms: The forms that are declared, by the event's name.
    """
    if not is_object(body) or body.keys() != {"event", "distinct_id", "uuid", "timestamp", "properties"}:
        return "it has not the keys of an event"
    known = forms.get(str(body["event"]), ())
    if not known:
        return "it is of no declared event"
    if not _is_at_its_moment(body["uuid"], body["timestamp"]):
        return "its uuid and timestamp do not fit"
    properties = body["properties"]
    if not is_object(properties) or not any(_has_form(properties, form) for form in known):
        return "its properties are not the declared ones"
    if body["distinct_id"] != properties.get("instance_id", body["distinct_id"]) or not _is_id(body["distinct_id"]):
        return "its distinct_id is not its instance_id"
    return None


def _open_texts(body: dict[str, Any], forms: Mapping[str, Sequence[Form]]) -> Iterator[str]:
    """Yield what is open in an event: IDs, versions, and the names that a host gave to the event and its properties."""
    yield body["distinct_id"]
    properties = body["properties"]
    for form in forms[body["event"]]:
        yield from (
            properties[name]
            for name, rule in form.items()
            if rule.kind in {"uuid", "version", "release"} and isinstance(properties.get(name), str)
        )
    if body["event"] not in _SHIPPED:
        yield body["event"]
        yield from properties.keys() - events.form_of(events.Event).keys() - events.PROTOCOL.keys()


def _has_form(properties: dict[str, Any], form: Form) -> bool:
    protocol = {name: value for name, value in properties.items() if name.startswith("$")}
    own = {name: value for name, value in properties.items() if name not in protocol}
    return (
        own.keys() == form.keys()
        and all(rule.holds(own[name]) for name, rule in form.items())
        and _is_protocol(protocol)
    )


def _is_protocol(found: dict[str, Any]) -> bool:
    expected = {name: value for name, value in events.PROTOCOL.items() if name in found or name in _PROTECTING}
    if "$lib_version" in expected and Rule("version").holds(found["$lib_version"]):
        expected["$lib_version"] = found["$lib_version"]  # an earlier Lifebeat may have recorded it
    return json.dumps(found, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _is_at_its_moment(event_id: Any, stamp: Any) -> bool:
    if not _is_id(event_id) or not isinstance(stamp, str) or not _MOMENT.fullmatch(stamp):
        return False
    try:
        made_at = events.milliseconds(datetime.fromisoformat(stamp))
    except ValueError:
        return False
    made = uuid.UUID(event_id)
    return (made.version, made.int >> 80) == (7, made_at)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether a JSON value is an object."""
    return isinstance(value, dict)


def leak_in(texts: Iterable[str], machine: Machine) -> str | None:
    """Return what of this machine or of a person texts hold, in words that do not hold it; ``None`` for nothing."""
    macs = [mac.replace(":", "") for mac in machine.addresses if _MAC.fullmatch(mac)]
    names = [(what, _pattern(name)) for what, name in machine.names if _is_telling(name)]
    for text in dict.fromkeys(text.lower() for text in texts):
        if _UUID.fullmatch(text):  # nothing fits into one but the end of a UUID of version 1
            found = "a MAC address" if text[-12:] in macs else None
        elif _EMAIL.search(text):
            found = "an e-mail address"
        elif _MAC.search(text) or any(mac in text for mac in macs):
            found = "a MAC address"
        elif any(_shortest(word) in machine.addresses for word in _ADDRESS.findall(text)):
            found = "an address of this machine"
        else:
            found = next((what for what, pattern in names if pattern.search(text)), None)
        if found is not None:
            return f"it holds {found}"
    return None


def _pattern(name: str) -> re.Pattern[str]:
    before = "" if name.startswith("/") else "(?<![a-z0-9])"
    return re.compile(f"{before}{re.escape(name.lower())}(?![a-z0-9])")


def _shortest(address: str) -> str:
    if ":" in address and "::" not in address and address.count(":") not in _COLONS:
        return ""
    try:
        return ipaddress.ip_address(address.rstrip(".")).compressed
    except ValueError:
        return ""


def _is_telling(name: str) -> bool:
    """Return whether a name points to anybody: not if it is short, a number, or one that thousands have."""
    word = name.strip("/").lower()
    common = word in COMMON or _OF_VERSIONS.fullmatch(word) or not re.search("[^\\W\\d_]", word)
    return len(word) >= SHORTEST and not common

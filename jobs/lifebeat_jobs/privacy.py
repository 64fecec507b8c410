"""The last look before anything leaves: the serialized bytes must not hold what points to a machine or a person."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lifebeat_jobs.events import CHANNELS, PLATFORMS, VERSION_WORDS, declared

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_Json: TypeAlias = "dict[str, _Json] | list[_Json] | str | float | None"
SHORTEST = 4
_COMMON_WORDS = (
    "root admin administrator user users guest nobody daemon host hostname localhost local localdomain server "
    "client node main test testing prod production staging development desktop laptop computer machine home "
    "linux ubuntu debian fedora alpine arch centos rocky windows macos darwin docker podman container "
    "kubernetes python python3 service system runner worker default unknown posthog lifebeat data config http "
    "https true false null "
)
COMMON = frozenset(_COMMON_WORDS.split()) | {*PLATFORMS, *CHANNELS}
ENVELOPE = frozenset({"event", "distinct_id", "uuid", "timestamp", "properties"})
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EMAIL = re.compile(r"[^\s@]@[^\s@]")
_MAC = re.compile(r"\b[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}\b")
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|(?<![0-9a-f])[0-9a-f]{0,4}:[0-9a-f.:]*")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)  # every event has one
_OF_VERSIONS = re.compile(rf"(?:{VERSION_WORDS})[.-]?\d*")
_NOBODYS = frozenset({"", "00:00:00:00:00:00", "::", "::1", "0.0.0.0", "127.0.0.1"})  # noqa: S104 - nothing is bound
_MOST_READ = 1 << 20
_REMEMBERED = 4096  # texts, and none that is long
_LONGEST_REMEMBERED = 200
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
    """What there is to find out about this machine without asking the network."""
    import socket

    host = socket.gethostname()
    names = [("the host name", host), ("the host name", host.partition(".")[0])]
    names += [("the user name", name) for name in _user_names()]
    homes = [os.path.expanduser("~"), os.environ.get("HOME", "")]  # noqa: PTH111 - stays text
    names += [("the home directory", home.rstrip("/")) for home in homes]
    return Machine(tuple(dict.fromkeys(names)), frozenset(_addresses()) - _NOBODYS)


def _user_names() -> Iterator[str]:
    """Who runs this, by the system and by the environment, which need not agree."""
    with contextlib.suppress(ImportError, KeyError):  # a user without an entry has no name
        import pwd

        yield pwd.getpwuid(os.getuid()).pw_name
    for variable in ("LOGNAME", "USER", "USERNAME", "SUDO_USER"):
        yield os.environ.get(variable, "")


def _addresses() -> Iterator[str]:
    import socket

    for path in Path("/sys/class/net").glob("*/address"):
        yield _read(path).strip().lower()
    yield from re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host", _read(Path("/proc/net/fib_trie")))
    for line in _read(Path("/proc/net/if_inet6")).splitlines():
        yield ipaddress.IPv6Address(int(line.split()[0], 16)).compressed
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.connect(_DOCUMENTATION)  # sends nothing; for systems without /proc, the address they would send from
        yield str(unused.getsockname()[0])


def _read(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            return file.read(_MOST_READ)
    except OSError:
        return ""


def leak_in_event(body: str, machine: Machine) -> str | None:
    """Why an event that was just made may not leave; ``None`` if it may."""
    event: Any = json.loads(body)
    return _undeclared(event) or leak_in(event, machine)


def leak_in_body(body: str, machine: Machine) -> str | None:
    """Why an event that was recorded earlier may not leave; ``None`` if it may.

    Another process may have declared it, so its keys are not looked at again.
    """
    try:
        return leak_in(json.loads(body), machine)
    except ValueError:
        return "it is damaged"


def leak_in(document: Any, machine: Machine) -> str | None:
    """What of this machine or of a person a JSON document holds, in words that do not hold it; ``None`` for nothing.

    Names of events and of properties are not looked at: which there are is settled when an event is made.
    """
    global _look  # noqa: PLW0603 - to find it by the machine's value would take longer than the look
    known = _look
    if known is None or known.machine is not machine:
        known = _look = _Look(machine)
    return known.leak_in([document])


class _Look:
    """What must not leave of a machine, made ready to look for. A text that most events hold is looked at once."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._macs = frozenset(mac.replace(":", "") for mac in machine.addresses if _MAC.fullmatch(mac))
        self._names = [(what, _pattern(name)) for what, name in machine.names if _is_telling(name)]
        self._harmless: set[str] = set()

    def leak_in(self, values: Iterable[_Json]) -> str | None:
        harmless = self._harmless
        for value in values:
            leak = None
            if isinstance(value, str):
                if value not in harmless:
                    leak = self._leak_in_new(value)
            elif isinstance(value, dict):
                named = [one for name, one in value.items() if name != "event"] if "event" in value else value.values()
                leak = self.leak_in(named)
            elif isinstance(value, list):
                leak = self.leak_in(value)
            if leak is not None:
                return leak
        return None

    def _leak_in_new(self, text: str) -> str | None:
        leak = self._leak_in(text)
        if leak is None and len(text) <= _LONGEST_REMEMBERED:
            if len(self._harmless) >= _REMEMBERED:
                self._harmless.clear()
            self._harmless.add(text)
        return leak

    def _leak_in(self, text: str) -> str | None:
        if _MOMENT.fullmatch(text):
            return None
        text = text.lower()
        if _UUID.fullmatch(text):  # every event has some: nothing fits into one but the end of a UUID of version 1
            return "it holds a MAC address" if text[-12:] in self._macs else None
        if _EMAIL.search(text):
            return "it holds an e-mail address"
        if _MAC.search(text) or any(mac in text for mac in self._macs):
            return "it holds a MAC address"
        if any(_shortest(word) in self.machine.addresses for word in _ADDRESS.findall(text)):
            return "it holds an address of this machine"
        seen = _UUID.sub(" ", text)
        return next((f"it holds {what}" for what, pattern in self._names if pattern.search(seen)), None)


_look: _Look | None = None


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
    """Whether a name points to anybody: not if it is short, a number, or one that thousands have."""
    word = name.strip("/").lower()
    common = word in COMMON or _OF_VERSIONS.fullmatch(word) or not re.search("[^\\W\\d_]", word)
    return len(word) >= SHORTEST and not common


def _undeclared(event: Any) -> str | None:
    foreign = (set(event) - ENVELOPE) | (set(event["properties"]) - declared(event["event"]))
    return f"it holds undeclared keys: {', '.join(sorted(foreign))}" if foreign else None

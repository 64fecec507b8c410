"""The last look before anything leaves: the serialized bytes must not hold what points to a machine or a person."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifebeat_jobs.events import CATALOGUE, CHANNELS, PLATFORMS, PROTOCOL, declared

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
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+")
_MAC = re.compile(r"\b[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Machine:
    """What must not leave.

    Attributes:
        names: Names by what they are, such as ``("the host name", "atlas")``.
        addresses: IP and MAC addresses of this machine, in lower case.
    """

    names: tuple[tuple[str, str], ...]
    addresses: frozenset[str]


def this_machine() -> Machine:
    """What there is to find out about this machine without asking the network."""
    import getpass  # noqa: PLC0415 - only a process that sends needs it
    import socket  # noqa: PLC0415

    host = socket.gethostname()
    names = [("the host name", host), ("the host name", host.partition(".")[0])]
    with contextlib.suppress(OSError, KeyError):  # a user without an entry has no name
        names.append(("the user name", getpass.getuser()))
    names.append(("the home directory", os.path.expanduser("~").rstrip("/")))  # noqa: PTH111 - stays text
    return Machine(tuple(dict.fromkeys(names)), frozenset(_addresses()))


def _addresses() -> set[str]:
    found: set[str] = set()
    for path in Path("/sys/class/net").glob("*/address"):
        found.add(_read(path).strip().lower())
    local = re.findall(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host", _read(Path("/proc/net/fib_trie")))
    found.update(local)
    for line in _read(Path("/proc/net/if_inet6")).splitlines():
        digits = line.split()[0]
        found.add(":".join(digits[at : at + 4] for at in range(0, 32, 4)))
    return found - {"", "00:00:00:00:00:00", "0000:0000:0000:0000:0000:0000:0000:0001", "127.0.0.1"}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def leak_in_event(body: str, machine: Machine) -> str | None:
    """Why an event may not leave; ``None`` if it may."""
    return _undeclared(body) or leak_in_text(body, machine)


def leak_in_text(text: str, machine: Machine) -> str | None:
    """What of this machine a text holds, in words that do not hold it; ``None`` for nothing."""
    if _EMAIL.search(text):
        return "it holds an e-mail address"
    if _MAC.search(text):
        return "it holds a MAC address"
    seen = _UUID.sub(" ", text.lower())
    for what, name in machine.names:
        if _is_telling(name) and re.search(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9])", seen):
            return f"it holds {what}"
    for address in machine.addresses:
        if re.search(rf"(?<![0-9a-f.:]){re.escape(address)}(?![0-9a-f:]|\.\d)", seen):
            return "it holds an address of this machine"
    return None


def _is_telling(name: str) -> bool:
    """Whether a name points to anybody: not if it is short, a number, or one that thousands have."""
    word = name.strip("/").lower()
    return len(word) >= SHORTEST and word not in COMMON and word not in _vocabulary() and not word.isdecimal()


def _vocabulary() -> frozenset[str]:
    words = {word for kind in CATALOGUE for word in (kind.name, *declared(kind.name))}
    return frozenset(words | ENVELOPE | {str(value).lower() for value in PROTOCOL.values()})


def _undeclared(body: str) -> str | None:
    event: Any = json.loads(body)
    foreign = set(event) - ENVELOPE
    foreign |= set(event["properties"]) - declared(event["event"])
    return f"it holds undeclared keys: {', '.join(sorted(foreign))}" if foreign else None

"""What a property may hold: closed types, so that nothing personal has a place.

A rule is data, not code: it can be kept beside a recorded event, and checked again by any process when that leaves.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

UNKNOWN = "unknown"
PLATFORMS = ("linux", "darwin", "win32", "cygwin", "freebsd", "openbsd", "netbsd", "sunos", "aix", "android", "ios")
CHANNELS = ("main", "master", "dev", "edge", "nightly", "latest", "stable", "beta", "alpha", "rc", "lts")
PREFIXES = ("release", "rel", "version", "ver")
VERSION_WORDS = (
    "a|alpha|b|beta|build|c|canary|dev|edge|final|hotfix|lts|next|nightly|p|patch|post|pre|preview|r|rc|release|rev|"
    "snapshot|stable"
)
LIMIT = 2**53  # beyond it JSON's readers, PostHog's among them, round
ALLOWED = (
    "Version, Release, Uuid, Platform, Count, bool, a Literal[...] of words, or Annotated[int, between(low, high)]"
)

_MOST = 1_000_000
_LONGEST = {"version": 40, "release": 90}
_NUMBERS = rf"v?\d{{1,8}}(?:\.\d{{1,8}}){{0,4}}(?:[-+._]?(?:{VERSION_WORDS})(?:[-.]?\d{{1,8}}){{0,3}}){{0,3}}"
_VERSION = re.compile(_NUMBERS, re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_PREFIX = re.compile(r"((?:[a-z]{1,20}[-_]){0,3}[a-z]{1,20})[-_/](?=v?\d)")
TAG = re.compile(rf"(?:{_PREFIX.pattern})?{_NUMBERS}(?:-\d{{1,6}}-g[0-9a-f]{{7,40}})?(?:-dirty)?")
_LIKE_A_VERSION = re.compile(r"v?\d[A-Za-z0-9.+_-]{0,99}")
_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+ -]{0,48}[A-Za-z0-9+])?")


@dataclass(frozen=True, slots=True)
class Rule:
    """What one property may hold.

    Attributes:
        kind: The type.
        low: The smallest number, of a range.
        high: The largest.
        words: The values, of a closed list.
    """

    KINDS: ClassVar = ("version", "release", "uuid", "bool", "range", "words")

    kind: str
    low: int = 0
    high: int = 0
    words: tuple[str | int | bool, ...] = ()

    def holds(self, value: Any) -> bool:
        """Return whether a value keeps the rule."""
        match self.kind:
            case "version" | "release":
                return isinstance(value, str) and len(value) <= _LONGEST[self.kind] and _is_version(value, self.kind)
            case "uuid":
                return isinstance(value, str) and _is_uuid(value)
            case "bool":
                return type(value) is bool
            case "range":
                return type(value) is int and self.low <= value <= self.high
            case _:
                return any(type(value) is type(one) and value == one for one in self.words)

    def example(self) -> Any:
        """Return a value that keeps the rule."""
        made: dict[str, Any] = {
            "version": "1.4.2",
            "release": "1.4.2",
            "uuid": "00000000-0000-4000-8000-000000000000",
            "bool": False,
            "range": self.low,
        }
        return made.get(self.kind) if self.kind != "words" else self.words[0]

    def is_sound(self) -> bool:
        """Return whether the rule is closed: a known kind, small numbers, plain words."""
        if self.kind == "range":
            return _is_number(self.low) and _is_number(self.high) and self.low <= self.high
        if self.kind == "words":
            return bool(self.words) and all(map(_is_word, self.words))
        return self.kind in self.KINDS

    def __str__(self) -> str:
        match self.kind:
            case "version":
                return "a version such as 1.4.2, or `unknown`"
            case "release":
                return "a version, a Git tag such as notes-v1.4.2, `git describe` output, a commit SHA, or `unknown`"
            case "uuid":
                return "a random UUID"
            case "bool":
                return "true or false"
            case "range":
                return f"a whole number from {self.low:,} to {self.high:,}"
            case _:
                return "one of " + ", ".join(f"`{one}`" if one == UNKNOWN else str(one) for one in self.words)


def _is_version(value: str, kind: str) -> bool:
    if value in {UNKNOWN, *CHANNELS} or _VERSION.fullmatch(value):
        return True
    return kind == "release" and bool(TAG.fullmatch(value) or _COMMIT.fullmatch(value))


def _is_uuid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _is_number(value: Any) -> bool:
    return type(value) is int and -LIMIT < value < LIMIT


def _is_word(value: Any) -> bool:
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return type(value) is bool or _is_number(value)


Form = dict[str, Rule]
"""The rule of each property of an event, by its name."""


def between(low: int, high: int) -> Rule:
    """Return the rule of a whole number from ``low`` to ``high``, both included.

    Raises:
        ValueError: That is no range, or reaches 2^53.
    """
    rule = Rule("range", low, high)
    if not rule.is_sound():
        raise ValueError(
            f"between({low!r}, {high!r}): expected whole numbers, the lower first, nearer to zero than 2**53"
        )
    return rule


Version = Annotated[str, Rule("version")]
Release = Annotated[str, Rule("release")]
Uuid = Annotated[str, Rule("uuid")]
Platform = Annotated[str, Rule("words", words=(*PLATFORMS, UNKNOWN))]
Count = Annotated[int, between(0, _MOST)]


def rule_of(hint: Any) -> Rule | None:
    """Return the rule that a type hint declares; ``None`` for one that could hold anything."""
    if hint is bool:
        return Rule("bool")
    if get_origin(hint) is Literal:
        hint = Annotated[str, Rule("words", words=get_args(hint))]
    found = next((one for one in get_args(hint)[1:] if type(one) is Rule), None)
    return found if found is not None and found.is_sound() else None


def as_data(form: Form) -> dict[str, Any]:
    """Return a form as JSON can hold it."""
    return {name: asdict(rule) for name, rule in sorted(form.items())}


def from_data(data: Any) -> Form | None:
    """Return the form that ``as_data`` made; ``None`` for anything else."""
    try:
        form = {
            str(name): Rule(rule["kind"], rule["low"], rule["high"], tuple(rule["words"]))
            for name, rule in data.items()
        }
        return form if all(rule.is_sound() for rule in form.values()) else None
    except (TypeError, AttributeError, KeyError):
        return None


def clean_version(version: str | None) -> str:
    """Return as much from the beginning of what a host calls its version as is one, else ``unknown``.

    The words in a version are of a closed list: of ``1.4.2-acme`` and ``1.4.2+g3f2a1bc``, ``1.4.2`` is sent.
    """
    if version is None or (version not in CHANNELS and not _LIKE_A_VERSION.fullmatch(version)):
        return UNKNOWN
    ends = [len(version), *(found.start() for found in reversed([*re.finditer(r"[-+._]", version)]))]
    rule = Rule("version")
    return next((version[:end] for end in ends if rule.holds(version[:end])), UNKNOWN)


def clean_release(release: str | None, app_name: str | None = None) -> str:
    """Return what is sent of what a host calls its release.

    A tag's prefix is kept if it is a common one or the application's own name; of any other tag only the version is.
    """
    release = release or ""
    prefix = _PREFIX.match(release)
    own = re.sub(r"[^a-z]+", "-", (app_name or "").lower()).strip("-")
    if prefix and prefix[1].replace("_", "-") not in {*PREFIXES, own}:
        release = release[prefix.end() :]
    return release if Rule("release").holds(release) else clean_version(release)

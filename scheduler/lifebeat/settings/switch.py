"""Near misses of the switch: what people write who want telemetry off, and have not looked up how.

Who says off in any of these spellings is heard. Other keys, such as ``telemetryUrl`` or the ``enabled`` of another
section, are the application's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lifebeat.settings.table import BY_NAME, FALSE, TRUE

if TYPE_CHECKING:
    from collections.abc import Iterator

ENABLED = "telemetryEnabled"

_SWITCH = "telemetryenabled"
_TELEMETRY, _LIFEBEAT = "telemetry", "lifebeat"
# What may be around `telemetry` or `lifebeat`, without capitals and signs. A key with any other word in it is foreign.
_ON = (
    "enabled", "enable", "is", "on", "active", "activated", "activate", "allow", "allowed", "optin", "optedin", "use",
    "send", "sending", "sent", "collect", "collected", "collecting", "collection", "consent", "share", "sharing",
    "report", "reporting", "submit", "upload", "with", "permit", "permitted", "accept", "accepted", "agree", "agreed",
    "mode", "level", "state", "status", "switch", "setting", "settings", "config", "options", "usage", "analytics",
    "anonymous", "anonymized", "anonymised", "heartbeat",
)  # fmt: skip
_OFF = (
    "disabled", "disable", "deactivated", "deactivate", "off", "optout", "optoutof", "optedout", "no", "not", "dont",
    "donot", "never", "skip", "block", "blocked", "stop", "stopped", "reject", "rejected", "deny", "denied", "refuse",
    "refused", "suppress", "suppressed", "pause", "paused", "inactive",
)  # fmt: skip
_SECTION = ("", "setting", "settings", "config", "options")
# Sections that may hold settings of ours under their whole name, as in `privacy: {telemetry: off}`.
_OUTER = frozenset({*_SECTION, "app", "application", "general", "global", "main", "privacy", "consent", "features"})
_WORDS = re.compile("|".join(sorted((*_ON, *_OFF), key=len, reverse=True)))
_DO_NOT_TRACK = frozenset({"donottrack", "donottrackme", "donttrack", "telemetrydonottrack", "dnt"})
_MISSPELLED = (_SWITCH, "telemetrydisabled", "enabletelemetry", "disabletelemetry", "telemetryoptout", "donottrack")
_NO = FALSE | {"none", "n", "f"}
_NEGATIVE = _NO | set(_OFF)
_PAIR = re.compile(r"""([A-Za-z][\w.-]*)["']?\s*[:=]\s*["']?(\w+)""")
_COMMENT = re.compile(r"(?m)(?:^|\s)(?:#|//).*")
_PLAIN = {re.sub("[^a-z]", "", name.lower()): name for name in BY_NAME if name.startswith("telemetry")}


def says_off(name: str, value: Any) -> bool:
    """Return whether a key that is not ours was meant as the switch, and says off.

    Args:
        name: The key, with its section before it.
        value: What is written for it; a list or a mapping says nothing.
    """
    if value is None and (joined := _PAIR.search(name)):  # {telemetryEnabled:false}, without the space
        name, value = joined.groups()
    word = _word(name)
    if isinstance(value, (list, dict)) or not word:
        return False
    said = str(value).strip().strip("\"'").lower() if value is not None else ""
    word = word.removeprefix(_LIFEBEAT) if _TELEMETRY in word or "track" in word else word
    if _is_near(word, _SWITCH) and not _is_off(word):
        return said not in TRUE
    known = word if _is_off(word) is not None else next((one for one in _MISSPELLED if _is_near(word, one)), "")
    is_off = _is_off(known)
    if is_off is False:
        return re.sub("[^a-z0-9]", "", said) in _NEGATIVE
    return is_off is True and bool(said) and said not in _NO


def text_says_off(text: str) -> bool:
    """Return whether a file that is not understood has the switch in it, and not in a comment, and says off."""
    pairs = _PAIR.findall(_COMMENT.sub("", text))
    known = _NEGATIVE | TRUE  # half of a word says nothing
    return any(said.lower() in known and says_off(name, said) for name, said in pairs)


@lru_cache(1000)  # settings are read often, and always with the same keys
def meant(name: str) -> str | None:
    """Return the setting of ours that a key is another spelling of; ``None`` if it is none."""
    word = _word(name).removeprefix("lifebeat")
    near = (known for plain, known in _PLAIN.items() if word == plain or _is_near(word, plain))
    return next(near, None)


def in_section(section: str, name: str) -> str:
    """Return a key of a section as one name: ``telemetry: {enabled: …}`` and ``{telemetryEnabled: …}`` are the same."""
    word = _word(name)
    is_whole = word.startswith(_LIFEBEAT) or _TELEMETRY in word or word in _DO_NOT_TRACK
    return name if is_whole else f"{section}.{name}"


@lru_cache(1000)
def is_worth_a_look(name: str) -> bool:
    """Return whether a name has anything in it that one of ours has; of an environment few have."""
    return bool(re.search("tele|track|beat|metry|^dnt$|do.?not", name, re.IGNORECASE))


def is_section(name: str) -> bool:
    """Return whether settings of ours may have been put below a key."""
    word = _word(name)
    return word in _OUTER or any(rest in _SECTION for _, rest in _parts(word))


@lru_cache(1000)
def _is_off(word: str) -> bool | None:
    """Return whether a key turns telemetry off when it is true; ``None`` if it has nothing to do with the switch."""
    if word in _DO_NOT_TRACK:
        return True
    for _, rest in _parts(word):
        words = _WORDS.findall(rest)
        if "".join(words) == rest:
            return sum(one in _OFF for one in words) % 2 == 1
    return None


def _parts(word: str) -> Iterator[tuple[str, str]]:
    """Yield the subject of a key, which may be misspelled, and what is around it."""
    if _TELEMETRY in word:
        before, _, after = word.removeprefix(_LIFEBEAT).partition(_TELEMETRY)
        yield _TELEMETRY, before + after
        return
    for subject in (_LIFEBEAT, _TELEMETRY):
        for length in (len(subject), len(subject) - 1, len(subject) + 1):
            if _is_near(word[:length], subject):
                yield subject, word[length:]
            if _is_near(word[-length:], subject):
                yield subject, word[:-length]


def _word(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower()) if len(name) < 60 else ""  # noqa: PLR2004 - no key of ours


@lru_cache(10_000)
def _is_near(word: str, other: str) -> bool:
    """Return whether one letter was changed, left out, added, or swapped with the next."""
    if abs(len(word) - len(other)) > 1:
        return False
    if len(word) == len(other) and sum(one != two for one, two in zip(word, other, strict=True)) <= 1:
        return True
    return word in _edits(other) or other in _edits(word)


def _edits(word: str) -> Iterator[str]:
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at : at + 2][::-1] + word[at + 2 :]

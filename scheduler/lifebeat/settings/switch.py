"""Near misses of the switch: what people write who want telemetry off, and have not looked up how.

Who says off in any of these spellings is heard. Other keys, such as ``telemetryUrl`` or the ``enabled`` of another
section, are the application's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lifebeat.settings.table import BY_NAME, FALSE, TRUE

if TYPE_CHECKING:
    from collections.abc import Iterator

ENABLED = "telemetryEnabled"
SECTIONS = frozenset({"telemetry", "lifebeat", "lifebeattelemetry"})

_SWITCH = "telemetryenabled"
# Said without capitals and signs; a leading `lifebeat` is taken off.
_ON = frozenset(
    (
        _SWITCH, "telemetry", "telemetryenable", "enabletelemetry", "enabledtelemetry", "telemetryisenabled",
        "istelemetryenabled", "telemetryon", "telemetryactive", "telemetryactivated", "telemetryallowed",
        "telemetryallow", "allowtelemetry", "telemetryoptin", "optintelemetry", "usetelemetry", "sendtelemetry",
        "collecttelemetry", "telemetryconsent", "telemetrymode", "telemetrylevel", "telemetrystate", "telemetrystatus",
    )
)  # fmt: skip
_OFF = frozenset(
    (
        "telemetrydisabled", "telemetrydisable", "disabletelemetry", "disabledtelemetry", "telemetryisdisabled",
        "notelemetry", "telemetryoff", "telemetryoptout", "telemetryoptedout", "optouttelemetry", "optoutoftelemetry",
        "donottrack", "telemetrydonottrack", "donotsendtelemetry", "dontsendtelemetry", "skiptelemetry",
    )
)  # fmt: skip
_OWN_ON = frozenset({"", "enabled", "enable", "optin"})
_OWN_OFF = frozenset({"disabled", "disable", "optout", "off"})
_MISSPELLED = (_SWITCH, "telemetrydisabled", "enabletelemetry", "disabletelemetry", "telemetryoptout", "donottrack")
_NO = FALSE | {"disabled", "disable", "none", "never", "n", "f"}
_PLAIN = {re.sub("[^a-z]", "", name.lower()): name for name in BY_NAME if name.startswith("telemetry")}


def says_off(name: str, value: Any) -> bool:
    """Return whether a key that is not ours was meant as the switch, and says off.

    Args:
        name: The key, with its section before it.
        value: What is written for it; a list or a mapping says nothing.
    """
    word = _word(name)
    if isinstance(value, (list, dict)) or not word:
        return False
    said = str(value).strip().strip("\"'").lower() if value is not None else ""
    own = word.removeprefix("lifebeat") if word.startswith("lifebeat") else None
    word = own or word
    if word == _SWITCH or (word not in _OFF and _is_near(word, _SWITCH)):
        return said not in TRUE
    if word in _ON or own in _OWN_ON or _is_near(word, "enabletelemetry"):
        return said in _NO
    if word in _OFF or own in _OWN_OFF or any(_is_near(word, off) for off in _MISSPELLED):
        return bool(said) and said not in _NO
    return False


def meant(name: str) -> str | None:
    """Return the setting of ours that a key is another spelling of; ``None`` if it is none."""
    word = _word(name).removeprefix("lifebeat")
    near = (known for plain, known in _PLAIN.items() if word == plain or _is_near(word, plain))
    return next(near, None)


def in_section(section: str, name: str) -> str:
    """Return a key of a section as one name: ``telemetry: {enabled: …}`` and ``{telemetryEnabled: …}`` are the same."""
    is_whole = _word(name).startswith(("telemetry", "lifebeat")) or _word(name) in _OFF
    return name if is_whole else f"{section}.{name}"


def is_worth_a_look(name: str) -> bool:
    """Return whether a name has anything in it that one of ours has; of an environment few have."""
    return bool(re.search("tele|track|lifebeat|metry", name, re.IGNORECASE))


def is_section(name: str) -> bool:
    """Return whether settings of ours may have been put below a key."""
    return _word(name) in SECTIONS


def _word(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower()) if len(name) < 60 else ""  # noqa: PLR2004 - no key of ours


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

"""The one table of settings: keys, kinds, defaults and help. Validation, help, docs and schema are made from it."""

from __future__ import annotations

import ipaddress
import re
import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from lifebeat.text import durations
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.errors import Problem

TRUE = frozenset({"true", "1", "yes", "on"})
FALSE = frozenset({"false", "0", "no", "off"})

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")


class Kind(NamedTuple):
    """A kind of value.

    Attributes:
        name: What it is called in the documents.
        allowed: What may be written, in words.
        parse: Turns what was written (text, bool, number) into the value; ``ValueError`` says why not.
        schema: The same rule as a JSON Schema fragment, for editors.
        doubt: Returns what is strange about a value that may be right; ``None`` for nothing.
    """

    name: str
    allowed: str
    parse: Callable[[Any], Any]
    schema: dict[str, Any]
    doubt: Callable[[Any], str | None] = lambda _: None


def parse_bool(value: Any) -> bool:
    """Read a boolean: true/false/1/0/yes/no/on/off in any case.

    Raises:
        ValueError: It is none of these.
    """
    word = str(value).strip().lower() if isinstance(value, (bool, str, int)) else ""
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise ValueError("is not a boolean; expected true or false (or 1/0, yes/no, on/off)")


def is_off(value: Any) -> bool:
    """Return whether what was written for a boolean says off."""
    return str(value).strip().lower() in FALSE


def _parse_text(value: Any) -> str:
    if isinstance(value, (bool, dict, list)) or not str(value).strip():
        raise ValueError("is not a text")
    text = str(value).strip()
    if len(text) > 200 or not text.isprintable():  # noqa: PLR2004
        raise ValueError("is not a text of at most 200 printable characters")
    return text


def _parse_project_key(value: Any) -> str:
    key = _parse_text(value)
    if re.match(r"ph[abd-z]_", key):
        raise ValueError("opens more than it may: it is no project key; expected the project's own, phc_…")
    return key


def _doubt_project_key(key: str) -> str | None:
    return None if re.fullmatch(r"phc_\w+", key) else "does not look like a project key, phc_…; see PostHog's settings"


def _parse_url(value: Any) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if not valid:
        raise ValueError("is not a URL; expected one such as https://us.i.posthog.com")
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("must not hold a user, a query or a fragment; expected a URL such as https://us.i.posthog.com")
    if not re.fullmatch(r"[\x21-\x7e]+", value):
        raise ValueError("must not hold spaces or letters outside ASCII")
    if not _AUTHORITY.fullmatch(parts.netloc):
        raise ValueError("does not name a host; expected a URL such as https://us.i.posthog.com")
    return str(value).rstrip("/")


def _parse_uuid(value: Any) -> str:
    try:
        parsed = uuid.UUID(value)
    except (ValueError, AttributeError, TypeError):
        raise ValueError("is not a UUID; remove the line and a new one is made") from None
    if parsed.int == 0:
        raise ValueError("is the UUID of all zeros, which PostHog refuses; remove the line and a new one is made")
    return str(parsed)


def _parse_duration(value: Any, *, zero: bool = False) -> timedelta:
    if isinstance(value, timedelta):
        if not (zero or value) or not timedelta(0) <= value <= durations.LONGEST:
            raise ValueError("must be greater than zero and at most ten years")
        return value
    if isinstance(value, (bool, dict, list)):
        raise ValueError(f"is not a duration; expected {durations.ALLOWED}")  # noqa: TRY004 - one kind of refusal
    return durations.parse_duration(str(value), zero=zero)


def _parse_timeout(value: Any) -> timedelta:
    timeout = _parse_duration(value)
    if timeout > timedelta(seconds=60):
        raise ValueError("is longer than 60s; a stop must not wait longer than that")
    return timeout


def _parse_count(value: Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,11}", text):
        raise ValueError("is not a whole number from 1 up")
    return int(text)


def _choice(*words: str) -> Kind:
    def parse(value: Any) -> str:
        word = value.strip() if isinstance(value, str) else str(value)
        if word not in words:
            raise ValueError(f"is not a choice; expected {_listed(words)}{did_you_mean(word, words)}")
        return word

    return Kind("choice", _listed(words), parse, {"enum": list(words)})


def _listed(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


_DURATION_SCHEMA: dict[str, Any] = {"type": "string", "pattern": durations.PATTERN}
BOOLEAN = Kind(
    "boolean",
    "true or false (or 1/0, yes/no, on/off, in any case)",
    parse_bool,
    {
        "anyOf": [
            {"type": "boolean"},
            {"enum": [0, 1]},
            {"type": "string", "pattern": "^(?i:true|false|1|0|yes|no|on|off)$"},
        ]
    },
)
TEXT = Kind("text", "a text of at most 200 characters", _parse_text, {"type": ["string", "number"]})
URL = Kind("URL", "an http or https URL", _parse_url, {"type": "string", "pattern": "^https?://"})
UUID = Kind("UUID", "a UUID", _parse_uuid, {"type": "string", "format": "uuid"})
DURATION = Kind("duration", durations.ALLOWED, _parse_duration, _DURATION_SCHEMA)
TIMEOUT = Kind("duration", "a duration of at most 60s, such as 2s or 500ms", _parse_timeout, _DURATION_SCHEMA)
PROJECT_KEY = Kind(
    "project key",
    "a project key of PostHog, phc_…",
    _parse_project_key,
    {"type": "string"},
    _doubt_project_key,
)
IDENTITY = _choice("installation", "monthly", "none")
NEW_FIELDS = _choice("ask", "send")
LENGTH = Kind(
    "duration",
    f"{durations.ALLOWED}, or 0s for not at all",
    partial(_parse_duration, zero=True),
    _DURATION_SCHEMA,
)
COUNT = Kind("number", "a whole number from 1 up", _parse_count, {"type": "integer", "minimum": 1})


@dataclass(frozen=True, slots=True)
class Key:
    """One setting.

    Attributes:
        name: Its name in files.
        kind: What it takes.
        default: Its value where nothing is said; ``None`` for none.
        help: What it means, for people.
        secret: Whether it is masked where it is shown.
    """

    name: str
    kind: Kind
    default: Any
    help: str
    secret: bool = False

    def shown(self, written: Any) -> str:
        """Return what was written as a message may show it: no secret, and no password in a URL."""
        if self.secret or "@" in str(written):
            return "the value"
        return "null" if written is None else repr(written)

    @property
    def attribute(self) -> str:
        """Return its name in code."""
        return _snake(self.name).removeprefix("telemetry_")

    @property
    def variable(self) -> str:
        """Return its name in the environment."""
        return _snake(self.name).upper()


@cache
def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


KEYS: tuple[Key, ...] = (
    Key(
        "telemetryEnabled",
        BOOLEAN,
        True,
        "Whether anything may be recorded and sent. Off at any layer means off; null and what cannot be read count as "
        "off, and are errors.",
    ),
    Key(
        "telemetryApiKey",
        PROJECT_KEY,
        None,
        "The PostHog project key. Without one nothing is sent; events stay in the local ledger.",
        secret=True,
    ),
    Key(
        "telemetryHost",
        URL,
        "https://us.i.posthog.com",
        "The PostHog that receives the events: any region, or one that you host yourself. A user or a password in it "
        "is an error.",
    ),
    Key(
        "telemetryInstanceId",
        UUID,
        None,
        "The random ID of this installation. Made on the first start that may send, and written back to the config "
        "file; derived from nothing.",
    ),
    Key(
        "telemetryHeartbeatInterval",
        DURATION,
        timedelta(hours=24),
        "The time from one heartbeat to the next; at least a minute, except when sending to this machine.",
    ),
    Key(
        "telemetryShutdownTimeout",
        TIMEOUT,
        timedelta(seconds=2),
        "The longest that a stop waits for the last events, by the clock on the wall, DNS included.",
    ),
    Key(
        "telemetryStateDir",
        TEXT,
        None,
        "Where the state lives: one database, one lock file and `host.json`. None: `$STATE_DIRECTORY` under systemd, "
        "else `lifebeat/` below the config directory, else a directory below `~/.local/state` where config is "
        "read-only.",
    ),
    Key(
        "telemetryIdentity",
        IDENTITY,
        "installation",
        "Which ID an event carries. `installation`: the random ID. `monthly`: another ID each calendar month, "
        "made from a secret that never leaves. `none`: a new random one with every event, and no `instance_id`.",
    ),
    Key(
        "telemetryNewFields",
        NEW_FIELDS,
        "ask",
        "What happens to events and properties that a later version wants to add. `ask`: they are left out "
        "until `lifebeat accept`. `send`: they are sent.",
    ),
    Key(
        "telemetryOutboxEvents",
        COUNT,
        1000,
        "How many events may be pending; beyond that the oldest is dropped, and the ledger says so.",
    ),
    Key(
        "telemetryOutboxBytes",
        COUNT,
        5 * 1024 * 1024,
        "How many bytes of events may be pending; beyond that the oldest is dropped, and the ledger says so.",
    ),
    Key(
        "telemetryOutboxAge",
        DURATION,
        timedelta(days=30),
        "How long an event may be pending; after that it is dropped, and the ledger says so.",
    ),
    Key(
        "runHistory",
        LENGTH,
        timedelta(days=30),
        "How long the runs of jobs are remembered, for `lifebeat runs`; of each job the last 2,000. `0s`: not at all.",
    ),
    Key("appName", TEXT, None, "The application's name: for log lines and the fallback directory; never sent."),
    Key("appVersion", TEXT, None, "The application's version, sent as `app_version`."),
    Key("releaseVersion", TEXT, None, "The release that is running, sent as `release`; `appVersion` where not given."),
)
BY_NAME: dict[str, Key] = {key.name: key for key in KEYS}


FileState = Literal["missing", "empty", "unfinished", "unreadable", "complete"]


class LayerValue(NamedTuple):
    """What one layer says about one key.

    Attributes:
        layer: The layer, as a person would find it: a file, or ``environment (TELEMETRY_HOST)``.
        value: The value; ``None`` where it was not valid.
        written: What was written.
    """

    layer: str
    value: Any
    written: Any


@dataclass(frozen=True, slots=True)
class Settings:
    """The merged settings; each value has its sources in ``layer_values``.

    Attributes:
        layer_values: For each key's name what each layer says, lowest first.
        sources: For each key's name the layer whose value counts.
        problems: What is wrong in any layer. While there are any, telemetry is paused: nothing is made or sent.
        warnings: What is strange in any layer, and counts all the same.
        opted_out: Whether a layer says off, as against settings that cannot be read.
        files: What state each config file is in, by its path: an absence, or half of a file, is no answer.
    """

    enabled: bool
    api_key: str | None
    host: str
    instance_id: str | None
    heartbeat_interval: timedelta
    shutdown_timeout: timedelta
    state_dir: str | None
    outbox_events: int
    outbox_bytes: int
    outbox_age: timedelta
    identity: str
    new_fields: str
    run_history: timedelta
    app_name: str | None
    app_version: str | None
    release_version: str | None
    layer_values: dict[str, tuple[LayerValue, ...]] = field(
        default_factory=dict[str, tuple[LayerValue, ...]], hash=False
    )
    sources: dict[str, str] = field(default_factory=dict[str, str], hash=False)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    opted_out: bool = False
    files: dict[str, FileState] = field(default_factory=dict[str, FileState], hash=False)

    def value(self, name: str) -> Any:
        """Return the value of the key that is called ``name`` in files."""
        return getattr(self, BY_NAME[name].attribute)

    @property
    def reason(self) -> str:
        """Why telemetry is on or off, and who said so."""
        if self.enabled:
            return f"on (telemetryEnabled: {self.sources['telemetryEnabled']})"
        if self.opted_out:
            return f"off ({self.sources['telemetryEnabled']})"
        return f"off until the settings can be read ({self.problems[0]})"


def is_loopback(url: str) -> bool:
    """Return whether a URL leads to this machine only."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

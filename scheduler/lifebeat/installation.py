"""The installation: its random ID, what its running host was told, the opt-outs that were seen, and its settings."""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat import clock as clocks
from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.settings import edit
from lifebeat.settings.layers import CONFIG_FILES, JOB_FILE
from lifebeat.settings.table import BY_NAME, KEYS
from lifebeat.storage import safe_file
from lifebeat.storage import state_dir as statedir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lifebeat.clock import Clock
    from lifebeat.context import JobContext
    from lifebeat.settings.source import ConfigSource
    from lifebeat.settings.table import Settings

KEY = "telemetryInstanceId"
HOST_FILE = "host.json"
_LIMIT = 256 * 1024
_ATTEMPTS = 5
_VARIABLES = ("LIFEBEAT_DEPLOYMENT", *(key.variable for key in KEYS), *(key.name for key in KEYS))


# -- what the host was told ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """What the application's latest process was told, so that commands beside it know it too.

    Attributes:
        arguments: What it passes to ``attach``, by the key's name in files.
        environment: Lifebeat's variables in its environment.
        allow: The modules that its job file may name.
        executable: Its interpreter.
        config_dir: The config directory, absolute.
        process: Its process ID.
        started: When it joined: wall clock, boot-time clock, boot.
        others: Applications of another name that were seen in this directory, and when.
    """

    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    allow: tuple[str, ...] = ()
    executable: str = ""
    config_dir: str = ""
    process: int = 0
    started: tuple[float, float, str | None] = (0.0, 0.0, None)
    others: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def name(self) -> str:
        """The application's name and version, as far as it says them."""
        known = (self.arguments.get("appName"), self.arguments.get("appVersion"))
        return " ".join(str(one) for one in known if one) or "lifebeat run"

    @property
    def is_running(self) -> bool:
        """Whether that process still runs on this machine."""
        return self.started[2] == clocks.SystemClock().boot_id() and _lives(self.process)

    @property
    def label(self) -> str:
        """The layer's name: whose arguments these are, and since when or until when they were seen."""
        since = f"{datetime.fromtimestamp(self.started[0], tz=UTC):%Y-%m-%d %H:%M} UTC"
        seen = f"process {self.process}, since {since}" if self.is_running else f"last seen {since}"
        return f"host argument ({self.name}, {seen})"


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


def read_record(state_dir: Path | None) -> Record | None:
    """Return what the application's latest process was told; ``None`` where none has run, or it cannot be read."""
    written = _read(state_dir).get("host")
    if not isinstance(written, dict):
        return None
    try:
        found = Record(**{**written, "allow": tuple(written["allow"]), "started": tuple(written["started"])})
        sorted(found.arguments), sorted(found.environment), float(found.started[0])
    except (KeyError, TypeError, ValueError):  # of another version
        return None
    return found


def write_record(state_dir: Path, source: ConfigSource, *, allow: Sequence[str], clock: Clock) -> str | None:
    """Put down what this process was told; for each process that has joined, while telemetry is on.

    Nothing happens while the process that is on record still runs and was told the same.

    Args:
        state_dir: The state directory; it is there.
        source: Where the settings come from: the arguments, the config directory, the environment.
        allow: The modules that the job file may name.
        clock: Where the time comes from.

    Returns:
        A warning, once, where an application of another name uses this directory too; ``None`` where none does.
    """
    before, now = read_record(state_dir) or Record(), clocks.now(clock)
    arguments = {name: value for name, value in source.arguments.items() if value is not None}
    if before.is_running and (before.arguments, before.allow) == (arguments, tuple(allow)):
        return None
    name, other, others = arguments.get("appName", ""), before.arguments.get("appName", ""), dict(before.others)
    others.pop(name, None)
    record = Record(
        arguments=arguments,
        environment={name: source.environ[name] for name in _VARIABLES if source.environ.get(name)},
        allow=tuple(allow),
        executable=sys.executable,
        config_dir=os.path.abspath(source.config_dir),  # noqa: PTH100 - pathlib has none that follows no link
        process=os.getpid(),
        started=(now.wall, now.boot, now.boot_id),
        others=others | ({other: now.wall} if other and name != other else {}),
    )
    _update(state_dir, lambda content: content | {"host": asdict(record)})
    if not name or not other or name == other or name in before.others:
        return None
    return (
        f"{name!r} and {other!r} use the config directory {record.config_dir!r} and are counted as one; "
        "give each a config directory of its own"
    )


# -- opt-outs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OptOut:
    """An opt-out that was seen, by whichever process of the installation.

    Attributes:
        source: The layer that said off.
        file: The file that it was said in, absolute; ``None`` for what no file says.
        at: When it was seen, in seconds since the epoch.
    """

    source: str
    file: str | None
    at: float


def read_opt_out(state_dir: Path | None) -> OptOut | None:
    """Return the opt-out that is on record; ``None`` where there is none, or it cannot be read."""
    written = _read(state_dir).get("optOut")
    try:
        return OptOut(str(written["source"]), written["file"], float(written["at"])) if written else None
    except (KeyError, TypeError, ValueError):
        return None


def write_opt_out(state_dir: Path | None, opt_out: OptOut | None) -> bool:
    """Put down an opt-out, or that it is over, and return whether it stands there.

    Where no host is on record nothing is made: off leaves no trace on its own.
    """
    content = _read(state_dir)
    if state_dir is None or not content:
        return False
    known = read_opt_out(state_dir)
    if (known.source, known.file) == (opt_out.source, opt_out.file) if known and opt_out else known is opt_out:
        return True
    return _update(state_dir, lambda content: content | {"optOut": asdict(opt_out) if opt_out else None})


def _read(state_dir: Path | None) -> dict[str, Any]:
    import json

    try:
        data = safe_file.read(state_dir / HOST_FILE, limit=_LIMIT) if state_dir else None
        content = json.loads(data) if data else {}
    except (safe_file.CannotRead, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _update(state_dir: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Change the record, and return whether that could be; whoever is overtaken by another process reads again."""
    import json

    path = state_dir / HOST_FILE
    for _ in range(_ATTEMPTS):
        before = _read(state_dir)
        data = json.dumps(change(dict(before)), indent=1).encode() + b"\n"
        overtaken = partial(_differs, state_dir, before)
        try:
            if before == change(dict(before)) or safe_file.write(path, data, unless=overtaken):
                return True
        except OSError:
            return False
    return False


def _differs(state_dir: Path, content: dict[str, Any]) -> bool:
    return _read(state_dir) != content
    return False


def state_dir(source: ConfigSource, settings: Settings) -> Path | None:
    """Return where state is kept; ``None`` where no directory can be written. Makes nothing."""
    return statedir.state_dir(
        setting=settings.state_dir, environ=source.environ, config_dir=source.config_dir, app_name=settings.app_name
    ).path


# -- how it stands ---------------------------------------------------------------------------------------------------

STATUS = (
    "telemetry", "reason", "source", "host", "api_key", "instance_id", "identity", "state_dir", "waiting",
    "waiting_since", "next_attempt", "dropped", "unaccepted", "error",
)  # fmt: skip


def status(context: JobContext, ask: Callable[[JobContext], dict[str, Any]] | None) -> dict[str, Any]:
    """Return how telemetry stands; every key of ``STATUS`` is there, and nothing is raised.

    Args:
        context: What a job would be given.
        ask: The job module's own ``status``; ``None`` where there is none. What it cannot see is ``None``, and
            ``error`` says why.
    """
    found: dict[str, Any] = dict.fromkeys(STATUS)
    try:
        found |= ask(context) if ask else {}
    except LifebeatError as error:
        found["error"] = str(error)
    except Exception as error:  # noqa: BLE001 - a host's page asks, on a machine in whatever state
        found["error"] = f"not foreseen: {type(error).__name__}"
    consent = context.read_consent()
    return found | {"telemetry": consent.state, "reason": consent.reason, "source": consent.source}


# -- the instance ID -------------------------------------------------------------------------------------------------


def new_id() -> str:
    """Return a new random ID."""
    return str(uuid.uuid4())


def known_id(settings: Settings, state_dir: Path | None) -> str | None:
    """Return the ID if there is one; makes nothing."""
    if settings.instance_id is not None:
        return settings.instance_id
    return statedir.read_id(state_dir / statedir.ID_FILE) if state_dir else None


def make_id(settings: Settings, config_dir: Path, state_dir: Path | None, candidate: str | None = None) -> str | None:
    """Return the ID, made and kept if there is none yet: in the config file, else in the state directory.

    Args:
        settings: The merged settings.
        config_dir: The config directory.
        state_dir: The state directory; ``None`` where no directory can be written.
        candidate: The ID to keep if there is none; ``None`` for a random one.

    Returns:
        ``None`` where it cannot be kept: an ID that changes with every start would make the counts untrue.
    """
    known = known_id(settings, state_dir)
    if known is not None:
        return known
    candidate = candidate or new_id()
    try:
        return edit.set_key_if_absent(_config_file(config_dir), KEY, candidate)
    except (edit.ConfigNotWritable, ConfigError):
        return _kept_as_state(state_dir, candidate)


def _kept_as_state(state_dir: Path | None, candidate: str) -> str | None:
    if state_dir is None:
        return None
    try:
        return statedir.agree_on_id(state_dir / statedir.ID_FILE, candidate)
    except statedir.StateNotWritable:
        return None


def rotate_id(config_dir: Path) -> str:
    """Put a new random ID in the place of the old one, in the config file, and return it.

    Raises:
        ConfigNotWritable: It cannot be kept.
        ConfigError: The config file cannot be read, and is left as it is.
    """
    new = new_id()
    edit.set_key(_config_file(config_dir), KEY, new)
    return new


def seed(config_dir: Path) -> str:
    """Return what phases are made from as long as the installation has no ID: something that stays here."""
    import hashlib
    import platform

    return hashlib.sha256(f"{platform.node()}:{config_dir.resolve()}".encode()).hexdigest()


# -- settings --------------------------------------------------------------------------------------------------------


def is_one(config_dir: Path, state_dir: Path | None) -> bool:
    """Return whether anything of Lifebeat or of an application's config is in a directory."""
    names = (*CONFIG_FILES, JOB_FILE, "deployments")
    return any(os.path.lexists(config_dir / name) for name in names) or bool(_read(state_dir))


def set_setting(config_dir: Path, name: str, written: str | None, *, state_dir: Path | None = None) -> Path:
    """Set one key in the config file, or remove it with ``None``, for commands and hosts alike.

    Args:
        config_dir: The config directory.
        name: The key's name in files.
        written: The value, as a person writes it.
        state_dir: The state directory: a yes to telemetry there ends an earlier no.

    Returns:
        The file, absolute.

    Raises:
        LifebeatError: There is no such key, the value is not valid, or the file cannot be edited or written; it is as
            it was.
    """
    if name not in BY_NAME:
        raise LifebeatError(f"there is no setting {name!r}; there are: {', '.join(BY_NAME)}")
    path = Path(os.path.abspath(_config_file(config_dir)))  # noqa: PTH100 - pathlib has none that follows no link
    if written is None:
        edit.unset_key(path, name)
        return path
    key = BY_NAME[name]
    try:
        parsed = key.kind.parse(written)
    except ValueError as error:
        raise LifebeatError(f"{name}: {'the value' if key.secret else repr(written)} {error}") from None
    edit.set_key(path, name, parsed if isinstance(parsed, bool | int) else written)
    if name == "telemetryEnabled" and parsed is True:
        write_opt_out(state_dir, None)
    return path


def _config_file(config_dir: Path) -> Path:
    return edit.config_file(config_dir) or config_dir / CONFIG_FILES[0]

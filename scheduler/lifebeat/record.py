"""``host.json`` in the state directory: the running host's arguments, and the opt-outs that were seen.

Commands beside the application read it, so that what they say is what the application does.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from lifebeat import clock as clocks
from lifebeat.settings.table import KEYS
from lifebeat.storage import safe_file
from lifebeat.storage import state_dir as statedir

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.settings.source import ConfigSource
    from lifebeat.settings.table import Settings

FILE_NAME = "host.json"
OPT_OUT = "optOut"
MOMENT = 0.001  # seconds
_LIMIT = 256 * 1024
_ATTEMPTS = 5
_VARIABLES = ("LIFEBEAT_DEPLOYMENT", "LIFEBEAT_ENGINE", *(key.variable for key in KEYS), *(key.name for key in KEYS))


def state_dir(source: ConfigSource, settings: Settings, *, looking: bool = False) -> Path | None:
    """Return where state is kept; ``None`` where there is none. Makes nothing.

    Args:
        source: The config directory and the environment.
        settings: The merged settings.
        looking: Whether another user's folder counts too, for commands that look.
    """
    return statedir.state_dir(
        setting=settings.state_dir,
        environ=source.environ,
        config_dir=source.config_dir,
        app_name=settings.app_name,
        looking=looking,
    ).path


# -- the host's arguments --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """The arguments of the application's latest process, so that commands know them too.

    Attributes:
        arguments: What it passes to ``attach``, by the key's name in files.
        environment: Lifebeat's variables in its environment.
        allow: The modules that its job file may name.
        executable: Its interpreter.
        config_dir: The config directory, absolute.
        process: Its process ID.
        started: When it joined: wall clock, boot-time clock, boot.
        agreed: What the machines of the installation have agreed on: its ID, where config gives none.
        others: Applications of another name that were seen in this directory, and when.
    """

    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    allow: tuple[str, ...] = ()
    executable: str = ""
    config_dir: str = ""
    process: int = 0
    started: tuple[float, float, str | None] = (0.0, 0.0, None)
    agreed: dict[str, Any] = field(default_factory=dict[str, Any])
    others: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def name(self) -> str:
        """Return the application's name and version, as far as it says them."""
        known = (self.arguments.get("appName"), self.arguments.get("appVersion"))
        return " ".join(str(one) for one in known if one) or "lifebeat run"

    @property
    def is_running(self) -> bool:
        """Return whether that process still runs on this machine."""
        return self.started[2] == clocks.SystemClock().boot_id() and _lives(self.process, self.started[1])

    @property
    def label(self) -> str:
        """Return the layer's name: whose arguments these are, and since when or until when they were seen."""
        since = f"{datetime.fromtimestamp(self.started[0], tz=UTC):%Y-%m-%d %H:%M} UTC"
        seen = f"process {self.process}, since {since}" if self.is_running else f"last seen {since}"
        return f"host argument ({self.name}, {seen})"


def _lives(process: int, joined: float) -> bool:
    """Return whether a process is there: no zombie, which a container may keep, and no later one of its number."""
    from pathlib import Path

    with contextlib.suppress(safe_file.CannotRead, ValueError, IndexError):  # no /proc
        found = safe_file.read(Path(f"/proc/{process}/stat"), limit=_LIMIT) or b""
        state, *rest = found.rpartition(b") ")[2].split()
        return state not in {b"Z", b"X"} and int(rest[18]) / os.sysconf("SC_CLK_TCK") <= joined + 1
    try:
        os.kill(process, 0)
    except PermissionError:  # another user's
        return True
    except (OSError, OverflowError):
        return False
    return True


def read(state_dir: Path | None) -> Record | None:
    """Return the arguments of the application's latest process; ``None`` where none has run, or it cannot be read."""
    written: Any = content(state_dir).get("host")
    try:
        found = Record(
            arguments=dict(written["arguments"]),
            environment=dict(written["environment"]),
            allow=tuple(written["allow"]),
            executable=str(written["executable"]),
            config_dir=str(written["config_dir"]),
            process=int(written["process"]),
            started=(float(written["started"][0]), float(written["started"][1]), written["started"][2]),
            agreed=dict(written.get("agreed", {})),
            others=dict(written["others"]),
        )
    except (KeyError, IndexError, TypeError, ValueError):  # no process has run here, or another version has
        return None
    return found


def write(state_dir: Path, source: ConfigSource, *, allow: Sequence[str], clock: Clock) -> str | None:
    """Write down this process's arguments; for each process that has joined, while telemetry is on.

    Nothing happens while the process that is on record still runs and has the same arguments.

    Args:
        state_dir: The state directory; it is there.
        source: Where the settings come from: the arguments, the config directory, the environment.
        allow: The modules that the job file may name.
        clock: Where the time comes from.

    Returns:
        A warning, once, where an application of another name uses this directory too; ``None`` where none does.
    """
    before, now = read(state_dir) or Record(), clocks.now(clock)
    arguments = {name: value for name, value in source.arguments.items() if value is not None}
    told = (arguments, tuple(allow), source.agreed)
    if before.is_running and (before.arguments, before.allow, before.agreed) == told:
        return None
    name, other, others = arguments.get("appName", ""), before.arguments.get("appName", ""), dict(before.others)
    others.pop(name, None)
    record = Record(
        arguments=arguments,
        environment={name: source.environ[name] for name in _VARIABLES if source.environ.get(name)},
        allow=tuple(allow),
        executable=sys.executable,
        config_dir=safe_file.absolute(source.config_dir),
        process=os.getpid(),
        started=(now.wall, now.boot, now.boot_id),
        agreed=source.agreed,
        others=others | ({other: now.wall} if other and name != other else {}),
    )
    update(state_dir, lambda before: before | {"host": asdict(record)})
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
        at: When it was seen, or taken back, in seconds since the epoch.
        machine: The machine on which it was seen; empty for this one.
        is_over: Whether it was taken back.
    """

    source: str
    file: str | None
    at: float
    machine: str = ""
    is_over: bool = False


def read_opt_out(state_dir: Path | None) -> OptOut | None:
    """Return the opt-out that is on record, or was; ``None`` where there is none, or it cannot be read."""
    return _opt_out(content(state_dir))


def write_opt_out(state_dir: Path | None, opt_out: OptOut) -> bool:
    """Put down an opt-out, and return whether it stands there.

    Where no host is on record nothing is made: off leaves no trace on its own.
    """
    if state_dir is None or not is_there(state_dir):
        return False
    known = read_opt_out(state_dir)
    if known is not None and replace(known, at=opt_out.at) == opt_out:
        return True
    return update(state_dir, lambda before: before | {OPT_OUT: asdict(_after(before, opt_out))})


def end_opt_out(state_dir: Path | None, now: float) -> None:
    """Put down that the opt-out is over, if one is on record."""
    known = read_opt_out(state_dir)
    if state_dir is not None and known is not None and not known.is_over:
        over = replace(known, at=now, is_over=True)
        update(state_dir, lambda before: before | {OPT_OUT: asdict(_after(before, over))})


def _after(before: dict[str, Any], opt_out: OptOut) -> OptOut:
    """Return it later than what was known before, whatever this machine's clock shows: the latest word counts."""
    known = _opt_out(before)
    return opt_out if known is None else replace(opt_out, at=max(opt_out.at, known.at + MOMENT))


def _opt_out(content: dict[str, Any]) -> OptOut | None:
    written = content.get(OPT_OUT)
    try:
        return replace(OptOut(**written), at=float(written["at"])) if written else None
    except (KeyError, TypeError, ValueError):
        return None


def is_there(state_dir: Path | None) -> bool:
    """Return whether an application has run with this state directory."""
    return "host" in content(state_dir)


# -- the file --------------------------------------------------------------------------------------------------------


def content(state_dir: Path | None) -> dict[str, Any]:
    """Return what is on record; empty where nothing is, or it cannot be read."""
    import json

    try:
        data = safe_file.read(state_dir / FILE_NAME, limit=_LIMIT) if state_dir else None
        found: Any = json.loads(data) if data else {}
    except (safe_file.CannotRead, ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def update(state_dir: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Change the record, and return whether that could be; a process that is overtaken by another reads again."""
    import json

    path = state_dir / FILE_NAME
    for _ in range(_ATTEMPTS):
        before = content(state_dir)
        data = json.dumps(change(dict(before)), indent=1).encode() + b"\n"
        overtaken = partial(_differs, state_dir, before)
        try:
            if before == change(dict(before)) or safe_file.write(path, data, unless=overtaken):
                return True
        except OSError:
            return False
    return False


def _differs(state_dir: Path, before: dict[str, Any]) -> bool:
    return content(state_dir) != before

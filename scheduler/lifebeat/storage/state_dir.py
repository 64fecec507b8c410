"""Where the outbox lives, and the instance ID where config cannot be written."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lifebeat.errors import LifebeatError
from lifebeat.settings.table import BY_NAME
from lifebeat.storage.locks import held
from lifebeat.storage.safe_file import sweep, sync_directory, temporary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ID_FILE = "instance-id"
OUTBOX_FILE = "outbox.sqlite3"
_REMEDY = "set telemetryStateDir to a directory that this user can write"
_LOCK_TIMEOUT = 2.0


class StateNotWritable(LifebeatError):
    """The state directory cannot be made or written."""


class StateDir(NamedTuple):
    """What was found.

    Attributes:
        path: The directory; ``None`` where nothing can be written.
        reason: Who chose it, or why there is none and what to do.
    """

    path: Path | None
    reason: str


def state_dir(
    *,
    setting: str | None,
    environ: Mapping[str, str],
    config_dir: Path,
    app_name: str | None,
    create: bool = False,
) -> StateDir:
    """The first directory that can be written: the setting's, systemd's, the config directory, one below home.

    What the setting names is used or nothing is; the others are tried in their order. A directory that is missing
    counts if it could be made.

    Args:
        setting: ``telemetryStateDir``; relative to the config directory, or to home with ``~/``. ``None`` for none.
        environ: For ``STATE_DIRECTORY``, ``XDG_STATE_HOME`` and ``HOME``.
        config_dir: The config directory; it need not exist.
        app_name: The application's name, for the directory below home. ``None`` where it has none.
        create: Make the directory, with mode 0700. Without, this only looks.
    """
    if setting:
        path = _named(setting, environ, config_dir)
        reason = _refusal(path, create=create)
        if reason is not None:
            return StateDir(None, f"telemetryStateDir is {str(path)!r}, which {reason}; {_REMEDY}")
        return StateDir(path, "telemetryStateDir")
    refused: list[str] = []
    for path, origin in _candidates(environ, config_dir, app_name):
        reason = _refusal(path, create=create)
        if reason is None:
            return StateDir(path, origin)
        refused.append(f"{origin}, {str(path)!r}, {reason}")
    return StateDir(None, f"{'; '.join(refused)}; {_REMEDY}")


def make(path: Path) -> None:
    """Make a state directory and those above it, each with mode 0700; nothing happens if it is there.

    Raises:
        StateNotWritable: It cannot be made.
    """
    try:
        _make(path)
    except OSError as error:
        raise _not_writable(path, error) from error


def read_id(path: Path) -> str | None:
    """The instance ID in the file ``path``; ``None`` if there is no file, or no ID in it."""
    try:
        return _read_id(path)
    except OSError:
        return None


def agree_on_id(path: Path, candidate: str) -> str:
    """Keep an instance ID; processes that start together agree on one, and none sees half of it.

    Args:
        path: The file; what is no ID in it, after a power cut, is replaced.
        candidate: The UUID to keep if there is none.

    Returns:
        The ID that is kept, on the disk.

    Raises:
        ValueError: ``candidate`` is no UUID.
        StateNotWritable: It cannot be kept.
    """
    candidate, found = _parse(candidate), read_id(path)
    if found is not None:
        return found
    make(path.parent)
    try:
        found = _settle(path, candidate)
        sweep(path)
    except OSError as error:
        raise _not_writable(path, error) from error
    sync_directory(path.parent)
    return found


def _named(setting: str, environ: Mapping[str, str], config_dir: Path) -> Path:
    home = environ.get("HOME")
    if home and setting.startswith("~/"):
        return Path(home) / setting[2:]
    return config_dir / setting


def _candidates(environ: Mapping[str, str], config_dir: Path, app_name: str | None) -> Iterator[tuple[Path, str]]:
    systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if systemd:
        yield Path(systemd), "$STATE_DIRECTORY"
    yield config_dir, "the config directory"
    own, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    name = _fallback_name(config_dir, app_name)
    if own.startswith("/"):
        yield Path(own) / "lifebeat" / name, "the fallback in $XDG_STATE_HOME"
    elif home.startswith("/"):
        yield Path(home) / ".local" / "state" / "lifebeat" / name, "the fallback in $HOME"


def _fallback_name(config_dir: Path, app_name: str | None) -> str:
    """One directory per installation. Links are not followed: a link to the current release moves with each one."""
    place = os.path.abspath(config_dir)  # noqa: PTH100 - pathlib has none that takes out `..` and follows no link
    import hashlib

    word = re.sub(r"[^A-Za-z0-9._-]+", "-", app_name or "").strip("-.")[:50]
    return f"{word or 'app'}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"


def _refusal(path: Path, *, create: bool) -> str | None:
    """Why a directory cannot be used; ``None`` if it can."""
    try:
        if create:
            _make(path)
        there = _nearest(path)
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    if os.access(there, os.W_OK | os.X_OK):
        return None
    place = "" if there == path else f" (nor {str(there)!r}, in which it would be made)"
    why = "is on a read-only file system" if os.statvfs(there).f_flag & os.ST_RDONLY else "is not writable"
    return f"{why}{place}"


def _nearest(path: Path) -> Path:
    """The directory itself, or the nearest above it that exists."""
    for there in (path, *path.parents):
        try:
            mode = there.stat().st_mode
        except FileNotFoundError:
            if there.is_symlink():
                raise
            continue
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
        return there
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _make(path: Path) -> None:
    if not path.is_dir():
        if path.parent != path:
            _make(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _read_id(path: Path) -> str | None:
    try:
        return _parse(path.read_bytes().decode().strip())
    except (FileNotFoundError, ValueError):
        return None


def _parse(text: str) -> str:
    parsed: str = BY_NAME["telemetryInstanceId"].kind.parse(text)
    return parsed


def _settle(path: Path, candidate: str) -> str:
    with temporary(path, f"{candidate}\n".encode()) as made:
        try:
            os.link(made, path)
        except OSError as error:  # it is there already, or this file system has no links
            found = _read_id(path)
            return found if found is not None else _settle_alone(path, made, candidate, error)
    return candidate


def _settle_alone(path: Path, made: Path, candidate: str, error: OSError) -> str:
    """Put the complete file in the place of a broken one, or where there are no links; one process at a time."""
    with held(path.parent, timeout=_LOCK_TIMEOUT) as alone:
        if not alone:
            raise error
        found = _read_id(path)
        if found is not None:
            return found
        made.replace(path)
    return candidate


def _not_writable(path: Path, error: OSError) -> StateNotWritable:
    return StateNotWritable(f"{path}: cannot be written: {error.strerror}; {_REMEDY}")

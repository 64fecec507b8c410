"""Where the state lives, in a folder of its own, and the instance ID where config cannot be written."""

from __future__ import annotations

import errno
import os
import re
import stat
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lifebeat.errors import LifebeatError
from lifebeat.storage import safe_file
from lifebeat.storage.locks import held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = "lifebeat"
DATABASE_FILE = "lifebeat.sqlite3"
ID_FILE = "instance-id"
_REMEDY = "set telemetryStateDir to a directory that this user can write"
_LOCK_TIMEOUT = 2.0
_ID_LIMIT = 1000
_LAYERS = frozenset({b"overlay", b"fuse.fuse-overlayfs", b"aufs"})
_CONTAINERS = frozenset({"docker", "podman", "oci"})  # those that are replaced, not updated


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
    looking: bool = False,
) -> StateDir:
    """Return the first directory that can be written: the setting's, systemd's, one below config, one below home.

    What the setting names is used or nothing is; the others are tried in their order. A directory that is missing
    counts if it could be made. In one that every user may write, a folder of our own is used.

    Args:
        setting: ``telemetryStateDir``; relative to the config directory, or to home with ``~/``. ``None`` for none.
        environ: For ``STATE_DIRECTORY``, ``XDG_STATE_HOME`` and ``HOME``.
        config_dir: The config directory; it need not exist.
        app_name: The application's name, for the directory below home. ``None`` where it has none.
        create: Make the directory, with mode 0700. Without, this only looks.
        looking: Another user's folder counts too, where this user has no state: it is the application's.
    """
    if setting:
        named = [(_named(setting, environ, config_dir), "telemetryStateDir")]
    else:
        named = list(_candidates(environ, config_dir, app_name))
    refused: list[str] = []
    others: StateDir | None = None
    for directory, origin in named:
        path = _private(directory)
        reason = _refusal(path, create=create)
        if reason is None:
            return StateDir(path, origin) if others is None or safe_file.exists(path / DATABASE_FILE) else others
        if looking and others is None and os.path.isdir(path):  # noqa: PTH112 - raises nothing
            others = StateDir(path, origin)
        refused.append(f"{origin}, {safe_file.printable(path)!r}, {reason}")
    return others or StateDir(None, f"{'; '.join(refused)}; {_REMEDY}")


def make(path: Path) -> None:
    """Make a state directory and those above it, each with mode 0700; nothing happens if it is there.

    Raises:
        StateNotWritable: It cannot be made.
    """
    try:
        safe_file.make_directory(path)
    except OSError as error:
        raise _not_writable(path, error) from error


def read_id(path: Path) -> str | None:
    """Return the instance ID in the file ``path``; ``None`` if there is no file, or no ID in it."""
    try:
        return _parse((safe_file.read(path, limit=_ID_LIMIT) or b"").decode().strip())
    except (safe_file.CannotRead, ValueError):
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
    data = f"{candidate}\n".encode()
    try:
        if not os.path.lexists(path) and safe_file.write_new(path, data):
            return candidate
        return read_id(path) or _replace_id(path, data) or candidate
    except OSError as error:
        raise _not_writable(path, error) from error


def _replace_id(path: Path, data: bytes) -> str | None:
    """Put an ID in the place of what is none, one process at a time; returns the one that another process has put."""
    with held(path.parent, timeout=_LOCK_TIMEOUT) as alone:
        if not alone:
            raise StateNotWritable(f"{safe_file.printable(path)}: cannot be written: another process is; try again")
        if (found := read_id(path)) is None:
            safe_file.sweep(path)
            safe_file.write(path, data)
        return found


def dies_with_container(path: Path, environ: Mapping[str, str], *, root: Path = Path("/")) -> bool:
    """Return whether a directory lies on a container's own layer or in its memory, and is gone when it is replaced.

    Args:
        path: The directory; it need not exist.
        environ: For the signs of a container in it.
        root: Where ``/proc`` and the signs of a container in the file system are looked for.
    """
    try:
        mounts = (root / "proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    place, best, kind = os.fsencode(safe_file.real(path)) + b"/", b"", b""
    for line in mounts:
        fields, _, behind = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), fields.split(b" ")[4])
        if len(point) >= len(best) and place.startswith(point.rstrip(b"/") + b"/"):
            best, kind = point, behind.split(b" ")[0]
    if best == b"/" and kind in _LAYERS:  # outside a container that is a system started from a read-only image
        return True
    signs = (root / ".dockerenv", root / "run/.containerenv")
    is_container = environ.get("container") in _CONTAINERS or "KUBERNETES_SERVICE_HOST" in environ
    return (is_container or any(map(os.path.lexists, signs))) and (best == b"/" or kind == b"tmpfs")


def _named(setting: str, environ: Mapping[str, str], config_dir: Path) -> Path:
    home = environ.get("HOME")
    if home and setting.startswith("~/"):
        return Path(home) / setting[2:]
    return config_dir / setting


def _candidates(environ: Mapping[str, str], config_dir: Path, app_name: str | None) -> Iterator[tuple[Path, str]]:
    systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if systemd:
        yield Path(systemd), "$STATE_DIRECTORY"
    yield config_dir / FOLDER, "the config directory"
    own, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    name = _fallback_name(config_dir, app_name)
    if own.startswith("/"):
        yield Path(own) / "lifebeat" / name, "the fallback in $XDG_STATE_HOME"
    elif home.startswith("/"):
        yield Path(home) / ".local" / "state" / "lifebeat" / name, "the fallback in $HOME"


def _fallback_name(config_dir: Path, app_name: str | None) -> str:
    """Return a name per installation; links are not followed, as one to the current release moves with each one."""
    import hashlib

    word = re.sub(r"[^A-Za-z0-9._-]+", "-", app_name or "").strip("-.")[:50]
    return f"{word or 'app'}-{hashlib.sha256(os.fsencode(safe_file.absolute(config_dir))).hexdigest()[:8]}"


def _private(directory: Path) -> Path:
    """Return a folder of our own in a directory that every user may write, such as a volume; else the directory."""
    try:
        mode = directory.stat().st_mode
        is_public = mode & stat.S_IWOTH and not mode & stat.S_ISVTX
        return directory / FOLDER if is_public and not safe_file.exists(directory / DATABASE_FILE) else directory
    except (OSError, ValueError):
        return directory


def _refusal(path: Path, *, create: bool) -> str | None:
    """Return why a directory cannot be used; ``None`` if it can."""
    try:
        if create:
            safe_file.make_directory(path)
        there = _nearest(path)
        if os.access(there, os.W_OK | os.X_OK):
            return None
        place = "" if there == path else f" (nor {safe_file.printable(there)!r}, in which it would be made)"
        why = "is on a read-only file system" if os.statvfs(there).f_flag & os.ST_RDONLY else "is not writable"
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    except ValueError:
        return "cannot be used (its name has a NUL in it)"
    return f"{why}{place}"


def _nearest(path: Path) -> Path:
    """Return the directory itself, or the nearest above it that exists."""
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


def _parse(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text) or not uuid.UUID(text).int:
        raise ValueError(f"{text!r} is not a UUID")
    return text.lower()


def _not_writable(path: Path, error: OSError) -> StateNotWritable:
    return StateNotWritable(f"{safe_file.printable(path)}: cannot be written: {error.strerror}; {_REMEDY}")

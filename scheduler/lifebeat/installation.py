"""The installation: its random ID, made when something may be sent for the first time, derived from nothing."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.settings import edit
from lifebeat.settings.layers import CONFIG_FILES
from lifebeat.settings.table import BY_NAME
from lifebeat.storage import state_dir as statedir

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.settings.table import Settings

KEY = "telemetryInstanceId"


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
    candidate = candidate or str(uuid.uuid4())
    path = edit.config_file(config_dir) or config_dir / CONFIG_FILES[0]
    try:
        return edit.set_key_if_absent(path, KEY, candidate)
    except (edit.ConfigNotWritable, ConfigError):
        return _kept_as_state(state_dir, candidate)


def _kept_as_state(state_dir: Path | None, candidate: str) -> str | None:
    if state_dir is None:
        return None
    try:
        return statedir.agree_on_id(state_dir / statedir.ID_FILE, candidate)
    except statedir.StateNotWritable:
        return None


def seed(config_dir: Path) -> str:
    """Return what phases are made from as long as the installation has no ID: something that stays here."""
    import hashlib
    import platform

    return hashlib.sha256(f"{platform.node()}:{config_dir.resolve()}".encode()).hexdigest()


def set_setting(config_dir: Path, name: str, written: str) -> Path:
    """Set one key in the config file, for commands and hosts alike, and return the file's absolute path.

    Raises:
        LifebeatError: The value is not valid, or the file cannot be edited or written; it is as it was.
    """
    key = BY_NAME[name]
    try:
        parsed = key.kind.parse(written)
    except ValueError as error:
        raise LifebeatError(f"{name}: {written!r} {error}") from None
    path = edit.config_file(config_dir) or config_dir / CONFIG_FILES[0]
    edit.set_key(path, name, parsed if isinstance(parsed, bool | int) else written)
    return path


def rotate_id(config_dir: Path) -> str:
    """Put a new random ID in the place of the old one, in the config file, and return it.

    Raises:
        ConfigNotWritable: It cannot be kept.
        ConfigError: The config file cannot be read, and is left as it is.
    """
    new = str(uuid.uuid4())
    edit.set_key(edit.config_file(config_dir) or config_dir / CONFIG_FILES[0], KEY, new)
    return new

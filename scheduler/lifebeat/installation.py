"""The installation: its random ID, how its telemetry stands, and how its settings are changed."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat import record
from lifebeat.clock import SystemClock
from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.settings import edit
from lifebeat.settings.layers import CONFIG_FILES, JOB_FILE
from lifebeat.settings.table import BY_NAME
from lifebeat.storage import state_dir as statedir
from lifebeat.storage.safe_file import absolute, real

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.context import JobContext
    from lifebeat.settings.table import Settings

KEY = "telemetryInstanceId"


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


def interpreter() -> list[str]:
    """Return the words that start a Python with this Lifebeat, also where it is in an archive.

    They are none in a program that PyInstaller made: it would start the application itself.
    """
    if getattr(sys, "frozen", False):
        return []
    archive = getattr(__spec__.loader if __spec__ else None, "archive", None)
    return [*(["env", f"PYTHONPATH={archive}"] if archive else []), sys.executable or "python3"]


# -- the instance ID -------------------------------------------------------------------------------------------------


def new_id() -> str:
    """Return a new random ID."""
    return str(uuid.uuid4())


def known_id(settings: Settings, state_dir: Path | None) -> str | None:
    """Return the ID if there is one; makes nothing."""
    if settings.instance_id is not None:
        return settings.instance_id
    return statedir.read_id(state_dir / statedir.ID_FILE) if state_dir else None


def make_id(settings: Settings, config_dir: Path, state_dir: Path | None) -> str | None:
    """Return the ID, made and kept if there is none yet: in the config file, else in the state directory.

    Args:
        settings: The merged settings.
        config_dir: The config directory.
        state_dir: The state directory; ``None`` where no directory can be written.

    Returns:
        ``None`` where it cannot be kept: an ID that changes with every start would make the counts untrue.
    """
    known = known_id(settings, state_dir)
    if known is not None:
        return known
    candidate = new_id()
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

    place = real(config_dir)
    return hashlib.sha256(os.fsencode(f"{platform.node()}:{place}")).hexdigest()


# -- settings --------------------------------------------------------------------------------------------------------


def is_one(config_dir: Path, state_dir: Path | None) -> bool:
    """Return whether anything of Lifebeat or of an application's config is in a directory."""
    names = (*CONFIG_FILES, JOB_FILE, "deployments")
    return any(os.path.lexists(config_dir / name) for name in names) or record.is_there(state_dir)


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
    path = Path(absolute(_config_file(config_dir)))
    if written is None:
        edit.unset_key(path, name)
        return path
    key = BY_NAME[name]
    try:
        parsed = key.kind.parse(written)
    except ValueError as error:
        raise LifebeatError(f"{name}: {key.shown(written)} {error}") from None
    edit.set_key(path, name, parsed if isinstance(parsed, bool | int) else written)
    if name == "telemetryEnabled" and parsed is True:
        record.end_opt_out(state_dir, SystemClock().time())
    return path


def _config_file(config_dir: Path) -> Path:
    return edit.config_file(config_dir) or config_dir / CONFIG_FILES[0]

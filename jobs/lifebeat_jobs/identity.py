"""The instance ID: a random UUID, made when something may be sent for the first time, derived from nothing."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from lifebeat import configfile, statedir
from lifebeat.errors import ConfigError
from lifebeat.layers import CONFIG_FILES

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.context import JobContext

KEY = "telemetryInstanceId"


def known_id(context: JobContext) -> str | None:
    """The ID if there is one; makes nothing."""
    if context.settings.instance_id is not None:
        return context.settings.instance_id
    return statedir.read_id(context.state_dir / statedir.ID_FILE) if context.state_dir else None


def instance_id(context: JobContext) -> str | None:
    """The ID, made and kept if there is none yet: in the config file, else in the state directory.

    ``None`` where neither can be written: an ID that changes with every start would make the counts untrue.

    Raises:
        EngineUnavailable: The machines of the installation agree on it, and that cannot be done now.
    """
    if context.settings.instance_id is None and context.agree_on_id is not None:
        agreed = context.agree_on_id()
        if agreed is not None:
            return agreed
    known = known_id(context)
    if known is not None:
        return known
    candidate = str(uuid.uuid4())
    path = configfile.config_file(context.config_dir) or context.config_dir / CONFIG_FILES[0]
    try:
        return configfile.set_key_if_absent(path, KEY, candidate)
    except (configfile.ConfigNotWritable, ConfigError):
        return _kept_as_state(context.state_dir, candidate)


def _kept_as_state(state_dir: Path | None, candidate: str) -> str | None:
    if state_dir is None:
        return None
    try:
        return statedir.agree_on_id(state_dir / statedir.ID_FILE, candidate)
    except statedir.StateNotWritable:
        return None


def rotate(context: JobContext) -> tuple[str, str | None]:
    """Make a new ID in the place of the old one; returns it, and the layer that overrides it, if one does.

    Raises:
        ConfigNotWritable: It cannot be kept.
        ConfigError: The config file cannot be read, and is left as it is.
    """
    new = str(uuid.uuid4())
    path = configfile.config_file(context.config_dir) or context.config_dir / CONFIG_FILES[0]
    configfile.set_key(path, KEY, new)
    settings = context.read_settings()
    return new, None if settings.instance_id == new else settings.decided_by[KEY]

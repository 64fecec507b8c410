"""Anonymous lifecycle telemetry for self-hosted Python applications, as scheduler jobs that are edited in config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.version import __version__

if TYPE_CHECKING:
    from lifebeat.cli.main import main
    from lifebeat.context import JobContext
    from lifebeat.embedding import attach
    from lifebeat.handle import Lifebeat

__all__ = [
    "ConfigError",
    "JobContext",
    "Lifebeat",
    "LifebeatError",
    "Problem",
    "__version__",
    "attach",
    "main",
]

_LATE = {
    "JobContext": "lifebeat.context",
    "Lifebeat": "lifebeat.handle",
    "attach": "lifebeat.embedding",
    "main": "lifebeat.cli.main",
}


def __getattr__(name: str) -> Any:
    """Import a name that brings more along when it is asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
    return value

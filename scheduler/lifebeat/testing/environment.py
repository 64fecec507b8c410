"""The environment in which a test may send."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_THE_CALLER = (
    "DO_NOT_TRACK",
    "LIFEBEAT_CONFIG_DIR",
    "LIFEBEAT_DEPLOYMENT",
    "STATE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "APP_NAME",
    "APP_VERSION",
    "RELEASE_VERSION",
)


def telemetry_allowed(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a copy of the environment in which Lifebeat may send to this machine, also under CI and under pytest.

    What the caller's own environment says about telemetry, configuration and state is left out of it.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _OF_THE_CALLER and not name.startswith("TELEMETRY_")
    }
    return kept | {"LIFEBEAT_TEST_MODE": "loopback"}

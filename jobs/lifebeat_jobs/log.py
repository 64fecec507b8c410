"""The one way to say something in the host's log."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

INFO, WARNING = 20, 30


def say(logger: logging.Logger, message: str, *args: object, level: int = WARNING) -> None:
    """Write a line, and go on whatever a filter or handler of the host's raises: no event is lost for a log."""
    with contextlib.suppress(Exception):
        logger.log(level, message, *args)

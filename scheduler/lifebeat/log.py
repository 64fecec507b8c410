"""Lifebeat's log lines: in the host's log, and never a reason for anything to fail."""

from __future__ import annotations

import logging
from typing import Any


class Logger(logging.LoggerAdapter[logging.Logger]):
    """The logger ``lifebeat``, whose calls never raise: a host's filters and handlers are the host's, bugs included."""

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Write a line, or nothing."""
        try:
            super().log(level, msg, *args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever a host's filter raises, a start must not be lost for it
            return


def get_logger() -> Logger:
    """Return the logger of everything in Lifebeat."""
    return Logger(logging.getLogger("lifebeat"), {})

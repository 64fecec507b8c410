"""A process that reports for itself, where processes cannot be coordinated."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lifebeat.clock import now
from lifebeat.once.protocol import Joined

if TYPE_CHECKING:
    from lifebeat.clock import Clock, Moment
    from lifebeat.once.protocol import Exchange, RunInstant


class Alone:
    """A coordinator of one process: the first in, the last out, and every instant is its own.

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._joined = Joined(first=True, started=now(clock), run=os.urandom(16).hex())

    def start(self, run: RunInstant, exchange: Exchange) -> None:
        """Need nothing."""

    def join(self, timeout: float) -> Joined:  # noqa: ARG002 - there is no other to wait for
        """Return the same each time."""
        return self._joined

    def agree(self, candidate: str) -> str:
        """Return the candidate."""
        return candidate

    def claim(self, job_id: str, instant: int) -> bool:  # noqa: ARG002 - whatever it is
        """Return true."""
        return True

    def skip(self, job_id: str, instant: int) -> None:
        """Note nothing."""

    def latest(self, job_id: str) -> None:
        """Know of no earlier instant."""

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - nothing runs here
        """Return true."""
        return True

    def leave(self, timeout: float) -> Moment:  # noqa: ARG002 - there is no other to wait for
        """Return the present moment."""
        return now(self._clock)

    def finish(self, timeout: float) -> None:
        """Note nothing."""

    def close(self) -> None:
        """Have nothing to give back."""

"""A clock for tests."""

from __future__ import annotations


class FakeClock:
    """A clock that stands still until it is told to move.

    Args:
        epoch: The wall-clock time at the start, in seconds since the Unix epoch; by default 2026-01-01T00:00:00Z.
    """

    def __init__(self, epoch: float = 1_767_225_600.0) -> None:
        self._time = epoch
        self._monotonic = 1000.0

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self._time

    def monotonic(self) -> float:
        """Seconds since some start."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks.

        Raises:
            ValueError: ``seconds`` is negative; only ``jump`` goes back.
        """
        if seconds < 0:
            raise ValueError(f"FakeClock.advance: seconds is {seconds!r}, must be 0 or more; jump() sets it back")
        self._time += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back; the monotonic clock goes on as it was."""
        self._time += seconds

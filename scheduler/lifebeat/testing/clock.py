"""A clock for tests."""

from __future__ import annotations

_EPOCH = 1_767_225_600.0


class FakeClock:
    """A clock that moves only when a test moves it.

    Args:
        epoch: The wall-clock time at the start, in seconds since the Unix epoch; by default 2026-01-01T00:00:00Z,
            before which it counts as not set yet.
    """

    def __init__(self, epoch: float = _EPOCH) -> None:
        self._time = epoch
        self._monotonic = 1000.0
        self._boot = 1

    def time(self) -> float:
        """Return seconds since the Unix epoch."""
        return self._time

    def monotonic(self) -> float:
        """Return seconds since the machine booted."""
        return self._monotonic

    def boot_id(self) -> str:
        """Return the name of this boot."""
        return f"boot-{self._boot}"

    def earliest(self) -> float:
        """Return the time before which it cannot have been set, in seconds since the Unix epoch."""
        return _EPOCH

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
        """Set the wall clock so many seconds forward or, with a negative number, back; boot time goes on as it was."""
        self._time += seconds

    def reboot(self, seconds: float = 0.0) -> None:
        """Begin another boot, ``seconds`` of wall time later."""
        self._time += seconds
        self._monotonic = 0.0
        self._boot += 1

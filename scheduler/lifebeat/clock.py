"""Time as an argument: everything that needs the time is given a clock."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

RELEASED = "2026-11-01"  # the month of this version's release: a clock that is earlier has not been set
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_LENGTHS = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time on both clocks, so that a length is right although the wall clock was set.

    Attributes:
        wall: Seconds since the Unix epoch, as the wall clock said then.
        boot: Seconds since the machine booted, sleep included.
        boot_id: The boot that ``boot`` counts from; ``None`` where boots have no name.
    """

    wall: float
    boot: float
    boot_id: str | None


class Clock(Protocol):
    """Where the time comes from."""

    def time(self) -> float:
        """Return seconds since the Unix epoch, for instants and timestamps. May jump; never take a difference of it."""
        ...

    def monotonic(self) -> float:
        """Return seconds since the machine booted, sleep included. For deadlines, ages and uptimes."""
        ...

    def boot_id(self) -> str | None:
        """Return the name of this boot, ``None`` where boots have none."""
        ...

    def earliest(self) -> float:
        """Return the time before which it cannot have been set, in seconds since the Unix epoch."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(_LENGTHS)

    def boot_id(self) -> str | None:
        try:
            with open(_BOOT_ID, encoding="ascii") as file:  # noqa: PTH123 - pathlib is not for the start path
                return file.read().strip() or None
        except (OSError, ValueError):
            return None

    def earliest(self) -> float:
        return datetime.fromisoformat(f"{RELEASED}T00:00Z").timestamp()


def now(clock: Clock) -> Moment:
    """Return the present moment on both clocks."""
    return Moment(clock.time(), clock.monotonic(), clock.boot_id())


def seconds_since(moment: Moment, clock: Clock) -> float:
    """Return how long ago a moment was, in seconds, never less than zero.

    Boot time tells within one boot. After a reboot only the wall clock can.
    """
    return max(between(moment, now(clock)), 0.0)


class Deadline:
    """One deadline for everything that has to be over by then.

    Args:
        clock: Where the time comes from.
        seconds: How long from now.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._until = clock.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return how many seconds are left, never less than zero."""
        return max(self._until - self._clock.monotonic(), 0.0)


def between(earlier: Moment, later: Moment) -> float:
    """Return the seconds from one moment to another: by boot time within one boot, else by the wall clock."""
    if earlier.boot_id is not None and earlier.boot_id == later.boot_id:
        return later.boot - earlier.boot
    return later.wall - earlier.wall

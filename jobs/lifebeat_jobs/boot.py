"""After the machine was down, deliveries wait for a time by chance: a region that comes back is not heard all at once.

A start that follows a boot is seldom alone: a power cut, a node that was replaced or patched takes many with it, and
nobody watches for that start to arrive. A start on a machine that was up all the time is delivered at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat_jobs.outbox import LONGEST_BACKOFF

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat_jobs.outbox import Outbox

LONGEST_HOLD = LONGEST_BACKOFF / 2
NOTE = "boot"  # the outbox keeps it: the boot, and until when deliveries are held back
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str | None:
    """What this boot of the machine is called, which never leaves it; ``None`` where there is no such name."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def started(outbox: Outbox, boot: str | None, now: float, *, draw: Callable[[], float]) -> None:
    """The application started: hold deliveries back if the machine was booted since it last did.

    Args:
        outbox: Where the events wait.
        boot: What this boot is called; ``None`` where that is not known, and nothing is held back.
        now: The time, in seconds since the Unix epoch.
        draw: Gives a number from 0 to 1 by chance.
    """
    before, _ = _read(outbox)
    if boot is not None and boot != before:
        until = now if before is None else now + draw() * LONGEST_HOLD
        outbox.set_note(NOTE, f"{boot} {until}")


def held_until(outbox: Outbox, now: float) -> float | None:
    """Until when deliveries are held back, in seconds since the Unix epoch; ``None`` if they are not."""
    _, until = _read(outbox)
    return until if now < until <= now + LONGEST_HOLD else None  # farther off, the clock was set back


def _read(outbox: Outbox) -> tuple[str | None, float]:
    boot, _, until = (outbox.note(NOTE) or "").partition(" ")
    return boot or None, float(until or 0)

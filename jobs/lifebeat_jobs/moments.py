"""Which time an event has where the clock may not have been set yet, as on a board without a battery."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

from lifebeat import clock as clocks
from lifebeat.schedule.instants import EPOCH
from lifebeat_jobs.outbox import OutboxUnavailable

if TYPE_CHECKING:
    from datetime import datetime

    from lifebeat.clock import Clock
    from lifebeat_jobs.outbox import Outbox

SEEN = "clock"  # a note
BELIEVED_AFTER = 3600.0  # seconds since the boot: what can set a clock has done so by then
SEEN_EVERY = 86400.0


def clock_is_set(outbox: Outbox, clock: Clock) -> bool:
    """Return whether the clock has been set: it is later than this version's release, and than before this boot.

    It may have been ahead before this boot; so an hour after the boot it is believed in any case.
    """
    now = clocks.now(clock)
    if now.wall < clock.earliest():
        return False
    try:
        boot_id, before, latest = json.loads(outbox.note(SEEN) or "[null, 0, 0]")
        if boot_id != now.boot_id:
            before = latest
        if now.wall < before and now.boot < BELIEVED_AFTER:
            return False
        if boot_id != now.boot_id or abs(now.wall - latest) >= SEEN_EVERY:
            outbox.set_note(SEEN, json.dumps([now.boot_id, before, now.wall]))
    except OutboxUnavailable:  # what was seen before cannot be known now
        return True
    return True


def without_time(clock: Clock) -> datetime:
    """Return the moment of an event until the clock has been set: long ago, which no event that leaves says."""
    return EPOCH + timedelta(seconds=clock.monotonic())

"""Under which ID an installation's events are sent: its own, one that changes each month, or none that stays."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import uuid
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lifebeat.clock import Moment, now, seconds_since
from lifebeat_jobs.events import age_of, uuid8

if TYPE_CHECKING:
    from lifebeat.clock import Clock
    from lifebeat.settings.table import Settings
    from lifebeat_jobs.outbox import Outbox

INSTALLATION, MONTHLY, NONE = "installation", "monthly", "none"
_SECRET = "identity:secret"  # noqa: S105 - the note's name
_INSTALLED = "installed"


def mode_of(settings: Settings) -> str:
    """Return ``telemetryIdentity``."""
    return settings.identity


def sender(settings: Settings, outbox: Outbox, instance_id: str, moment: datetime, *, create: bool = True) -> str:
    """Return the ``distinct_id`` of an event.

    Args:
        settings: The merged settings.
        outbox: Where the secret of the months is kept; it never leaves.
        instance_id: The installation's own ID.
        moment: When the event happened.
        create: Whether to make the secret if there is none.
    """
    mode = mode_of(settings)
    if mode == NONE:
        return str(uuid.uuid4())
    if mode == MONTHLY:
        secret = outbox.note(_SECRET)
        if secret is None and create:
            outbox.note_once(_SECRET, secrets.token_hex(32))
            secret = outbox.note(_SECRET)
        secret = secret or secrets.token_hex(32)
        month = moment.astimezone(UTC).strftime("%Y-%m")
        digest = hmac.new(secret.encode(), month.encode(), hashlib.sha256).digest()
        return uuid8(digest)
    return instance_id


def age(settings: Settings, outbox: Outbox, clock: Clock) -> str | None:
    """Return how old the installation is, where that is sent in the place of its ID; ``None`` where it is not."""
    if mode_of(settings) != NONE:
        return None
    found = outbox.note(_INSTALLED)
    since = 0.0 if found is None else seconds_since(Moment(*json.loads(found)), clock)
    return age_of(timedelta(seconds=since))


def begin(outbox: Outbox, clock: Clock) -> None:
    """Remember since when the installation is there."""
    outbox.note_once(_INSTALLED, json.dumps(astuple(now(clock))))

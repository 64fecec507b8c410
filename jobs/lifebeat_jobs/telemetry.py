"""The three jobs: read the merged settings, build the event, put it in the outbox; and what hosts and commands ask for.

A host's own job function that has a parameter named ``context`` may record an event that the host has declared::

    def nightly_import(context: JobContext) -> None:
        ...
        telemetry.record(context, Imported, source="csv", rows=12)
"""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat import installation
from lifebeat.errors import LifebeatError
from lifebeat.storage import state_dir as statedir
from lifebeat_jobs import boot, events, privacy
from lifebeat_jobs.outbox import Bounds, Outbox, OutboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from lifebeat.context import JobContext
    from lifebeat.settings.table import Settings

FILE_NAME = "outbox.sqlite3"
DELIVERY = "telemetry:delivery"  # no job in a job file can have that ID
SETTLING = timedelta(milliseconds=150)  # of the time for the last flush, kept for writing down what came of it
_POLL = 0.02
_memory: dict[Path, Outbox] = {}


def startup(context: JobContext) -> None:
    """The application started."""
    if _record(context, events.Startup, {}, context.instant):
        with contextlib.suppress(OutboxUnavailable):  # a full disk; what it has is delivered at once then
            boot.started(open_outbox(context), boot.boot_id(), context.clock.time(), draw=random.random)
    _deliver_in_background(context)


def record(context: JobContext, kind: type[events.Event], **properties: Any) -> bool:
    """Record an event that the host has declared, as of now; it is delivered like the others, and blocks nothing.

    Args:
        context: What the job function was given.
        kind: The event's class, a subclass of ``events.Event``.
        properties: Its own properties; those that all events have are filled in.

    Returns:
        Whether it was recorded: not while telemetry is off, nor where nothing can be kept, nor with a value that may
        not be sent, which the log then says.

    Raises:
        TypeError: The class has no such properties, or others too.
    """
    events.check_names(kind, properties)
    try:
        recorded = _record(context, kind, properties, _now(context))
    except (ValueError, LifebeatError) as error:
        context.logger.warning("the event %s was not recorded: %s", kind.name, error)
        return False
    _deliver_in_background(context)
    return recorded


def heartbeat(context: JobContext) -> None:
    """The application is running."""
    now = _now(context)
    hours, days = events.hours_and_days(now - context.started_at)
    _record(context, events.Heartbeat, {"uptime_hours": hours, "uptime_days": days}, now)
    _deliver_in_background(context)


def shutdown(context: JobContext) -> None:
    """The application stopped: say so, and deliver what waits within the time there is."""
    deadline = _deadline(context)
    hours, days = events.hours_and_days(context.instant - context.started_at)
    spans = {"total_runtime_hours": hours, "total_runtime_days": days}
    try:
        _record(context, events.Shutdown, spans, context.instant)
    finally:  # a full disk keeps no event, but what it has can be delivered
        _flush(context, deadline, all_waiting=False)


def leaving(context: JobContext) -> None:
    """This process stops and others go on, on machines that may not have its disk: deliver what is due, within time."""
    _flush(context, _deadline(context), all_waiting=False)


def _deadline(context: JobContext) -> float | None:
    if context.timeout is None:
        return None
    sending = max(context.timeout - SETTLING, context.timeout / 2)
    return context.clock.monotonic() + sending.total_seconds()


def _now(context: JobContext) -> datetime:
    from lifebeat.schedule.instants import SECOND, to_datetime

    return to_datetime(int(context.clock.time() * SECOND))


def _record(context: JobContext, kind: type[events.Event], more: dict[str, Any], moment: datetime) -> bool:
    settings = context.read_settings()
    if not settings.enabled:
        return False
    outbox = open_outbox(context, create=True)
    _give_notice(context, outbox, settings)
    instance_id = installation.make_id(settings, context.config_dir, context.state_dir)
    if instance_id is None:
        if outbox.note_once("no-id", str(context.clock.time())):
            context.logger.warning("telemetry is off: the instance ID can be kept nowhere; set telemetryInstanceId")
        return False
    event = kind(**events.surroundings(settings, instance_id), **more)
    body, event_id = events.serialize(event, moment)
    leak = privacy.leak_in_event(body, privacy.this_machine())
    if leak is None:
        outbox.record(event_id, event.name, body)
    else:
        outbox.suppressed(event_id, event.name, body, leak)
        context.logger.warning("the event %s was not let out: %s (see: lifebeat log)", event.name, leak)
    return leak is None


def _give_notice(context: JobContext, outbox: Outbox, settings: Settings) -> None:
    """Say once per installation, before anything is collected, what is sent, where to, and how to stop it."""
    if not outbox.note_once("notice", str(context.clock.time())):
        return
    shown = context.logger.isEnabledFor(20) and context.logger.hasHandlers()
    context.logger.log(
        20 if shown else 30,  # a host without a log configuration shows warnings only, and this line must be seen
        "%s sends anonymous telemetry (start, heartbeat every %s, stop) to %s. See it: lifebeat preview. "
        "Turn it off: lifebeat setconfig telemetryEnabled false, or TELEMETRY_ENABLED=false, or DO_NOT_TRACK=1.",
        settings.app_name or "This application",
        _spoken(settings),
        settings.host,
    )


def _spoken(settings: Settings) -> str:
    from lifebeat.text.durations import format_duration

    return format_duration(settings.heartbeat_interval)


def open_outbox(context: JobContext, *, create: bool = False) -> Outbox:
    """The outbox of this installation; in memory only where no directory can be written.

    Raises:
        OutboxUnavailable: Its directory cannot be made.
    """
    settings = context.settings
    bounds = Bounds(
        events=settings.outbox_events,
        bytes=settings.outbox_bytes,
        age=settings.outbox_age.total_seconds(),
    )
    make = partial(Outbox, bounds=bounds, clock=context.clock, warn=partial(context.logger.warning, "%s"))
    if context.state_dir is None:
        return _memory.setdefault(context.config_dir, make(None))
    if create:
        try:
            statedir.make(context.state_dir)
        except statedir.StateNotWritable as error:
            raise OutboxUnavailable(str(error)) from error
    return make(context.state_dir / FILE_NAME)


def _deliver_in_background(context: JobContext) -> None:
    if context.read_settings().enabled:
        context.background(DELIVERY, partial(_deliver, context))


def _deliver(context: JobContext) -> None:
    """Deliver what is due, and let the scheduler come back for the rest."""
    from lifebeat_jobs.delivery import Delivery, may_send, until_next_attempt

    outbox = open_outbox(context)
    try:
        if not may_send(context.read_settings()):
            withdrawn(context)
            return
        with outbox.sending() as mine:
            if mine:
                Delivery(context, outbox).run()
        again = until_next_attempt(context, outbox)
    except OutboxUnavailable as error:
        context.logger.debug("telemetry was not delivered: %s", error)
        return
    except Exception as error:  # noqa: BLE001 - in a thread of its own it would be a traceback on the host's stderr
        context.logger.warning("telemetry was not delivered: %r", error)
        return
    if again is not None:
        context.later(DELIVERY, again, partial(_deliver_in_background, context))


def _flush(
    context: JobContext,
    deadline: float | None,
    *,
    all_waiting: bool,
    progress: Callable[[int], None] | None = None,
) -> int:
    from lifebeat_jobs.delivery import Delivery

    outbox = open_outbox(context)
    while True:
        with outbox.sending() as mine:
            if mine:
                delivery = Delivery(context, outbox, deadline, leaving=not all_waiting)
                delivery.run(all_waiting=all_waiting, progress=progress)
                return delivery.delivered
        if outbox.waiting().count == 0 or (deadline is not None and context.clock.monotonic() >= deadline):
            return 0
        time.sleep(_POLL)


def flush(context: JobContext, timeout: timedelta | None, progress: Callable[[int], None] | None = None) -> int:
    """Deliver everything that waits, also what waits for its next attempt; says how many were delivered."""
    deadline = None if timeout is None else context.clock.monotonic() + timeout.total_seconds()
    return _flush(context, deadline, all_waiting=True, progress=progress)


def withdrawn(context: JobContext) -> None:
    """Telemetry was turned off: what waits is not sent, now or later."""
    from lifebeat_jobs.delivery import withdraw

    settings = context.read_settings()
    if settings.opted_out:
        withdraw(open_outbox(context), settings)


def status(context: JobContext) -> dict[str, Any]:
    """What an operator wants to know."""
    from lifebeat_jobs.delivery import next_attempt

    settings, outbox = context.read_settings(), open_outbox(context)
    waiting = outbox.waiting()
    return {
        "telemetry": "on" if settings.enabled else "off",
        "reason": settings.reason,
        "host": settings.host,
        "api_key": "set" if settings.api_key else "none: nothing is sent, events stay in the local ledger",
        "instance_id": context.instance_id,
        "state_dir": None if context.state_dir is None else str(context.state_dir),
        "waiting": waiting.count,
        "waiting_since": waiting.since,
        "next_attempt": next_attempt(context, outbox),
        "dropped": waiting.dropped,
    }


def entries(context: JobContext, limit: int) -> list[dict[str, Any]]:
    """Return the latest recorded events, newest first, each with what became of it."""
    return [entry._asdict() for entry in open_outbox(context).entries(limit=limit)]


def preview(context: JobContext, name: str | None = None) -> list[str]:
    """The exact events that would be sent now, without sending or keeping anything; also while telemetry is off."""
    known = context.instance_id or str(uuid.uuid4())
    shared = events.surroundings(context.settings, known)
    now = _now(context)
    hours, days = events.hours_and_days(now - context.started_at)
    made: list[events.Event] = [
        events.Startup(**shared),
        events.Heartbeat(**shared, uptime_hours=hours, uptime_days=days),
        events.Shutdown(**shared, total_runtime_hours=hours, total_runtime_days=days),
    ]
    return [events.serialize(event, now)[0] for event in made if name in {None, event.name}]

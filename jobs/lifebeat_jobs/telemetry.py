"""The three jobs: build the event, put it in the outbox, deliver; and what hosts and commands ask for.

A host's own job function that has a parameter named ``context`` may record an event that the host has declared::

    def nightly_import(context: JobContext) -> None:
        ...
        telemetry.record(context, Imported, source="csv", rows=12)
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat.errors import LifebeatError
from lifebeat.storage.sqlite import TIMEOUT
from lifebeat.storage.state_dir import DATABASE_FILE as FILE_NAME
from lifebeat_jobs import agreement, description, events, identity, privacy
from lifebeat_jobs.moments import clock_is_set, without_time
from lifebeat_jobs.outbox import Bounds, Outbox, OutboxUnavailable

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from lifebeat.context import JobContext

DELIVERY = "telemetry:delivery"  # no job in a job file can have that ID
SETTLING = timedelta(milliseconds=150)  # of the time for the last flush, kept for writing down what came of it
ON_TIME = timedelta(minutes=1)
_POLL = 0.02
_NO_ID = "the instance ID cannot be stored; set telemetryInstanceId"
_memory: dict[Path, Outbox] = {}


# The jobs


def startup(context: JobContext) -> None:
    """Record that the application started, and deliver."""
    _record(context, events.Startup, {}, context.instant)
    _deliver_in_background(context)


def heartbeat(context: JobContext) -> None:
    """Record that the application is running, and deliver.

    A heartbeat belongs to its instant: every process that reports it reports the same event. One that is made up for
    later has the time at which it is recorded.
    """
    hours, days = events.hours_and_days(context.uptime)
    now = _now(context)
    on_time = abs(now - context.instant) <= ON_TIME
    more = {"uptime_hours": hours, "uptime_days": days}
    _record(context, events.Heartbeat, more, context.instant if on_time else now, merges=on_time)
    _deliver_in_background(context)


def shutdown(context: JobContext) -> None:
    """Record that the application stopped; ``leaving`` delivers it.

    It belongs to its moment: where a kill leaves open whether it was recorded, the next start reports the same event.
    """
    hours, days = events.hours_and_days(context.uptime)
    more = {"total_runtime_hours": hours, "total_runtime_days": days}
    _record(context, events.Shutdown, more, context.instant, merges=True)


def record(context: JobContext, kind: type[events.Event], **properties: Any) -> bool:
    """Record an event that the host has declared, as of now; it is delivered like the others, and blocks nothing.

    Args:
        context: What the job function was given.
        kind: The event's class, a subclass of ``events.Event``.
        properties: Its own properties; those that all events have are filled in.

    Returns:
        Whether it was recorded: not while telemetry is off, nor where nothing can be kept, nor with a value that may
        not be sent, nor before the installation has agreed to it, which the log then says.

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


def _record(
    context: JobContext, kind: type[events.Event], more: dict[str, Any], moment: datetime, *, merges: bool = False
) -> bool:
    settings = context.read_settings()
    if not context.read_consent().is_on:
        return False
    outbox = open_outbox(context)
    if context.instance_id is None:
        if outbox.note_once("no-id", str(context.clock.time())):
            context.logger.warning("nothing is recorded: the instance ID cannot be stored; set telemetryInstanceId")
        return False
    if not clock_is_set(outbox, context.clock):
        moment, merges = without_time(context.clock), False
    sent_as, age = context.instance_id, None
    try:
        _begin(context, outbox)
        sent_as = identity.sender(settings, outbox, context.instance_id, moment)
        age = identity.age(settings, outbox, context.clock)
    except OutboxUnavailable:  # the event is kept in memory then, but not under another ID than was asked for
        if identity.mode_of(settings) != identity.INSTALLATION:
            raise
    machine = privacy.this_machine()
    event = kind(**description.surroundings(settings, sent_as, machine), **more)
    merges = merges and identity.mode_of(settings) != identity.NONE
    event_id = events.uuid7(moment, *([sent_as, event.name, events.timestamp(moment)] if merges else []))
    return _keep(context, outbox, events.serialize(event, moment, event_id, age=age), machine)


def _begin(context: JobContext, outbox: Outbox) -> None:
    """Say what is sent, where to, and how to stop it: once per installation, before anything is collected."""
    if outbox.note("notice") is not None:
        return
    identity.begin(outbox, context.clock)
    agreement.agree(outbox, context.read_settings())
    if outbox.note_once("notice", str(context.clock.time())):
        logger = context.logger
        # A host without a log configuration shows warnings only, and this line must be seen.
        level = 20 if logger.isEnabledFor(20) and logger.hasHandlers() else 30
        logger.log(
            level,
            "%s sends anonymous telemetry to %s: the events %s (heartbeat every %s), with %s and nothing else. "
            "See it: %s. Turn it off: %s, or TELEMETRY_ENABLED=false, or DO_NOT_TRACK=1.",
            *description.notice(context),
        )


def _begin_if_pending(context: JobContext, outbox: Outbox) -> None:
    """Say the notice before anything leaves, where it could not be said as the event was made."""
    pending = outbox.waiting()
    if pending.count or pending.unrecorded:
        _begin(context, outbox)


def _keep(context: JobContext, outbox: Outbox, made: dict[str, Any], machine: privacy.Machine) -> bool:
    try:
        body, forms = _permitted(context, outbox, made), agreement.known_forms(outbox)
    except OutboxUnavailable:  # what was not agreed to is taken off before it leaves
        body, forms = made, {name: [form, events.without_id(form)] for name, form in events.declared().items()}
    if body is None:
        return False
    text = json.dumps(body)
    reason = privacy.why_withheld(text, forms, machine)
    if reason is None:
        outbox.record(body["uuid"], body["event"], text)
    else:
        outbox.suppressed(body["uuid"], body["event"], text, reason)
        logger = context.logger
        logger.warning("the event %s was blocked by the privacy check: %s (see: lifebeat log)", body["event"], reason)
    return reason is None


def _permitted(context: JobContext, outbox: Outbox, made: dict[str, Any]) -> dict[str, Any] | None:
    """Return the event with no more in it than was agreed to, and say so once for each version that wants more."""
    body = agreement.permit(outbox, context.read_settings(), made)
    if body != made and outbox.note_once(f"new fields of {agreement.version(context.settings)}", ""):
        context.logger.warning(
            "this version would send more (%s) than this installation has agreed to, and sends only that. "
            "See it: %s. Agree: %s",
            ", ".join(agreement.named(agreement.unaccepted(outbox, context.read_settings()))),
            description.command(context, "describe"),
            description.command(context, "accept"),
        )
    if body is not None:
        agreement.remember_form(outbox, body)
    return body


def _now(context: JobContext) -> datetime:
    from lifebeat.schedule.instants import SECOND, to_datetime

    return to_datetime(int(context.clock.time() * SECOND))


# Delivering


def open_outbox(context: JobContext) -> Outbox:
    """Return the outbox of this installation; in memory only where no directory can be written. Touches nothing yet."""
    settings = context.settings
    bounds = Bounds(
        events=settings.outbox_events,
        bytes=settings.outbox_bytes,
        age=settings.outbox_age.total_seconds(),
    )
    wait = TIMEOUT if context.timeout is None else min(context.timeout.total_seconds(), TIMEOUT)
    warn = partial(context.logger.warning, "%s")
    make = partial(Outbox, bounds=bounds, clock=context.clock, warn=warn, busy_timeout=wait)
    if context.state_dir is None:
        return _memory.setdefault(context.config_dir, make(None))
    return make(context.state_dir / FILE_NAME)


def _deliver_in_background(context: JobContext) -> None:
    if context.read_consent().is_on:
        context.background(DELIVERY, partial(_deliver, context))


def _deliver(context: JobContext) -> None:
    """Deliver what is due, and let the scheduler come back for the rest."""
    from lifebeat_jobs.delivery import Delivery, until_next_attempt

    outbox = open_outbox(context)
    try:
        withdrawn(context)
        if not context.read_consent().is_on or context.read_settings().api_key is None:
            return
        _begin_if_pending(context, outbox)
        Delivery(context, outbox).run()
        again = until_next_attempt(context, outbox)
    except OutboxUnavailable as error:
        context.logger.debug("telemetry was not delivered: %s", error)
        return
    except Exception as error:  # noqa: BLE001 - in a thread of its own it would be a traceback on the host's stderr
        context.logger.warning("telemetry was not delivered: %s", type(error).__name__)
        return
    if again is not None:
        context.later(DELIVERY, again, partial(_deliver_in_background, context))


def _deadline(context: JobContext) -> float | None:
    if context.timeout is None:
        return None
    sending = max(context.timeout - SETTLING, context.timeout / 2)
    return context.clock.monotonic() + sending.total_seconds()


def _flush(context: JobContext, deadline: float | None, *, all_waiting: bool) -> int:
    from lifebeat_jobs.delivery import Delivery

    outbox = open_outbox(context)
    if context.read_consent().is_on:
        _begin_if_pending(context, outbox)
    delivery = Delivery(context, outbox, deadline, leaving=not all_waiting)
    while not delivery.run(all_waiting=all_waiting):
        if deadline is not None and context.clock.monotonic() >= deadline:
            break
        time.sleep(_POLL)
    return delivery.delivered


# What hosts and commands ask for


def flush(context: JobContext, timeout: timedelta | None) -> int:
    """Deliver everything that waits, also what waits for its next attempt, and return how many were delivered."""
    deadline = None if timeout is None else context.clock.monotonic() + timeout.total_seconds()
    return _flush(context, deadline, all_waiting=True)


def leaving(context: JobContext) -> None:
    """Deliver what is due, within time: nothing of it is left to those that go on, who may not have this disk."""
    outbox = open_outbox(context)
    try:
        _flush(context, _deadline(context), all_waiting=False)
    except OutboxUnavailable as error:
        context.logger.debug("telemetry was not delivered: %s", error)
    if lost := outbox.unrecorded:
        context.logger.warning("events that could not be recorded are lost as this process stops: %s", lost)


def withdrawn(context: JobContext) -> None:
    """Keep what waits from being sent, now or later, if telemetry was turned off."""
    from lifebeat_jobs.delivery import withdraw

    consent = context.read_consent()
    if consent.state == "off":
        withdraw(open_outbox(context), consent)


def status(context: JobContext) -> dict[str, Any]:
    """Return what an operator wants to know."""
    from lifebeat_jobs.answers import shown
    from lifebeat_jobs.delivery import next_attempt

    settings, consent, outbox = context.read_settings(), context.read_consent(), open_outbox(context)
    waiting = outbox.waiting()
    return {
        "telemetry": consent.state,
        "reason": str(consent),
        "host": shown(settings.host),
        "api_key": "set" if settings.api_key else "none: nothing is sent, events stay in the local ledger",
        "instance_id": context.instance_id,
        "identity": identity.mode_of(settings),
        "state_dir": None if context.state_dir is None else str(context.state_dir),
        "waiting": waiting.count,
        "waiting_since": waiting.since,
        "next_attempt": next_attempt(context, outbox),
        "dropped": waiting.dropped,
        "unaccepted": agreement.named(agreement.unaccepted(outbox, settings)),
        "error": _NO_ID if consent.is_on and context.instance_id is None and context.state_dir is None else None,
    }


def entries(context: JobContext, limit: int) -> list[dict[str, Any]]:
    """Return the latest recorded events, newest first, each with what became of it."""
    return [entry._asdict() for entry in open_outbox(context).entries(limit=limit)]


def preview(context: JobContext, name: str | None = None) -> list[str]:
    """Return the exact events that would be sent now, without sending or keeping anything; also while it is off."""
    return description.previews(context, open_outbox(context), _now(context), name)


def request_preview(context: JobContext, name: str | None = None) -> str:
    """Return whole requests as they would be sent now: the line, the headers, and the body before it is zipped."""
    return description.requests(context, preview(context, name), _now(context))


def describe(context: JobContext) -> str:
    """Return TELEMETRY.md, the page for the application's own users: what is sent, where, how often, how to stop it."""
    return description.page(context, open_outbox(context))


def contract(_context: JobContext) -> str:
    """Return what this application can send, as JSON that changes only when that does."""
    return description.contract()


def accept(context: JobContext) -> list[str]:
    """Agree to all that this version wants to send, and return what is new in it."""
    return agreement.named(agreement.accept(open_outbox(context), context.read_settings()))


def warnings(context: JobContext) -> list[str]:
    """Return what is sent otherwise than it was set, for ``lifebeat check``."""
    return description.warnings(context.settings)

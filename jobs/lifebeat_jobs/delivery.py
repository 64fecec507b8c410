"""From the outbox to PostHog: what is due is sent, and each event's fate is written down."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat import clock as clocks
from lifebeat.clock import Moment
from lifebeat.schedule.instants import SECOND, to_datetime
from lifebeat.storage.forks import guard
from lifebeat_jobs import agreement, events, identity
from lifebeat_jobs.answers import OK, Answer, shown
from lifebeat_jobs.moments import clock_is_set
from lifebeat_jobs.outbox import LONGEST_BACKOFF, OutboxUnavailable
from lifebeat_jobs.privacy import Machine, is_object, this_machine, why_withheld

if TYPE_CHECKING:
    from datetime import datetime

    from lifebeat.clock import Clock
    from lifebeat.context import Consent, JobContext
    from lifebeat_jobs.outbox import Entry, Outbox

BATCH = 1000  # as many as wait by default; each batch is a connection and two syncs of the disk
REQUEST_TIMEOUT = 30.0
FIRST_RETRY = 3600.0  # after an outage a fleet asks 1 + n times as often as usual, n the retries that fit into it
RARELY = LONGEST_BACKOFF / 2
LONGEST_ASKED = LONGEST_BACKOFF - 3600.0
AFTER_BOOT = 60.0  # a region that gets its power back is not heard in one second
UNSET_CLOCK = 60.0  # until the next look whether the clock has been set
REJECTED = frozenset({400, 413})
MISCONFIGURED = frozenset({401, 403, 404})
OUTAGE, BOOT = "delivery", "boot"  # notes
FAILING, ASKED = "failing", "asked to wait"

Ask = Callable[[list[str], str, str, Callable[[], bool], float], Answer]
"""Send events with a key to a host, as long as they may leave, within so many seconds."""


def reach() -> Ask:
    """Return what sends over the network; importing it takes time."""
    try:
        with guard:  # a child that is forked meanwhile would wait for ever for what is being imported
            from lifebeat_jobs.posthog import Post
    except Exception:  # noqa: BLE001 - half installed, or another module of that name before it
        answer = Answer(None, "the PostHog SDK cannot be imported; reinstall posthog and requests")
        return lambda _bodies, _key, _host, _may_leave, _timeout: answer
    return lambda bodies, key, host, may_leave, timeout: Post(
        bodies, api_key=key, host=host, may_leave=may_leave, timeout=timeout
    ).wait()


def pause(answer: Answer, attempts: int, *, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds until the next attempt: what the server asks for, within bounds, and full jitter on top.

    Args:
        answer: What became of the last attempt.
        attempts: How many attempts had failed before that.
        draw: Gives a number from 0 to 1 by chance.
    """
    asked, spread = min(answer.retry_after or 0.0, LONGEST_ASKED), FIRST_RETRY * 2.0 ** min(attempts, 20)
    if answer.status in MISCONFIGURED:  # nothing but an edit of the settings makes that good
        asked, spread = max(asked, RARELY), LONGEST_BACKOFF
    return asked + draw() * min(spread, LONGEST_BACKOFF - asked)


@dataclass(slots=True)
class Delivery:
    """One go at delivering what is due.

    Attributes:
        context: The job's context.
        outbox: Where the events wait.
        deadline: The monotonic time by which it must be over; ``None`` for no hurry.
        draw: Gives a number from 0 to 1 by chance, for the jitter.
        machine: What must not leave.
        leaving: Whether the application stops, so that nothing is held back for the crowd that follows a boot.
        reach: Gives what sends.
        batch: How many events go in one request at most.
        delivered: How many events were delivered.
        answer: The last answer; ``None`` if nothing was sent.
    """

    context: JobContext
    outbox: Outbox
    deadline: float | None = None
    draw: Callable[[], float] = random.random
    machine: Machine = field(default_factory=this_machine)
    leaving: bool = False
    reach: Callable[[], Ask] = reach
    batch: int = BATCH
    delivered: int = 0
    answer: Answer | None = None

    def run(self, *, all_waiting: bool = False, progress: Callable[[int], None] | None = None) -> bool:
        """Deliver request by request until nothing waits, an attempt fails or time is up; nothing if nothing is due.

        What waits for its next attempt goes along with what is due: that is one request less, and not one more.

        Args:
            all_waiting: Whether to begin also where nothing is due, or where the server asked to be left alone for
                longer.
            progress: Told the number of events delivered so far.

        Returns:
            Whether it was this call's to do: false if another process delivers.
        """
        if not all_waiting and (self._is_held() or not self.outbox.due(1)):
            return True
        ask = self.reach()
        self._set_right()
        while self._left() > 0:
            before = self.delivered
            with self.outbox.sending() as mine:
                if not mine:
                    return self.outbox.waiting().count == 0
                entries = self._next()
                goes_on = bool(entries) and self._send(entries, ask)
            if progress is not None and self.delivered > before:
                progress(self.delivered)
            if not goes_on:
                break
        return True

    def _is_held(self) -> bool:
        with contextlib.suppress(OutboxUnavailable):  # on a full disk; what it has can be delivered
            begin_boot(self.outbox, self.context.clock, self.draw)
        if not self.leaving and _left_of_boot(self.outbox, self.context.clock) > 0:
            return True
        return resting(self.context, self.outbox, ASKED) > 0

    def _set_right(self) -> None:
        """Correct, once, what has never left: what was not agreed to, and the time of a clock that was not set yet."""
        settings, clock = self.context.read_settings(), self.context.clock
        trim, now = agreement.trimmer(self.outbox, settings), to_datetime(int(clock.time() * SECOND))
        forms = {name: [form, events.without_id(form)] for name, form in events.declared().items()}
        is_set = clock_is_set(self.outbox, clock)
        for entry in self.outbox.due(self.batch, early=True):
            if entry.attempts or why_withheld(entry.body, forms, self.machine):
                continue
            body = _parsed(entry.body)
            right = trim(body)
            if right is None:
                self.outbox.dropped([entry.uuid], "not sent: the installation has not agreed to this event")
                continue
            if is_set and not events.is_plausible(right):
                right = self._with_time(right, now - timedelta(seconds=entry.age))
            if right != body and self.outbox.amended(entry.uuid, new_uuid=right["uuid"], body=json.dumps(right)):
                agreement.remember_form(self.outbox, right)

    def _with_time(self, body: dict[str, Any], moment: datetime) -> dict[str, Any]:
        sent_as, properties = body["distinct_id"], dict(body["properties"])
        if "instance_id" in properties:
            sent_as = identity.sender(self.context.read_settings(), self.outbox, sent_as, moment)
            properties["instance_id"] = sent_as
        stamp, event_id = events.timestamp(moment), events.uuid7(moment)
        return {**body, "distinct_id": sent_as, "uuid": event_id, "timestamp": stamp, "properties": properties}

    def _next(self) -> list[Entry]:
        """Return the oldest event and what may go with it: one request has one ``distinct_id``, old or new."""
        forms = agreement.known_forms(self.outbox)
        while due := self.outbox.due(self.batch, early=True):
            reasons = {entry.uuid: why_withheld(entry.body, forms, self.machine) for entry in due}
            for entry_id, reason in reasons.items():
                if reason is not None:
                    self.outbox.dropped([entry_id], f"not sent: {reason}")
            fit = [entry for entry in due if reasons[entry.uuid] is None and _has_time(entry)]
            if fit or not any(reasons.values()):
                return [entry for entry in fit if _sender(entry.body) == _sender(fit[0].body)]
        return []

    def _send(self, entries: list[Entry], ask: Ask) -> bool:
        """Send these, and return whether to go on."""
        settings, consent = self.context.read_settings(), self.context.read_consent()
        if not self._may_send(consent) or settings.api_key is None or self._left() <= 0:
            return False
        bodies = [entry.body for entry in entries]
        answer = self.answer = ask(bodies, settings.api_key, settings.host, self._may_leave, self._left())
        if answer.withheld:
            self._may_send(self.context.read_consent())
            return False
        return self._write_down(entries, answer, settings.host, ask)

    def _may_leave(self) -> bool:
        return self.context.read_consent().is_on

    def _may_send(self, consent: Consent) -> bool:
        if consent.state == "off":
            withdraw(self.outbox, consent)
        return consent.is_on

    def _left(self) -> float:
        if self.deadline is None:
            return REQUEST_TIMEOUT
        return min(self.deadline - self.context.clock.monotonic(), REQUEST_TIMEOUT)

    def _write_down(self, entries: list[Entry], answer: Answer, host: str, ask: Ask) -> bool:
        if answer.delivered:
            self.outbox.delivered([entry.uuid for entry in entries], status=OK)
            self.delivered += len(entries)
            self._end_outage(host)
            return True
        if answer.status in REJECTED:
            return self._isolate(entries, answer, ask)
        wait = pause(answer, max(entry.attempts for entry in entries), draw=self.draw)
        self.outbox.postponed([one.uuid for one in entries], wait=wait, answer=answer.words, status=answer.status)
        self._begin_outage(host, answer, wait)
        return False

    def _isolate(self, entries: list[Entry], answer: Answer, ask: Ask) -> bool:
        """Halve a batch that was rejected until the event that it was rejected for stands alone."""
        if len(entries) == 1:
            self.outbox.dropped([entries[0].uuid], answer.words, status=answer.status)
            return True
        half = len(entries) // 2
        return self._send(entries[:half], ask) and self._send(entries[half:], ask)

    def _begin_outage(self, host: str, answer: Answer, wait: float) -> None:
        """Remember it, and say so if it is new: one line when delivery begins to fail, over processes and restarts."""
        clock = self.context.clock
        is_new = _outage(self.outbox) is None
        note = {
            "kind": FAILING if answer.retry_after is None else ASKED,
            "until": [clock.time() + wait, clock.monotonic() + wait, clock.boot_id()],
            "host": shown(host),
        }
        self.outbox.set_note(OUTAGE, json.dumps(note))
        if is_new:
            logger = self.context.logger
            logger.warning("telemetry cannot be delivered to %s (%s); will retry", shown(host), answer.words)

    def _end_outage(self, host: str) -> None:
        """Forget it, and say once that delivery works again."""
        if _outage(self.outbox) is not None:
            self.outbox.set_note(OUTAGE, "")
            self.context.logger.warning("telemetry is delivered to %s again", shown(host))


def withdraw(outbox: Outbox, consent: Consent) -> None:
    """Keep what waits from being sent, now or later, and forget an outage: telemetry was turned off."""
    if outbox.waiting().count:
        outbox.suppress_waiting(str(consent))
    if _outage(outbox) is not None:
        outbox.set_note(OUTAGE, "")


def resting(context: JobContext, outbox: Outbox, *kinds: str) -> float:
    """Return for how many seconds the host is left alone: it failed, or asked for that."""
    outage = _outage(outbox)
    if outage is None or outage["kind"] not in kinds or outage["host"] != shown(context.read_settings().host):
        return 0.0
    left = clocks.between(clocks.now(context.clock), Moment(*outage["until"]))
    return max(left, 0.0) if left <= LONGEST_BACKOFF else 0.0  # farther off, the clock was set back


def begin_boot(outbox: Outbox, clock: Clock, draw: Callable[[], float]) -> None:
    """Draw how long the first delivery after a boot of the machine waits; an installation's very first does not."""
    boot_id, before = clock.boot_id(), outbox.note(BOOT)
    if boot_id is not None and (before is None or json.loads(before)[0] != boot_id):
        wait = 0.0 if before is None else draw() * AFTER_BOOT
        outbox.set_note(BOOT, json.dumps([boot_id, clock.monotonic() + wait]))


def _left_of_boot(outbox: Outbox, clock: Clock) -> float:
    boot_id, until = json.loads(outbox.note(BOOT) or "[null, 0]")
    return max(until - clock.monotonic(), 0.0) if boot_id == clock.boot_id() else 0.0


def until_next_attempt(context: JobContext, outbox: Outbox) -> timedelta | None:
    """Return how long until something is due, a second at least; ``None`` if nothing waits.

    After an attempt that failed, what was behind it in the queue waits as long as it does: a long queue is no reason
    to ask more often.
    """
    own = outbox.waiting().due_in
    if own is None:
        return None
    unset = 0.0 if clock_is_set(outbox, context.clock) else UNSET_CLOCK
    held = max(resting(context, outbox, FAILING, ASKED), _left_of_boot(outbox, context.clock), unset)
    return timedelta(seconds=max(own, held, 1.0))


def next_attempt(context: JobContext, outbox: Outbox) -> float | None:
    """Return when something is tried next, in seconds since the Unix epoch; ``None`` if nothing waits."""
    left = until_next_attempt(context, outbox)
    return None if left is None else context.clock.time() + left.total_seconds()


def _outage(outbox: Outbox) -> Any:
    return json.loads(outbox.note(OUTAGE) or "null")


def _parsed(body: str) -> dict[str, Any]:
    try:
        document: Any = json.loads(body)
    except ValueError:
        return {}
    return document if is_object(document) else {}


def _sender(body: str) -> Any:
    return _parsed(body).get("distinct_id")


def _has_time(entry: Entry) -> bool:
    return events.is_plausible(_parsed(entry.body))

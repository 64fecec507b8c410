"""From the outbox to PostHog: what is due is sent, and each event's fate is written down."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from lifebeat_jobs import boot
from lifebeat_jobs.beside import Beside
from lifebeat_jobs.outbox import LONGEST_BACKOFF
from lifebeat_jobs.privacy import Machine, leak_in_body, this_machine

if TYPE_CHECKING:
    from lifebeat.context import JobContext
    from lifebeat.settings.table import Settings
    from lifebeat_jobs.outbox import Entry, Outbox

BATCH = 1000  # as many as wait by default; each batch is a connection and two syncs of the disk
REQUEST_TIMEOUT = 30.0
FIRST_RETRY = 3600.0  # after an outage a fleet asks 1 + n times as often as usual, n the retries that fit into it
RARELY = LONGEST_BACKOFF / 2
LONGEST_ASKED = LONGEST_BACKOFF - 3600.0
OK = 200
REJECTED = frozenset({400, 413})
MISCONFIGURED = frozenset({401, 403, 404})
STATE = "delivery"
_WORKING, _FAILING, _HELD = "working", "failing", "held"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch.

    Attributes:
        status: The HTTP status; ``None`` where there was no answer.
        words: What happened, for people.
        delivered: Whether PostHog has the events.
        retry_after: How many seconds the server asks to wait; ``None`` if it does not.
        refused: Whether an event among them must not leave, so that none of them did.
    """

    status: int | None
    words: str
    delivered: bool = False
    retry_after: float | None = None
    refused: bool = False


Ask = Callable[[list[str], str, str, Machine, float], Answer]
"""Send events with a key to a host, seeing to it that nothing of the machine leaves, within so many seconds."""


def reach() -> Ask:
    """What sends over the network."""
    from lifebeat_jobs.posthog import Post

    return lambda bodies, key, host, machine, timeout: Post(
        bodies, api_key=key, host=host, machine=machine, timeout=timeout
    ).wait(timeout)


def pause(answer: Answer, attempts: int, *, draw: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt: what the server asks for, within bounds, and full jitter on top.

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
        reach: Gives what sends; imports it first if need be, which takes time.
        batch: How many events go in one request at most.
        delivered: How many events were delivered.
        sent: Those of them of which that has still to be written down.
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
    sent: list[str] = field(default_factory=list[str])

    def run(self, *, all_waiting: bool = False, progress: Callable[[int], None] | None = None) -> None:
        """Deliver batch by batch until nothing waits, an attempt fails or time is up; nothing if nothing is due.

        What waits for its next attempt goes along with what is due: that is one request less, and not one more.

        Args:
            all_waiting: Whether to begin also where nothing is due, or where the server asked to be left alone for
                longer.
            progress: Told the number of events delivered so far.
        """
        if not all_waiting and (self._is_held() or not self.outbox.due(1)):
            return
        try:
            entries = self._read()
            while entries:
                before, entries = self.delivered, self._send_and_read_on(entries)
                if progress is not None and self.delivered > before:
                    progress(self.delivered)
        finally:
            self._write()

    def _send_and_read_on(self, entries: list[Entry]) -> list[Entry]:
        """Send these; returns what is to follow. In a long queue the disk works while the network does."""
        beside = Beside(partial(self._read, skip=len(entries))) if len(entries) == self.batch else None
        goes_on = self._send(entries)
        following = [] if beside is None else beside.result()
        if not goes_on:
            return []
        # What has been read ahead counts no more if telemetry was turned off meanwhile, and on again.
        return following if following and self.outbox.is_waiting(following[0].uuid) else self._read()

    def _read(self, skip: int = 0) -> list[Entry]:
        self._write()
        return self.outbox.due(self.batch, early=True, skip=skip)

    def _write(self) -> None:
        sent, self.sent = self.sent, []
        self.outbox.delivered(sent, status=OK)

    def _is_held(self) -> bool:
        if not self.leaving and boot.held_until(self.outbox, self.context.clock.time()) is not None:
            return True
        return held_until(self.context, self.outbox) is not None

    def _send(self, entries: list[Entry]) -> bool:
        """Send these; says whether to go on."""
        settings = self.context.read_settings()
        if not self._may_send(settings):
            return False
        answer = self._ask(entries, settings)
        return answer is not None and self._write_down(entries, answer, settings)

    def _may_leave(self, entry: Entry) -> bool:
        leak = leak_in_body(entry.body, self.machine)
        if leak is not None:
            self.outbox.dropped([entry.uuid], f"not sent: {leak}")
        return leak is None

    def _may_send(self, settings: Settings) -> bool:
        if settings.opted_out:
            withdraw(self.outbox, settings)
        return may_send(settings)

    def _ask(self, entries: list[Entry], settings: Settings) -> Answer | None:
        """What the server says; ``None`` if there is no time left to ask."""
        try:
            ask = self.reach()
        except Exception as error:  # noqa: BLE001 - half installed, or another module of that name before it
            return Answer(None, f"the PostHog SDK cannot be used: {error}")
        left = self._left()
        if left <= 0 or settings.api_key is None:
            return None
        return ask([entry.body for entry in entries], settings.api_key, settings.host, self.machine, left)

    def _left(self) -> float:
        if self.deadline is None:
            return REQUEST_TIMEOUT
        return min(self.deadline - self.context.clock.monotonic(), REQUEST_TIMEOUT)

    def _write_down(self, entries: list[Entry], answer: Answer, settings: Settings) -> bool:
        if answer.delivered:
            self.sent = self.sent + [entry.uuid for entry in entries]
            self.delivered += len(entries)
            self._turn(_WORKING, f"telemetry is delivered to {settings.host} again")
            return True
        if answer.status in REJECTED:
            return self._isolate(entries, answer)
        if answer.refused and len([entry for entry in entries if self._may_leave(entry)]) < len(entries):
            return True
        until = self._postpone(entries, answer)
        kind = _FAILING if answer.retry_after is None else _HELD
        self._turn(
            f"{kind} {until} {settings.host}",
            f"telemetry cannot be delivered to {settings.host} ({answer.words}); it is tried again",
        )
        return False

    def _isolate(self, entries: list[Entry], answer: Answer) -> bool:
        """Halve a batch that was rejected until the event that it was rejected for stands alone."""
        if len(entries) == 1:
            self.outbox.dropped([entries[0].uuid], answer.words, status=answer.status)
            return True
        half = len(entries) // 2
        return self._send(entries[:half]) and self._send(entries[half:])

    def _postpone(self, entries: list[Entry], answer: Answer) -> float:
        wait = pause(answer, max(entry.attempts for entry in entries), draw=self.draw)
        until = self.context.clock.time() + wait
        self.outbox.postponed([one.uuid for one in entries], until=until, answer=answer.words, status=answer.status)
        return until

    def _turn(self, state: str, message: str) -> None:
        """One line when delivery starts to fail and one when it works again, over all processes and restarts."""
        before = self.outbox.note(STATE) or _WORKING
        if before != state:
            self.outbox.set_note(STATE, state)
        if (before == _WORKING) != (state == _WORKING):
            self.context.logger.warning("%s", message)


def may_send(settings: Settings) -> bool:
    """Whether events may leave at this moment, and there is a key to send them with."""
    return settings.enabled and settings.api_key is not None


def withdraw(outbox: Outbox, settings: Settings) -> None:
    """Telemetry was turned off: what waits is not sent, now or later, and an outage is forgotten."""
    if outbox.waiting().count:
        outbox.suppress_waiting(settings.reason)
    if outbox.note(STATE) not in {None, _WORKING}:
        outbox.set_note(STATE, _WORKING)


def held_until(context: JobContext, outbox: Outbox) -> float | None:
    """Until when the server asked to be left alone, in seconds since the Unix epoch; ``None`` if it did not."""
    return _resting_until(context, outbox, {_HELD})


def _resting_until(context: JobContext, outbox: Outbox, kinds: set[str]) -> float | None:
    match (outbox.note(STATE) or _WORKING).split(" ", 2):
        case [kind, end, host] if kind in kinds and host == context.read_settings().host:
            now, until = context.clock.time(), float(end)
            return until if now < until <= now + LONGEST_BACKOFF else None  # farther off, the clock was set back
        case _:
            return None


def next_attempt(context: JobContext, outbox: Outbox) -> float | None:
    """When something is tried next, in seconds since the Unix epoch; ``None`` if nothing waits.

    After an attempt that failed, what was behind it in the queue waits as long as it does: a long queue is no reason
    to ask more often.
    """
    due = outbox.waiting().next_attempt
    if due is None:
        return None
    resting = _resting_until(context, outbox, {_HELD, _FAILING})
    return max(due, resting or due, boot.held_until(outbox, context.clock.time()) or due)


def until_next_attempt(context: JobContext, outbox: Outbox) -> timedelta | None:
    """How long until something is due, a second at least; ``None`` if nothing waits."""
    due = next_attempt(context, outbox)
    return None if due is None else timedelta(seconds=max(due - context.clock.time(), 1.0))

"""From the outbox to PostHog: what is due is sent, and each event's fate is written down."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat_jobs.privacy import this_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.context import JobContext
    from lifebeat.settings import Settings
    from lifebeat_jobs.outbox import Entry, Outbox
    from lifebeat_jobs.posthog import Answer

BATCH = 100
REQUEST_TIMEOUT = 30.0
FIRST_RETRY = 60.0
LONGEST_RETRY = 6 * 3600.0
REJECTED = frozenset({400, 413})
MISCONFIGURED = frozenset({401, 403, 404})
STATE = "delivery"


def backoff(attempts: int, *, draw: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt after ``attempts`` failed ones: full jitter, so that a fleet does not storm."""
    return draw() * min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(attempts, 20))


def pause(answer: Answer, attempts: int) -> float:
    """Seconds to wait after an answer: what the server asks for, within bounds and never all at once."""
    if answer.status in MISCONFIGURED:
        return LONGEST_RETRY / 2 + backoff(20) / 2
    asked = min(answer.retry_after or 0.0, LONGEST_RETRY)
    return min(asked + backoff(attempts), LONGEST_RETRY)


@dataclass(slots=True)
class Delivery:
    """One go at delivering what is due.

    Attributes:
        context: The job's context.
        outbox: Where the events wait.
        deadline: The monotonic time by which it must be over; ``None`` for no hurry.
        delivered: How many events were delivered.
    """

    context: JobContext
    outbox: Outbox
    deadline: float | None = None
    delivered: int = 0

    def run(self, *, all_waiting: bool = False, progress: Callable[[int], None] | None = None) -> Answer | None:
        """Deliver batch by batch until nothing is due, an attempt fails or time is up.

        Args:
            all_waiting: Whether events that wait for their next attempt are tried too.
            progress: Told the number of events delivered so far.

        Returns:
            The answer that ended it; ``None`` if nothing was left to send.
        """
        while self._left() > 0:
            settings = self.context.read_settings()
            if not may_send(settings):
                return None
            entries = self._due(all_waiting=all_waiting)
            if not entries:
                return None
            answer = self._send(entries, settings)
            if progress is not None:
                progress(self.delivered)
            if not answer.delivered and answer.refused is None and answer.status not in REJECTED:
                return answer
        return None

    def _left(self) -> float:
        return REQUEST_TIMEOUT if self.deadline is None else self.deadline - self.context.clock.monotonic()

    def _due(self, *, all_waiting: bool) -> list[Entry]:
        if all_waiting:
            return list(reversed(self.outbox.entries(limit=BATCH, state="waiting")))
        return self.outbox.due(BATCH)

    def _send(self, entries: list[Entry], settings: Settings) -> Answer:
        from lifebeat_jobs.posthog import Post  # noqa: PLC0415 - imports the SDK

        assert settings.api_key is not None  # noqa: S101 - may_send looked
        post = Post(
            [entry.body for entry in entries],
            api_key=settings.api_key,
            host=settings.host,
            machine=this_machine(),
            timeout=min(REQUEST_TIMEOUT, max(self._left(), 0.1)),
        )
        answer = post.wait(min(REQUEST_TIMEOUT, self._left()))
        self._write_down(entries, answer, settings)
        return answer

    def _write_down(self, entries: list[Entry], answer: Answer, settings: Settings) -> None:
        ids = [entry.uuid for entry in entries]
        if answer.delivered:
            self.outbox.delivered(ids, status=200)
            self.delivered += len(ids)
            self._say("working", f"telemetry is delivered to {settings.host} again")
        elif answer.status in REJECTED or answer.refused is not None:
            self._isolate(entries, answer, settings)
        else:
            self._postpone(entries, answer)
            self._say(
                "failing", f"telemetry cannot be delivered to {settings.host} ({answer.words}); it is tried again"
            )

    def _isolate(self, entries: list[Entry], answer: Answer, settings: Settings) -> None:
        """Halve a batch that was rejected until the event that it was rejected for stands alone."""
        if len(entries) == 1:
            self.outbox.dropped([entries[0].uuid], answer.words, status=answer.status)
            return
        half = len(entries) // 2
        for part in (entries[:half], entries[half:]):
            if self._left() > 0:
                self._send(part, settings)

    def _postpone(self, entries: list[Entry], answer: Answer) -> None:
        now = self.context.clock.time()
        wait = pause(answer, max(entry.attempts for entry in entries))
        self.outbox.postponed(
            [one.uuid for one in entries], until=now + wait, answer=answer.words, status=answer.status
        )

    def _say(self, state: str, message: str) -> None:
        """One line when delivery starts to fail and one when it works again, over all processes and restarts."""
        before = self.outbox.note(STATE)
        if before == state or (before is None and state == "working"):
            return
        self.outbox.set_note(STATE, state)
        self.context.logger.warning("%s", message) if state == "failing" else self.context.logger.info("%s", message)


def may_send(settings: Settings) -> bool:
    """Whether events may leave at this moment, and there is a key to send them with."""
    return settings.enabled and settings.api_key is not None


def next_attempt(context: JobContext, outbox: Outbox) -> timedelta | None:
    """How long until something is due; ``None`` if nothing waits."""
    due: Any = outbox.waiting().next_attempt
    return None if due is None else timedelta(seconds=max(due - context.clock.time(), 1.0))

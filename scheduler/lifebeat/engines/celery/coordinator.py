"""The processes of many machines agree in Redis; Celery's queue, workers and redelivery do the rest."""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import TYPE_CHECKING, TypeVar

from lifebeat import clock as clocks
from lifebeat.engines.celery.shared import Due, Shared
from lifebeat.once.protocol import Busy, Joined, Unavailable
from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.clock import Clock, Moment
    from lifebeat.log import Logger
    from lifebeat.once.protocol import Exchange, RunInstant

T = TypeVar("T")

_LOOK_EVERY = 0.25


class CeleryCoordinator:
    """What the processes of one application agree on in Redis.

    Args:
        shared: What is in Redis.
        clock: Where the time comes from.
        logger: Where to say what goes wrong.
        hand_over: Puts an instant into Celery's queue, or raises ``Unavailable``; ``None`` where no worker is, as in a
            web process: who claims an instant runs it.
        may_claim: Returns whether this process takes part in claiming.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        clock: Clock,
        logger: Logger,
        hand_over: Callable[[Due], None] | None = None,
        may_claim: Callable[[], bool] = lambda: True,
    ) -> None:
        self.shared = shared
        self._clock = clock
        self._logger = logger
        self._hand_over = hand_over
        self._may_claim = may_claim
        self._run: RunInstant | None = None
        self._exchange: Exchange = lambda _: {}
        self._joined: Joined | None = None
        self._has_asked = False
        self._looked: int | None = None
        self._agreed: str | None = None
        self._outage = False
        self._renewing = threading.Lock()
        self._closed = threading.Event()

    def start(self, run: RunInstant, exchange: Exchange) -> None:
        """Get ready; from now on this process's row is renewed while it is in."""
        self._run, self._exchange = run, exchange
        threads.start("celery", self._keep)

    def close(self) -> None:
        """Renew no more; the thread that renews gives back the connections, which it may be using just now."""
        self._closed.set()

    # -- who is in -------------------------------------------------------------------------------------------------

    def join(self, timeout: float) -> Joined:
        """Join; whether others are in may be known only when one of them has renewed its row."""
        until, candidate = self._clock.monotonic() + timeout, uuid.uuid4().hex
        self._has_asked = True
        while self._joined is None:
            answer = self.shared.join(candidate, clocks.now(self._clock), self._looked)
            if isinstance(answer, Joined):
                self.shared.order(self._exchange(self.shared.orders()))
                self._joined, self._looked = answer, None
                return answer
            self._looked = answer
            if self._clock.monotonic() >= until or self._closed.wait(_LOOK_EVERY):
                raise Unavailable("not known yet whether other processes of the application are running")
        return self._joined

    def agree(self, candidate: str) -> str:
        """Return the instance ID that all processes agree on, the candidate if there was none."""
        self._agreed = self.shared.agree(self._agreed or candidate)
        return self._agreed

    def leave(self, timeout: float) -> Moment | None:
        """Leave; return when, if this was the last process."""
        if not self._has_asked:  # a join whose answer was lost is one all the same
            return None

        def leave() -> Moment | None:
            with self._renewing:
                self._joined = self._looked = None
                now = clocks.now(self._clock)
                return now if self.shared.leave(now) else None

        answers = self._asked(leave, timeout)
        if not answers:
            raise Unavailable("Redis does not say whether this was the last process")
        self._has_asked = False
        return answers[0]

    def finish(self, timeout: float) -> None:
        """Do nothing: the run has ended as its last process left."""

    def _asked(self, question: Callable[[], T], timeout: float) -> list[T]:
        """Return the answer, empty where none came in time."""
        answers: list[T] = []

        def ask() -> None:
            with contextlib.suppress(Unavailable):
                answers.append(question())

        threads.within(timeout, "leave", ask)
        return answers

    # -- whose an instant is ---------------------------------------------------------------------------------------

    def claim(self, job_id: str, instant: int) -> bool:
        """Claim an instant and hand it over to the queue; return whether the caller is to run it instead."""
        due = Due(job_id, instant)
        if not self._may_claim() or not self.shared.claim(due, waits=self._hand_over is not None):
            return False
        if self._hand_over is None:
            return True
        self._offer(due)
        return False

    def skip(self, job_id: str, instant: int) -> None:
        """Count an instant as done without a run, where a job has no claims yet."""
        self.shared.skip(Due(job_id, instant))

    def latest(self, job_id: str) -> int | None:
        """Return the latest instant claimed for a job."""
        return self.shared.latest(job_id)

    def drain(self, timeout: float) -> bool:
        """Tell the others that this process is leaving; Celery's worker has waited for its tasks itself."""
        if self._joined is not None:
            self._asked(lambda: self.shared.begin_to_leave(clocks.now(self._clock)), timeout / 4)
        return True

    def run_here(self, due: Due) -> None:
        """Run what has come from the queue, as this process's life runs it.

        Raises:
            Busy: The life has not begun, or is over.
            BaseException: What a host's job has raised, for Celery to note.
        """
        if self._run is None or self._closed.is_set():
            raise Busy(f"job {due.job_id}: this process stops")
        if (error := self._run(*due)) is not None:
            raise error

    def _offer(self, due: Due) -> bool:
        """Hand an instant over; what fails is offered again in a few seconds, by whichever process sees it."""
        if self._hand_over is None:
            return False
        try:
            self._hand_over(due)
        except Unavailable as error:
            if not self._outage:
                self._logger.warning("jobs with `once: application` wait to be handed over, will retry: %s", error)
            self._outage = True
            return False
        if self._outage:
            self._logger.info("jobs with `once: application` are handed over again")
        self._outage = False
        with contextlib.suppress(Unavailable):  # it may be handed over once more, and a repeat does nothing
            self.shared.note_handed_over(due)
        return True

    # -- the one thread --------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._closed.wait(self.shared.renew_every):
            with contextlib.suppress(Unavailable):
                self._renew()
        self.shared.redis.close()

    def _renew(self) -> None:
        with self._renewing:
            lost, again, orders = self.shared.renew(self._joined, offers=self._hand_over is not None)
        if lost and self._agreed is not None:
            self.shared.agree(self._agreed)
        if self._joined is not None:
            self.shared.order(self._exchange(orders))
        for due in again:
            if not self._offer(due):  # this row has to be renewed, however long the broker does not answer
                break

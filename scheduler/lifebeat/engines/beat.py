"""Celery's beat: RedBeat's scheduler elects who is active, and that one sends what is due on the grid.

Before anything is sent it is noted as waited for, afterwards as sent. Whoever is killed in between has a successor that
sends the same again, and what was lost on its way or with a worker is sent again after a while: the claim at the run
(``lifebeat.engines.redis``) makes every instant run once.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import redbeat.schedulers
from kombu.exceptions import OperationalError
from redis.exceptions import LockError, RedisError

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.celery import TASK, attachment_of
from lifebeat.engines.guest import Timers
from lifebeat.engines.redis import DAY, Agreement, Claim
from lifebeat.engines.timetable import Due, Timetable
from lifebeat.schedule.instants import MICROSECOND, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.engines import Run
    from lifebeat.engines.celery import Attachment
    from lifebeat.engines.redis import Shared
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.life import Lifecycle
    from lifebeat.schedule.instants import Instants

STANDBY = 1.0
LOOK_EVERY = 1.0
# After Redis was away, those who could not renew a claim or note an end come first. They ask every two seconds.
SETTLE = 10.0
CHUNK = 100
MOST_IN_A_TASK = 10
SLOWEST_TAKEOVER = 120
CATCH_UP = 3600 * SECOND
JUMP = 60 * SECOND
GIVE_UP = DAY * SECOND

_RedBeatScheduler: Any = redbeat.schedulers.RedBeatScheduler


class BeatEngine(Agreement):
    """The jobs as beat sees them: instants, and from which on.

    Args:
        life: The life whose shared jobs these are.
        shared: What is in Redis.
        sent: By job, the last instant that was sent as far as is known; kept up to date.
    """

    def __init__(self, life: Lifecycle, shared: Shared, sent: dict[str, int]) -> None:
        super().__init__(life, shared)
        self.timetable = Timetable()
        self.specs: dict[str, JobSpec] = {}
        self.sent = sent
        self.through = self.now()

    def now(self) -> int:
        """Microseconds since the epoch."""
        return int(self.life.clock.time() * SECOND)

    def add(self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Run, *, make_up: bool) -> None:  # noqa: ARG002 - workers run
        """Put the job on the timetable."""
        if spec.id in self.specs:  # edited: what was due before, if only now and then looked at, is not lost
            since = self.through - spec.jitter // MICROSECOND
        elif make_up and spec.id in self.sent:
            since = self._resumed(spec, instants)
        else:
            since = self.now()
            self.sent[spec.id] = since
            self._quietly(lambda: self.shared.note_first_seen(spec.id, since))
        self.specs[spec.id] = spec
        self.timetable.put(spec, instants, jitter, since=since)

    def _resumed(self, spec: JobSpec, instants: Instants) -> int:
        """Where whoever was active before has stopped."""
        now, last = self.now(), self.sent[spec.id]
        if last > now:  # by a clock that was ahead; by more than an instant it was wrong
            following = instants.after(now)
            return last if following is not None and last <= following else now
        since = last - spec.jitter // MICROSECOND
        if not spec.coalesce and since < now - CATCH_UP:
            latest = instants.latest(now)
            since = now - CATCH_UP if latest is None else min(now - CATCH_UP, latest - 1)
        return since

    def remove(self, job_id: str) -> None:
        """Take it off; if it comes back it begins anew."""
        self.specs.pop(job_id, None)
        self.sent.pop(job_id, None)
        self.timetable.remove(job_id)
        self._quietly(lambda: self.shared.drop(job_id))

    def _quietly(self, ask: Callable[[], None]) -> None:
        with contextlib.suppress(EngineUnavailable):
            ask()

    def join(self, timeout: float) -> None:
        """Beat is none of the processes that the application consists of."""

    def leave(self, timeout: float) -> bool:  # noqa: ARG002 - it was never in
        """It never was in."""
        return False

    def drain(self, timeout: float) -> bool:  # noqa: ARG002 - nothing runs here
        """Nothing runs here."""
        return True

    def close(self) -> None:
        """Nothing was opened."""


class Sending:
    """What the active beat does for Lifebeat.

    Args:
        attachment: Lifebeat on the app.
        send: Sends tasks, each for some instants.
        stay: Called between the parts of a long send; raises if this is the active beat no more.
    """

    def __init__(
        self, attachment: Attachment, *, send: Callable[[list[list[Due]]], None], stay: Callable[[], None]
    ) -> None:
        self._attachment = attachment
        self._shared = attachment.shared
        self._send_tasks = send
        self._stay = stay
        self._sent: dict[str, int] = {}
        self._life: Lifecycle | None = None
        self._engine: BeatEngine | None = None
        self._looked = -math.inf
        self._is_settled_at = 0.0
        self.unsettle()

    def unsettle(self) -> None:
        """Redis, or this beat, was away: for a while nothing is sent again."""
        patience = min(SETTLE, self._attachment.resend_after / SECOND)
        self._is_settled_at = self._attachment.clock.monotonic() + patience

    def begin(self) -> bool:
        """Take up where whoever was active before has stopped; says whether there is anything to send.

        Raises:
            EngineUnavailable: Redis cannot be reached.
        """
        if self._engine is not None:
            return True
        if self._attachment.is_idle():
            return False
        for job_id, instant in self._shared.sent().items():
            self._sent[job_id] = max(instant, self._sent.get(job_id, instant))
        engines: list[BeatEngine] = []

        def make_engine(life: Lifecycle) -> BeatEngine:
            engines.append(BeatEngine(life, self._shared, self._sent))
            return engines[-1]

        life = self._attachment.make_guest(make_engine, watching=True)
        life.start(Timers())
        self._life = life
        try:
            engines[0].agree()
        except EngineUnavailable:
            self.end()
            raise
        self._engine = engines[0]
        return True

    def end(self) -> None:
        """Another is active, or nobody."""
        self.unsettle()
        life, self._life, self._engine = self._life, None, None
        if life is not None:
            life.stop()

    def send_due(self) -> float:
        """Send what is due; returns the seconds until something is due next.

        Raises:
            EngineUnavailable: Redis cannot be reached. What was not sent is sent next time.
        """
        if self._engine is not None and self._engine.now() < self._engine.through - JUMP:
            self.end()  # the clock was wrong, and what comes next would be far away
        if not self.begin() or self._engine is None:
            return math.inf
        engine = self._engine
        now = engine.now()
        left = engine.timetable.due(now)
        size = _in_a_task(len(left))
        try:
            while left:
                self._send(left[:CHUNK], now, size)
                left = left[CHUNK:]
        finally:
            engine.timetable.give_back(left)
        engine.through = now
        self._send_again(engine, now)
        following = engine.timetable.next()
        return math.inf if following is None else max((following - engine.now()) / SECOND, 0.0)

    def _send(self, due: list[Due], now: int, size: int) -> None:
        self._stay()
        self._shared.expect(due, now + self._attachment.resend_after)
        self._send_tasks([due[first : first + size] for first in range(0, len(due), size)])
        last: dict[str, int] = {}
        for one in due:
            last[one.job_id] = max(one.instant, last.get(one.job_id, one.instant))
        self._shared.note_sent(last)
        self._sent.update(last)

    def _send_again(self, engine: BeatEngine, now: int) -> None:
        """What has not ended long after it was sent: the task was lost with a worker, or still waits."""
        clock = self._attachment.clock
        if clock.monotonic() < max(self._is_settled_at, self._looked + LOOK_EVERY):
            return
        self._looked = clock.monotonic()
        overdue = self._shared.overdue(now)
        over = {
            one
            for one, claim in overdue.items()
            if claim is Claim.ENDED or not self._is_wanted(engine.specs.get(one.job_id), one, now)
        }
        self._shared.forget(over)
        left = [one for one in overdue if one not in over]
        free = [one for one in left if overdue[one] is None]
        taken = [one for one in left if overdue[one] is not None]
        self._shared.ask_again(free, now, self._attachment.resend_after)
        self._shared.ask_again(taken, now, self._attachment.resend_after, ever_later=False)
        for first in range(0, len(free), CHUNK):
            self._stay()
            self._send_tasks([[one] for one in free[first : first + CHUNK]])

    def _is_wanted(self, spec: JobSpec | None, due: Due, now: int) -> bool:
        if spec is None or now - due.instant > GIVE_UP:
            return False
        late = (now - due.instant) * MICROSECOND - spec.jitter
        return spec.misfire_grace is None or late <= spec.misfire_grace


class Scheduler(_RedBeatScheduler):  # type: ignore[misc]  # RedBeat ships no types
    """RedBeat's scheduler, with the jobs of the job file beside RedBeat's own entries.

    It waits for its turn without blocking, and where it loses its turn, or Redis, it waits for that again instead of
    ending. Its lock is RedBeat's, so that it can stand beside others.
    """

    app: Any
    lock_key: str | None
    lock_timeout: float

    def __init__(self, app: Any, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        base: Any = super()
        base.__init__(app, *args, lazy=lazy, **kwargs)
        # RedBeat takes the lock at its start, and waits as long as it takes; here that is the tick's part.
        self.election, self.lock_key = self.lock_key, None
        self.lock: Any = None
        self._renewed = -math.inf
        self._is_set_up = False
        self._waits = False
        self._logger = logging.getLogger("lifebeat")
        self._attachment = attachment_of(app)
        self._outage = self._attachment.outage()
        self._sending = Sending(self._attachment, send=self._send_tasks, stay=self._stay)
        if not lazy:
            self._check()

    def setup_schedule(self) -> None:
        """Later, when this is the active beat: Redis may not be there yet."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One turn; returns the seconds until the next."""
        base: Any = super()
        try:
            if not self._leads():
                return STANDBY
            interval: float = base.tick(*args, **kwargs)
            self._stay()
            wait = self._sending.send_due()
        except LockError:
            self._step_down()
            return STANDBY
        except (RedisError, OperationalError, EngineUnavailable, OSError) as error:
            self._outage.begins(error)
            self._sending.unsettle()
            return STANDBY
        self._outage.ends()
        return float(min(interval, wait, LOOK_EVERY, self.lock_timeout / 3))

    def close(self) -> None:
        """Give the lock to the next."""
        base: Any = super()
        self._sending.end()
        with contextlib.suppress(RedisError, OSError):
            base.close()

    @property
    def info(self) -> str:
        """Lines for Celery's banner."""
        base: Any = super()
        return f"{base.info}\n       . lock -> `{self.election}` ({self.lock_timeout}s)"

    # -- who is active ---------------------------------------------------------------------------------------------

    def _leads(self) -> bool:
        if self.election and self.lock is None:
            lock = self._attachment.redis().lock(self.election, timeout=self.lock_timeout)
            if not lock.acquire(blocking=False):
                self._wait_for_turn()
                return False
            self.lock, self._renewed, self._waits = lock, time.monotonic(), False
            self._logger.info("this beat is active")
        self._stay()
        if not self._is_set_up:
            base: Any = super()
            base.setup_schedule()
            self._is_set_up = True
        return True

    def _wait_for_turn(self) -> None:
        if not self._waits:
            self._logger.info("another beat is active; this one waits for its turn")
        self._waits = True

    def _stay(self) -> None:
        """Renew the lock in time; an error of the lock if it is another's by now."""
        if self.lock is not None and time.monotonic() - self._renewed > min(self.lock_timeout / 5, LOOK_EVERY):
            at = time.monotonic()
            self.lock.reacquire()
            self._renewed = at

    def _step_down(self) -> None:
        self._logger.warning("this beat was held up and has lost its turn; it waits for the next")
        self.lock = None
        self._is_set_up = False
        self._sending.end()

    def _check(self) -> None:
        if not self.election:
            self._logger.warning("redbeat_lock_key is %r: there must be one beat only, of all machines", self.election)
        elif self.lock_timeout > SLOWEST_TAKEOVER:
            self._logger.warning(
                "redbeat_lock_timeout is %r s: for so long nothing is sent when the active beat dies; 15 s is enough",
                self.lock_timeout,
            )

    # -- tasks -----------------------------------------------------------------------------------------------------

    def _send_tasks(self, batches: list[list[Due]]) -> None:
        task = self.app.tasks[TASK]
        with self.app.producer_pool.acquire(block=True) as producer:
            for batch in batches:
                # What a log shows of the arguments; Celery's own way to tell costs a tenth of the sending.
                shown = ", ".join(one.job_id for one in batch)
                task.apply_async((batch,), producer=producer, argsrepr=shown, kwargsrepr="")


def _in_a_task(due: int) -> int:
    """How many instants go into a task: one, but in a crowd several, whose wait for each other is the least of it."""
    return max(1, min(MOST_IN_A_TASK, due // CHUNK))

"""What the processes of an installation share in Redis: the ID, who runs an instant, what was sent and not yet run.

The client is RedBeat's own, so that whatever a host has told RedBeat of its Redis (TLS, Sentinel, a cluster) holds
here too. No key is asked for together with another, so that a cluster may keep each where it likes.
"""

from __future__ import annotations

import contextlib
import enum
import os
import uuid
from typing import TYPE_CHECKING, Any

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.timetable import Due
from lifebeat.once import processes as siblings
from lifebeat.schedule.instants import SECOND

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Generator, Iterable, Mapping

    from lifebeat.lifecycle.life import Lifecycle

DAY = 86_400
KEPT_LONGEST = 60 * DAY
_ENDED = "ended"
_MANY = 1000
_KEEP = """
local found = redis.call('get', KEYS[1])
if found and found ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
return 1
"""


class Claim(enum.Enum):
    """Whose an instant is."""

    OURS = "ours"
    """The caller's: it runs it."""
    TAKEN = "taken"
    """Another's, which may be running it, or have died of it."""
    ENDED = "ended"
    """Nobody's any more: it has run."""


class Shared:
    """One process's view. Every method may raise ``EngineUnavailable``; any thread may call any of them.

    Args:
        connect: Gives the Redis client; called when it is first needed.
        prefix: What the keys begin with.
    """

    def __init__(self, connect: Callable[[], Any], prefix: str) -> None:
        self._connect = connect
        self._prefix = prefix

    def seed(self) -> str:
        """What phases are made from where there is no instance ID: random, made once, the same for all."""
        return self._agree("seed", str(uuid.uuid4()))

    def agree_on_id(self, candidate: str) -> str:
        """The installation's ID: the candidate of whoever comes first."""
        return self._agree("id", candidate)

    def _agree(self, name: str, candidate: str) -> str:
        with self._asking() as redis:
            key = self._prefix + name
            redis.set(key, candidate, nx=True)
            return _text(redis.get(key)) or candidate

    # -- who runs it -----------------------------------------------------------------------------------------------

    def claim(self, due: Due, holder: str, seconds: float) -> Claim:
        """Take an instant that is free, the holder's own, or that of a process of this machine that has died.

        Args:
            due: The job and the instant.
            holder: Who takes it: an ``identity``.
            seconds: How long it is the holder's, if it neither ends nor renews it.
        """
        with self._asking() as redis:
            key = self._claim_key(due)
            if redis.set(key, holder, nx=True, px=int(seconds * 1000)):
                return Claim.OURS
            found = _text(redis.get(key))
        if found is None or found == _ENDED:
            return _claim_of(found) or Claim.TAKEN
        mine = (found == holder or has_died(found)) and self.renew(due, holder, seconds, former=found)
        return Claim.OURS if mine else Claim.TAKEN

    def renew(self, due: Due, holder: str, seconds: float, *, former: str | None = None) -> bool:
        """Keep an instant, if it is still the holder's or nobody's; or have the former holder's."""
        with self._asking() as redis:
            return bool(redis.eval(_KEEP, 1, self._claim_key(due), former or holder, holder, int(seconds * 1000)))

    def end(self, due: Due, *, kept: float) -> None:
        """The instant has run, or is not to run at all; for ``kept`` seconds nobody can take it any more."""
        with self._asking() as redis:
            redis.set(self._claim_key(due), _ENDED, px=int(kept * 1000))

    # -- what was sent ---------------------------------------------------------------------------------------------

    def sent(self) -> dict[str, int]:
        """By job, the last instant that was sent, in microseconds since the epoch."""
        with self._asking() as redis:
            found = redis.hgetall(self._prefix + "sent")
        return {str(_text(job)): int(instant) for job, instant in found.items()}

    def expect(self, due: list[Due], again_at: int) -> None:
        """These are being sent, and are sent again at that time, in microseconds since the epoch, unless they ran."""
        with self._asking() as redis:
            redis.zadd(self._prefix + "waiting", {_member(one): again_at / SECOND for one in due})

    def note_sent(self, last: Mapping[str, int]) -> None:
        """By job, the last instant that was sent."""
        with self._asking() as redis:
            redis.hset(self._prefix + "sent", mapping=dict(last))

    def note_first_seen(self, job_id: str, at: int) -> None:
        """From this moment on, in microseconds since the epoch, the job's instants count, if none was sent yet."""
        with self._asking() as redis:
            redis.hsetnx(self._prefix + "sent", job_id, at)

    def drop(self, job_id: str) -> None:
        """There is no such job any more."""
        with self._asking() as redis:
            redis.hdel(self._prefix + "sent", job_id)

    def ask_again(self, due: Iterable[Due], now: int, after: int, *, ever_later: bool = True) -> None:
        """Have these sent again, if they are still waited for.

        Args:
            due: What is to be sent.
            now: The time, in microseconds since the epoch.
            after: How many microseconds later at least.
            ever_later: The later, the older they are.
        """
        scores = {_member(one): (now + max(after, (now - one.instant) * ever_later)) / SECOND for one in due}
        if scores:
            with self._asking() as redis:
                redis.zadd(self._prefix + "waiting", scores, xx=True)

    def forget(self, due: Iterable[Due]) -> None:
        """Wait for these no more."""
        members = [_member(one) for one in due]
        if members:
            with self._asking() as redis:
                redis.zrem(self._prefix + "waiting", *members)

    def overdue(self, now: int) -> dict[Due, Claim | None]:
        """What was to be sent again by now, and whose it is: the longest waiting first, a thousand at a time.

        ``None`` for what nobody has taken.
        """
        with self._asking() as redis:
            found = redis.zrangebyscore(self._prefix + "waiting", "-inf", now / SECOND, start=0, num=_MANY)
            overdue = [_due(str(_text(member))) for member in found]
            with redis.pipeline(transaction=False) as pipe:
                for one in overdue:
                    pipe.get(self._claim_key(one))
                holders = [_text(holder) for holder in pipe.execute()]
        return {one: _claim_of(holder) for one, holder in zip(overdue, holders, strict=True)}

    # -- the connection --------------------------------------------------------------------------------------------

    def _claim_key(self, due: Due) -> str:
        return f"{self._prefix}run:{_member(due)}"

    @contextlib.contextmanager
    def _asking(self) -> Generator[Any]:
        from redis.exceptions import RedisError

        try:
            yield self._connect()
        except (RedisError, OSError) as error:
            raise EngineUnavailable(f"Redis: {error or repr(error)}") from error


class Outage:
    """Says once that Redis, or the broker, cannot be reached, and once that it can again."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._lasts = False

    def begins(self, error: Exception) -> None:
        """It could not be reached just now."""
        if not self._lasts:
            told = error if isinstance(error, EngineUnavailable) else f"Redis or the broker: {error}"
            self._logger.warning("%s; what the application shares waits, the process's own jobs go on", told)
        self._lasts = True

    def ends(self) -> None:
        """It could be reached just now."""
        if self._lasts:
            self._logger.info("reachable again; what the application shares goes on")
        self._lasts = False


class Agreement:
    """The part of an engine on which all processes agree: the ID and the seed, known before anything is shared.

    Args:
        life: The life that the engine belongs to.
        shared: What is in Redis.
    """

    def __init__(self, life: Lifecycle, shared: Shared) -> None:
        self.life = life
        self.shared = shared
        self.outage = Outage(life.logger)
        self.is_ready = False
        self._seed: str | None = None
        self._ready: Callable[[], None] | None = None

    def open(self, ready: Callable[[], None]) -> None:
        """Agree at once, if Redis is there."""
        self._ready = ready
        with contextlib.suppress(EngineUnavailable):
            self.agree()

    def agree(self) -> None:
        """Agree, unless that is done, and tell the life.

        Raises:
            EngineUnavailable: Redis cannot be reached; that has been said.
        """
        if self.is_ready:
            return
        try:
            self._seed = self.shared.seed()
            settings = self.life.source.read()
            if settings.enabled and settings.instance_id is None:
                self.life.agree_on_id()
        except EngineUnavailable as error:
            self.outage.begins(error)
            raise
        self.outage.ends()
        self.is_ready = True
        if self._ready is not None:
            self._ready()

    def seed(self) -> str | None:
        """The same on every machine."""
        return self._seed

    def agree_on_id(self, candidate: str) -> str:
        """The same on every machine."""
        return self.shared.agree_on_id(candidate)


def identity() -> str:
    """What no other process of any machine has; where ``/proc`` tells, others can see by it whether this one lives."""
    world, me = siblings.world(), siblings.find(os.getpid())
    return str(uuid.uuid4()) if world is None or me is None else f"{world} {me.pid} {me.started}"


def has_died(holder: str) -> bool:
    """Whether it was a process of this machine that lives no more; of another machine's nobody can tell from here."""
    world, _, numbers = holder.partition("] ")
    if not numbers or f"{world}]" != siblings.world():
        return False
    pid, started = map(int, numbers.split())
    found = siblings.find(pid)
    return not _is_hidden(pid) if found is None else found.started != started


def _is_hidden(pid: int) -> bool:
    """Whether ``/proc`` (``hidepid``) does not show a process of another user's that is there."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _text(value: str | bytes | None) -> str | None:
    """Some of RedBeat's connections decode, some do not."""
    return value.decode() if isinstance(value, bytes) else value


def _member(due: Due) -> str:
    return f"{due.job_id}:{due.instant}"


def _claim_of(holder: str | None) -> Claim | None:
    if holder is None:
        return None
    return Claim.ENDED if holder == _ENDED else Claim.TAKEN


def _due(member: str) -> Due:
    job_id, _, instant = member.rpartition(":")
    return Due(job_id, int(instant))

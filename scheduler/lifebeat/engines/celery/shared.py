"""What the processes of an application share in Redis: who is in, whose an instant is, what has run, the ID."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from lifebeat.clock import Moment
from lifebeat.engines.celery import scripts
from lifebeat.once.protocol import Joined, Unavailable, Unfinished

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from lifebeat.engines.celery.connection import Redis

GONE_AFTER = 30.0
MICROSECONDS = 1_000_000
KEPT_CLAIMS = 100
KEPT_SECONDS = 400 * 86_400  # past the next instant of a job that runs once a year
REDELIVERY = 3600.0  # Celery's own
_MOST = 100


class Due(NamedTuple):
    """A job's instant, in microseconds since the epoch."""

    job_id: str
    instant: int

    @property
    def member(self) -> str:
        """Return how it stands in a set."""
        return f"{self.job_id}@{self.instant}"

    @classmethod
    def read(cls, member: str) -> Due:
        """Return what stands in a set."""
        job_id, _, instant = member.rpartition("@")
        return cls(job_id, int(instant))


class Shared:
    """One process's view. Every method raises ``Unavailable`` where Redis cannot be used; any thread may call any.

    Args:
        redis: The Redis.
        name: Returns the application's name; two of them may share a Redis.
        gone_after: Seconds after which a process that has not renewed its row is gone.
        redelivery: Seconds after which the broker gives to another what a dead worker had.
    """

    def __init__(
        self,
        redis: Redis,
        name: Callable[[], str],
        *,
        gone_after: float = GONE_AFTER,
        redelivery: float = REDELIVERY,
    ) -> None:
        self.gone_after = gone_after
        self.renew_every = gone_after / 10
        self.me = f"{os.uname().nodename}:{os.getpid()}:{os.urandom(4).hex()}"
        self.redis = redis
        self._name = name
        self._redelivery = redelivery
        self._kept_runs = int(2 * redelivery)
        self._times = [int(seconds * MICROSECONDS) for seconds in (gone_after, self.renew_every, self.settling)]

    @property
    def settling(self) -> float:
        """Return the seconds within which every process that lives has renewed its row."""
        return self.renew_every * 4 / 3

    # -- who is in -------------------------------------------------------------------------------------------------

    def join(self, candidate: str, now: Moment, looked: int | None) -> Joined | int:
        """Join, or return when this process first looked: it has to wait until it is known whether others are in."""
        answer = self._run(
            scripts.JOIN, ["members", "joining", "run"],
            self.me, candidate, _dump(now), "" if looked is None else looked, *self._times,
        )  # fmt: skip
        if answer[0] == b"wait":
            return int(answer[1])
        first, started, run, *unfinished = map(_text, answer[1:])
        ended = Unfinished(unfinished[0], _load(unfinished[1]), _load(unfinished[2])) if unfinished else None
        return Joined(first == "1", _load(started), run, ended)

    def renew(self, joined: Joined | None, *, offers: bool) -> tuple[bool, list[Due], dict[str, Any]]:
        """Renew this process's row, if it has joined.

        Args:
            joined: What it learned when it joined.
            offers: Whether it can hand over what others did not come to hand over.

        Returns:
            Whether Redis had lost what it knew, what is to be handed over again, and the orders.
        """
        run, started = ("", "") if joined is None else (joined.run, _dump(joined.started))
        keys = ["members", "joining", "run", "waiting", "orders"]
        lost, again, *orders = self._run(scripts.RENEW, keys, self.me, run, started, *self._times, _MOST * offers)
        names, values = map(_text, orders[::2]), map(json.loads, orders[1::2])
        return bool(lost), [Due.read(_text(member)) for member in again], dict(zip(names, values, strict=True))

    def begin_to_leave(self, now: Moment) -> None:
        """Note that this process's stop has begun."""
        self._run(scripts.BEGIN_TO_LEAVE, ["members", "run"], self.me, _dump(now))

    def leave(self, now: Moment) -> bool:
        """Leave; return whether this was the last process."""
        keys = ["members", "joining", "run"]
        return bool(self._run(scripts.LEAVE, keys, self.me, _dump(now), *self._times[:2]))

    def started(self) -> Moment | None:
        """Return when the application started, ``None`` where none has joined."""
        with self._asking() as redis:
            found = redis.hget(self._prefix + "run", "started")
        return None if found is None else _load(_text(found))

    def agree(self, candidate: str) -> str:
        """Return the instance ID, the candidate if there was none."""
        with self._asking() as redis:
            key = self._prefix + "id"
            redis.set(key, candidate, nx=True)
            return _text(redis.get(key) or candidate)

    def orders(self) -> dict[str, Any]:
        """Return the orders that hold on all machines."""
        with self._asking() as redis:
            return {_text(name): json.loads(one) for name, one in redis.hgetall(self._prefix + "orders").items()}

    def order(self, orders: dict[str, Any]) -> None:
        """Put down orders that are to hold on all machines."""
        if orders:
            with self._asking() as redis:
                redis.hset(self._prefix + "orders", mapping={name: json.dumps(one) for name, one in orders.items()})

    # -- whose an instant is ---------------------------------------------------------------------------------------

    def claim(self, due: Due, *, waits: bool) -> bool:
        """Claim an instant, and return whether it was free; it may have to wait for being handed over."""
        keys = [f"claims:{due.job_id}", "waiting", "claimed-last"]
        return bool(self._run(scripts.CLAIM, keys, due.member, due.instant, KEPT_CLAIMS, KEPT_SECONDS, int(waits)))

    def note_handed_over(self, due: Due) -> None:
        """Note that a queue has it: it is handed over again only if no run has begun by the time of a redelivery."""
        self._run(scripts.NOTE_HANDED_OVER, ["waiting"], due.member, int(self._redelivery * MICROSECONDS))

    def skip(self, due: Due) -> None:
        """Count an instant of a new job as done; a process that came earlier, and has it due, may still claim it."""
        with self._asking() as redis:
            redis.set(f"{self._prefix}skipped:{due.job_id}", due.instant, nx=True, ex=KEPT_SECONDS)

    def latest(self, job_id: str) -> int | None:
        """Return the latest instant that was claimed or skipped, none that is yet to come."""
        with self._asking() as redis:
            seconds, more = redis.time()
            key, now = f"{self._prefix}claims:{job_id}", seconds * MICROSECONDS + more
            claimed = redis.zrevrangebyscore(key, now, "-inf", start=0, num=1)
            skipped = redis.get(f"{self._prefix}skipped:{job_id}")
        return max((instant for one in (*claimed, skipped or now + 1) if (instant := int(one)) <= now), default=None)

    def begin(self, due: Due, delivery: str, *, coalesce: bool) -> int:
        """Begin a run, and return which attempt it is; 0 if it is not to run: it has, or another delivery is at it."""
        return int(
            self._run(
                scripts.BEGIN, [self._run_key(due), f"begun:{due.job_id}", "waiting"],
                due.member, due.instant, delivery, int(coalesce), self._kept_runs, KEPT_SECONDS,
            )
        )  # fmt: skip

    def put_back(self, due: Due) -> None:
        """Undo the beginning of a run that could not run here now."""
        with self._asking() as redis:
            redis.hincrby(self._prefix + self._run_key(due), "attempts", -1)

    def end(self, due: Due) -> None:
        """Note that a run has ended, so that it is not repeated."""
        with self._asking() as redis, redis.pipeline(transaction=False) as pipe:
            pipe.hset(self._prefix + self._run_key(due), "ended", 1)
            pipe.expire(self._prefix + self._run_key(due), self._kept_runs)
            pipe.execute()

    def status(self) -> dict[str, Any]:
        """Return who is in, how many claimed instants have not begun, and what was claimed last."""
        with self._asking() as redis:
            seconds, more = redis.time()
            since = seconds * MICROSECONDS + more - self._times[0]
            members = redis.zrangebyscore(self._prefix + "members", since, "+inf")
            waiting = redis.zcard(self._prefix + "waiting")
            last = redis.get(self._prefix + "claimed-last")
        return {
            "members": sorted(map(_text, members)),
            "waiting": waiting,
            "last_run": None if last is None else Due.read(_text(last))._asdict(),
        }

    # -- the connection --------------------------------------------------------------------------------------------

    @property
    def _prefix(self) -> str:
        # In braces: all keys of an application lie in one slot of a cluster, as scripts need.
        return f"{self.redis.prefix}lifebeat:{{{self._name()}}}:"

    def _run_key(self, due: Due) -> str:
        return f"run:{due.member}"

    def _run(self, script: str, keys: list[str], *values: Any) -> Any:
        with self._asking() as redis:
            return redis.register_script(script)([self._prefix + key for key in keys], values)

    @contextlib.contextmanager
    def _asking(self) -> Generator[Any]:
        from redis.exceptions import RedisError

        try:
            yield self.redis.client()
        except (RedisError, OSError) as error:
            raise Unavailable(_reason(error)) from error


def _reason(error: Exception) -> str:
    """Return what is wrong in our own words: those of others may quote a password."""
    from redis import exceptions

    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        return "Redis refuses the user or its password"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "Redis does not answer in time"
    if isinstance(error, exceptions.ConnectionError | OSError):
        return "Redis cannot be reached"
    return f"Redis refuses what it was asked ({type(error).__name__})"


def _dump(moment: Moment) -> str:
    return json.dumps(asdict(moment))


def _load(text: str) -> Moment:
    return Moment(**json.loads(text))


def _text(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found

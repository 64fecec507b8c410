"""What processes agree on in Redis, where it is cut off, emptied or late, and where queues deliver twice."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Reject

from hosts import eventually
from lifebeat.clock import SystemClock
from lifebeat.engines.celery.connection import Redis
from lifebeat.engines.celery.coordinator import CeleryCoordinator
from lifebeat.engines.celery.shared import KEPT_CLAIMS, Due, Shared
from lifebeat.engines.celery.worker import MOST_ATTEMPTS, deliver_again, run_once
from lifebeat.log import get_logger
from lifebeat.once.protocol import Busy, Unavailable
from redisserver import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., CeleryCoordinator]

SECOND = 1_000_000
DUE = Due("nightly", 1_767_225_600_000_000)
GONE_AFTER = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis for the tests of one process."""
    made = RedisServer()
    yield made
    made.close()


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    """A Redis with nothing in it."""
    server.empty()
    return server


@pytest.fixture
def shared(redis: RedisServer) -> Shared:
    """What processes share."""
    return Shared(Redis(None, lambda: redis.url), lambda: "notes", gone_after=GONE_AFTER)


@pytest.fixture
def make(redis: RedisServer) -> Iterator[Make]:
    """Make a process's coordinator."""
    made: list[CeleryCoordinator] = []

    def one(hand_over: Callable[[Due], None] | None = None, gone_after: float = GONE_AFTER) -> CeleryCoordinator:
        shared = Shared(Redis(None, lambda: redis.url), lambda: "notes", gone_after=gone_after)
        made.append(CeleryCoordinator(shared, clock=SystemClock(), logger=get_logger(), hand_over=hand_over))
        made[-1].start(lambda _job, _instant: None, lambda _heard: {})
        return made[-1]

    yield one
    for coordinator in made:
        coordinator.close()


def kill(coordinator: CeleryCoordinator) -> None:
    """Let a process be heard of no more."""
    coordinator.close()


# -- who is in ---------------------------------------------------------------------------------------------------------


def test_lost_data_is_no_start_and_no_end(redis: RedisServer, make: Make) -> None:
    """Who joins a Redis that has just lost everything is not the first, and all go on as one run with one ID."""
    one, other = make(), make()
    run = one.join(10).run
    one.agree("the ID")
    redis.empty()
    joined = other.join(10)
    assert (joined.first, joined.run) == (False, run)
    assert eventually(lambda: other.agree("another")) == "the ID"
    assert [bool(one.leave(5)), bool(other.leave(5))] == [False, True]


def test_outage_is_no_start_and_no_end(redis: RedisServer, make: Make) -> None:
    """After Redis was away for long, nobody is taken for gone before he could say that he lives."""
    one, other = make(), make()
    one.join(10)
    other.join(10)
    redis.stop()
    time.sleep(2 * GONE_AFTER)  # as long as it takes to count as gone
    redis.start()
    newcomer = make()
    assert newcomer.join(10).first is False
    assert one.leave(5) is None
    assert [bool(other.leave(5)), bool(newcomer.leave(5))] == [False, True]


def test_newcomer_takes_over_from_who_leaves_meanwhile(redis: RedisServer, make: Make) -> None:
    """Where the only process leaves while another is joining, that one goes on with its run: a rolled deployment."""
    redis.client().hset("lifebeat:{notes}:run", "ended", 1)  # the first need not wait whether others are in
    old, new = make(gone_after=60.0), make(gone_after=60.0)
    run = old.join(20).run
    # As if it had renewed its row some seconds ago, which does not count as fresh.
    redis.client().zincrby("lifebeat:{notes}:members", -3 * SECOND, old.shared.me)
    with pytest.raises(Unavailable, match="not known yet"):
        new.join(0.0)
    assert old.leave(5) is None
    joined = new.join(10)
    assert (joined.first, joined.run) == (False, run)
    assert new.leave(5) is not None


def test_end_beside_a_killed_process_is_reported_by_the_next(make: Make) -> None:
    """Who leaves when the others were killed may not know that he is the last; who joins next reports that end."""
    killed, last = make(), make()
    run = killed.join(10).run
    last.join(10)
    kill(killed)
    time.sleep(GONE_AFTER / 2)  # longer than a renewal takes, and not long enough to count as gone
    assert last.leave(5) is None
    unfinished = make().join(10).unfinished
    assert unfinished is not None
    assert unfinished.run == run
    assert unfinished.left.wall == pytest.approx(time.time(), abs=10)


def test_started_is_the_applications(make: Make) -> None:
    """All processes know when the first of them has joined."""
    one, other = make(), make()
    assert one.join(10).started == other.join(10).started == other.shared.started()


# -- whose an instant is -----------------------------------------------------------------------------------------------


def test_old_instants_are_refused(shared: Shared) -> None:
    """The latest hundred claims of a job are kept; who was frozen for longer adds nothing."""
    for number in range(2 * KEPT_CLAIMS):
        assert shared.claim(Due("tick", number * SECOND), waits=False)
    assert shared.latest("tick") == (2 * KEPT_CLAIMS - 1) * SECOND
    assert not any(shared.claim(Due("tick", number * SECOND), waits=False) for number in range(2 * KEPT_CLAIMS))


def test_clock_that_is_ahead_stops_no_job(shared: Shared) -> None:
    """Instants that are yet to come take no place of those that are due, nor are they the latest."""
    now = int(time.time() * SECOND)
    for number in range(1, 2 * KEPT_CLAIMS):
        shared.claim(Due("tick", now + number * 3600 * SECOND), waits=False)
    assert shared.latest("tick") is None
    assert shared.claim(Due("tick", now), waits=False)
    assert shared.latest("tick") == now


def test_what_was_not_handed_over_is_handed_over_by_another(redis: RedisServer, make: Make) -> None:
    """A claim whose process could not hand it over, or was killed in between, is handed over by whoever sees it."""
    sent: list[Due] = []

    def fail(_: Due) -> None:
        raise Unavailable("the broker cannot be reached")

    one = make(fail)
    make(sent.append)
    assert one.claim(*DUE) is False
    assert redis.client().zcard("lifebeat:{notes}:waiting") == 1
    kill(one)
    redis.client().zadd("lifebeat:{notes}:waiting", {DUE.member: 0}, xx=True)  # as if five seconds had passed
    eventually(lambda: sent == [DUE])
    time.sleep(5 * one.shared.renew_every)  # long enough to be handed over again
    assert sent == [DUE]


def test_what_a_dead_worker_has_lost_is_handed_over_again(redis: RedisServer) -> None:
    """Handed over and not begun in the broker's time for a redelivery, as a killed worker may lose it; begun, never."""
    shared = Shared(Redis(None, lambda: redis.url), lambda: "notes", redelivery=0.0)
    lost, begun = DUE, Due("other", DUE.instant)
    for due in (lost, begun):
        assert shared.claim(due, waits=True)
        shared.note_handed_over(due)
    assert shared.begin(begun, "one", coalesce=False) == 1
    assert shared.renew(None, offers=True) == (False, [], {})  # not at once
    redis.client().zincrby("lifebeat:{notes}:waiting", -6 * SECOND, lost.member)  # as if six seconds had passed
    assert shared.renew(None, offers=True) == (False, [lost], {})


# -- what a queue delivers ---------------------------------------------------------------------------------------------


def deliver(shared: Shared, due: Due, delivery: str, *, coalesce: bool = False, error: Any = None) -> list[Due]:
    """Deliver an instant, and return what has run."""
    ran: list[Due] = []

    def run(due: Due) -> None:
        ran.append(due)
        if error is not None:
            raise error

    run_once(shared, due, delivery, coalesce=coalesce, run=run)
    return ran


def test_repeat_does_nothing(shared: Shared) -> None:
    """An instant that was handed over twice runs once, whether its run has ended or not."""
    assert deliver(shared, DUE, "one") == [DUE]
    assert deliver(shared, DUE, "other") == []
    later = Due(DUE.job_id, DUE.instant + 1)
    assert shared.begin(later, "one", coalesce=False) == 1
    assert deliver(shared, later, "other") == []


def test_delivery_of_a_worker_that_died_runs_again(shared: Shared) -> None:
    """The same delivery comes again when its worker has died, and runs; what has ended does not."""
    assert shared.begin(DUE, "one", coalesce=True) == 1
    assert deliver(shared, DUE, "one", coalesce=True) == [DUE]
    assert deliver(shared, DUE, "one", coalesce=True) == []


def test_run_that_kills_its_workers_is_given_up(shared: Shared) -> None:
    """What has taken its process down again and again is given up."""
    for number in range(MOST_ATTEMPTS):
        assert shared.begin(DUE, "one", coalesce=False) == number + 1
    assert deliver(shared, DUE, "one") == []
    assert shared.begin(DUE, "one", coalesce=False) == 0


def test_run_that_fails_has_ended(shared: Shared) -> None:
    """What a job raises is raised, and the instant is over."""
    with pytest.raises(ValueError, match="no such file"):
        deliver(shared, DUE, "one", error=ValueError("no such file"))
    assert deliver(shared, DUE, "one") == []


def test_busy_process_counts_as_no_attempt(shared: Shared) -> None:
    """A run that could not begin here is as if it had not been delivered."""
    for _ in range(2 * MOST_ATTEMPTS):
        with pytest.raises(Busy):
            deliver(shared, DUE, "one", error=Busy("two are under way"))
    assert deliver(shared, DUE, "one") == [DUE]


def test_run_that_cannot_be_put_off_goes_back_to_the_queue() -> None:
    """Where the broker does not take a task that is to come later, Celery would drop it."""

    def retry(**_: Any) -> None:
        raise Reject("the broker cannot be reached", requeue=False)

    assert deliver_again(SimpleNamespace(retry=retry)).requeue is True  # type: ignore[attr-defined]


def test_coalescing_job_runs_once_for_a_backlog(shared: Shared) -> None:
    """Of a job that coalesces an instant is over when a run of another instant has begun since."""
    now = int(time.time() * SECOND)
    backlog = [Due("tick", now - number * SECOND) for number in (3, 2, 1)]
    assert [deliver(shared, due, f"{due}", coalesce=True) for due in backlog] == [backlog[:1], [], []]
    assert [deliver(shared, due._replace(job_id="each"), f"{due}") for due in backlog] == [
        [due._replace(job_id="each")] for due in backlog
    ]
    coming = Due("tick", now + 3600 * SECOND)
    assert deliver(shared, coming, "one", coalesce=True) == [coming]


# -- a server that is not there ----------------------------------------------------------------------------------------


def test_redis_away_is_unavailable(redis: RedisServer, make: Make) -> None:
    """Every question says within seconds that Redis cannot be reached, and is answered when it is back."""
    one = make()
    one.join(10)
    redis.stop()
    try:
        for ask in (
            lambda: one.claim(*DUE), lambda: one.latest("nightly"), lambda: one.agree("an ID"), lambda: one.leave(1.0),
        ):  # fmt: skip
            began = time.monotonic()
            with pytest.raises(Unavailable, match="Redis"):
                ask()
            assert time.monotonic() - began < 5
    finally:
        redis.start()
    assert one.claim(*DUE) is True


def test_broker_that_is_no_redis() -> None:
    """Where claims have no Redis, that is said with what to do."""
    from celery import Celery

    shared = Shared(Redis(Celery("notes", broker="amqp://127.0.0.1:1"), lambda: None), lambda: "notes")
    with pytest.raises(Unavailable, match="lifebeat_redis_url"):
        shared.claim(DUE, waits=True)

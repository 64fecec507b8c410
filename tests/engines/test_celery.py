"""One application on Celery with RedBeat, on a real Redis: every instant once, one ID, a start and stop per machine."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta
from threading import Barrier, Thread
from threading import enumerate as enumerate_threads
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from celerycluster import CeleryCluster, children
from cluster import lateness, missed, twice
from hosts import Installation, eventually
from lifebeat.engines import EngineUnavailable
from lifebeat.engines.claims import Claims
from lifebeat.engines.redis import Claim, Shared, has_died, identity
from lifebeat.engines.timetable import Due
from lifebeat.once import processes as siblings
from lifebeat.schedule.instants import SECOND
from lifebeat.testing import FakeClock
from redisserver import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lifebeat.engines.beat import Sending
    from lifebeat.testing import PostHogServer

LOCK = "redbeat::lock"
DUE = Due("nightly", 1_767_225_600_000_000)
TIMEOUT = timedelta(seconds=1)


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


def claimed(redis: RedisServer, job: str) -> list[int]:
    """The job's instants that were claimed, in microseconds since the epoch."""
    keys: list[str] = redis.client().keys(f"*run:{job}:*")
    return [int(key.rpartition(":")[2]) for key in keys]


def await_beat(redis: RedisServer) -> None:
    """Wait until a beat is active."""
    eventually(lambda: redis.client().exists(LOCK))


def runs_after(cluster: CeleryCluster, moment: float) -> int:
    """How many runs have begun since."""
    return sum(run.begun > moment for run in cluster.runs())


def waiting(redis: RedisServer) -> list[str]:
    """What was sent and nobody has run yet."""
    sent = redis.client().zrange("lifebeat:notes:waiting", 0, -1)
    return [one for one in sent if redis.client().get(f"lifebeat:notes:run:{one}") != "ended"]


# -- beats and workers -------------------------------------------------------------------------------------------------


def test_every_instant_once(installation: Installation, redis: RedisServer) -> None:
    """Ten jobs, a beat and two workers: each (job, instant) runs exactly once, on the grid, and none is left."""
    cluster = CeleryCluster(installation, redis.url, jobs=10, every="250ms", more="coalesce: false")
    cluster.beat()
    cluster.worker()
    cluster.worker()
    cluster.await_instants(10, 30)
    eventually(lambda: waiting(redis) == [])
    said = cluster.end()
    runs = cluster.runs()
    assert twice(runs) == []
    assert missed(runs, 0.25) == []
    assert {run.instant % 0.25 for run in runs} == {0.0}
    assert not any("Traceback" in one for one in said), said


def test_beats_that_are_frozen_and_killed(installation: Installation, redis: RedisServer) -> None:
    """Of two beats one is active; frozen or killed, the other takes over in the lock's time: none missed or twice."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=3, every="250ms", more="coalesce: false", redbeat_lock_timeout=2
    )
    first = cluster.beat()
    cluster.worker()
    await_beat(redis)
    second = cluster.beat()
    cluster.await_instants(3, 30)
    frozen = time.time()
    first.send_signal(signal.SIGSTOP)
    eventually(lambda: runs_after(cluster, frozen + 1.5) >= 6)
    first.send_signal(signal.SIGCONT)
    time.sleep(1.5)  # time enough to do harm in
    killed = time.time()
    cluster.kill(second)
    eventually(lambda: runs_after(cluster, killed + 1.5) >= 6)
    said = cluster.end()
    runs = cluster.runs()
    assert twice(runs) == []
    assert missed(runs, 0.25) == []
    assert said[0].count("has lost its turn") == 1, said[0]
    assert not any("Traceback" in one for one in said), said


def test_a_killed_worker(installation: Installation, redis: RedisServer) -> None:
    """What a worker was killed in the middle of is run by another when its time is up, and nothing else twice."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=2, every="1s", more="coalesce: false\ntimeout: 500ms\nargs: {seconds: 0.3}",
        lifebeat_resend_after=1,
    )  # fmt: skip
    cluster.beat()
    victim = cluster.worker()
    cluster.await_instants(2, 30)
    eventually(lambda: time.time() % 1 < 0.2)
    time.sleep(0.1)
    cluster.kill_all_of(victim)
    cluster.worker()
    killed = time.time()
    eventually(lambda: runs_after(cluster, killed) >= 4 and missed(cluster.runs(), 1.0) == [])
    cluster.drop()
    assert len(twice(cluster.runs())) <= 2


@pytest.mark.soak
def test_a_killed_child(installation: Installation, redis: RedisServer) -> None:
    """A run whose pool process is killed goes back to the queue at once, and its claim lets it run again."""
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="1s", more="coalesce: false\nargs: {seconds: 0.3}")
    cluster.beat()
    worker = cluster.worker(concurrency=1)
    cluster.await_instants(1, 30)
    eventually(lambda: time.time() % 1 < 0.2)
    time.sleep(0.1)
    for pid in children(worker.pid):
        os.kill(pid, signal.SIGKILL)
    killed = time.time()
    eventually(lambda: runs_after(cluster, killed) >= 2 and missed(cluster.runs(), 1.0) == [])
    cluster.drop()
    assert twice(cluster.runs()) == []


@pytest.mark.soak
def test_a_lost_connection(installation: Installation, redis: RedisServer) -> None:
    """A worker that loses its broker in the middle of a run goes on with it, and who gets its task leaves it alone."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=1, every="5s", more="coalesce: false\nargs: {seconds: 4}",
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )  # fmt: skip
    cluster.beat()
    for _ in range(2):
        cluster.worker(concurrency=2)
    (instant,) = eventually(lambda: claimed(redis, "tick-0"))
    redis.client().client_kill_filter(_type="normal", skipme=True)
    eventually(lambda: instant in {run.instant * SECOND for run in cluster.runs()})
    cluster.await_instants(2, 30)
    cluster.drop()
    assert twice(cluster.runs()) == []


def test_other_pools(installation: Installation, redis: RedisServer) -> None:
    """In a pool without processes the worker's own life runs the shared jobs."""
    cluster = CeleryCluster(installation, redis.url, jobs=4, every="250ms")
    cluster.beat()
    workers = [cluster.worker("-P", pool) for pool in ("threads", "solo")]
    eventually(lambda: {run.pid for run in cluster.runs()} == {worker.pid for worker in workers})
    cluster.await_instants(4, 30)
    said = cluster.end()
    assert twice(cluster.runs()) == []
    assert not any("Traceback" in one for one in said), said


def test_machines(installation: Installation, redis: RedisServer, receiver: PostHogServer) -> None:
    """Three workers on two machines: a startup and a shutdown each, a heartbeat per instant in all, and one ID."""
    installation.write(telemetryHeartbeatInterval="1s")
    cluster = CeleryCluster(installation, redis.url, jobs=0, every="1s", telemetry=True)
    cluster.beat()
    machines = ["here", "here", "there"]
    workers = [
        cluster.worker("-P", pool, concurrency=1, TELEMETRY_STATE_DIR=str(installation.directory / machine))
        for machine, pool in zip(machines, ["solo", "prefork", "solo"], strict=True)
    ]
    eventually(lambda: Counter(receiver.names())["startup"] == 2)
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= 2)
    beats = receiver.names().count("heartbeat")
    said = [cluster.stop(workers[0])]
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= beats + 2)
    assert "shutdown" not in receiver.names()
    said += cluster.end()
    assert not any("Traceback" in one for one in said), said
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    assert (receiver.names().count("startup"), receiver.names().count("shutdown")) == (2, 2)
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    instants = claimed(redis, "heartbeat")
    assert receiver.names().count("heartbeat") == len(instants)
    assert len({instant % SECOND for instant in instants}) == 1  # on one grid of a second


def test_off_in_one_worker(installation: Installation, redis: RedisServer, receiver: PostHogServer) -> None:
    """A worker with telemetry off runs nothing of it and passes it on; the host's jobs in the file go on there."""
    installation.write(telemetryHeartbeatInterval="1s")
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="500ms", telemetry=True, lifebeat_resend_after=0.5)
    cluster.beat()
    cluster.worker(DO_NOT_TRACK="1")
    cluster.await_instants(4, 30)
    assert receiver.names() == []
    cluster.worker()
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= 2)
    cluster.drop()


def test_off_everywhere(installation: Installation, redis: RedisServer, receiver: PostHogServer) -> None:
    """With telemetry off and no jobs of the host's, nothing of Lifebeat's comes into Redis."""
    cluster = CeleryCluster(installation, redis.url, jobs=0, every="1s")
    (installation.config / "jobs.yaml").unlink()
    cluster.beat(DO_NOT_TRACK="1")
    worker = cluster.worker(DO_NOT_TRACK="1")
    await_beat(redis)
    eventually(lambda: children(worker.pid))
    cluster.drop()
    assert redis.client().keys("lifebeat:*") == []
    assert receiver.requests == []


def test_an_older_job_file(installation: Installation, redis: RedisServer, tmp_path: Path) -> None:
    """In a rolling deploy a job that one worker does not know is run by another that does."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=1, every="500ms", more="coalesce: false", lifebeat_resend_after=0.5
    )
    old = tmp_path / "old"
    old.mkdir()
    (old / "jobs.yaml").write_text("jobs:\n")
    cluster.beat()
    stale = cluster.worker(concurrency=1, LIFEBEAT_CONFIG_DIR=str(old))
    eventually(lambda: waiting(redis))
    cluster.worker(concurrency=1)
    cluster.await_instants(3, 30)
    cluster.kill_all_of(stale)
    eventually(lambda: missed(cluster.runs(), 0.5) == [])
    cluster.drop()
    assert twice(cluster.runs()) == []


OWN = "  own:\n    run: noting:note\n    every: 500ms\n"


@pytest.mark.soak
def test_redis_away(installation: Installation, redis: RedisServer) -> None:
    """While Redis is away a worker's own jobs go on, beat says so once, and both go on by themselves: none twice."""
    cluster = CeleryCluster(installation, redis.url, jobs=3, every="500ms", more="coalesce: false")
    file = installation.config / "jobs.yaml"
    file.write_text(file.read_text() + OWN)
    beat = cluster.beat()
    cluster.worker()
    cluster.await_instants(2, 30)
    redis.stop()
    gone = time.time()
    try:
        eventually(lambda: sum(run.job == "own" and run.begun > gone for run in cluster.runs()) >= 6)
    finally:
        redis.start()
    back = time.time()
    eventually(lambda: sum(run.job != "own" and run.instant > back for run in cluster.runs()) >= 15, 30)
    said = cluster.stop(beat)
    cluster.drop()
    shared = [run for run in cluster.runs() if run.job != "own"]
    assert twice(shared) == []
    assert missed(shared, 0.5) == []
    assert (said.count("waits, the process's own"), said.count("reachable again")) == (1, 1), said
    assert "Traceback" not in said


@pytest.mark.soak
def test_a_start_without_redis(installation: Installation, redis: RedisServer, receiver: PostHogServer) -> None:
    """Where Redis is away from the first, a worker's own jobs run, and what is shared begins when it comes."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=1, every="500ms", telemetry=True, broker_connection_retry_on_startup=True
    )
    file = installation.config / "jobs.yaml"
    file.write_text(file.read_text() + OWN)
    redis.stop()
    try:
        cluster.beat()
        cluster.worker()
        eventually(lambda: len(cluster.runs()) >= 4)
        assert {run.job for run in cluster.runs()} == {"own"}
        assert receiver.names() == []
    finally:
        redis.start()
    eventually(lambda: "tick-0" in {run.job for run in cluster.runs()}, 30)
    eventually(lambda: receiver.names() == ["startup"])
    cluster.end()


# -- what is shared in Redis -------------------------------------------------------------------------------------------


@pytest.fixture
def shared(redis: RedisServer) -> Shared:
    """What processes share."""
    return Shared(redis.client, "lifebeat:notes:")


def test_one_id(redis: RedisServer) -> None:
    """Any number of processes that start together agree on one ID and one seed."""
    agreed: list[tuple[str, str]] = []
    barrier = Barrier(16)

    def come(number: int) -> None:
        one = Shared(redis.client, "lifebeat:notes:")
        barrier.wait(10)
        agreed.append((one.agree_on_id(f"candidate-{number}"), one.seed()))

    threads = [Thread(target=come, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(agreed) == 16
    assert len(set(agreed)) == 1


def test_claims(shared: Shared) -> None:
    """An instant is its first claimant's, who may claim it again until it has ended; then it is nobody's."""
    assert shared.claim(DUE, "one", 60) is Claim.OURS
    assert shared.claim(DUE, "two", 60) is Claim.TAKEN
    assert shared.claim(DUE, "one", 60) is Claim.OURS
    shared.end(DUE, kept=60)
    assert shared.claim(DUE, "one", 60) is Claim.ENDED
    assert shared.claim(Due(DUE.job_id, DUE.instant + 1), "two", 60) is Claim.OURS


def test_a_holder_that_died(shared: Shared) -> None:
    """What a process of this machine held is another's at once when it has died, and not before."""
    code = "from lifebeat.engines.redis import identity; print(identity(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert shared.claim(DUE, process.stdout.readline().strip(), 60) is Claim.OURS
        assert shared.claim(DUE, identity(), 60) is Claim.TAKEN
        process.kill()
        eventually(lambda: shared.claim(DUE, identity(), 60) is Claim.OURS)


@pytest.mark.parametrize(
    ("holder", "died"),
    [
        ("{here} {me.pid} {me.started}", False),
        ("{here} {me.pid} 1", True),
        ("another {here} {me.pid} 1", False),
        ("0191e0f5-4b4e-7d6a-8a52-6a1b5c0e9f11", False),
    ],
    ids=["lives", "pid used again", "another machine", "no /proc there"],
)
def test_who_has_died(holder: str, *, died: bool) -> None:
    """A holder has died if it was this machine's and its pid is nobody's or another's; else nobody can tell."""
    assert has_died(holder.format(here=siblings.world(), me=siblings.find(os.getpid()))) is died


def test_the_same_task_again(shared: Shared) -> None:
    """What runs in a process is not begun again there when its task comes a second time; what broke off is."""
    claims = Claims(shared, patience=60)
    assert claims.take(DUE, TIMEOUT) is Claim.OURS
    assert claims.take(DUE, TIMEOUT) is Claim.TAKEN
    claims.release(DUE)
    assert claims.take(DUE, TIMEOUT) is Claim.OURS


def test_a_run_without_timeout(shared: Shared, redis: RedisServer) -> None:
    """Its claim is renewed while it runs, and again where it was lost meanwhile, but is not taken from another."""
    client, claims = redis.client(), Claims(shared, patience=1, renew_every=0.05)
    due = [Due("nightly", instant) for instant in (1, 2)]
    lost, kept = (f"lifebeat:notes:run:nightly:{instant}" for instant in (1, 2))
    assert [claims.take(one, None) for one in due] == [Claim.OURS, Claim.OURS]
    client.delete(lost)
    eventually(lambda: client.get(lost) == identity())
    client.set(lost, "another", px=60_000)
    client.pexpire(kept, 20_000)
    eventually(lambda: client.pttl(kept) > 50_000)
    assert client.get(lost) == "another"
    for one in due:
        claims.release(one)
    eventually(lambda: "lifebeat-claims" not in {thread.name for thread in enumerate_threads()})


def test_an_end_that_could_not_be_noted(shared: Shared, redis: RedisServer) -> None:
    """Where Redis is away when a run ends, its end is noted when Redis is back, and until then known here."""
    claims = Claims(shared, patience=60, renew_every=0.05)
    assert claims.take(DUE, TIMEOUT) is Claim.OURS
    redis.stop()
    try:
        with pytest.raises(EngineUnavailable):
            claims.end(DUE, kept=60)
        claims.release(DUE)
        assert claims.take(DUE, TIMEOUT) is Claim.ENDED
    finally:
        redis.start()
    eventually(lambda: redis.client().get("lifebeat:notes:run:nightly:1767225600000000") == "ended")
    eventually(lambda: "lifebeat-claims" not in {thread.name for thread in enumerate_threads()})


def test_many_ends_that_could_not_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than a process may remember the oldest are forgotten."""

    def away() -> None:
        raise OSError

    monkeypatch.setattr("lifebeat.engines.claims.MOST_UNNOTED", 2)
    claims, due = Claims(Shared(away, ""), patience=60), [Due("nightly", instant) for instant in range(3)]
    for one in due:
        with pytest.raises(EngineUnavailable):
            claims.end(one, kept=60)
    assert [claims.take(one, TIMEOUT) for one in due[1:]] == [Claim.ENDED, Claim.ENDED]
    with pytest.raises(EngineUnavailable):
        claims.take(due[0], TIMEOUT)


def test_a_claim_that_nobody_ends(shared: Shared) -> None:
    """A claim is given up when its time is over."""
    assert shared.claim(DUE, "one", 0.05) is Claim.OURS
    eventually(lambda: shared.claim(DUE, "two", 60) is Claim.OURS)


def test_what_waits(shared: Shared) -> None:
    """What was sent is told with its claim when its time comes; only what still waits can be asked for again."""
    later, last = (Due(DUE.job_id, DUE.instant + number) for number in (1, 2))
    shared.expect([DUE, later], 1_000_000)
    assert shared.overdue(999_999) == {}
    shared.claim(DUE, "one", 60)
    assert shared.overdue(1_000_000) == {DUE: Claim.TAKEN, later: None}
    shared.end(DUE, kept=60)
    assert shared.overdue(1_000_000) == {DUE: Claim.ENDED, later: None}
    shared.forget([DUE])
    now = DUE.instant + 5_000_000
    shared.ask_again([DUE, later, last], now, 60_000_000)
    assert shared.overdue(now + 59_000_000) == {}
    assert shared.overdue(now + 60_000_000) == {later: None}


# -- a silent Redis ----------------------------------------------------------------------------------------------------


@pytest.fixture
def silence() -> Iterator[str]:
    """The URL of a Redis that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"


def test_a_silent_redis(tmp_path: Path, silence: str) -> None:
    """A worker's start is not held up by a Redis that never answers, and whoever asks it gives up."""
    (tmp_path / "jobs.yaml").write_text(JOB_FILE.format(job="nightly", when="every: 1h"))
    app = attached(tmp_path, broker_url=silence)
    begun = time.monotonic()
    app.lifebeat.start()
    assert time.monotonic() - begun < 4  # and not the 5 s after which it gives up
    app.lifebeat.stop()
    impatient = attached(tmp_path, broker_url=silence, redbeat_redis_options={"socket_timeout": 0.1})
    with pytest.raises(EngineUnavailable, match="Timeout"):
        impatient.lifebeat.shared.sent()


@pytest.mark.parametrize(
    ("conf", "options"),
    [
        ({}, {"socket_connect_timeout": 5, "socket_timeout": 5}),
        (
            {"redbeat_redis_options": {"socket_timeout": 1, "db": 3}},
            {"socket_connect_timeout": 5, "socket_timeout": 1, "db": 3},
        ),
        (
            {"broker_transport_options": {"retry_period": 9, "visibility_timeout": 9}},
            {"socket_connect_timeout": 5, "socket_timeout": 5, "retry_period": 9},
        ),
        (
            {"redbeat_redis_url": "redis-sentinel://", "broker_transport_options": {"sentinels": [["a", 1]]}},
            {"socket_connect_timeout": 5, "socket_timeout": 5, "sentinels": [["a", 1]]},
        ),
    ],
    ids=["nothing", "for RedBeat", "for the broker", "Sentinel"],
)
def test_bounds_of_time(tmp_path: Path, conf: dict[str, Any], options: dict[str, Any]) -> None:
    """Whoever asks Redis waits for 5 s at most, unless the host has said otherwise."""
    assert attached(tmp_path, **conf).conf.redbeat_redis_options == options


# -- an active beat ----------------------------------------------------------------------------------------------------

JOB_FILE = "jobs:\n  {job}:\n    run: lifebeat_jobs.telemetry:heartbeat\n    once: application\n    {when}\n"


class Beat:
    """What the active beat does, with a clock that stands still, and the tasks in a list."""

    def __init__(self, config: Path, redis: RedisServer, clock: FakeClock) -> None:
        from celery import Celery

        from lifebeat.engines.beat import Sending
        from lifebeat.engines.celery import Attachment

        app: Any = Celery("notes", broker=redis.url, set_as_current=False)
        self.clock = clock
        self.sent: list[Due] = []
        self.config = config
        self.shared = Shared(redis.client, "lifebeat:notes:")
        attachment = Attachment(app, {"appName": "notes", "appVersion": "1"}, config_dir=config, clock=clock)
        self.tasks: list[list[Due]] = []
        self.sending: Sending = Sending(attachment, send=self.tasks.extend, stay=lambda: None)

    def at(self, seconds: float, *, lost: bool = False) -> list[float]:
        """What is sent so many seconds later: the instants, in seconds after the beginning of 2026."""
        self.clock.advance(seconds)
        self.tasks.clear()
        self.sending.send_due()
        self.sent = [one for batch in self.tasks for one in batch]
        for one in self.sent if not lost else ():
            self.shared.end(one, kept=3600)
        return [one.instant / 1e6 - 1_767_225_600 for one in self.sent]


@pytest.fixture
def beat(tmp_path: Path, redis: RedisServer) -> Iterator[Callable[..., Beat]]:
    """Makes active beats of one installation."""
    config = tmp_path / "config"
    config.mkdir()
    made: list[Beat] = []

    def make(when: str | None = None, clock: FakeClock | None = None) -> Beat:
        if when is not None:
            (config / "jobs.yaml").write_text(JOB_FILE.format(job="nightly", when=when))
        made.append(Beat(config, redis, clock or FakeClock()))
        return made[-1]

    yield make
    for one in made:
        one.sending.end()


def test_a_new_job(beat: Callable[..., Beat]) -> None:
    """A job that was never seen begins with its next instant; nothing of the past is made up."""
    one = beat("every: 1h")
    assert one.at(0) == []
    assert one.at(3599) == []
    assert one.at(1) == [3600]
    assert one.at(7200) == [10800]


def test_a_successor(beat: Callable[..., Beat]) -> None:
    """Who becomes active sends the latest instant that nobody has sent, and each of them where none is left out."""
    first = beat("every: 1h")
    assert first.at(0) == []
    assert first.at(3600) == [3600]
    assert beat(clock=first.clock).at(60) == []
    assert beat(clock=first.clock).at(3 * 3600) == [4 * 3600]
    assert beat("every: 1h\n    coalesce: false", clock=first.clock).at(2 * 3600 - 120) == [5 * 3600]


def test_the_first_instant(beat: Callable[..., Beat]) -> None:
    """Killed before it has sent a job for the first time, a beat has a successor that does."""
    first = beat("every: 1h")
    assert first.at(10) == []
    assert beat(clock=first.clock).at(3600) == [3600]


def test_a_long_downtime(beat: Callable[..., Beat]) -> None:
    """Of a job that leaves none out, an hour is made up and no more."""
    first = beat("every: 10m\n    coalesce: false")
    first.at(0)
    assert beat(clock=first.clock).at(86400) == [86400 - 600 * number for number in range(5, -1, -1)]


def test_a_grace(beat: Callable[..., Beat]) -> None:
    """What is later than its grace is left out."""
    first = beat("every: 1h\n    misfire_grace: 5m")
    first.at(0)
    assert beat(clock=first.clock).at(3600 + 400) == []


def test_a_clock_that_was_wrong(beat: Callable[..., Beat]) -> None:
    """What a clock half a period ahead has sent is not sent again; one that was a year ahead holds up nothing."""
    first = beat("every: 1h")
    first.at(0)
    first.clock.jump(1800 + 1800)
    assert first.at(0) == [3600]
    first.clock.jump(-1800)
    assert beat(clock=first.clock).at(0) == []
    assert beat(clock=first.clock).at(1800) == []
    first.clock.jump(365 * 86400)
    wrong = beat(clock=first.clock)
    assert len(wrong.at(0)) == 1
    first.clock.jump(-365 * 86400)
    right = beat(clock=first.clock)
    assert [right.at(0), wrong.at(0)] == [[], []]
    assert [right.at(3600), wrong.at(0)] == [[7200], [7200]]


def test_an_edited_job(beat: Callable[..., Beat], tmp_path: Path) -> None:
    """An edit neither makes up instants of the new grid nor loses one of the moment."""
    one = beat("every: 1h")
    one.at(0)
    assert one.at(3700) == [3600]
    (tmp_path / "config" / "jobs.yaml").write_text(JOB_FILE.format(job="nightly", when="every: 1m"))
    one.sending._life.reload()  # type: ignore[union-attr]  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
    assert one.at(0) == []
    assert one.at(60) == [3720 + 0]


def test_a_crowd(beat: Callable[..., Beat], tmp_path: Path) -> None:
    """Many jobs that are due at once go ten to a task; few go one by one."""
    one = beat("every: 1h")
    lines = [
        f"  job-{number}:\n    run: lifebeat_jobs.telemetry:heartbeat\n    every: {1 if number % 100 else 2}h\n"
        "    once: application\n"
        for number in range(1, 1001)
    ]
    (tmp_path / "config" / "jobs.yaml").write_text("jobs:\n" + "".join(lines))
    one.at(0)
    assert len(one.at(7200)) == 1000
    assert {len(task) for task in one.tasks} == {10}
    (tmp_path / "config" / "jobs.yaml").write_text("jobs:\n" + "".join(lines[:150]))
    assert len(beat(clock=one.clock).at(3600)) == 149
    one = beat(clock=one.clock)
    assert len(one.at(3600)) == 150
    assert {len(task) for task in one.tasks} == {1}


def test_a_batch(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several instants in a task one that fails prevents no other, and the failure is Celery's to tell."""
    from celery import Celery

    from lifebeat.engines.celery import Attachment

    (tmp_path / "batched.py").write_text("def work(number):\n    print('done', 1 // number)\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "jobs.yaml").write_text(
        "jobs:\n"
        + "".join(
            f"  job-{number}:\n    run: batched:work\n    every: 1h\n    once: application\n"
            f"    args: {{number: {number}}}\n"
            for number in range(2)
        )
    )
    app: Any = Celery("notes", broker=redis.url, set_as_current=False)
    arguments = {"appName": "notes", "appVersion": "1"}
    attachment = Attachment(app, arguments, config_dir=tmp_path, allow=["batched"])
    with pytest.raises(ExceptionGroup, match="1 of 2 jobs failed") as failed:
        attachment.run([("job-0", DUE.instant), ("job-1", DUE.instant)])
    assert [type(error) for error in failed.value.exceptions] == [ZeroDivisionError]
    ended = [redis.client().get(f"lifebeat:notes:run:job-{number}:{DUE.instant}") for number in range(2)]
    assert ended == ["ended", "ended"]


def test_an_outage_in_between(beat: Callable[..., Beat]) -> None:
    """After Redis was away those who hold claims come first: what was lost is sent again ten seconds later."""
    one = beat("every: 1d")
    one.at(0)
    assert one.at(86400, lost=True) == [86400]
    one.clock.advance(60)
    one.sending.unsettle()
    assert one.at(9, lost=True) == []
    assert one.at(1, lost=True) == [86400]


def test_a_long_run(beat: Callable[..., Beat], shared: Shared, redis: RedisServer) -> None:
    """Who holds an instant for long is looked at every minute all the same, and soon missed when it is gone."""
    one = beat("every: 1d")
    one.at(0)
    assert one.at(86400, lost=True) == [86400]
    instant = Due("nightly", int((1_767_225_600 + 86400) * 1e6))
    assert shared.claim(instant, "worker", 3600) is Claim.OURS
    for _ in range(60):
        assert one.at(60) == []
    redis.client().delete(f"lifebeat:notes:run:nightly:{instant.instant}")
    assert one.at(60) == [86400]


def test_lost_tasks(beat: Callable[..., Beat], shared: Shared) -> None:
    """What has not ended is sent again after a minute, then ever later; what has ended or is no job is not."""
    one = beat("every: 1d")
    one.at(0)
    assert one.at(86400, lost=True) == [86400]
    assert one.at(59, lost=True) == []
    assert one.at(1, lost=True) == [86400]
    assert one.at(60, lost=True) == [86400]
    assert one.at(60, lost=True) == []
    assert one.at(60, lost=True) == [86400]
    instant = Due("nightly", int((1_767_225_600 + 86400) * 1e6))
    assert shared.claim(instant, "worker", 3600) is Claim.OURS
    assert one.at(3600) == []
    shared.end(instant, kept=3600)
    shared.expect([Due("gone", DUE.instant)], 0)
    assert one.at(7200) == []
    assert shared.overdue(2**60) == {}


def test_a_failure_that_could_not_be_noted(tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails while Redis is away is told to Celery as what it is, and ended when Redis is back."""
    from celery import Celery

    from lifebeat.engines.celery import Attachment

    (tmp_path / "failing.py").write_text("import this_test\n\ndef work():\n    this_test.stop()\n    1 / 0\n")
    (tmp_path / "jobs.yaml").write_text(
        "jobs:\n  nightly:\n    run: failing:work\n    every: 1h\n    once: application\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(sys.modules, "this_test", SimpleNamespace(stop=redis.stop))
    monkeypatch.setattr("lifebeat.engines.claims.RETRY_EVERY", 0.05)
    app: Any = Celery("notes", broker=redis.url, set_as_current=False)
    attachment = Attachment(app, {"appName": "notes", "appVersion": "1"}, config_dir=tmp_path, allow=["failing"])
    try:
        with pytest.raises(ZeroDivisionError):
            attachment.run([DUE])
    finally:
        redis.start()
    eventually(lambda: redis.client().get(f"lifebeat:notes:run:nightly:{DUE.instant}") == "ended")


def test_what_a_log_shows(installation: Installation, redis: RedisServer) -> None:
    """A task's arguments are shown as the jobs that it is for."""
    scheduler = active_scheduler(installation, redis, FakeClock())
    scheduler._send_tasks([[DUE, Due("weekly", DUE.instant)]])
    scheduler.close()
    assert json.loads(redis.client().lindex("celery", 0))["headers"]["argsrepr"] == "nightly, weekly"


def test_skewed_clocks(installation: Installation, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two beats that both are active, their clocks half a period apart: all is sent by both, and runs once."""
    cluster = CeleryCluster(installation, redis.url, jobs=3, every="2s")
    monkeypatch.setattr(sys, "path", [str(installation.directory), *sys.path])
    cluster.worker()
    epoch = time.time() // 2 * 2
    clocks = [FakeClock(epoch), FakeClock(epoch + 1)]
    beats = [active_scheduler(installation, redis, clock) for clock in clocks]
    for _ in range(21):
        for beat, clock in zip(beats, clocks, strict=True):
            beat.tick()
            clock.advance(0.5)
    eventually(lambda: len(cluster.runs()) >= 15 and waiting(redis) == [])
    cluster.drop()
    for beat in beats:
        beat.close()
    assert twice(cluster.runs()) == []
    assert missed(cluster.runs(), 2.0) == []


def active_scheduler(installation: Installation, redis: RedisServer, clock: FakeClock) -> Any:
    """A beat's scheduler in this process, which needs no lock."""
    from celery import Celery

    from lifebeat.engines.beat import Scheduler
    from lifebeat.engines.celery import Attachment

    app: Any = Celery("notes", broker=redis.url, set_as_current=False)
    app.conf.redbeat_lock_key = None
    arguments = {"appName": "notes", "appVersion": "1"}
    Attachment(app, arguments, config_dir=installation.config, allow=["noting"], clock=clock)
    return Scheduler(app)


# -- the host's configuration ------------------------------------------------------------------------------------------


def attached(config: Path, **conf: Any) -> Any:
    """A host's app, configured before Lifebeat is put on it or after."""
    from celery import Celery

    from lifebeat.engines.celery import attach

    app: Any = Celery("notes", broker="redis://127.0.0.1:1/0", set_as_current=False)
    attach(app, app_name="notes", app_version="1", config_dir=config)
    app.conf.update(conf)
    return app


def test_what_the_host_has_not_set(tmp_path: Path) -> None:
    """The scheduler, a loop of 5 s and a lock of 15 s are set where the host says nothing."""
    conf = attached(tmp_path).conf
    assert conf.beat_scheduler == "lifebeat.engines.beat:Scheduler"
    assert (conf.beat_max_loop_interval, conf.redbeat_lock_timeout) == (5, 15)
    assert conf.redbeat_redis_url == "redis://127.0.0.1:1/0"


def test_a_socket(tmp_path: Path) -> None:
    """A Redis on a socket is found by both, who spell it differently."""
    conf = attached(tmp_path, broker_url="redis+socket:///run/redis.sock?virtual_host=3").conf
    assert conf.redbeat_redis_url == "unix:///run/redis.sock?db=3"


def test_what_the_host_has_set(tmp_path: Path) -> None:
    """What the host has set stays."""
    given = {
        "beat_scheduler": "redbeat.RedBeatScheduler",
        "beat_max_loop_interval": 2,
        "redbeat_lock_timeout": 33,
        "redbeat_redis_url": "redis://127.0.0.1:2/0",
        "broker_transport_options": {"visibility_timeout": 9},
    }
    conf = attached(tmp_path, **given).conf
    assert {name: conf[name] for name in given} == given


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"redbeat_lock_timeout": 1500}, "redbeat_lock_timeout is 1500 s: for so long nothing is sent"),
        ({"redbeat_lock_key": None}, "redbeat_lock_key is None: there must be one beat only"),
    ],
    ids=["lock timeout", "no lock"],
)
def test_unsafe_values(tmp_path: Path, caplog: pytest.LogCaptureFixture, conf: dict[str, Any], message: str) -> None:
    """A value of the host's that is not safe is said by beat, once."""
    from lifebeat.engines.beat import Scheduler

    Scheduler(attached(tmp_path, **conf))
    assert [message in one for one in caplog.messages] == [True]


def test_another_scheduler(installation: Installation, redis: RedisServer) -> None:
    """A host that starts beat with another scheduler is told what does not run."""
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="1s", beat_scheduler="redbeat.RedBeatScheduler")
    beat = cluster.beat()
    await_beat(redis)
    err = cluster.stop(beat)
    assert "jobs with once: application do not run; start beat with: -S lifebeat.engines.beat:Scheduler" in err


def test_attached_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second call for an app changes nothing and is said."""
    from lifebeat.engines.celery import attach

    app = attached(tmp_path)
    assert attach(app, app_name="other", app_version="2", config_dir=tmp_path) is app.lifebeat.handle
    assert caplog.messages == ["attach() was called twice for an app; the first call holds"]


def test_not_attached() -> None:
    """Our scheduler on an app without Lifebeat says what to call."""
    from celery import Celery

    from lifebeat.engines.celery import attachment_of
    from lifebeat.errors import ConfigError

    with pytest.raises(ConfigError, match=r"the app has no Lifebeat; call lifebeat.engines.celery.attach\(app"):
        attachment_of(Celery("bare", set_as_current=False))


# -- long runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("workers", [2, 8])
def test_many_instants(installation: Installation, redis: RedisServer, workers: int) -> None:
    """Ten jobs on a grid of 2 s: each (job, instant) exactly once over 250 instants."""
    cluster = CeleryCluster(installation, redis.url, jobs=10, every="2s", more="coalesce: false")
    cluster.beat()
    for _ in range(workers):
        cluster.worker(concurrency=1)
    cluster.await_instants(250, 600)
    cluster.end()
    runs = cluster.runs()
    p50, p99 = lateness(runs)
    print(
        f"\n{workers} workers: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}, "
        f"lateness p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms"
    )
    assert twice(runs) == []
    assert missed(runs, 2.0) == []


@pytest.mark.soak
def test_kills(installation: Installation, redis: RedisServer) -> None:
    """Twenty kill -9 of whole workers: none missed, and none twice but what one of them was in the middle of."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=10, every="2s", more="coalesce: false\ntimeout: 1s\nargs: {seconds: 0.3}",
        lifebeat_resend_after=3,
    )  # fmt: skip
    cluster.beat()
    workers = [cluster.worker(concurrency=1) for _ in range(3)]
    cluster.await_instants(2, 30)
    chance = random.Random(20)
    for _ in range(20):
        time.sleep(chance.uniform(0.5, 3.5))
        victim = chance.choice(workers)
        cluster.kill_all_of(victim)
        workers[workers.index(victim)] = cluster.worker(concurrency=1)
    time.sleep(4)
    eventually(lambda: waiting(redis) == [] and missed(cluster.runs(), 2.0) == [], 60)
    cluster.drop()
    runs = cluster.runs()
    print(
        f"\n20 kills: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}, "
        f"latest {max(run.begun - run.instant for run in runs):.1f} s late"
    )
    assert len(twice(runs)) <= 20
    assert max(run.begun - run.instant for run in runs) < 1 + 3 + 2 * 3 + 5


@pytest.mark.soak
def test_freezes(installation: Installation, redis: RedisServer) -> None:
    """A worker or a beat that is frozen for 9 s and goes on runs nothing twice, and nothing is missed."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=10, every="2s", more="coalesce: false", lifebeat_resend_after=3,
        redbeat_lock_timeout=5,
    )  # fmt: skip
    beat = cluster.beat()
    await_beat(redis)
    cluster.beat()
    workers = [cluster.worker(concurrency=1) for _ in range(2)]
    cluster.await_instants(2, 30)
    for process in (*workers, beat, workers[0]):
        pids = [process.pid, *children(process.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(9)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(4)
    eventually(lambda: waiting(redis) == [], 60)
    cluster.end()
    runs = cluster.runs()
    print(f"\n4 freezes of 9 s: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}")
    assert twice(runs) == []
    assert missed(runs, 2.0) == []


@pytest.mark.soak
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "lost"])
def test_an_outage(installation: Installation, redis: RedisServer, *, kept: bool) -> None:
    """Redis away for 20 s: all goes on by itself, none twice; where it kept what it knew none is missed either."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=10, every="2s", more="coalesce: false", lifebeat_resend_after=3
    )
    cluster.beat()
    for _ in range(3):
        cluster.worker(concurrency=1)
    cluster.await_instants(3, 30)
    redis.stop()
    gone = time.time()
    time.sleep(20)
    redis.start()
    if not kept:
        redis.empty()
    back = time.time()
    eventually(lambda: sum(run.instant > back for run in cluster.runs()) >= 50, 60)
    eventually(lambda: waiting(redis) == [], 60)
    cluster.drop()
    runs = cluster.runs()
    first = min(run.begun for run in runs if run.begun > back) - back
    lost = missed(runs, 2.0)
    print(
        f"\naway for 20 s, what it knew {'kept' if kept else 'lost'}: back after {first:.1f} s, "
        f"twice {len(twice(runs))}, missed {len(lost)}"
    )
    assert twice(runs) == []
    assert [instant for _, instant in lost if kept or not gone - 4 < instant < back + 4] == []

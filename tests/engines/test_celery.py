"""One application in Celery's workers, on a real Redis: every instant once, one start, one end, and one ID."""

from __future__ import annotations

import json
import os
import signal
import time
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from celerycluster import REDELIVERY, CeleryCluster, children
from cluster import freeze, lateness, missed, twice
from hosts import Installation, eventually
from rabbitmq import RabbitMQ
from redisserver import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifebeat.testing import PostHogServer

WEB = """
import signal, time
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

stopped = []  # no event: setting one in a handler may wait for the very lock that it interrupted
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", signals=False, **{arguments})
scheduler.start()
while not stopped:
    time.sleep(0.1)
scheduler.shutdown()
"""


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


def runs_after(cluster: CeleryCluster, moment: float) -> int:
    """How many runs have begun since."""
    return sum(run.begun > moment for run in cluster.runs())


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_every_instant_runs_once_on_every_kind_of_pool(installation: Installation, redis: RedisServer) -> None:
    """Workers with processes, with threads and with neither: each (job, instant) runs exactly once, on the grid."""
    cluster = CeleryCluster(installation, redis.url, jobs=8, every="500ms", fields="coalesce: false")
    workers = [cluster.worker("-P", pool) for pool in ("prefork", "threads", "solo")]
    eventually(lambda: redis.client().zcard("lifebeat:{notes}:members") == 3, 50)
    cluster.await_instants(12, 60)
    said = [cluster.stop(worker) for worker in workers[:2]]
    # What those had taken from the queue and not begun is back in it, and run by the third.
    eventually(lambda: missed(cluster.runs(), 0.5) == [])
    said.append(cluster.stop(workers[2]))
    runs = cluster.runs()
    assert twice(runs) == []
    assert {run.instant % 0.5 for run in runs} == {0.0}
    assert not any("Traceback" in one for one in said), said


def test_killed_child_of_a_pool_is_run_again_at_once(installation: Installation, redis: RedisServer) -> None:
    """A run whose pool process is killed goes back to the queue, and is run again from its beginning."""
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="1s", fields="coalesce: false, args: {seconds: 0.5}")
    worker = cluster.worker(concurrency=1)
    begun = eventually(cluster.begun)
    for pid in children(worker.pid):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: begun[0].instant in {run.instant for run in cluster.runs()})
    cluster.drop()
    assert twice(cluster.runs()) == []


def test_killed_worker_is_replaced_by_another(installation: Installation, redis: RedisServer) -> None:
    """What a worker was killed in the middle of is run again by another, in the broker's time."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=2, every="1s", fields="coalesce: false, args: {seconds: 0.5}",
        broker_transport_options=REDELIVERY,
    )  # fmt: skip
    victim, _ = cluster.worker("-P", "solo"), cluster.worker("-P", "solo")
    run = eventually(lambda: next((run for run in cluster.begun() if run.pid == victim.pid), None))
    cluster.kill_all_of(victim)
    eventually(lambda: run[:2] in {other[:2] for other in cluster.runs()})
    cluster.drop()
    assert twice(cluster.runs()) == []


@pytest.mark.soak
def test_job_that_one_worker_does_not_know_runs_on_another(
    installation: Installation, redis: RedisServer, tmp_path: Path
) -> None:
    """In a rolled deployment a worker with the older job file hands on what it does not know."""
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="1s", fields="coalesce: false")
    old = tmp_path / "old"
    old.mkdir()
    (old / "jobs.yaml").write_text("jobs: {other: {run: 'noting:note', every: 1h, once: application}}\n")
    stale = cluster.worker(concurrency=1, LIFEBEAT_CONFIG_DIR=str(old))
    cluster.worker(concurrency=1)
    cluster.await_instants(6, 60)
    cluster.stop(stale)
    eventually(lambda: missed(cluster.runs(), 1.0) == [])
    cluster.drop()
    assert twice(cluster.runs()) == []


def test_worker_that_does_not_consume_the_queue_says_so(installation: Installation, redis: RedisServer) -> None:
    """``celery worker -Q mail`` names the queue of shared jobs once, and claims nothing; its own jobs run."""
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="500ms")
    file = installation.config / "jobs.yaml"
    file.write_text(file.read_text() + OWN)
    worker = cluster.worker("-P", "solo", "-Q", "mail")
    eventually(lambda: len(cluster.runs()) >= 3)
    said = cluster.stop(worker)
    assert {run.job for run in cluster.runs()} == {"own"}
    assert said.count("does not consume the queue 'celery'") == 1, said
    assert (redis.client().llen("celery"), redis.client().zcard("lifebeat:{notes}:waiting")) == (0, 0)


OWN = "  own: {run: 'noting:note', every: 200ms}\n"


# -- who is in ---------------------------------------------------------------------------------------------------------


def test_several_machines_are_one_application(
    installation: Installation, redis: RedisServer, receiver: PostHogServer
) -> None:
    """Workers on two machines: one startup, a heartbeat an instant, one shutdown, and one ID."""
    installation.write(telemetryHeartbeatInterval="1s")
    cluster = CeleryCluster(installation, redis.url, jobs=0, telemetry=True)
    workers = [
        cluster.worker("-P", pool, concurrency=1, TELEMETRY_STATE_DIR=str(installation.directory / machine))
        for machine, pool in (("here", "solo"), ("there", "prefork"))
    ]
    eventually(lambda: redis.client().zcard("lifebeat:{notes}:members") == 2)
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= 3, timeout=40)
    said = [cluster.stop(workers[0])]
    beats = receiver.names().count("heartbeat")
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= beats + 2)
    assert "shutdown" not in receiver.names()
    said += cluster.end()
    assert not any("Traceback" in one for one in said), said
    assert [worker.returncode for worker in workers] == [0, 0]
    assert (receiver.names().count("startup"), receiver.names().count("shutdown")) == (1, 1)
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    instants = {event["timestamp"] for event in receiver.events if event["event"] == "heartbeat"}
    assert len(instants) == receiver.names().count("heartbeat")


@pytest.mark.parametrize("how", [pytest.param("arguments", marks=pytest.mark.soak), "environment"])
def test_web_pods_are_one_application(
    installation: Installation, redis: RedisServer, receiver: PostHogServer, how: str
) -> None:
    """Three pods with ``attach``, the engine named by arguments or environment: one startup, one shutdown, one ID.

    Beside them ``lifebeat status`` shows who is in, and what ran last.
    """
    installation.write(telemetryHeartbeatInterval="1s", appName="notes")
    redis.client().hset("lifebeat:{notes}:run", "ended", 1)  # the first need not wait whether others are in
    engine = {"engine": "celery", "database": redis.url} if how == "arguments" else {}
    environ = {} if engine else {"LIFEBEAT_ENGINE": "celery", "LIFEBEAT_DATABASE": redis.url}
    pods = [
        installation.script(
            WEB.replace("{arguments}", repr(engine)),
            TELEMETRY_STATE_DIR=str(installation.directory / f"pod{number}"),
            LIFEBEAT_CONFIG_DIR=str(installation.config),
            **environ,
        )
        for number in range(3)
    ]
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= 3, timeout=40)
    eventually(lambda: redis.client().zcard("lifebeat:{notes}:members") == 3)
    assert receiver.names().count("startup") == 1
    _, out, err = installation.run("status", "--json", LIFEBEAT_ENGINE="celery", LIFEBEAT_DATABASE=redis.url)
    found = json.loads(out)["engine"]
    assert {int(one.split(":")[1]) for one in found["members"]} == {pod.pid for pod in pods}, err
    assert found["last_run"]["job_id"] == "heartbeat"
    for pod in pods:
        pod.send_signal(signal.SIGTERM)
    said = [pod.communicate(timeout=40)[1] for pod in pods]
    assert (receiver.names().count("startup"), receiver.names().count("shutdown")) == (1, 1), said
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    instants = {event["timestamp"] for event in receiver.events if event["event"] == "heartbeat"}
    assert len(instants) == receiver.names().count("heartbeat")


@pytest.mark.soak
def test_worker_with_telemetry_off_runs_only_the_hosts_jobs(
    installation: Installation, redis: RedisServer, receiver: PostHogServer
) -> None:
    """A worker with telemetry off runs nothing of it, and the host's jobs in the file go on there."""
    installation.write(telemetryHeartbeatInterval="1s")
    cluster = CeleryCluster(installation, redis.url, jobs=1, every="500ms", telemetry=True)
    cluster.worker(DO_NOT_TRACK="1")
    cluster.await_instants(4, 40)
    assert receiver.names() == []
    cluster.worker()
    receiver.wait_for(lambda posthog: posthog.names().count("heartbeat") >= 1, timeout=40)
    cluster.drop()


def test_telemetry_off_writes_nothing_into_redis(
    installation: Installation, redis: RedisServer, receiver: PostHogServer
) -> None:
    """With telemetry off and no jobs of the host's nothing of Lifebeat's comes into Redis."""
    cluster = CeleryCluster(installation, redis.url, jobs=0)
    (installation.config / "jobs.yaml").unlink()
    worker = cluster.worker("-P", "solo", DO_NOT_TRACK="1")
    eventually(lambda: redis.client().exists("_kombu.binding.celery"))
    said = cluster.stop(worker)
    assert redis.client().keys("lifebeat:*") == []
    assert receiver.requests == []
    assert "Traceback" not in said


# -- a server that is not there ----------------------------------------------------------------------------------------


@pytest.mark.soak
def test_shared_jobs_resume_when_redis_is_back(installation: Installation, redis: RedisServer) -> None:
    """While Redis is away a worker's own jobs go on, that is said once, and the shared ones resume: none twice."""
    cluster = CeleryCluster(installation, redis.url, jobs=3, every="500ms")
    file = installation.config / "jobs.yaml"
    file.write_text(file.read_text() + OWN)
    worker = cluster.worker()
    cluster.await_instants(2, 40)
    # Celery 5.7's worker ends when its Redis goes away while a few tasks are in its hands.
    eventually(lambda: not redis.client().exists("unacked") and 0.2 < time.time() % 0.5 < 0.3)
    redis.stop()
    gone = time.time()
    try:
        eventually(lambda: sum(run.job == "own" and run.begun > gone for run in cluster.runs()) >= 6)
    finally:
        redis.start()
    back = time.time()
    eventually(lambda: sum(run.job != "own" and run.instant > back for run in cluster.runs()) >= 9, 40)
    said = cluster.stop(worker)
    assert twice([run for run in cluster.runs() if run.job != "own"]) == []
    assert said.count("are paused, others keep running") == 1, said
    assert "lifebeat/" not in said


def test_broker_without_a_redis_pauses_shared_jobs(installation: Installation, tmp_path: Path) -> None:
    """Where there is no Redis the worker says once what to do; its own jobs, and the host's tasks, run."""
    folder = tmp_path / "broker"
    folder.mkdir()
    cluster = CeleryCluster(
        installation, "filesystem://", jobs=1, every="500ms",
        broker_transport_options=dict.fromkeys(["data_folder_in", "data_folder_out", "control_folder"], str(folder)),
    )  # fmt: skip
    file = installation.config / "jobs.yaml"
    file.write_text(file.read_text() + OWN)
    worker = cluster.worker("-P", "solo")
    host: Any = Celery("notes", broker="filesystem://")
    host.conf.update(cluster.conf)
    host.send_task("app.own", ["hello"])
    eventually(lambda: cluster.own_tasks() == ["hello"])
    eventually(lambda: len(cluster.runs()) >= 6)
    said = cluster.stop(worker)
    assert {run.job for run in cluster.runs()} == {"own"}
    assert said.count("app.conf.lifebeat_redis_url") == 1, said


@pytest.mark.parametrize("do_not_track", ["", pytest.param("1", marks=pytest.mark.soak)], ids=["on", "off"])
def test_beat_is_not_touched(installation: Installation, redis: RedisServer, do_not_track: str) -> None:
    """A host's own beat sends its own schedule, by its own scheduler, telemetry on or off."""
    cluster = CeleryCluster(
        installation, redis.url, jobs=1, every="200ms",
        beat_schedule={"own": {"task": "app.own", "schedule": 0.2, "args": ["hello"]}},
    )  # fmt: skip
    beat = cluster.celery("beat", "--loglevel", "INFO", "--schedule", str(installation.directory / "beat"))
    cluster.worker("-P", "solo", DO_NOT_TRACK=do_not_track)
    eventually(lambda: len(cluster.own_tasks()) >= 4)
    cluster.await_instants(4, 40)
    assert "lifebeat" not in cluster.stop(beat)
    cluster.end()


# -- long runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("workers", [2, 8])
def test_many_instants(installation: Installation, redis: RedisServer, workers: int) -> None:
    """Ten jobs on a grid of 2 s: none missed, none twice; prints how late they began. ``INSTANTS`` says how many."""
    cluster = CeleryCluster(installation, redis.url, jobs=10, every="2s", fields="coalesce: false")
    for _ in range(workers):
        cluster.worker()
    instants = int(os.environ.get("INSTANTS", "250"))
    cluster.await_instants(instants, instants * 2 + 200)
    cluster.end()
    runs = cluster.runs()
    p50, p99 = lateness(runs)
    print(f"\n{workers} workers: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}", end="")
    print(f", late p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    assert twice(runs) == []
    assert missed(runs, 2.0) == []


@pytest.mark.soak
def test_kills_and_freezes_miss_and_repeat_nothing(installation: Installation, redis: RedisServer) -> None:
    """Workers are killed, stopped, frozen and started for minutes: none missed, none twice but what a kill cut off.

    No run is in a worker's hands for longer than the broker waits before it gives it to another, however busy the
    machine is. Who is killed while it looks for those of dead workers keeps others from looking for a while.
    """
    cluster = CeleryCluster(
        installation, redis.url, jobs=5, every="2s", fields="coalesce: false",
        broker_transport_options=REDELIVERY | {"visibility_timeout": 30, "unacked_mutex_expire": 10},
    )  # fmt: skip
    for _ in range(4):
        cluster.worker()
    cluster.await_instants(2, 60)
    seconds = float(os.environ.get("CHAOS_SECONDS", "300"))
    end, cut, random = time.monotonic() + seconds, 0, Random(1)
    while time.monotonic() < end:
        time.sleep(random.uniform(2, 5))
        victim = random.choice(cluster.processes)
        what = random.choice(["kill", "stop", "freeze"])
        cut += what != "stop"
        if what == "kill":
            cluster.kill_all_of(victim)
        elif what == "stop":
            cluster.stop(victim)
        else:
            freeze(victim, random.uniform(2, 15))
        while len(cluster.processes) < 4:
            cluster.worker()
    until = time.time()  # what is due now may lie behind what others have fetched
    eventually(lambda: missed([run for run in cluster.runs() if run.instant < until], 2.0) == [], 90)
    cluster.end()
    runs = cluster.runs()
    p50, p99 = lateness(runs)
    print(
        f"\n{cut} kills and freezes: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}",
        end="",
    )
    print(f", late p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
    # Such a run has written its line, and was killed before its end was noted.
    assert {next(run.pid for run in runs if (run.job, run.instant) == one) for one in twice(runs)} <= cluster.killed


@pytest.mark.soak
@pytest.mark.parametrize("do_not_track", ["", "1"], ids=["on", "off"])
def test_beat_on_rabbitmq_is_not_touched(installation: Installation, redis: RedisServer, do_not_track: str) -> None:
    """The same with RabbitMQ for the broker and a Redis named for claims; runs are once, and on the grid."""
    with RabbitMQ() as rabbitmq:
        cluster = CeleryCluster(
            installation, rabbitmq.url, jobs=4, every="500ms", fields="coalesce: false", lifebeat_redis_url=redis.url,
            beat_schedule={"own": {"task": "app.own", "schedule": 0.5, "args": ["hello"]}},
        )  # fmt: skip
        beat = cluster.celery("beat", "--loglevel", "INFO", "--schedule", str(installation.directory / "beat"))
        for _ in range(2):
            cluster.worker(DO_NOT_TRACK=do_not_track)
        eventually(lambda: len(cluster.own_tasks()) >= 6)
        cluster.await_instants(8, 60)
        assert "lifebeat" not in cluster.stop(beat)
        until = time.time()  # what is due now may lie behind what the other worker has fetched
        eventually(lambda: missed([run for run in cluster.runs() if run.instant < until], 0.5) == [], 60)
        cluster.end()
    assert twice(cluster.runs()) == []

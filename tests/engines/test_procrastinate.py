"""One application on several machines, on a real PostgreSQL: every instant once, one startup, one shutdown, one ID."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from cluster import Cluster, freeze, lateness, missed, overlapping, twice
from hosts import Installation, end, eventually
from lifebeat import history
from lifebeat.cli.main import main
from lifebeat.jobfile import reader as jobfile

if TYPE_CHECKING:
    from lifebeat.testing import PostHogServer
    from postgresql import PostgreSQL

pytestmark = pytest.mark.xdist_group("postgresql")


def test_every_instant_once(installation: Installation, postgresql: PostgreSQL) -> None:
    """Ten jobs in three processes: each (job, instant) runs exactly once, and a kill -9 changes nothing."""
    cluster = Cluster(installation, postgresql.schema(), jobs=10, every="1s", fields="coalesce: false")
    victim, other, _ = cluster.start(3)
    members = "SELECT count(*) FROM lifebeat WHERE kind = 'member'"
    cluster.await_instants(1, 30)
    eventually(lambda: postgresql.sql(members, cluster.database) == [(3,)])
    # In the middle of a run it would be half a minute until another process runs it again.
    eventually(lambda: 0.3 < time.time() % 1 < 0.5 and not doing(postgresql, cluster))
    cluster.kill(victim)
    before = time.time()
    eventually(lambda: sum(run.instant > before for run in cluster.runs()) >= 20)
    said = [end(other)[2]]
    cluster.processes.remove(other)
    # What that one had taken from the queue and not begun is back in it.
    eventually(lambda: missed(cluster.runs(), 1.0) == [])
    said += cluster.end()
    assert twice(cluster.runs()) == []
    assert not any("Traceback" in one for one in said), said


def test_three_machines_are_one_application(
    installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer
) -> None:
    """Three processes of machines with their own state: one startup, a heartbeat per instant, one shutdown, one ID."""
    installation.write(telemetryHeartbeatInterval="1s")
    database = postgresql.schema()
    processes = [
        installation.lifebeat(
            "run", LIFEBEAT_ENGINE="procrastinate", LIFEBEAT_DATABASE=database,
            TELEMETRY_STATE_DIR=str(installation.directory / f"machine-{number}"),
        )
        for number in range(3)
    ]  # fmt: skip
    eventually(lambda: receiver.names().count("heartbeat") >= 3)
    # Rolled one after the other, when the new one is in.
    replaced = installation.lifebeat(
        "run", LIFEBEAT_ENGINE="procrastinate", LIFEBEAT_DATABASE=database,
        TELEMETRY_STATE_DIR=str(installation.directory / "machine-3"),
    )  # fmt: skip
    members = "SELECT count(*) FROM lifebeat WHERE kind = 'member'"
    eventually(lambda: postgresql.sql(members, database) == [(4,)])
    end(processes[0])
    beats = receiver.names().count("heartbeat")
    eventually(lambda: receiver.names().count("heartbeat") >= beats + 1)
    for process in (*processes[1:], replaced):
        code, _, err = end(process)
        assert (code, "Traceback" in err) == (-signal.SIGTERM, False), err
    counted = Counter(receiver.names())
    assert (counted["startup"], counted["shutdown"]) == (1, 1)
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    assert receiver.names()[-1] == "shutdown"
    query = (
        "SELECT count(*) FROM lifebeat WHERE kind = 'began' AND value <> '0' AND NOT EXISTS"  # what came to who stopped
        " (SELECT FROM procrastinate_jobs WHERE to_jsonb(id) = value AND status = 'todo')"  # lies there for the next
    )
    assert [(counted["heartbeat"],)] == postgresql.sql(query, database)
    assert "telemetryInstanceId" not in json.loads((installation.config / "config.json").read_text())


def test_the_id_that_config_gives(installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer) -> None:
    """An ID in config is the installation's, in a cluster as on one machine."""
    given = "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"
    installation.write(telemetryInstanceId=given)
    process = installation.lifebeat("run", LIFEBEAT_ENGINE="procrastinate", LIFEBEAT_DATABASE=postgresql.schema())
    eventually(lambda: receiver.names() == ["startup"])
    end(process)
    assert {event["distinct_id"] for event in receiver.events} == {given}


def test_own_jobs_run_while_the_database_is_away(
    installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer
) -> None:
    """Without its database the process's own jobs run, shared ones wait, and it says so once; then all goes on."""
    database = postgresql.schema()
    (installation.directory / "noting.py").write_text("def note(context):\n    print('own', flush=True)\n")
    own = "  own:\n    run: noting:note\n    every: 200ms\n"
    (installation.config / "jobs.yaml").write_text(jobfile.packaged().read_text() + own)
    postgresql.stop()
    try:
        process = installation.lifebeat(
            "run", "--allow", "noting", LIFEBEAT_ENGINE="procrastinate", LIFEBEAT_DATABASE=database,
            PYTHONPATH=str(installation.directory),
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert any("are paused, others keep running" in line for line in process.stderr)
        assert [process.stdout.readline() for _ in range(8)] == ["own\n"] * 8
        assert receiver.names() == []
    finally:
        postgresql.start()
    eventually(lambda: receiver.names() == ["startup"])
    _, _, err = end(process)
    assert (err.count("are paused"), err.count("are resumed")) == (0, 1), err
    assert "Traceback" not in err
    assert receiver.names() == ["startup", "shutdown"]


def doing(postgresql: PostgreSQL, cluster: Cluster) -> set[tuple[str, int]]:
    """The runs, by job and instant in seconds, that are under way as far as the database knows."""
    if postgresql.sql("SELECT to_regclass('procrastinate_jobs')", cluster.database) == [(None,)]:
        return set()
    instant = "(args->>'timestamp')::bigint / 1000000"
    query = f"SELECT args->>'job', {instant} FROM procrastinate_jobs WHERE status = 'doing'"
    return {(job, second) for job, second in postgresql.sql(query, cluster.database)}


def test_a_database_that_goes_and_comes(installation: Installation, postgresql: PostgreSQL) -> None:
    """Runs that end while PostgreSQL is away have ended; then all goes on, nothing missed, nothing twice, said once."""
    cluster = Cluster(
        installation, postgresql.schema(), jobs=2, every="1s", seconds=1.5, fields="max_instances: 9, coalesce: false"
    )
    cluster.start(2)
    cluster.await_instants(1, 20)
    under_way = eventually(lambda: doing(postgresql, cluster))
    postgresql.stop()
    try:
        eventually(lambda: under_way <= {(run.job, round(run.instant)) for run in cluster.runs()})
    finally:
        postgresql.start()
    back = time.time()
    eventually(lambda: sum(run.begun > back for run in cluster.runs()) >= 4)
    eventually(lambda: missed(cluster.runs(), 1.0) == [])
    said = cluster.end()
    assert twice(cluster.begun()) == []
    for one in said:
        paused, resumed = one.count("are paused"), one.count("are resumed")
        assert (paused, "Traceback" in one, "psycopg" in one) == (resumed, False, False)
        assert paused <= 1


def test_a_slow_job_and_a_failing_one(installation: Installation, postgresql: PostgreSQL) -> None:
    """A job that takes longer than its interval does not overlap itself in a process.

    One that fails says so with its traceback, once when it begins to fail; each run is remembered.
    """
    cluster = Cluster(installation, postgresql.schema(), jobs=1, every="200ms", seconds=0.5)
    with (installation.directory / "noting.py").open("a") as file:
        file.write("\ndef fail():\n    raise ValueError('no paper')\n")
    with (installation.config / "jobs.yaml").open("a") as file:
        file.write("  boom: {run: 'noting:fail', every: 1s, once: application}\n")
    cluster.start()
    eventually(lambda: len(history.read(installation.config / "lifebeat", job="boom", failed=True)) > 2)
    cluster.await_instants(4, 60)
    [errors] = cluster.end()
    assert overlapping(cluster.runs(), 0.5) == []
    assert twice(cluster.runs()) == []
    assert (errors.count("job boom failed"), errors.count("ValueError: no paper")) == (1, 1)


@pytest.mark.soak
def test_a_job_is_started_by_hand_and_paused(installation: Installation, postgresql: PostgreSQL) -> None:
    """An order goes through the engine's queue, also while the job is paused, and is remembered as made by hand."""
    (installation.directory / "noting.py").write_text("def note():\n    print('ran', flush=True)\n")
    (installation.config / "jobs.yaml").write_text(
        "jobs:\n  a: {run: 'noting:note', every: 24h, once: application}\n"
        "  b: {run: 'noting:note', every: 1s, once: application}\n"
    )
    process = installation.lifebeat(
        "run", "--allow", "noting", LIFEBEAT_ENGINE="procrastinate", LIFEBEAT_DATABASE=postgresql.schema(),
        PYTHONPATH=str(installation.directory),
    )  # fmt: skip

    def runs(job: str) -> list[tuple[str, bool]]:
        found = json.loads(installation.run("runs", job, "--json", "--config", "config")[1] or "[]")
        return [(one["outcome"], one["by_hand"]) for one in found]

    def order(*words: str) -> str:
        return installation.run(
            *words, "--config", "config", "--allow", "noting", PYTHONPATH=str(installation.directory)
        )[1]

    eventually(lambda: ("ok", False) in runs("b"))
    assert order("pause", "a") == "a: paused\n"
    assert "ordered" in order("start", "a")
    eventually(lambda: runs("a") == [("ok", True)])
    assert order("pause", "b") == "b: paused\n"
    seen: list[int] = []
    for number in (2, 3):  # each takes longer than the interval of the other job
        order("start", "a")
        eventually(lambda number=number: runs("a") == [("ok", True)] * number)
        seen.append(len(runs("b")))
    assert seen[0] == seen[1]
    end(process)


def test_nothing_shared(installation: Installation) -> None:
    """With telemetry off and nothing else that the processes share, the database is not even looked for."""
    (installation.directory / "noting.py").write_text("def note(context):\n    print('own', flush=True)\n")
    own = "  own:\n    run: noting:note\n    every: 500ms\n"
    (installation.config / "jobs.yaml").write_text(jobfile.packaged().read_text() + own)
    process = installation.lifebeat(
        "run", "--allow", "noting", LIFEBEAT_ENGINE="procrastinate", TELEMETRY_ENABLED="false",
        LIFEBEAT_DATABASE="postgresql://nobody@127.0.0.1:1/none", PYTHONPATH=str(installation.directory),
    )  # fmt: skip
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(3)] == ["own\n"] * 3
    _, _, err = end(process)
    assert "PostgreSQL" not in err


@pytest.mark.parametrize(
    ("words", "engine", "message"),
    [
        (("--engine", "quartz"), "", "command line (--engine): 'quartz' is not an engine; expected 'apscheduler'"),
        ((), "procrastinate", "environment (LIFEBEAT_ENGINE): 'procrastinate' needs a PostgreSQL"),
        (("--engine", "celery"), "", "'celery' needs a Redis"),
        (("--engine", "procrastinate", "--database", "postgres:/x y"), "", "the database's URL cannot be read"),
    ],
    ids=["unknown", "no database", "celery", "no URL"],
)
def test_mistakes(
    words: tuple[str, ...],
    engine: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An engine that cannot be is said with its place, and nothing starts."""
    monkeypatch.setenv("LIFEBEAT_ENGINE", engine)
    monkeypatch.delenv("LIFEBEAT_DATABASE", raising=False)
    assert main(["run", *words]) == 3
    assert message in capsys.readouterr().err


HOST = """
    import asyncio, logging, os
    import procrastinate
    from lifebeat.engines import procrastinate as engine

    logging.basicConfig(level=logging.WARNING)
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["DATABASE"]))

    @app.periodic(cron="* * * * * */1")
    @app.task
    def own(timestamp):
        print("own", flush=True)

    handle = engine.attach(app, app_name="notes", app_version="1.4.2", allow=["noting"])

    async def main():
        async with app.open_async():
            await app.run_worker_async()

    asyncio.run(main())
    print("ended", flush=True)
"""
MAKE_TABLES = """
    import os, procrastinate

    app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=os.environ["DATABASE"]))
    with app.open():
        app.schema_manager.apply_schema()
"""


def test_a_host_with_its_own_worker(
    installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer
) -> None:
    """In a host's Procrastinate worker Lifebeat lives as long as the worker, and the host's own tasks run on."""
    cluster = Cluster(installation, postgresql.schema(), jobs=1, every="1s", telemetry=True)
    environ = {"DATABASE": cluster.database, "RUNS": str(cluster.runs_file), "PYTHONPATH": str(installation.directory)}
    assert installation.script(MAKE_TABLES, **environ).wait(20) == 0
    process = installation.script(HOST, **environ)
    cluster.await_instants(2, 20)
    eventually(lambda: receiver.names() == ["startup"])
    code, out, err = end(process)
    assert receiver.names() == ["startup", "shutdown"], err
    assert (code, "ended" in out, "own" in out) == (0, True, True), err
    assert twice(cluster.runs()) == []


def test_older_tables(installation: Installation, postgresql: PostgreSQL) -> None:
    """Tables of a Procrastinate that is too old are left as they are, and one line says what to do."""
    installation.write(telemetryShutdownTimeout="2s")
    database = postgresql.schema()
    postgresql.sql("CREATE TABLE procrastinate_jobs (id bigint)", database)
    process = installation.lifebeat("run", LIFEBEAT_ENGINE="procrastinate", LIFEBEAT_DATABASE=database)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "WARNING" in line)
    assert "an older Procrastinate; apply its migrations" in line
    _, _, err = end(process)
    assert "Traceback" not in err
    columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'procrastinate_jobs' AND table_schema"
    assert postgresql.sql(f"{columns} = current_schema()", database) == [(1,)]


# -- long runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.parametrize("workers", [2, 8])
def test_many_instants(installation: Installation, postgresql: PostgreSQL, workers: int) -> None:
    """Ten jobs on a grid of 2 s: each (job, instant) exactly once; ``INSTANTS`` says how many."""
    cluster = Cluster(installation, postgresql.schema(), jobs=10, every="2s")
    cluster.start(workers)
    instants = int(os.environ.get("INSTANTS", "250"))
    cluster.await_instants(instants, instants * 2 + 100)
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
def test_kills(installation: Installation, postgresql: PostgreSQL) -> None:
    """Twenty kill -9 of workers at random moments: none missed, none twice."""
    cluster = Cluster(installation, postgresql.schema(), jobs=10, every="2s")
    cluster.start(3)
    cluster.await_instants(2, 30)
    chance = random.Random(20)
    for _ in range(20):
        time.sleep(chance.uniform(0.5, 3.5))
        cluster.kill(chance.choice(cluster.processes))
        cluster.start(1)
    time.sleep(35)  # a run that was cut short is run again after 20 s
    cluster.end()
    runs = cluster.runs()
    print(
        f"\n20 kills: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}, "
        f"latest {max(run.begun - run.instant for run in runs):.1f} s late"
    )
    assert twice(runs) == []
    assert missed(runs, 2.0) == []


@pytest.mark.soak
def test_freezes(installation: Installation, postgresql: PostgreSQL) -> None:
    """A process that is frozen for 9 s and goes on runs nothing twice."""
    cluster = Cluster(installation, postgresql.schema(), jobs=10, every="2s")
    processes = cluster.start(2)
    cluster.await_instants(2, 30)
    for number in range(4):
        freeze(processes[number % 2], 9)
        time.sleep(4)
    cluster.end()
    runs = cluster.runs()
    print(f"\n4 freezes of 9 s: {len(runs)} runs, twice {len(twice(runs))}, missed {len(missed(runs, 2.0))}")
    assert twice(runs) == []
    assert missed(runs, 2.0) == []


@pytest.mark.soak
def test_an_outage(installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer) -> None:
    """PostgreSQL away for 20 s while jobs run: nothing missed, nothing twice, one startup and one shutdown."""
    cluster = Cluster(
        installation, postgresql.schema(), jobs=10, every="10s", telemetry=True, seconds=12.0,
        fields="max_instances: 9, coalesce: false",
    )  # fmt: skip
    cluster.start(3)
    cluster.await_instants(2, 60)
    postgresql.stop()
    time.sleep(20)
    postgresql.start()
    back = time.time()
    eventually(lambda: sum(run.begun > back for run in cluster.runs()) >= 50, 120)
    first = min(run.begun for run in cluster.runs() if run.begun > back) - back
    said = cluster.end()
    runs = cluster.runs()
    print(f"\naway for 20 s: back after {first:.1f} s, twice {len(twice(runs))}, missed {len(missed(runs, 10.0))}")
    assert twice(runs) == []
    assert missed(runs, 10.0) == []
    assert Counter(receiver.names()) == {"startup": 1, "shutdown": 1}
    assert all(one.count("are paused") == one.count("are resumed") == 1 for one in said), said


@pytest.mark.soak
def test_a_host_that_waits_for_a_long_run(installation: Installation, postgresql: PostgreSQL) -> None:
    """A host's worker that is told to stop, and waits for a run, keeps that run for itself."""
    cluster = Cluster(installation, postgresql.schema(), jobs=1, every="5s", seconds=45.0)
    environ = {"DATABASE": cluster.database, "RUNS": str(cluster.runs_file), "PYTHONPATH": str(installation.directory)}
    assert installation.script(MAKE_TABLES, **environ).wait(20) == 0
    host = installation.script(HOST, **environ)
    eventually(cluster.begun)
    cluster.start()
    host.send_signal(signal.SIGTERM)
    _, err = host.communicate(timeout=90)
    assert (host.returncode, "Traceback" in err) == (0, False), err
    # It would have begun twenty to thirty seconds later, too.
    assert host.pid in {run.pid for run in cluster.runs()}
    cluster.await_instants(2, 120)
    assert twice(cluster.begun()) == []


@pytest.mark.soak
@pytest.mark.parametrize("away", [0.0, 25.0])
def test_a_long_run_and_a_restart(installation: Installation, postgresql: PostgreSQL, away: float) -> None:
    """Runs that take longer than a dead worker is waited for outlast a restart, and an outage, and are not begun again.

    Other shared runs go on meanwhile, also where there is only one process.
    """
    cluster = Cluster(
        installation, postgresql.schema(), jobs=2, every="15s", seconds=70.0, fields="max_instances: 9, coalesce: false"
    )
    cluster.start()
    eventually(lambda: len(doing(postgresql, cluster)) >= 2, 40)
    postgresql.stop()
    time.sleep(away)
    postgresql.start()
    eventually(lambda: len(doing(postgresql, cluster)) >= 6, 60)
    cluster.start()  # which takes workers that it has not heard of for dead
    eventually(lambda: len(cluster.runs()) >= 10, 200)
    assert twice(cluster.begun()) == []
    assert missed(cluster.runs(), 15.0) == []

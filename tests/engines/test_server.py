"""What happens to the server while an application runs on it: prints what was twice or missed, and counts the truth.

A line for each fault, as in docs/cluster.md. PgBouncer is tried where ``PGBOUNCER`` names the program.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg.conninfo
import pytest

from celerycluster import CeleryCluster
from cluster import Cluster, Run, lateness, missed, twice
from hosts import eventually
from proxy import Proxy
from redisserver import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from hosts import Installation
    from lifebeat.testing import PostHogServer
    from postgresql import PostgreSQL

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("postgresql")]

PROCESSES = 3
JOBS = ("tick-0", "tick-1", "tick-2")
AWAY = float(os.environ.get("AWAY_SECONDS", "20"))
# Without time-outs Celery's own worker waits for ever on a connection that was dropped without a word.
OPTIONS = {
    "visibility_timeout": 30,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
}
PGBOUNCER = """
[databases]
* = host={socket} port=5432 user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
logfile = {directory}/log
ignore_startup_parameters = extra_float_digits
"""


def judge(cluster: Cluster, receiver: PostHogServer, fault: str, disturb: Callable[[], None], *, kept: bool) -> None:
    """Run, disturb, run on, and stop: nothing twice or missed, one startup and one shutdown; prints a line.

    Of a server that has lost its data (not ``kept``) only the counts are asked: what was queued is gone with it.
    """
    cluster.await_instants(3, 90)
    disturb()
    back = time.time()
    fresh = eventually(lambda: [run for run in cluster.runs() if run.instant > back], 120)
    resumed = min(run.begun for run in fresh) - back
    eventually(lambda: all(any(run.instant > back + 10 and run.job == job for run in cluster.runs()) for job in JOBS))
    settled = time.time() - 5

    def so_far() -> list[Run]:
        return [run for run in cluster.runs() if run.instant <= settled]

    if kept:
        with contextlib.suppress(AssertionError):  # which are missed is said at the end
            eventually(lambda: missed(so_far(), 1.0) == [], 120)
    said = cluster.end()
    eventually(lambda: receiver.names().count("shutdown"), 20)
    runs, names = so_far(), receiver.names()
    startups, shutdowns = names.count("startup"), names.count("shutdown")
    print(
        f"\n| {fault} | {len(runs)} | {len(twice(runs))} | {len(missed(runs, 1.0))} | {startups} | {shutdowns} ",
        end="",
    )
    print(f"| {resumed:.1f} s | {lateness(runs)[0] * 1000:.0f} ms |")
    assert (startups, shutdowns) == (1, 1)
    assert not kept or (twice(runs), missed(runs, 1.0)) == ([], [])
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    assert not any("lifebeat/" in line for one in said for line in one.split("Traceback")[1:]), said


def again(seconds: float, every: float, what: Callable[[], object]) -> None:
    """Do something again and again for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        what()
        time.sleep(every)


# -- PostgreSQL --------------------------------------------------------------------------------------------------------


class Faults:
    """What can happen to PostgreSQL, and what lies before it. Each returns when it is over."""

    def __init__(self, server: PostgreSQL, name: str, proxy: Proxy) -> None:
        self.server = server
        self.name = name
        self.proxy = proxy

    def cut(self) -> None:
        """A proxy cuts all connections every two seconds."""
        again(20, 2, self.proxy.cut)

    def deaf(self) -> None:
        """A proxy stops reading."""
        self.proxy.is_deaf = True
        time.sleep(AWAY)
        self.proxy.is_deaf = False

    def forget(self) -> None:
        """A proxy drops old connections without a word; new ones work."""
        self.proxy.forget()

    def terminate(self) -> None:
        """An administrator terminates backends, a hundred and more."""
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'lifebeat'"
        ended = 0
        while ended < 100:
            ended += self.server.sql(query)[0][0]
            time.sleep(0.2)

    def exhaust(self) -> None:
        """Others have taken all connections, and ours are cut."""
        with contextlib.ExitStack() as taken:
            query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'lifebeat'"
            taken.enter_context(psycopg.connect(self.server.url, autocommit=True)).execute(query.encode())
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    taken.enter_context(psycopg.connect(self.server.url))
            time.sleep(AWAY)

    def idle(self) -> None:
        """The server ends sessions that are idle for two seconds."""
        self.server.sql("ALTER SYSTEM SET idle_session_timeout = '2s'")
        self.server.sql("SELECT pg_reload_conf()")
        time.sleep(30)
        self.server.sql("ALTER SYSTEM RESET idle_session_timeout")
        self.server.sql("SELECT pg_reload_conf()")

    def empty(self) -> None:
        """The database is dropped, and made again without anything in it."""
        self.server.sql(f"DROP DATABASE {self.name} WITH (FORCE)")
        self.server.sql(f"CREATE DATABASE {self.name}")

    def restart(self) -> None:
        """The server restarts every five seconds for a minute."""
        again(60, 5, self.server.restart)

    def away(self) -> None:
        """The server is away."""
        self.server.stop()
        time.sleep(AWAY)
        self.server.start()

    def nothing(self) -> None:
        """Nothing happens, for as long as it takes to see it."""
        time.sleep(20)


@contextlib.contextmanager
def pooler(postgresql: PostgreSQL, directory: Path) -> Generator[int]:
    """A PgBouncer in transaction mode; its port."""
    if not (program := os.environ.get("PGBOUNCER")):
        pytest.skip("PGBOUNCER names no program")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    directory.chmod(0o777)
    file = directory / "pgbouncer.ini"
    file.write_text(PGBOUNCER.format(socket=postgresql.socket.parent, port=port, directory=directory))
    process = subprocess.Popen([program, str(file)], user=postgresql.user, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "fault",
    ["cut", "deaf", "forget", "terminate", "exhaust", "idle", "empty", "restart", "away", "pooler", "pooler-restart"],
)
def test_procrastinate(installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer, fault: str) -> None:
    """Three processes on PostgreSQL outlast what happens to it, or is before it all the time."""
    name = f"server_{fault.replace('-', '_')}"
    postgresql.sql(f"CREATE DATABASE {name}")
    proxy = Proxy(postgresql.connect)
    with contextlib.ExitStack() as stack:
        stack.callback(proxy.close)
        port = proxy.port
        if fault.startswith("pooler"):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            port = stack.enter_context(pooler(postgresql, directory))
        url = psycopg.conninfo.make_conninfo(postgresql.url, host="127.0.0.1", port=port, dbname=name)
        cluster = Cluster(installation, url, jobs=3, every="1s", telemetry=True, fields="coalesce: false")
        cluster.start(PROCESSES)
        faults = Faults(postgresql, name, proxy)
        disturb = {"pooler": faults.nothing, "pooler-restart": faults.away}.get(fault) or getattr(faults, fault)
        judge(cluster, receiver, f"Procrastinate: {fault}", disturb, kept=fault != "empty")


# -- Redis -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["cut", "deaf", "forget", "kill", "empty", "lose", "restart", "away"])
def test_celery(installation: Installation, receiver: PostHogServer, fault: str) -> None:
    """Three workers on Redis outlast what happens to it; a worker that Celery ends itself is started again."""
    server = RedisServer()
    proxy = Proxy(lambda: socket.create_connection(("127.0.0.1", server.port)))
    cluster = CeleryCluster(
        installation, server.url.replace(str(server.port), str(proxy.port)), jobs=3, every="1s", telemetry=True,
        fields="coalesce: false", lifebeat_gone_after=30, broker_connection_retry_on_startup=True,
        broker_transport_options=OPTIONS,
    )  # fmt: skip
    over = threading.Event()

    def supervise() -> None:
        while not over.wait(0.5):
            for process in [one for one in cluster.processes if one.poll() is not None]:
                cluster.processes.remove(process)
                cluster.worker("-P", "solo")
                ended.append(process)

    def lose() -> None:
        server.stop()
        server.forget()
        server.start()

    def deaf() -> None:
        proxy.is_deaf = True
        time.sleep(AWAY)
        proxy.is_deaf = False

    def restart() -> None:
        server.stop()
        server.start()

    def away() -> None:
        server.stop()
        time.sleep(AWAY)
        server.start()

    faults: dict[str, Callable[[], Any]] = {
        "cut": lambda: again(20, 2, proxy.cut),
        "deaf": deaf,
        "forget": proxy.forget,
        "kill": lambda: again(20, 0.5, lambda: server.client().client_kill_filter(_type="normal")),
        "empty": server.empty,
        "lose": lose,
        "restart": lambda: again(60, 5, restart),
        "away": away,
    }
    ended: list[Any] = []
    supervisor = threading.Thread(target=supervise, daemon=True)
    try:
        for _ in range(PROCESSES):
            cluster.worker("-P", "solo")
        eventually(lambda: server.client().zcard("lifebeat:{notes}:members") == PROCESSES, 90)

        def disturb() -> None:
            supervisor.start()
            faults[fault]()
            time.sleep(5)
            over.set()
            supervisor.join()

        judge(cluster, receiver, f"Celery: {fault}", disturb, kept=fault not in {"empty", "lose"})
        print(f"  workers that Celery ended: {len(ended)}")
    finally:
        over.set()
        cluster.drop()
        proxy.close()
        server.close()

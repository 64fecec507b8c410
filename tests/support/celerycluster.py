"""One application in workers and beats of Celery, with jobs that write down each of their runs."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from cluster import Cluster
from hosts import eventually

if TYPE_CHECKING:
    import subprocess

    from hosts import Installation

APP = """
import json, os
from celery import Celery
from lifebeat.engines.celery import attach

app = Celery("notes", broker=os.environ["BROKER"])
app.conf.update(json.loads(os.environ["CONF"]))
handle = attach(app, app_name="notes", app_version="1.4.2", allow=["noting"])
"""


# A child of a pool that ends a task while the pool is ending waits for 30 s (billiard's guarantee).
STOP = 45.0


class CeleryCluster(Cluster):
    """Workers and beats on one Redis."""

    def __init__(
        self,
        installation: Installation,
        url: str,
        *,
        jobs: int,
        every: str,
        telemetry: bool = False,
        more: str = "",
        **conf: Any,
    ) -> None:
        super().__init__(
            installation, url, jobs=jobs, every=every, telemetry=telemetry, fields=", ".join(more.splitlines())
        )
        (installation.directory / "app.py").write_text(APP)
        self.conf = conf
        self.beats: list[subprocess.Popen[str]] = []

    def celery(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start a program of Celery's; its output is in files."""
        import json

        made = self.installation.start(
            sys.executable, "-m", "celery", "-A", "app", *args,
            BROKER=self.database, CONF=json.dumps(self.conf), RUNS=str(self.runs_file),
            PYTHONPATH=str(self.installation.directory), **environ,
        )  # fmt: skip
        self.processes.append(made)
        return made

    def beat(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start a beat."""
        self.beats.append(self.celery("beat", "--loglevel", "INFO", *args, **environ))
        return self.beats[-1]

    def worker(self, *args: str, concurrency: int = 2, **environ: str) -> subprocess.Popen[str]:
        """Start a worker."""
        name = f"worker{len(self.installation.started)}@here"
        return self.celery(
            "worker", "-c", str(concurrency), "-n", name, "--without-gossip", "--without-mingle",
            "--loglevel", "WARNING", *args, **environ,
        )  # fmt: skip

    def end(self) -> list[str]:
        """SIGTERM to the beats, and when nothing is left to do to the workers; returns what they said."""
        said = [self.stop(process) for process in list(self.processes) if process in self.beats]
        eventually(lambda: not self._client().exists("celery", "unacked"))
        return said + super().end()

    def stop(self, process: subprocess.Popen[str]) -> str:
        """SIGTERM to one, and wait; returns what it said."""
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=STOP)
        self.processes.remove(process)
        return said

    def _client(self) -> Any:
        import redis

        client: Any = redis.Redis
        return client.from_url(self.database)

    def drop(self) -> None:
        """Kill -9 all, where nobody asks how they end."""
        for process in list(self.processes):
            self.kill_all_of(process)

    def kill_all_of(self, process: subprocess.Popen[str]) -> None:
        """Kill -9 a process and its children, as a machine does that loses power."""
        for pid in [process.pid, *children(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        self.kill(process)


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    import pathlib

    found = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in found.split()]

"""One application in workers of Celery, with jobs that write down each of their runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import Cluster

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

@app.task
def own(name):
    with open(os.environ["RUNS"] + "-own", "a") as file:
        print(name, file=file)
"""
# A child of a pool that ends a task while the pool is ending waits for 30 s (billiard's guarantee).
STOP = 45.0
# With these Celery gives what a dead worker had to another within seconds; an hour is its own.
REDELIVERY = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


class CeleryCluster(Cluster):
    """Workers on one broker.

    Args:
        installation: Their config.
        url: The broker.
        jobs: How many jobs they share.
        every: How often each runs.
        telemetry: Whether telemetry's jobs are there as well.
        fields: Further fields of each job, as the job file has them.
        conf: What the app's config says.
    """

    def __init__(
        self,
        installation: Installation,
        url: str,
        *,
        jobs: int,
        every: str = "1s",
        telemetry: bool = False,
        fields: str = "",
        **conf: Any,
    ) -> None:
        super().__init__(installation, url, jobs=jobs, every=every, telemetry=telemetry, fields=fields)
        (installation.directory / "app.py").write_text(APP)
        self.killed: set[int] = set()
        self.conf = {"lifebeat_gone_after": 3, **conf}

    def celery(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start a program of Celery's."""
        made = self.installation.start(
            sys.executable, "-m", "celery", "-A", "app", *args,
            BROKER=self.database, CONF=json.dumps(self.conf), RUNS=str(self.runs_file),
            PYTHONPATH=os.pathsep.join([str(self.installation.directory), os.environ.get("PYTHONPATH", "")]), **environ,
        )  # fmt: skip
        self.processes.append(made)
        return made

    def worker(self, *args: str, concurrency: int = 2, **environ: str) -> subprocess.Popen[str]:
        """Start a worker."""
        name = f"worker{len(self.installation.started)}@here"
        return self.celery(
            "worker", "-c", str(concurrency), "-n", name, "--without-gossip", "--without-mingle",
            "--loglevel", "WARNING", *args, **environ,
        )  # fmt: skip

    def stop(self, process: subprocess.Popen[str]) -> str:
        """SIGTERM to one, and wait; returns what it said."""
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=STOP)
        self.processes.remove(process)
        return said

    def drop(self) -> None:
        """Kill -9 all, where nobody asks how they end."""
        for process in list(self.processes):
            self.kill_all_of(process)

    def kill_all_of(self, process: subprocess.Popen[str]) -> None:
        """Kill -9 a process and its children, as a machine does that loses power."""
        pids = [process.pid, *children(process.pid)]
        self.killed |= {*pids}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.kill(process)

    def own_tasks(self) -> list[str]:
        """What the host's own tasks were called with, so far."""
        path = self.runs_file.with_name(f"{self.runs_file.name}-own")
        return path.read_text().split() if path.exists() else []


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(one) for one in found.split()]

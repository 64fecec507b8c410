"""One application in several processes on an engine, with jobs that write down each of their runs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from hosts import eventually
from lifebeat.jobfile import reader as jobfile

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from hosts import Installation

JOBS = """
import os, time

def write(name, context, begun):
    line = f"{context.job_id} {context.instant.timestamp():.6f} {os.getpid()} {begun:.6f}\\n"
    file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)

def note(context, seconds=0.0):
    begun = time.time()
    if seconds:
        write(os.environ["RUNS"] + "-begun", context, begun)
    time.sleep(seconds)
    write(os.environ["RUNS"], context, begun)
"""


class Run(NamedTuple):
    """One run of a job, as it wrote it down."""

    job: str
    instant: float
    pid: int
    begun: float


class Cluster:
    """Processes of ``lifebeat run`` on one database.

    Args:
        installation: Their config.
        database: Their database.
        jobs: How many jobs they share.
        every: How often each runs.
        telemetry: Whether telemetry's jobs are there as well.
        seconds: How long a run takes.
        fields: Further fields of each job, as the job file has them.
    """

    def __init__(
        self,
        installation: Installation,
        database: str,
        *,
        jobs: int,
        every: str,
        telemetry: bool = False,
        seconds: float = 0.0,
        fields: str = "",
    ) -> None:
        self.installation = installation
        self.database = database
        self.runs_file = installation.directory / "runs"
        (installation.directory / "noting.py").write_text(JOBS)
        if seconds:
            fields = f"args: {{seconds: {seconds}}}, {fields}"
        lines = [
            f"  tick-{number}: {{run: 'noting:note', every: {every}, once: application, {fields}}}\n"
            for number in range(jobs)
        ]
        shipped = jobfile.packaged().read_text(encoding="utf-8") if telemetry else "jobs:\n"
        (installation.config / "jobs.yaml").write_text(shipped + "".join(lines))
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, count: int = 1, **environ: str) -> list[subprocess.Popen[str]]:
        """Start processes."""
        made = [
            self.installation.lifebeat(
                "run",
                "--allow",
                "noting",
                LIFEBEAT_ENGINE="procrastinate",
                LIFEBEAT_DATABASE=self.database,
                RUNS=str(self.runs_file),
                PYTHONPATH=str(self.installation.directory),
                **environ,
            )
            for _ in range(count)
        ]
        self.processes += made
        return made

    def runs(self) -> list[Run]:
        """What has run so far."""
        return _read(self.runs_file)

    def begun(self) -> list[Run]:
        """What has begun so far, of jobs that take a while."""
        return _read(self.runs_file.with_name(f"{self.runs_file.name}-begun"))

    def kill(self, process: subprocess.Popen[str]) -> None:
        """Kill -9 a process."""
        process.kill()
        process.communicate()
        self.processes.remove(process)

    def end(self) -> list[str]:
        """SIGTERM to all, and wait; returns what they said."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=40)[1] for process in self.processes]
        self.processes.clear()
        return said

    def await_instants(self, count: int, timeout: float) -> None:
        """Wait until every job has run for so many instants."""
        eventually(lambda: min(Counter(run.job for run in self.runs()).values(), default=0) >= count, timeout)


def _read(path: Path) -> list[Run]:
    if not path.exists():
        return []
    text = path.read_text()
    rows = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]  # a line may be written just now
    return [Run(job, float(instant), int(pid), float(begun)) for job, instant, pid, begun in rows]


def twice(runs: list[Run]) -> list[tuple[str, float]]:
    """The (job, instant) that ran more than once."""
    counted = Counter((run.job, run.instant) for run in runs)
    return [key for key, number in counted.items() if number > 1]


def missed(runs: list[Run], interval: float) -> list[tuple[str, float]]:
    """The (job, instant) between a job's first run and its last that never ran."""
    found: list[tuple[str, float]] = []
    for job in {run.job for run in runs}:
        instants = {round(run.instant, 3) for run in runs if run.job == job}
        at = min(instants)
        while at < max(instants):
            if round(at, 3) not in instants:
                found.append((job, at))
            at += interval
    return found


def overlapping(runs: list[Run], seconds: float) -> list[Run]:
    """The runs that began in a process while another of the same job, which takes so long, was under way there."""
    found: list[Run] = []
    for job, pid in {(run.job, run.pid) for run in runs}:
        mine = sorted((run for run in runs if (run.job, run.pid) == (job, pid)), key=lambda run: run.begun)
        found += [later for before, later in pairwise(mine) if later.begun < before.begun + seconds]
    return found


def lateness(runs: list[Run]) -> tuple[float, float]:
    """How late runs began: the median and the 99th percentile, in seconds."""
    late = sorted(run.begun - run.instant for run in runs)
    return late[len(late) // 2], late[int(len(late) * 0.99)]


def freeze(process: subprocess.Popen[str], seconds: float) -> None:
    """SIGSTOP a process for a while, as a suspended machine would be."""
    with contextlib.suppress(ProcessLookupError):  # it may be killed meanwhile
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)

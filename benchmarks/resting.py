"""A process at rest after its first event was delivered: threads, wake-ups, CPU time and memory, over the bare host.

All sides rest at the same time and are read from outside, by ``/proc``, at the beginning and at the end of the window:
a process that measures itself does not rest. An hour is the window's figure, multiplied.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import measure
import nodejs
import servers
from measure import Side
from page import Goal, span, table

if TYPE_CHECKING:
    from collections.abc import Generator

HOST = """
import threading
from apscheduler.schedulers.background import BackgroundScheduler

scheduler = BackgroundScheduler()
{imports}
{before}
scheduler.start()
{after}
threading.Event().wait()
"""
OURS = {
    "imports": "import lifebeat",
    "before": 'lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")',
}
NODE = "{client}\nsetInterval(() => {{}}, 86400000)\n"
HOUR = 3600.0
WINDOW, SETTLING = 60.0, 12.0
THREADS_GOAL, WAKE_UPS_GOAL, MEGABYTES_GOAL = 1, 60, 30.0


@dataclass(frozen=True, slots=True)
class State:
    """A process as the kernel counts it.

    Attributes:
        threads: How many it has.
        wake_ups: How often its threads have begun to wait so far.
        cpu: The CPU time so far, in seconds.
        megabytes: Its resident memory.
        own: The part of it that is no other process's too.
    """

    threads: int
    wake_ups: int
    cpu: float
    megabytes: float
    own: float


def sides(url: str) -> dict[str, Side]:
    """All of them, by name."""
    on = {"TELEMETRY_API_KEY": "phc_test", "TELEMETRY_HOST": url}
    client = (
        'client = Posthog("phc_test", host=os.environ["TELEMETRY_HOST"]); client.capture("startup", distinct_id="x")'
    )
    found = [
        _side("bare"),
        _side("import posthog", imports="import posthog"),
        _side("posthog", on, imports="from posthog import Posthog", after=client),
        _side("lifebeat", on, **OURS),
        _side("lifebeat off", {"TELEMETRY_ENABLED": "false"}, **OURS),
    ]
    if nodejs.missing() is None:
        found += [
            nodejs.side("node", NODE.format(client="")),
            nodejs.side("posthog-node", NODE.format(client=nodejs.CLIENT + "capture('startup')"), TELEMETRY_HOST=url),
        ]
    return {side.name: side for side in found}


def _side(
    name: str, environ: dict[str, str] | None = None, *, imports: str = "", before: str = "", after: str = ""
) -> Side:
    return Side(name, HOST.format(imports=imports, before=before, after=after), environ or {})


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """The figures by side."""
    window, settling = (0.2, 0.5) if tiny else (WINDOW, SETTLING)
    with servers.serving("healthy") as server, contextlib.ExitStack() as stack:
        pids = {name: stack.enter_context(_resting(side)) for name, side in sides(server.url).items()}
        time.sleep(settling)
        before = {name: state(pid) for name, pid in pids.items()}
        time.sleep(window)
        after = {name: state(pid) for name, pid in pids.items()}
        requests, _ = server.count()
    if not tiny and requests < sum("posthog" in name or "lifebeat" in name for name in pids) - 2:
        raise SystemExit(f"{requests} requests arrived: not all had delivered their first event")
    return {
        "window": window,
        "sides": {
            name: {
                "threads": after[name].threads,
                "wake_ups": (after[name].wake_ups - before[name].wake_ups) / window * HOUR,
                "cpu": (after[name].cpu - before[name].cpu) / window * HOUR,
                "megabytes": after[name].megabytes,
                "own": after[name].own,
            }
            for name in pids
        },
    }


@contextlib.contextmanager
def _resting(side: Side) -> Generator[int]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        process = subprocess.Popen(
            side.placed(directory), cwd=directory, env=side.environment(directory), stderr=subprocess.DEVNULL
        )
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()


def state(pid: int) -> State:
    """The process as it is now."""
    process = Path("/proc") / str(pid)
    tasks = [found for task in (process / "task").iterdir() if (found := _task(task)) is not None]
    memory = _fields(process / "smaps_rollup", 1)
    return State(
        threads=len(tasks),
        wake_ups=sum(wake_ups for wake_ups, _ in tasks),
        cpu=sum(cpu for _, cpu in tasks),
        megabytes=memory["Rss"] / 1024,
        own=(memory["Private_Dirty"] + memory["Private_Clean"]) / 1024,
    )


def _task(task: Path) -> tuple[int, float] | None:
    """A thread's wake-ups and CPU time; ``None`` if it has just ended."""
    try:
        return _fields(task / "status", 1)["voluntary_ctxt_switches"], _run_time(task)
    except OSError:
        return None


def _run_time(task: Path) -> float:
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except (OSError, IndexError):
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


def _fields(path: Path, column: int) -> dict[str, int]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0].rstrip(":"): int(row[column]) for row in rows if len(row) > column and row[column].isdecimal()}


def added(found: dict[str, Any], name: str, figure: str) -> float:
    """What a side has more of than its bare host."""
    side, bare = found["sides"][name], found["sides"]["node" if name == "posthog-node" else "bare"]
    return side[figure] - bare[figure]


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    threads, wake_ups, megabytes = (added(found, "lifebeat", figure) for figure in ("threads", "wake_ups", "megabytes"))
    return [
        Goal(
            "threads at rest, over the bare host",
            f"≤ {THREADS_GOAL}",
            f"{threads:.0f}",
            f"`posthog` {added(found, 'posthog', 'threads'):.0f}",
            threads <= THREADS_GOAL,
        ),
        Goal(
            "wake-ups in an hour at rest, over the bare host",
            f"≤ {WAKE_UPS_GOAL}",
            f"{wake_ups:,.0f}",
            f"`posthog` {added(found, 'posthog', 'wake_ups'):,.0f}",
            wake_ups <= WAKE_UPS_GOAL,
        ),
        Goal(
            "memory at rest after the first delivery, over the bare host",
            f"≤ {MEGABYTES_GOAL:g} MB",
            f"{megabytes:.1f} MB",
            f"{added(found, 'import posthog', 'megabytes'):.1f} MB of that are `import posthog`",
            megabytes <= MEGABYTES_GOAL,
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """What the page says."""
    rows = [
        [
            name,
            f"{side['threads']}",
            f"{side['wake_ups']:,.0f}",
            span(side["cpu"]),
            f"{side['megabytes']:.1f} MB",
            "" if name in {"bare", "node"} else f"{added(found, name, 'megabytes'):.1f} MB",
        ]
        for name, side in found["sides"].items()
    ]
    headings = ["side", "threads", "wake-ups in an hour", "CPU in an hour", "memory", "over bare"]
    return (
        "## At rest\n\nHosts whose first event was delivered and that have nothing to do, watched for\n"
        f"{found['window']:g} s, all at the same time; the figures for an hour are that, multiplied. A wake-up is a\n"
        "voluntary context switch of any thread, memory the resident set.\n\n" + table(headings, rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

"""How late jobs begin: 1,000 jobs, one after the other, beside bare APScheduler.

Each job fires once in the time that is watched, 25 ms after the one before, one side after the other. Lateness is what
the clock says when the function begins, less the instant that it was due.
"""

from __future__ import annotations

import time
from typing import Any

import measure
from measure import Side
from page import Goal, span, table, times

# Where the grid of the instants begins: everybody computes it from the clock and the number of the job.
PREAMBLE = """
import threading

JOBS, GAP, BEGIN = int(os.environ["JOBS"]), float(os.environ["GAP"]), float(os.environ["BEGIN"])
late, over = [], threading.Event()

def due(number):
    return BEGIN + number * GAP

def note(number):
    late.append(time.time() - due(number))
    if len(late) >= JOBS:
        over.set()

def tell_all():
    if not over.wait(JOBS * GAP + 120):
        sys.exit(f"{len(late)} of {JOBS} fired")
    found = sorted(late[:JOBS])
    tell(p50=found[len(found) // 2], p99=found[len(found) * 99 // 100], most=found[-1], fired=len(late))
    os._exit(0)
"""
BARE = (
    PREAMBLE
    + """
from datetime import datetime, timezone
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"misfire_grace_time": None})
for number in range(JOBS):
    first = datetime.fromtimestamp(due(number), tz=timezone.utc)
    scheduler.add_job(note, IntervalTrigger(days=1, start_date=first), args=[number])
scheduler.start()
tell_all()
"""
)
OURS = (
    PREAMBLE
    + """
from datetime import datetime, timezone
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

firing = type(sys)("firing")
def job(number: int) -> None:
    note(number)
firing.job = job
job.__module__ = "firing"  # a function belongs to the module that defines it
sys.modules["firing"] = firing
JOB = "  job{0}: {{run: 'firing:job', every: 1d, phase: {1:.3f}s, once: ONCE, args: {{number: {0}}}}}"
lines = [JOB.format(number, due(number) % 86400) for number in range(JOBS)]
os.mkdir("config")
open("config/jobs.yaml", "w").write("jobs:\\n" + "\\n".join(lines) + "\\n")
scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", allow=["firing"])
scheduler.start()
tell_all()
"""
)
JOBS, GAP, GOAL = 1000, 0.025, 3.0
# Until the first job is due: by then a side has loaded its jobs and has nothing left to do but wait.
LEAD = 12.0


def sides() -> dict[str, str]:
    """The programs by the names of the sides."""
    return {
        "bare": BARE,
        "lifebeat": OURS.replace("ONCE", "process"),
        "lifebeat, once: application": OURS.replace("ONCE", "application"),
    }


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """Return the figures by side, one side after the other."""
    jobs, gap, lead = (10, 0.02, 2.0) if tiny else (JOBS, GAP, LEAD)
    found = {name: _run(name, jobs=jobs, gap=gap, begin=time.time() + lead) for name in sides()}
    return {"jobs": jobs, "gap": gap, "sides": found}


def _run(name: str, *, jobs: int, gap: float, begin: float) -> dict[str, float]:
    environ = {"JOBS": str(jobs), "GAP": str(gap), "BEGIN": f"{begin:.3f}", "TELEMETRY_ENABLED": "false"}
    return measure.once(Side(name, sides()[name], environ), timeout=jobs * gap + 300)


def goals(found: dict[str, Any]) -> list[Goal]:
    """Return what was to be shown."""
    ours, bare = found["sides"]["lifebeat, once: application"]["p50"], found["sides"]["bare"]["p50"]
    beside = f"{times(ours / bare)} of bare APScheduler ({span(bare)})"
    what = "lateness of a job with `once: application`, p50"
    return [Goal(what, f"≤ {GOAL:g} ×", span(ours), beside, ours <= GOAL * bare)]


def section(found: dict[str, Any]) -> str:
    """Return what the page says."""
    headings = ["side", "p50", "p99", "latest", "p50 against bare", "p99 against bare"]
    return (
        "## How late jobs begin\n\n"
        f"{found['jobs']:,} jobs of one file, each due {span(found['gap'])} after the one before. A job with\n"
        "`once: application` first claims its instant, on the disk, against the application's other processes.\n\n"
        + table(headings, _rows(found))
    )


def _rows(found: dict[str, Any]) -> list[list[str]]:
    bare = found["sides"]["bare"]
    return [
        [
            name,
            *(span(side[figure]) for figure in ("p50", "p99", "most")),
            *(times(side[figure] / bare[figure]) for figure in ("p50", "p99")),
        ]
        for name, side in found["sides"].items()
    ]


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

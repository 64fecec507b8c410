"""How late jobs begin: 1,000 jobs, one after the other, beside bare APScheduler and Celery's beat.

Each job fires once in the time that is watched, 25 ms after the one before, one side after the other; in the long run a
second after it, all sides at the same time. Lateness is what the clock says when the function begins, less the instant
that it was due; for Celery's beat, which runs no functions, when it hands the task to its broker (one in its own
memory, to its advantage).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import measure
from measure import Side
from page import Goal, span, table, times

if TYPE_CHECKING:
    from collections.abc import Callable

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
CELERY = (
    PREAMBLE
    + """
from datetime import datetime, timedelta, timezone
from celery import Celery, signals
from celery.beat import Scheduler, Service
from celery.schedules import schedule

app = Celery("firing", broker="memory://")
app.conf.enable_utc, app.conf.timezone = True, "UTC"
DAY = timedelta(days=1)

class Given(Scheduler):
    def setup_schedule(self):
        for number in range(JOBS):
            before = datetime.fromtimestamp(due(number), tz=timezone.utc) - DAY
            self.schedule[f"job{number}"] = self.Entry(
                name=f"job{number}", task="job", schedule=schedule(DAY, app=app), args=(number,),
                last_run_at=before, app=app)

@signals.after_task_publish.connect
def published(sender=None, body=None, **_):
    note(body[0][0])

service = Service(app, scheduler_cls=Given)
threading.Thread(target=service.start, daemon=True).start()
tell_all()
"""
)
JOBS, GAP, LONG_GAP, GOAL = 1000, 0.025, 1.0, 1.1
# Until the first job is due: by then a side has loaded its jobs and has nothing left to do but wait.
LEAD = 12.0


def sides() -> dict[str, str]:
    """The programs by the names of the sides."""
    return {
        "bare": BARE,
        "lifebeat": OURS.replace("ONCE", "process"),
        "lifebeat, once: application": OURS.replace("ONCE", "application"),
        "Celery beat": CELERY,
    }


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """The figures by side, one side after the other."""
    jobs, gap, lead = (10, 0.02, 2.0) if tiny else (JOBS, GAP, LEAD)
    run = partial(_run, jobs=jobs, gap=gap)
    if tiny:
        return {"jobs": jobs, "gap": gap, "sides": _at_once(run, time.time() + lead, gap)}
    found = {name: run(name, begin=time.time() + lead) for name in sides()}
    return {"jobs": jobs, "gap": gap, "sides": found}


def measured_long() -> dict[str, Any]:
    """The same with a second from job to job, all sides at the same time, each a quarter of a second after another."""
    run = partial(_run, jobs=JOBS, gap=LONG_GAP)
    return {"jobs": JOBS, "gap": LONG_GAP, "sides": _at_once(run, round(time.time() + 2 * LEAD), LONG_GAP)}


def _at_once(run: Callable[..., dict[str, float]], begin: float, gap: float) -> dict[str, dict[str, float]]:
    names = list(sides())
    with ThreadPoolExecutor(len(names)) as pool:
        share = gap / len(names)
        running = {name: pool.submit(run, name, begin=begin + number * share) for number, name in enumerate(names)}
        return {name: one.result() for name, one in running.items()}


def _run(name: str, *, jobs: int, gap: float, begin: float) -> dict[str, float]:
    environ = {"JOBS": str(jobs), "GAP": str(gap), "BEGIN": f"{begin:.3f}", "TELEMETRY_ENABLED": "false"}
    return measure.once(Side(name, sides()[name], environ), timeout=jobs * gap + 300)


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    ours, bare = found["sides"]["lifebeat"], found["sides"]["bare"]
    return [
        Goal(
            f"lateness of a job, {name}",
            f"≤ {GOAL} ×",
            span(ours[name]),
            f"{times(ours[name] / bare[name])} of bare APScheduler ({span(bare[name])})",
            ours[name] <= GOAL * bare[name],
            "what comes before the function: the run's instant, and the look whether the application is still there.",
        )
        for name in ("p50", "p99")
    ]


def section(found: dict[str, Any], long: dict[str, Any] | None = None) -> str:
    """What the page says."""
    headings = ["side", "p50", "p99", "latest", "p50 beside bare", "p99 beside bare"]
    text = (
        "## How late jobs begin\n\n"
        f"{found['jobs']:,} jobs of one file, each due {span(found['gap'])} after the one before. A job with\n"
        "`once: application` first claims its instant, on the disk, against the application's other processes.\n"
        "Celery's beat only hands a task on: its figure ends where a worker's begins.\n\n"
        + table(headings, _rows(found))
    )
    if long is None or "firing" not in long:
        return text
    return (
        f"{text}\nThe same with {span(long['firing']['gap'])} from job to job, measured once, on {long['date']}, by\n"
        "`make bench-long`:\n\n" + table(headings, _rows(long["firing"]))
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

"""Registering the jobs of a file, beside ``add_job`` of the same."""

from __future__ import annotations

import measure
from measure import Side
from page import Goal, span, table, times

SIZES = [100, 1_000]
ROUNDS, GOAL = 5, 1.5
WORK = "def work():\n    pass\n"
BARE = """
import random
from datetime import datetime, timedelta, timezone
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from work import work

scheduler = BackgroundScheduler(timezone="UTC")
scheduler.start()
# First runs spread over a day, as phases spread them: where a job comes in the store makes a difference there.
dice, now = random.Random(1), datetime.now(tz=timezone.utc)
before, start = memory(), time.perf_counter()
for number in range({jobs}):
    first = now + timedelta(seconds=dice.random() * 86400)
    scheduler.add_job(work, IntervalTrigger(days=1, seconds=number, start_date=first), id=f"job{{number}}")
seconds = time.perf_counter() - start
assert len(scheduler.get_jobs()) == {jobs}
tell(seconds=seconds, megabytes=memory() - before)
os._exit(0)
"""
OURS = """
from apscheduler.schedulers.background import BackgroundScheduler
from lifebeat import attach
import work

scheduler = BackgroundScheduler(timezone="UTC")
before, start = memory(), time.perf_counter()
attach(scheduler, app_name="notes", app_version="1", enabled=False, allow=["work"])
loaded = time.perf_counter()
scheduler.start()
end = time.perf_counter()
assert len(scheduler.get_jobs()) == {jobs}
tell(seconds=end - loaded, loading=loaded - start, total=end - start, megabytes=memory() - before)
os._exit(0)
"""


def job_file(jobs: int) -> str:
    """A job file of so many jobs."""
    return "jobs:\n" + "".join(
        f"  job{number}:\n    run: work:work\n    every: {86400 + number}s\n" for number in range(jobs)
    )


def measured(*, tiny: bool = False) -> dict[str, dict[str, dict[str, float]]]:
    """The figures by the number of jobs."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for jobs in [20] if tiny else SIZES:
        files = {"work.py": WORK, "config/jobs.yaml": job_file(jobs)}
        sides = [
            Side("add_job", BARE.format(jobs=jobs), files=files),
            Side("lifebeat", OURS.format(jobs=jobs), files=files),
        ]
        found[str(jobs)] = measure.compare(sides, rounds=1 if tiny else ROUNDS)
    return found


def goals(found: dict[str, dict[str, dict[str, float]]]) -> list[Goal]:
    """Return what was to be shown."""
    jobs, sides = list(found.items())[-1]
    ours, bare = sides["lifebeat"]["seconds"], sides["add_job"]["seconds"]
    beside = f"{times(ours / bare)} of bare `add_job` ({span(bare)})"
    return [Goal(f"registering {int(jobs):,} jobs", f"≤ {GOAL:g} ×", span(ours), beside, ours <= GOAL * bare)]


def section(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return what the page says."""
    rows = [
        [
            f"{int(jobs):,}",
            span(sides["add_job"]["seconds"]),
            span(sides["lifebeat"]["seconds"]),
            times(sides["lifebeat"]["seconds"] / sides["add_job"]["seconds"]),
            span(sides["lifebeat"]["loading"]),
        ]
        for jobs, sides in found.items()
    ]
    return (
        "## A job file of many jobs\n\nRegistering the jobs on a running scheduler against APScheduler's own "
        "`add_job`\nof the same, and what reading and checking the file takes before.\n\n"
        + table(["jobs", "`add_job`", "registering", "ratio", "loading and checking"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

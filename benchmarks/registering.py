"""Registering the jobs of a file, beside ``add_job`` of the same; and reading that file, beside PyYAML with libyaml."""

from __future__ import annotations

import measure
from measure import Side
from page import Goal, span, table, times

MANY = 100_000  # takes so long that once has to do
SIZES = [100, 1_000, 10_000, MANY]
ROUNDS = 5
_LIMIT = (
    "Lifebeat keeps more objects for each job, and Python's garbage collector goes through all there are again and "
    "again."
)
GOAL, LOADING_GOAL, GROWTH_GOAL = 1.5, 2.0, 1.1
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
import work, yaml, lifebeat.lifecycle.life, lifebeat.registration.triggers

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
YAML = """
import yaml

text = open("config/jobs.yaml").read()
before, start = memory(), time.perf_counter()
yaml.load(text, Loader=yaml.CSafeLoader)
tell(seconds=time.perf_counter() - start, megabytes=memory() - before)
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
            Side("yaml", YAML, files=files),
        ]
        found[str(jobs)] = measure.compare(sides, rounds=1 if tiny or jobs >= MANY else ROUNDS)
    return found


def goals(found: dict[str, dict[str, dict[str, float]]]) -> list[Goal]:
    """What was to be shown."""
    sides = found.get("10000") or next(iter(found.values()))
    ours, bare, yaml = sides["lifebeat"], sides["add_job"]["seconds"], sides["yaml"]["seconds"]
    many = found.get(str(MANY), sides)
    growth = many["lifebeat"]["seconds"] / ours["seconds"] / 10
    bare_growth = many["add_job"]["seconds"] / bare / 10
    return [
        Goal(
            "registering 10,000 jobs",
            f"≤ {GOAL:g} ×",
            span(ours["seconds"]),
            f"{times(ours['seconds'] / bare)} of bare `add_job` ({span(bare)})",
            ours["seconds"] <= GOAL * bare,
            _LIMIT,
        ),
        Goal(
            "a job's share at 100,000 jobs, beside 10,000",
            f"≤ {GROWTH_GOAL:g} ×",
            times(growth),
            f"bare `add_job`: {times(bare_growth)}",
            growth <= max(GROWTH_GOAL, bare_growth),
            _LIMIT,
        ),
        Goal(
            "loading and checking 10,000 jobs",
            f"≤ {LOADING_GOAL:g} ×",
            span(ours["loading"]),
            f"{times(ours['loading'] / yaml)} of `yaml.load` with the C loader ({span(yaml)})",
            ours["loading"] <= LOADING_GOAL * yaml,
        ),
    ]


def section(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """What the page says."""
    rows = [
        [
            f"{int(jobs):,}",
            f"{span(sides['add_job']['seconds'])}, {sides['add_job']['megabytes']:.0f} MB",
            f"{span(sides['lifebeat']['seconds'])}, {sides['lifebeat']['megabytes']:.0f} MB",
            times(sides["lifebeat"]["seconds"] / sides["add_job"]["seconds"]),
            span(sides["yaml"]["seconds"]),
            span(sides["lifebeat"]["loading"]),
            times(sides["lifebeat"]["loading"] / sides["yaml"]["seconds"]),
        ]
        for jobs, sides in found.items()
    ]
    headings = ["jobs", "`add_job`", "registering", "ratio", "`yaml.load` (C)", "loading and checking", "ratio"]
    return (
        "## A job file of many jobs\n\nRegistering the jobs on a running scheduler beside APScheduler's own `add_job`\n"
        "of the same, and reading and checking the file beside PyYAML with its C loader. Lifebeat's memory is that of\n"
        "both. APScheduler's own store looks for a job's place in Python, which takes longer for each job the more\n"
        "there are; Lifebeat's does it in C.\n\n" + table(headings, rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

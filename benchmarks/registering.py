"""Registering the jobs of a file, beside ``add_job`` of the same; and reading that file, beside PyYAML with libyaml."""

from __future__ import annotations

from measure import Side, compare

MANY = 100_000  # takes so long that once has to do
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
import work, yaml, lifebeat.lifecycle, lifebeat.triggers

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


def measured(sizes: list[int], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """The figures by the number of jobs."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for jobs in sizes:
        files = {"work.py": WORK, "config/jobs.yaml": job_file(jobs)}
        sides = [
            Side("add_job", BARE.format(jobs=jobs), files=files),
            Side("lifebeat", OURS.format(jobs=jobs), files=files),
            Side("yaml", YAML, files=files),
        ]
        found[str(jobs)] = compare(sides, rounds=rounds if jobs < MANY else 1)
    return found

"""``docs/migration.md``: what was due before is due after, for a year of instants, or the page says where not."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from celery.schedules import crontab
from croniter import croniter

from lifebeat.schedule.instants import Grid, to_datetime, to_instant
from lifebeat.schedule.triggers import Cron, Every, instants_of
from test_docs import read

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.schedule.triggers import Trigger

BEGIN, END = datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)
ROWS = [
    [re.sub(r"^`|`$", "", cell.strip()) for cell in row.strip("|").split(" | ")]
    for row in read("docs/migration.md").partition("## The same instants\n")[2].splitlines()
    if row.startswith("| `") and "crontab and" not in row and row.count("crontab(") == 1
]


def year(following: Callable[[datetime], datetime | None]) -> list[datetime]:
    """Every instant of a year, each computed from the one before."""
    found: list[datetime] = []
    moment = following(datetime.fromtimestamp(BEGIN.timestamp() - 1, UTC))
    while moment is not None and moment < END:
        found.append(moment.astimezone(UTC))
        moment = following(moment)
    return found


def by_job_file(trigger: Trigger) -> list[datetime]:
    """The year by the job file, in a process that started when the year did."""
    instants = instants_of(trigger, job_id="clean-up", seed="6f0e1c52", started_at=BEGIN.timestamp())
    assert instants is not None

    def following(moment: datetime) -> datetime | None:
        instant = instants.after(to_instant(moment))
        return None if instant is None else to_datetime(instant)

    return year(following)


def by_crontab(expression: str, timezone: str = "UTC") -> list[datetime]:
    """The year by a library that reads crontabs."""
    zone = ZoneInfo(timezone)
    return year(lambda moment: croniter(expression, moment.astimezone(zone)).get_next(datetime))


def by_celery(schedule: Any) -> list[datetime]:
    """The year by Celery's own crontab."""
    schedule.nowfun = lambda: BEGIN

    def following(moment: datetime) -> datetime:
        last, delta, _ = schedule.remaining_delta(moment)
        return last + delta

    return year(following)


def by_apscheduler(trigger: Any) -> list[datetime]:
    """The year by APScheduler's own trigger."""
    return year(lambda moment: trigger.get_next_fire_time(moment, datetime.fromtimestamp(moment.timestamp() + 1, UTC)))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_same_instants_for_a_year(row: list[str]) -> None:
    """Job file and crontab are the same; Celery and APScheduler are where the page says so, and only there."""
    expression, celery, apscheduler, said = row
    ours = by_job_file(Cron(expression, "UTC"))
    assert len(ours) >= 4
    assert by_crontab(expression) == ours
    names = {"crontab": crontab, "CronTrigger": functools.partial(CronTrigger, timezone="UTC")}
    others = by_celery(eval(celery, names)) == ours, by_apscheduler(eval(apscheduler, names)) == ours
    assert others == ((True, True) if said.startswith("all") else (False, False))


def section(name: str) -> tuple[str, dict[str, Any]]:
    """What a section of the page has before, and the jobs that it has after."""
    text = read("docs/migration.md").partition(f"\n## From {name}")[2].partition("\n## ")[0]
    before, after = re.findall(r"```(?:python|text|yaml)\n(.*?)```", text, re.DOTALL)
    return before, yaml.safe_load(after)["jobs"]


def test_flask_apschedulers_jobs() -> None:
    """The report is due as before; the interval is with ``phase: start``, and else on the grid that the page names."""
    before, after = section("Flask-APScheduler")
    found: dict[str, Any] = {}
    exec(before, found)
    interval, cron = found["Config"].JOBS
    assert (interval["trigger"], cron["trigger"]) == ("interval", "cron")
    assert by_job_file(Cron(after["report"]["cron"], "UTC")) == by_apscheduler(
        CronTrigger(hour=cron["hour"], minute=cron["minute"], timezone="UTC")
    )
    hours = timedelta(hours=interval["hours"])
    assert after["clean-up"]["every"] == f"{interval['hours']}h"
    started = datetime(2027, 1, 1, 0, 17, tzinfo=UTC)
    trigger: Any = IntervalTrigger(hours=interval["hours"], start_date=started + hours, timezone="UTC")
    theirs = year(lambda moment: trigger.get_next_fire_time(moment if moment > started else None, started))
    from_start = instants_of(Every(hours, "start"), job_id="clean-up", seed="", started_at=started.timestamp())
    assert isinstance(from_start, Grid)
    assert year(lambda moment: to_datetime(from_start.after(to_instant(max(moment, started))))) == theirs
    ours = by_job_file(Every(hours))
    assert ours != theirs
    assert ", ".join(f"{one:%H:%M}" for one in ours[:3]) in read("docs/migration.md")


def test_celerys_beat_schedule() -> None:
    """What beat was to send is due at the same instants."""
    before, after = section("Celery's")
    app = SimpleNamespace(conf=SimpleNamespace())
    exec(before, {"app": app})
    [entry] = app.conf.beat_schedule.values()
    assert by_celery(entry["schedule"]) == by_job_file(Cron(after["report"]["cron"], "UTC"))


def test_crontabs_line() -> None:
    """The line is due at the same instants, in summer as in winter."""
    before, after = section("crontab")
    timezone = re.search(r"CRON_TZ=(\S+)", before)
    assert timezone
    expression = " ".join(before.splitlines()[1].split()[:5])
    ours = by_job_file(Cron(after["report"]["cron"], after["report"]["timezone"]))
    assert by_crontab(expression, timezone[1]) == ours
    assert {one.hour for one in ours} == {1, 2}


def test_table_is_read() -> None:
    """Each row of the page is one of the cases above."""
    assert len(ROWS) == 6

"""``docs/migration.md``: what was due before is due after, for a year of instants, or the page says where not."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from celery.schedules import crontab
from croniter import croniter

from lifebeat.schedule.instants import to_datetime, to_instant
from lifebeat.schedule.triggers import Cron, CronInstants
from test_docs import read

if TYPE_CHECKING:
    from collections.abc import Callable

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


def by_job_file(expression: str) -> list[datetime]:
    """The year by the job file."""
    instants = CronInstants(Cron(expression, "UTC"))

    def following(moment: datetime) -> datetime | None:
        instant = instants.after(to_instant(moment))
        return None if instant is None else to_datetime(instant)

    return year(following)


def by_crontab(expression: str) -> list[datetime]:
    """The year by a library that reads crontabs."""
    return year(lambda moment: croniter(expression, moment).get_next(datetime))


def by_celery(written: str) -> list[datetime]:
    """The year by Celery's own crontab."""
    schedule: Any = eval(written.replace(")", ", nowfun=lambda: BEGIN)"), {"crontab": crontab, "BEGIN": BEGIN})

    def following(moment: datetime) -> datetime:
        last, delta, _ = schedule.remaining_delta(moment)
        return last + delta

    return year(following)


def by_apscheduler(written: str) -> list[datetime]:
    """The year by APScheduler's own trigger."""
    trigger: Any = eval(written.replace(")", ", timezone='UTC')"), {"CronTrigger": CronTrigger})
    return year(lambda moment: trigger.get_next_fire_time(moment, datetime.fromtimestamp(moment.timestamp() + 1, UTC)))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_same_instants_for_a_year(row: list[str]) -> None:
    """Job file and crontab are the same; Celery and APScheduler are where the page says so, and only there."""
    expression, celery, apscheduler, said = row
    ours = by_job_file(expression)
    assert len(ours) >= 4
    assert by_crontab(expression) == ours
    others = by_celery(celery) == ours, by_apscheduler(apscheduler) == ours
    assert others == ((True, True) if said.startswith("all") else (False, False))


def test_table_is_read() -> None:
    """Each row of the page is one of the cases above."""
    assert len(ROWS) == 6

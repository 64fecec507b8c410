"""``python manage.py runapscheduler``: the scheduler, in a process of its own next to the web workers."""

from typing import Any

from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.cron import CronTrigger
from django.conf import settings
from django.core.management.base import BaseCommand
from django_apscheduler.jobstores import DjangoJobStore
from django_apscheduler.models import DjangoJobExecution
from django_apscheduler.util import close_old_connections

import lifebeat


@close_old_connections
def delete_old_executions(max_age: int = 7 * 24 * 3600) -> None:
    """Forget the runs that are older than a week."""
    DjangoJobExecution.objects.delete_old_job_executions(max_age)


class Command(BaseCommand):
    """Runs until it is stopped."""

    help = "Runs the scheduled jobs."

    def handle(self, *_args: Any, **_options: Any) -> None:
        scheduler = BlockingScheduler(timezone=settings.TIME_ZONE)
        scheduler.add_jobstore(DjangoJobStore(), "default")
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key")
        scheduler.add_job(
            delete_old_executions,
            CronTrigger(day_of_week="mon", hour=0),
            id="delete_old_executions",
            replace_existing=True,
        )
        try:
            scheduler.start()
        except KeyboardInterrupt:
            scheduler.shutdown()

"""The host's own scheduler: some jobs are written here, others in config/jobs.yaml."""

from apscheduler.schedulers.blocking import BlockingScheduler

import lifebeat
from jobs import tidy

scheduler = BlockingScheduler()
scheduler.add_job(tidy.save, "interval", seconds=1, id="save")
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key", allow=["jobs.tidy"])

if __name__ == "__main__":
    scheduler.start()

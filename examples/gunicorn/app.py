"""A WSGI application with a scheduler, which gunicorn.conf.py starts and stops in each worker."""

from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask

import lifebeat

scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key")

app = Flask(__name__)


@app.get("/")
def index() -> dict[str, str]:
    return {"notes": "none yet"}

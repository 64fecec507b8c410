"""Flask with Flask-APScheduler."""

from flask import Flask
from flask_apscheduler import APScheduler

import lifebeat

app = Flask(__name__)

scheduler = APScheduler()
scheduler.init_app(app)
lifebeat.attach(scheduler.scheduler, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key")
scheduler.start()


@app.get("/")
def index() -> dict[str, str]:
    return {"notes": "none yet"}

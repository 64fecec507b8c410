"""A Celery application; its workers count as one application, on one machine or on many."""

from celery import Celery

from lifebeat.engines.celery import attach

app = Celery("notes", broker="redis://127.0.0.1:6379/0")
attach(app, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key")

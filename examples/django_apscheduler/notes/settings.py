"""As little as Django and the job store need."""

from pathlib import Path

SECRET_KEY = "replace-me"
USE_TZ = True
TIME_ZONE = "Europe/Stockholm"
INSTALLED_APPS = ["django_apscheduler", "notes"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(__file__).resolve().parent.parent / "db.sqlite3",
    }
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        # django-apscheduler warns of the runs of jobs that are not in its own store.
        "own_jobs": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: "'lifebeat:" not in record.getMessage(),
        }
    },
    "loggers": {"django_apscheduler.jobstores": {"filters": ["own_jobs"]}},
}

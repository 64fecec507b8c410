"""Two workers, each with the scheduler of its own that app.py has made; right with and without preloading."""

from typing import Any

wsgi_app = "app:app"
workers = 2
preload_app = True


def post_worker_init(worker: Any) -> None:
    from app import scheduler

    scheduler.start()


def worker_exit(server: Any, worker: Any) -> None:
    from app import scheduler

    if scheduler.running:
        scheduler.shutdown()

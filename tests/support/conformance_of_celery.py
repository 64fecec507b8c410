"""Coordinators on Redis for the conformance suite: of a web process, and of a process with a Celery worker in it."""

from __future__ import annotations

import logging
import threading
from typing import Any

import celery

from lifebeat.clock import SystemClock
from lifebeat.engines.celery.connection import Redis, Sender
from lifebeat.engines.celery.coordinator import CeleryCoordinator
from lifebeat.engines.celery.shared import Due, Shared
from lifebeat.engines.celery.worker import TASK, run_once
from lifebeat.log import get_logger

GONE_AFTER = 2.0  # longer than a busy machine keeps a process from renewing its row


def web(url: str) -> CeleryCoordinator:
    """Return the coordinator of a process without a worker, which runs what it claims."""
    shared = Shared(Redis(None, lambda: url), lambda: "notes", gone_after=GONE_AFTER)
    return CeleryCoordinator(shared, clock=SystemClock(), logger=get_logger())


def worker(url: str) -> CeleryCoordinator:
    """Return the coordinator of a process with a worker in it, to which the queue brings what anybody has claimed."""
    logging.disable()
    app: Any = celery.Celery("notes", broker=url, task_default_queue="conformance")
    sender = Sender(app)
    shared = Shared(Redis(app, lambda: None), lambda: "notes", gone_after=GONE_AFTER)
    made = CeleryCoordinator(
        shared, clock=SystemClock(), logger=get_logger(), hand_over=lambda due: sender.send(TASK, due)
    )

    def run(self: Any, job_id: str, instant: int) -> None:
        run_once(shared, Due(job_id, instant), self.request.id, coalesce=False, run=made.run_here)

    app.task(bind=True, name=TASK, acks_late=True)(run)
    controller = app.WorkController(app=app, pool="solo", concurrency=1, without_mingle=True, without_gossip=True)
    threading.Thread(target=controller.start, daemon=True).start()
    return made

"""Many machines on Celery, for those who have it: keys in Redis say whose an instant is, workers run it as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from lifebeat.engines.celery.connection import Redis
from lifebeat.engines.celery.coordinator import CeleryCoordinator
from lifebeat.engines.celery.shared import Shared
from lifebeat.log import get_logger

if TYPE_CHECKING:
    from lifebeat.embedding import HostArguments
    from lifebeat.handle import Lifebeat
    from lifebeat.lifecycle.application import Application

__all__ = ["CeleryCoordinator", "attach", "beside_workers", "look"]


def attach(app: Any, *, redis: str | None = None, **arguments: Unpack[HostArguments]) -> Lifebeat:
    """Put Lifebeat on a Celery app: its workers' lives are the application's, and their tasks its shared jobs' runs.

    Call this where the app is made, so that every worker does. A process that only sends tasks is not changed by it,
    nor is any beat. As with ``lifebeat.attach``, telemetry never makes this raise.

    Args:
        app: The host's ``celery.Celery``.
        redis: The URL of the Redis for claims; ``None`` for ``lifebeat_redis_url`` of the app's config, or the broker.
        arguments: ``app_name`` and ``app_version``, and the others of ``lifebeat.attach``.

    Returns:
        The handle.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    from lifebeat.engines.celery.worker import Attachment

    attached: Attachment | None = getattr(app, "lifebeat", None)
    if attached is not None:
        get_logger().warning("attach() was called twice for an app; the first call holds")
        return attached.handle
    app.lifebeat = attached = Attachment(app, arguments, redis)
    return attached.handle


def look(url: str, app_name: str) -> dict[str, Any]:
    """Return how an application stands in that Redis: who is in, what waits, and what ran last.

    Raises:
        Unavailable: Redis cannot be asked.
    """
    redis = Redis(None, lambda: url)
    try:
        return Shared(redis, lambda: app_name).status()
    finally:
        redis.close()


def beside_workers(application: Application, url: str) -> CeleryCoordinator:
    """Return the coordinator of a process without a Celery worker, such as a web application's: it runs what it claims.

    Args:
        application: What it runs.
        url: The Redis that the workers have too.
    """
    shared = Shared(Redis(None, lambda: url), lambda: application.source.read().app_name or "")
    return CeleryCoordinator(shared, clock=application.clock, logger=application.logger)

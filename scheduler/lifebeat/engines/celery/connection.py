"""Connections on the host's own terms: Kombu connects as the broker's URL, its TLS and its transport options say."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from lifebeat.once.protocol import Unavailable
from lifebeat.storage import forks

if TYPE_CHECKING:
    from collections.abc import Callable

# So long nothing of ours waits for a server that does not answer, where the host has not said otherwise.
_SECONDS = 3
_OPTIONS: dict[str, dict[str, Any]] = {
    "redis": {"socket_connect_timeout": _SECONDS, "socket_timeout": _SECONDS, "max_retries": 1},
    "amqp": {"read_timeout": _SECONDS, "write_timeout": _SECONDS, "confirm_publish": True, "max_retries": 1},
}
_MOST_CONNECTIONS = 64
NO_REDIS = (
    "the broker ({driver}) is not a Redis, and claims need one: set app.conf.lifebeat_redis_url, or call "
    "lifebeat.engines.celery.attach(app, redis=URL, …)"
)


class Redis:
    """The Redis for claims, the broker's or another.

    Args:
        app: The host's ``celery.Celery``; ``None`` where there is none.
        url: Returns the Redis for claims; ``None`` for the broker's.
    """

    def __init__(self, app: Any, url: Callable[[], str | None]) -> None:
        self._app: Any = app
        self._url = url
        self._made: tuple[int, Any] | None = None
        self._lock = threading.Lock()
        self.prefix: str = ""

    def client(self) -> Any:
        """Return a client, of this process alone: a pool's child has connections of its own."""
        if self._made is None or self._made[0] != os.getpid():
            with self._lock:
                self._made = (os.getpid(), self._make())
        return self._made[1]

    def close(self) -> None:
        """Close all connections."""
        if self._made is not None and self._made[0] == os.getpid():
            self._made[1].connection_pool.disconnect()

    def _make(self) -> Any:
        with forks.guard:
            import kombu
            import redis

        library: Any = kombu  # which ships no types
        url = self._url()
        name = "lifebeat_redis_options" if url else "broker_transport_options"
        given: dict[str, Any] = self._app.conf.get(name) or {} if self._app else {}
        # Kombu's client for prefixed keys knows the commands only that Kombu itself needs.
        self.prefix = given.get("global_keyprefix") or ""
        options = _bounded(given, "redis") | {"max_connections": _MOST_CONNECTIONS, "global_keyprefix": ""}
        connection: Any
        if url is not None:
            connection = library.Connection(url, transport_options=options)
        else:
            connection = self._app.connection_for_write(transport_options=options)
        if connection.transport.driver_type != "redis":
            raise Unavailable(NO_REDIS.format(driver=connection.transport.driver_type))
        made: Any = redis.Redis
        return made(connection_pool=connection.channel().pool)


class Sender:
    """Sends tasks, one at a time, over a connection of its own that waits for nothing longer than a few seconds.

    Args:
        app: The host's ``celery.Celery``.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._connection: Any = None
        self._producer: Any = None
        self._lock = threading.Lock()

    def send(self, task: str, args: tuple[Any, ...]) -> None:
        """Send a task.

        Raises:
            Unavailable: The broker cannot be reached, or does not take it.
        """
        if not self._lock.acquire(timeout=_SECONDS):
            raise Unavailable("the broker does not answer in time")
        try:
            self._send(task, args)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connection; the next task opens another."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            connection.collect(socket_timeout=0.1)

    def _send(self, task: str, args: tuple[Any, ...]) -> None:
        from kombu.exceptions import KombuError

        if self._connection is None:
            self._connection = self._connect()
        errors = (KombuError, OSError, *self._connection.connection_errors, *self._connection.channel_errors)
        policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}
        try:
            if self._producer is None:
                self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
            self._app.send_task(
                task, args, producer=self._producer, ignore_result=True, retry=True, retry_policy=policy
            )
        except errors as error:
            self.close()
            raise Unavailable(f"the broker cannot be reached ({type(error).__name__})") from error

    def _connect(self) -> Any:
        given = self._app.connection_for_write()
        options = _bounded(given.transport_options, given.transport.driver_type)
        return self._app.connection_for_write(transport_options=options, connect_timeout=_SECONDS)


def _bounded(given: dict[str, Any] | None, driver: str) -> dict[str, Any]:
    options = dict(given or {})
    return options | {name: options.get(name) or value for name, value in _OPTIONS.get(driver, {}).items()}

"""What has arrived at a server, and waiting for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self

from lifebeat.testing.messages import identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.testing.messages import Event, Request

_POLL = 0.02


class Arrivals:
    """The requests and events that arrived. Threads add to it while others look and wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._events: list[Event] = []
        self._connections: int = 0

    @property
    def requests(self) -> list[Request]:
        """Return every request that arrived whole, on any path, whatever the answer was."""
        with self._changed:
            return list(self._requests)

    @property
    def events(self) -> list[Event]:
        """Return every event of a batch that was answered with 200, in order, repeats included."""
        with self._changed:
            return list(self._events)

    def names(self) -> list[str]:
        """Return the names of ``events``."""
        return [str(event.get("event")) for event in self.events]

    def distinct(self) -> set[tuple[str, str, str, str]]:
        """Return ``events`` without repeats: (uuid, timestamp, event, distinct_id).

        Stricter than PostHog, which compares only the date of the timestamp.
        """
        return {identity(event) for event in self.events}

    def wait_for(self, condition: int | Callable[[Self], bool], timeout: float = 10.0) -> None:
        """Wait until so many events have arrived, or until ``condition(server)`` is true.

        Args:
            condition: A number of events, or a predicate.
            timeout: Seconds to wait at most.

        Raises:
            AssertionError: It did not come true; says what did arrive.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (len(self._events) >= condition if isinstance(condition, int) else condition(self)):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise AssertionError(f"PostHogServer: {_wanted(condition)} after {timeout:g} s; {self._arrived()}")
                # In short steps: the predicate may look at more than what arrives here.
                self._changed.wait(min(remaining, _POLL))

    def _arrived(self) -> str:
        requests = [f"{request.method} {request.path} ({len(request.raw)} bytes)" for request in self._requests]
        return f"events: {self.names()}; requests: {requests}; connections: {self._connections}"


def _wanted(condition: int | Callable[[Any], bool]) -> str:
    return f"fewer than {condition} events" if isinstance(condition, int) else f"{condition!r} is still not true"

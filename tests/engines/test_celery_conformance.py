"""The conformance suite on a real Redis, for processes with and without a Celery worker."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, ClassVar

import pytest

from conformance import Conformance
from conformance_of_celery import GONE_AFTER
from redisserver import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conformance import Start


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A Redis for the tests of one process."""
    made = RedisServer()
    yield made
    made.close()


class OnRedis(Conformance):
    """The suite on Redis."""

    gone_after: ClassVar[float] = 1.2 * GONE_AFTER

    @pytest.fixture
    def arguments(self, server: RedisServer) -> list[str]:
        """An application that nobody has run yet."""
        server.empty()
        return [server.url]

    def leave_unfinished(self, start: Start) -> str:
        """Kill the only process in its stop, after it has drained and before it has left."""
        killed = start()
        run: str = killed.ask("join")["run"]
        killed.ask("drain")
        killed.signal(signal.SIGKILL)
        time.sleep(self.gone_after)
        return run


@pytest.mark.soak
class TestWeb(OnRedis):
    """Processes that run what they claim."""

    factory = "conformance_of_celery:web"


class TestWorker(OnRedis):
    """Processes that hand over what they claim, and run what the queue brings them."""

    factory = "conformance_of_celery:worker"

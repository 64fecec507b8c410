"""The fakes we ship: a PostHog server on loopback, a clock, an environment in which a test may send.

For Lifebeat's own tests, for ``lifebeat demo`` and for the tests of applications that embed Lifebeat::

    with PostHogServer() as server:
        start_my_application(host=server.url, environ=telemetry_allowed())
        server.wait_for(1)
        assert server.names() == ["startup"]

``lifebeat.testing.context`` makes what a job function gets, ``lifebeat.testing.fixtures`` are fixtures of pytest, and
``lifebeat.testing.contract`` compares what can be sent with what was agreed to.
"""

from __future__ import annotations

from lifebeat.testing.clock import FakeClock
from lifebeat.testing.environment import telemetry_allowed
from lifebeat.testing.messages import Answer, Event, Request
from lifebeat.testing.server import PostHogServer

__all__ = ["Answer", "Event", "FakeClock", "PostHogServer", "Request", "telemetry_allowed"]

"""Fixtures of pytest for an application's own jobs and events.

An example::

pytest_plugins = ["lifebeat.testing.fixtures"]

def test_import_is_reported(job_context, posthog):
    nightly_import(job_context)
    assert posthog.names() == ["imported"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifebeat.testing.context import make_context
from lifebeat.testing.server import PostHogServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifebeat.context import JobContext


@pytest.fixture
def posthog() -> Iterator[PostHogServer]:
    """Return a PostHog on loopback, which remembers what it is sent."""
    with PostHogServer() as server:
        yield server


@pytest.fixture
def job_context(tmp_path: Path, posthog: PostHogServer) -> JobContext:
    """Return what a job function gets; its events go to ``posthog``, its clock is a ``FakeClock``."""
    return make_context(tmp_path, telemetryHost=posthog.url)

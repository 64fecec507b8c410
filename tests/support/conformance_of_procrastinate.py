"""A coordinator on PostgreSQL for the processes of the conformance suite."""

from __future__ import annotations

from lifebeat.clock import SystemClock
from lifebeat.engines.procrastinate import ProcrastinateCoordinator, membership
from lifebeat.log import get_logger


def make(database: str) -> ProcrastinateCoordinator:
    """Make a coordinator on that database, which hears of others several times a second."""
    membership.RENEW_EVERY = 0.5
    return ProcrastinateCoordinator(database, clock=SystemClock(), logger=get_logger())

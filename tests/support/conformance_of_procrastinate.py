"""A coordinator on PostgreSQL for the processes of the conformance suite."""

from __future__ import annotations

from lifebeat.clock import SystemClock
from lifebeat.engines.procrastinate import ProcrastinateCoordinator
from lifebeat.log import get_logger


def make(database: str) -> ProcrastinateCoordinator:
    """Make a coordinator on that database."""
    return ProcrastinateCoordinator(database, clock=SystemClock(), logger=get_logger())

"""A coordinator on PostgreSQL for the processes of the conformance suite."""

from __future__ import annotations

import logging

from lifebeat.clock import SystemClock
from lifebeat.engines.procrastinate import ProcrastinateCoordinator


def make(database: str) -> ProcrastinateCoordinator:
    """Make a coordinator on that database."""
    return ProcrastinateCoordinator(database, clock=SystemClock(), logger=logging.getLogger("lifebeat"))

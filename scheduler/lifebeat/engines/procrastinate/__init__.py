"""Procrastinate on PostgreSQL: shared jobs run once over all machines."""

from lifebeat.engines.procrastinate.coordinator import ProcrastinateCoordinator
from lifebeat.engines.procrastinate.hosts import attach

__all__ = ["ProcrastinateCoordinator", "attach"]

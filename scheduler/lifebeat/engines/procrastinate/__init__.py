"""Procrastinate on PostgreSQL: shared jobs run once over all machines."""

from lifebeat.engines.procrastinate.coordinator import ProcrastinateCoordinator

__all__ = ["ProcrastinateCoordinator"]

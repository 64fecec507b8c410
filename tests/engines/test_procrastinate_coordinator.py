"""Procrastinate as a coordinator, on a real PostgreSQL."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from conformance import Conformance

if TYPE_CHECKING:
    from conformance import Start
    from postgresql import PostgreSQL

pytestmark = pytest.mark.xdist_group("postgresql")


class TestConformance(Conformance):
    """The suite of all coordinators."""

    factory = "conformance_of_procrastinate:make"

    @pytest.fixture
    def database(self, postgresql: PostgreSQL) -> str:
        """Return a schema that nobody has used."""
        return postgresql.schema()

    @pytest.fixture
    def arguments(self, database: str) -> list[str]:
        """Return the database."""
        return [database]

    def leave_unfinished(self, start: Start) -> str:
        """Kill the only process in its stop, after it has drained and before it has left."""
        killed = start()
        run: str = killed.ask("join")["run"]
        killed.ask("drain")
        killed.signal(signal.SIGKILL)
        return run

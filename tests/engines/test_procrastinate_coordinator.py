"""Procrastinate as a coordinator, on a real PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from conformance import Conformance

if TYPE_CHECKING:
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

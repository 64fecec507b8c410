"""The processes of one machine, coordinated by files: the suite of all coordinators, and what only files have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from conformance import Conformance
from lifebeat.clock import SystemClock
from lifebeat.once.files import FileCoordinator

if TYPE_CHECKING:
    from lifebeat.once.protocol import Coordinator


def make(directory: str) -> Coordinator:
    """A coordinator, in each of the suite's processes."""
    return FileCoordinator(Path(directory), clock=SystemClock())


class TestFiles(Conformance):
    """Files pass the suite of all coordinators."""

    factory: ClassVar[str] = "test_files:make"

    @pytest.fixture
    def arguments(self, tmp_path: Path) -> list[str]:
        return [str(tmp_path / "state")]

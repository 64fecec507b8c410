"""The contract of what an application can send, held by a test of its own.

``lifebeat describe --lock telemetry.lock`` writes it; the test fails as soon as an event or a property is added, so
that nothing new is sent without a look at it::

    pytest_plugins = ["lifebeat.testing.contract"]

    def test_telemetry_is_what_we_have_agreed_to(telemetry_contract):
        telemetry_contract("telemetry.lock", modules=["notes.telemetry"])
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable


class HoldContract(Protocol):
    """Holds what can be sent against a lock file."""

    def __call__(self, lock: str | os.PathLike[str], *, modules: Iterable[str] = ()) -> None: ...


def hold_contract(lock: str | os.PathLike[str], *, modules: Iterable[str] = ()) -> None:
    """Hold what can be sent against a lock file.

    Args:
        lock: The file that ``lifebeat describe --lock FILE`` has written.
        modules: The modules that declare the application's own events.

    Raises:
        AssertionError: They differ, or there is no such file; what differs, and what to do.
    """
    for name in modules:
        importlib.import_module(name)
    now: str = importlib.import_module("lifebeat_jobs.telemetry").contract(None)
    path, remedy = Path(lock), f"lifebeat describe --lock {lock}"
    if not path.exists():
        raise AssertionError(f"{path}: there is no contract yet; write it with: {remedy}")
    kept = path.read_text(encoding="utf-8")
    if kept != now:
        lines = difflib.unified_diff(kept.splitlines(), now.splitlines(), "agreed", "now", lineterm="", n=1)
        shown = "\n".join(lines)
        raise AssertionError(f"{path}: what can be sent has changed; look at it, then agree with: {remedy}\n{shown}")


@pytest.fixture
def telemetry_contract() -> HoldContract:
    """Return what compares what can be sent with the contract of the application's telemetry."""
    return hold_contract

"""The contract of what can be sent: a test of the application fails when it changes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lifebeat.testing.contract import hold_contract

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation


def test_the_lock_that_was_written_is_held(installation: Installation) -> None:
    """What ``describe --lock`` has written is what the test holds."""
    lock = installation.directory / "telemetry.lock"
    code, out, err = installation.run("describe", "--lock", str(lock), "--config", "config")
    assert (code, err) == (0, "")
    assert str(lock) in out
    program = "import sys; from pathlib import Path; from lifebeat.testing.contract import hold_contract\n"
    program += "hold_contract(Path(sys.argv[1]))"  # elsewhere: here other tests have declared events
    subprocess.run([sys.executable, "-c", program, str(lock)], check=True, timeout=30)


def test_a_property_more_is_a_failure_that_names_it(installation: Installation) -> None:
    """What was not agreed to is named, with the command that agrees."""
    lock = installation.directory / "telemetry.lock"
    installation.run("describe", "--lock", str(lock), "--config", "config")
    lock.write_text("\n".join(line for line in lock.read_text().splitlines() if "uptime_days" not in line))
    with pytest.raises(AssertionError, match="uptime_days") as failed:
        hold_contract(lock)
    assert f"lifebeat describe --lock {lock}" in str(failed.value)


def test_no_lock_is_a_failure_that_says_how_to_make_one(tmp_path: Path) -> None:
    """A test without its file says what to run."""
    with pytest.raises(AssertionError, match="lifebeat describe --lock"):
        hold_contract(tmp_path / "telemetry.lock")


def test_the_contract_is_json(installation: Installation) -> None:
    """``describe --json`` is the contract, for programs."""
    assert isinstance(json.loads(installation.run("describe", "--json", "--config", "config")[1]), dict | list)

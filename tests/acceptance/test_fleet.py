"""The simulation of a fleet, with a small one: nothing is lost, nobody comes in a crowd, real files agree with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lifebeat.testing import telemetry_allowed

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("fleet")]  # lived once, not once in each worker

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "fleet.py"
INSTANCES = 4000
HOUR = 60  # in minutes, as the figures are


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What ``python benchmarks/fleet.py --json`` prints for a small fleet."""
    command = [sys.executable, str(PROGRAM), "--json", "--instances", str(INSTANCES), "--sample", "18"]
    done = subprocess.run(command, env=telemetry_allowed(), capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def over_mean(found: dict[str, Any], hour: float, hours: float) -> float:
    """The requests of some hours over those of as many hours of the first day."""
    requests: list[int] = found["minutes"]["requests"]
    usual = sum(requests[: 24 * HOUR]) / (24 * HOUR)
    return sum(requests[int(hour * HOUR) : int((hour + hours) * HOUR)]) / (hours * HOUR) / usual


def test_nothing_is_lost(found: dict[str, Any]) -> None:
    """Every event that was recorded has arrived; more than once only those whose answer was lost in the outage."""
    events = found["events"]
    assert (events["recorded"] > 2 * INSTANCES, events["lost"]) == (True, 0)
    assert events["startup"] + events["heartbeat"] + events["shutdown"] == events["recorded"] + events["repeated"]
    assert 0 < events["repeated"] < found["outage"]["requests"]


def test_a_day_like_any_other_is_even(found: dict[str, Any]) -> None:
    """Chance is all that makes one hour of the first day differ from another, and each instance beats once."""
    assert sum(found["minutes"]["heartbeat"][: 24 * HOUR]) == pytest.approx(INSTANCES, rel=0.01)
    assert all(0.6 < over_mean(found, hour, 1) < 1.4 for hour in range(24))


def test_an_outage_brings_no_crowd(found: dict[str, Any]) -> None:
    """While PostHog is away, and in the two hours after, there are at most three requests for one on other days."""
    quarters = [36 + quarter / 4 for quarter in range(12)]
    assert max(over_mean(found, quarter, 0.25) for quarter in quarters) < 3
    assert over_mean(found, 37, 2) > 1.1
    assert found["after_outage"]["kept_waiting"] > 0


def test_a_region_that_comes_back_is_spread_over_minutes(found: dict[str, Any]) -> None:
    """A fifth of the fleet starts in the same minute and is heard of over twice that time, not in one second."""
    minutes = found["minutes"]["startup"][42 * HOUR : 42 * HOUR + 3]
    assert sum(minutes) > 0.18 * INSTANCES
    assert max(minutes) < 0.65 * sum(minutes)


def test_files_and_http_agree_with_what_stands_in_for_them(found: dict[str, Any]) -> None:
    """Instances with real outboxes, claims and requests have the same ledger, each attempt at the same time."""
    assert found["compared"]["different"] == []
    assert found["compared"]["instances"] == 18
    assert found["compared"]["events"] >= 36

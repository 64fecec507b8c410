"""What PostHog hears of a fleet: ``fleet.py`` as a part of the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import measure
from page import Goal, table, times

PROGRAM = Path(__file__).parent / "fleet.py"
MINUTE, HOUR = 60.0, 3600.0
SHOWN = 5


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """The figures and the series."""
    size = ["--instances", "500", "--sample", "4"] if tiny else []
    done = subprocess.run([sys.executable, str(PROGRAM), "--json", *size], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    steady, after, lost = found["steady"], found["after_outage"], found["events"]["lost"]
    fleet = f"{found['scenario']['instances']:,} instances"
    return [
        Goal(
            f"{fleet}: the busiest minute of a usual day over the mean",
            f"≤ {found['goals']['steady']:g} ×",
            times(steady["over_mean"]),
            f"chance alone: {times(steady['noise_over_mean'])}",
            steady["over_mean"] <= found["goals"]["steady"],
        ),
        Goal(
            "the same after an hour's outage of PostHog",
            f"≤ {found['goals']['after_outage']:g} ×",
            times(after["over_mean"]),
            f"{after['kept_waiting']:,} events had waited",
            after["over_mean"] <= found["goals"]["after_outage"],
        ),
        Goal(
            "events lost",
            str(found["goals"]["lost"]),
            f"{lost:,}",
            f"of {found['events']['recorded']:,}; {found['events']['repeated']:,} repeats",
            lost <= found["goals"]["lost"],
        ),
    ]


def series(found: dict[str, Any]) -> list[float]:
    """What the picture shows: requests a second, by the minute."""
    return [requests / MINUTE for requests in found["minutes"]["requests"][: int(found["scenario"]["end"] / MINUTE)]]


def top(found: dict[str, Any]) -> float:
    """Where the picture ends: a release is a crowd that people make, and would leave nothing to be seen of the rest."""
    return SHOWN * float(found["steady"]["mean_per_second"])


def marks(found: dict[str, Any]) -> list[tuple[float, float, str]]:
    """What happened to the fleet: from which minute to which, and what."""
    scenario = found["scenario"]
    spans = [
        (scenario["release"], scenario["release"] + scenario["rollout"], "release"),
        (scenario["outage"], scenario["outage_end"], "outage"),
        (scenario["cut"], scenario["power"], "power cut"),
    ]
    return [(begin / MINUTE, end / MINUTE, what) for begin, end, what in spans]


def section(found: dict[str, Any]) -> str:
    """What the page says."""
    after, compared = found["after_outage"], found["compared"]
    rows = [
        ["a usual day, requests a second", f"{found['steady']['mean_per_second']:.2f}", ""],
        [
            "its busiest minute",
            times(found["steady"]["over_mean"]),
            f"chance: {times(found['steady']['noise_over_mean'])}",
        ],
        ["the busiest minute of a release", times(found["release"]["over_mean"]), "restarts that people make"],
        ["of the outage", times(found["outage"]["over_mean"]), f"{found['outage']['requests']:,} requests unanswered"],
        ["of the two hours after it", times(after["over_mean"]), _lags(after)],
        ["of the four hours after the power cut", times(found["after_power_cut"]["over_mean"]), ""],
        ["events", f"{found['events']['recorded']:,}", f"{found['events']['repeated']:,} repeats"],
        ["events lost", f"{found['events']['lost']:,}", ""],
    ]
    return (
        "## A fleet\n\n![Requests a second](pictures/fleet.svg)\n\n"
        f"{found['scenario']['instances']:,} instances over two days, simulated with Lifebeat's own scheduling,\n"
        "waits on a clock that is set.\n"
        f"{compared['instances']} of them lived the same days with real files and HTTP:\n"
        f"{compared['events']:,} events, {len(compared['different'])} instances differ. Ratios are over the mean of a\n"
        f"usual day; the picture is cut off at {SHOWN} times that.\n\n" + table(["", "", ""], rows)
    )


def _lags(after: dict[str, Any]) -> str:
    half, last = after["lag_p50"] / MINUTE, after["lag_max"] / HOUR
    return f"half of what waited had arrived after {half:.0f} min, all after {last:.1f} h"


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

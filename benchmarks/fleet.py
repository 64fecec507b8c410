"""A fleet of a million instances over two days: what PostHog hears of it, by the minute, and whether anything is lost.

``python benchmarks/fleet.py`` prints the figures, with ``--json`` the raw ones. The instants and the waits between
attempts are Lifebeat's own, on a clock that is set. The outbox and the network are stood in for, since a million files
do not fit; a sample lives the same days a second time with real ones, and both have to agree on each event, to the
second and the number of attempts.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from dataclasses import asdict
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from fleet_life import grid
from fleet_light import Tally, simulated
from fleet_scenario import BEGINNING, DAY, HOUR, MINUTE, Scenario
from fleet_whole import differences

from lifebeat.schedule.instants import SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GOALS = {"steady": 1.3, "after_outage": 3.0, "lost": 0}
WATCHED = {"after_outage": 2 * HOUR, "after_power_cut": 4 * HOUR}
SHARDS = 16


def measured(scenario: Scenario, *, sample: int, processes: int) -> dict[str, Any]:
    """All figures.

    Args:
        scenario: What happens to the fleet.
        sample: How many instances live a second time with everything real.
        processes: How many processes share the work.
    """
    start = time.perf_counter()
    chosen = list(islice(_telling(scenario), sample))
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        compared = pool.imap_unordered(partial(differences, scenario), [chosen[i::SHARDS] for i in range(SHARDS)])
        shards = [range(i, scenario.instances, SHARDS) for i in range(SHARDS)]
        tally = Tally.over(scenario.end)
        for one in pool.imap_unordered(partial(simulated, scenario), shards):
            tally.add(one)
        events, different = zip(*compared, strict=True)
    return {
        "scenario": asdict(scenario),
        "goals": GOALS,
        **figures(scenario, tally),
        "compared": {"instances": len(chosen), "events": sum(events), "different": [*chain(*different)][:10]},
        "seconds": time.perf_counter() - start,
        "processes": processes,
    }


def _telling(scenario: Scenario) -> Iterator[int]:
    """Instances for the sample, in turns: heartbeat due in the outage, due in the power cut, and like any other."""

    def due(begin: float, end: float, number: int) -> bool:
        last = grid(number).latest(int((BEGINNING + end) * SECOND))
        return last is not None and last >= (BEGINNING + begin) * SECOND

    everyone = range(scenario.instances)
    return chain.from_iterable(
        zip(
            filter(partial(due, scenario.outage, scenario.outage_end), everyone),
            filter(partial(due, scenario.cut, scenario.power), filter(scenario.is_cut, everyone)),
            everyone,
            strict=False,
        )
    )


def figures(scenario: Scenario, tally: Tally) -> dict[str, Any]:
    """The figures of a fleet's days."""
    minutes = by_minute(tally.requests)
    mean = sum(minutes[: int(DAY / MINUTE)]) / (DAY / MINUTE)

    def peak(begin: float, end: float) -> dict[str, float]:
        most = max(minutes[int(begin / MINUTE) : math.ceil(end / MINUTE)])
        seconds = max(tally.requests[int(begin) : int(end)])
        return {"minute": most, "over_mean": most / mean, "second": seconds}

    lags = sorted(tally.lags) or [0.0]
    return {
        "steady": {
            "mean_per_second": mean / MINUTE,
            **peak(0, DAY),
            "noise_over_mean": likely_peak(mean, int(DAY / MINUTE)) / mean,
            "second_over_mean": max(tally.requests[: int(DAY)]) / mean * MINUTE,
            "second_noise_over_mean": likely_peak(mean / MINUTE, int(DAY)) / mean * MINUTE,
        },
        "release": peak(scenario.release, scenario.release + scenario.rollout + scenario.downtime),
        "outage": {
            **peak(scenario.outage, scenario.outage_end),
            "requests": sum(tally.requests[int(scenario.outage) : int(scenario.outage_end)]),
        },
        "after_outage": {
            **peak(scenario.outage_end, scenario.outage_end + WATCHED["after_outage"]),
            "kept_waiting": len(tally.lags),
            "lag_p50": lags[len(lags) // 2],
            "lag_p99": lags[len(lags) * 99 // 100],
            "lag_max": lags[-1],
        },
        "after_power_cut": peak(scenario.power, scenario.power + WATCHED["after_power_cut"]),
        "events": {
            "recorded": tally.recorded,
            "lost": tally.lost,
            "repeated": tally.repeated,
            **{kind: sum(row) for kind, row in tally.taken.items()},
        },
        "minutes": {
            "requests": minutes,
            "unanswered": by_minute(tally.refused),
            **{kind: by_minute(row) for kind, row in tally.taken.items()},
        },
    }


def by_minute(seconds: Sequence[int]) -> list[int]:
    """Counts by the second as counts by the minute."""
    width = int(MINUTE)
    return [sum(seconds[at : at + width]) for at in range(0, len(seconds), width)]


def likely_peak(mean: float, times: int) -> int:
    """The most that one sees, as often as not, in so many draws from a Poisson distribution: chance alone."""
    below, number = 0.0, -1
    while below <= 0.0 or times * math.log(below) < math.log(0.5):
        number += 1
        below = min(below + math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)), 1.0)
    return number


def told(found: dict[str, Any]) -> str:
    """The figures for people."""
    scenario, steady, after, events = found["scenario"], found["steady"], found["after_outage"], found["events"]
    compared = found["compared"]
    rows = {
        f"{scenario['instances']:,} instances": f"{found['seconds']:.0f} s on {found['processes']} processes",
        "requests a second": f"{steady['mean_per_second']:.2f}",
        "busiest minute over the mean": f"{steady['over_mean']:.2f}; chance alone: {steady['noise_over_mean']:.2f}",
        "busiest second": f"{steady['second_over_mean']:.2f}; chance alone: {steady['second_noise_over_mean']:.2f}",
        "release, busiest minute": f"{found['release']['over_mean']:.2f}",
        "outage, busiest minute": f"{found['outage']['over_mean']:.2f}, {found['outage']['requests']:,} requests",
        "after it, busiest minute": f"{after['over_mean']:.2f}",
        "events that it kept waiting": f"{after['kept_waiting']:,}: half had arrived {after['lag_p50'] / MINUTE:.0f} "
        f"min after it, all {after['lag_max'] / HOUR:.1f} h after it",
        "after the power cut, busiest minute": f"{found['after_power_cut']['over_mean']:.2f}",
        "events": f"{events['recorded']:,}, {events['lost']} lost, {events['repeated']:,} repeats",
        "sample with files and HTTP": f"{compared['instances']} instances, {compared['events']} events, "
        f"{len(compared['different'])} instances differ",
    }
    return "\n".join(f"{what:40}{figure}" for what, figure in rows.items())


def main(arguments: Sequence[str]) -> None:
    """Simulate, and print."""
    parser = argparse.ArgumentParser(description="Simulates a fleet.")
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print the raw figures as one JSON object")
    given = parser.parse_args(arguments)
    found = measured(Scenario(instances=given.instances), sample=given.sample, processes=given.processes)
    sys.stdout.write((json.dumps(found) if given.json else told(found)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

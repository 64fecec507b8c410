"""How long a stop takes, whatever the network does; with ``--long`` also PostHog's SDKs, with their real waits.

For Lifebeat around ``scheduler.shutdown()``, for the SDKs around ``shutdown()``, with an event in the queue, each by
the clock of the process itself. Rows that only wait do so at the same time.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import measure
import nodejs
import servers
from measure import Side
from page import Goal, span, table

OURS = """
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
scheduler.start()
time.sleep(float(os.environ["SETTLING"]))
start = time.monotonic()
scheduler.shutdown()
tell(seconds=time.monotonic() - start)
"""
SDK = """
import logging
from posthog import Posthog

logging.disable()

client = Posthog("phc_test", host=os.environ["TELEMETRY_HOST"])
client.capture("startup", distinct_id="x")
client.capture("shutdown", distinct_id="x")
start = time.monotonic()
client.shutdown()
tell(seconds=time.monotonic() - start)
"""
NODE = (
    nodejs.CLIENT
    + """
capture('startup')
capture('shutdown')
const start = performance.now()
client.shutdown().catch(() => {}).finally(() => {
  tell({ seconds: (performance.now() - start) / 1000 })
  process.exit(0)
})
"""
)
ROWS = {
    "healthy": "healthy",
    "refused": "refusing",
    "never answers": "silent",
    "drips a byte a second": "dripping",
    "https, packets dropped": "dropping",
}
QUICK = ["healthy", "refused"]
TIMEOUT, HEALTHY_GOAL, MARGIN = 2.0, 0.1, 0.25


def measured(*, tiny: bool = False) -> dict[str, Any]:
    """Lifebeat's figures by row, and the SDK's where all is well."""
    rounds, timeout = (1, 0.3) if tiny else (5, TIMEOUT)
    with ExitStack() as stack:
        urls = _urls(stack, QUICK if tiny else list(ROWS))
        ours = {row: _ours(url, timeout) for row, url in urls.items()}
        runs = [_round(ours) for _ in range(rounds)]
        sdk = [measure.once(_sdk(urls["healthy"])) for _ in range(rounds)]
    return {
        "timeout": timeout,
        "lifebeat": measure.medians(runs),
        "posthog": {"healthy": measure.medians(sdk)["seconds"]},
    }


def _round(sides: dict[str, Side]) -> dict[str, float]:
    """The seconds by row: those who work one by one, those who only wait all at once."""
    slow = {row: side for row, side in sides.items() if row not in QUICK}
    found = {row: measure.once(sides[row])["seconds"] for row in QUICK}
    return {**found, **dict(zip(slow, _at_once(list(slow.values())), strict=True))}


def measured_long() -> dict[str, dict[str, float]]:
    """The SDKs' figures by side and row, once, with their real waits."""
    with ExitStack() as stack:
        urls = _urls(stack, list(ROWS))
        sides = {(name, row): side for row, url in urls.items() for name, side in _sdks(url).items()}
        seconds = _at_once(list(sides.values()))
    found: dict[str, dict[str, float]] = {}
    for (name, row), taken in zip(sides, seconds, strict=True):
        found.setdefault(name, {})[row] = taken
    return found


def _urls(stack: ExitStack, rows: list[str]) -> dict[str, str]:
    made = {row: stack.enter_context(servers.serving(ROWS[row])) for row in rows}
    return {
        row: server.url if ROWS[row] != "dropping" else f"https://127.0.0.1:{server.port}"
        for row, server in made.items()
    }


def _ours(url: str, timeout: float) -> Side:
    settling = min(timeout, 1.5)
    settings = {
        "TELEMETRY_API_KEY": "phc_test",
        "TELEMETRY_SHUTDOWN_TIMEOUT": f"{timeout}s",
        "SETTLING": str(settling),
    }
    return Side("lifebeat", OURS, {**settings, "TELEMETRY_HOST": url})


def _sdk(url: str) -> Side:
    return Side("posthog", SDK, {"TELEMETRY_HOST": url})


def _sdks(url: str) -> dict[str, Side]:
    found = {"posthog": _sdk(url)}
    if nodejs.missing() is None:
        found["posthog-node"] = nodejs.side("posthog-node", NODE, TELEMETRY_HOST=url)
    return found


def _at_once(sides: list[Side]) -> list[float]:
    with ThreadPoolExecutor(max(len(sides), 1)) as pool:
        return [figures["seconds"] for figures in pool.map(measure.once, sides)]


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    ours, bound = found["lifebeat"], found["timeout"] + MARGIN
    worst = max((seconds, row) for row, seconds in ours.items() if row != "healthy")
    return [
        Goal(
            "stop, the server is well",
            f"≤ {HEALTHY_GOAL:g} s",
            span(ours["healthy"]),
            f"`posthog` {span(found['posthog']['healthy'])}",
            ours["healthy"] <= HEALTHY_GOAL,
        ),
        Goal("stop, the worst of the others", f"≤ {bound:g} s", span(worst[0]), worst[1], worst[0] <= bound),
    ]


def bars(found: dict[str, Any], long: dict[str, Any] | None) -> dict[str, list[tuple[str, float]]]:
    """What the picture shows: seconds by row and side."""
    sides = {"lifebeat": found["lifebeat"], **_sides(found, long)}
    return {row: [(name, side[row]) for name, side in sides.items() if row in side] for row in found["lifebeat"]}


def _sides(found: dict[str, Any], long: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    """The SDKs' figures: of this run where it has them, else of the long one."""
    kept: dict[str, dict[str, float]] = {} if long is None else long["stopping"]
    return {**kept, "posthog": {**kept.get("posthog", {}), **found["posthog"]}}


def section(found: dict[str, Any], long: dict[str, Any] | None = None) -> str:
    """What the page says."""
    sdks = _sides(found, long)
    rows = [
        [row, span(seconds), *(span(side[row]) if row in side else "" for side in sdks.values())]
        for row, seconds in found["lifebeat"].items()
    ]
    when = (
        "not measured yet: `python benchmarks/run.py --long`"
        if long is None
        else f"measured once, on {long['date']}, by `python benchmarks/run.py --long`"
    )
    return (
        "## How long a stop takes\n\n![Seconds by network](pictures/stop.svg)\n\n"
        f"Lifebeat waits for at most `telemetryShutdownTimeout`, here {found['timeout']:g} s.\n"
        f"The SDKs with their real waits: {when}. The server that drips does so for\n"
        f"{servers.DRIPPED} s; the SDK waits for as long as it does. With https all packets\n"
        "are dropped.\n\n" + table(["the network", "lifebeat", *(f"`{name}`" for name in sdks)], rows)
    )


def _both(*, tiny: bool = False) -> dict[str, Any]:
    return {**measured(tiny=tiny), "sdks": measured_long()}


if __name__ == "__main__":
    if "--long" in sys.argv:
        sys.argv.remove("--long")
        measure.program(_both, lambda found: section(found, {"stopping": found["sdks"], "date": "this day"}), __doc__)
    else:
        measure.program(measured, section, __doc__)

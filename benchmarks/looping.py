"""The latest turn of an event loop while a host starts on it, and in the seconds after, when the SDK is imported."""

from __future__ import annotations

from typing import Any

import measure
import servers
from measure import Side
from page import Goal, span, table

HOST = """
import asyncio
from apscheduler.schedulers.asyncio import AsyncIOScheduler

PAUSE, SECONDS = 0.002, float(os.environ["SECONDS"])

async def main():
    latest = 0.0
    scheduler = AsyncIOScheduler()

    async def watch():
        nonlocal latest
        end = time.perf_counter() + SECONDS
        while (now := time.perf_counter()) < end:
            await asyncio.sleep(PAUSE)
            latest = max(latest, time.perf_counter() - now - PAUSE)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.1)
    {imports}
    {before}
    scheduler.start()
    {after}
    await watching
    tell(latest=latest, sdk=int("posthog" in sys.modules))
    os._exit(0)

asyncio.run(main())
"""
GOAL = 0.02


def measured(*, tiny: bool = False) -> dict[str, dict[str, float]]:
    """The figures by side."""
    with servers.serving("healthy") as server:
        on = {"TELEMETRY_API_KEY": "phc_test", "TELEMETRY_HOST": server.url, "SECONDS": "0.3" if tiny else "1.5"}
        sdk = 'Posthog("phc_test", host=os.environ["TELEMETRY_HOST"]).capture("startup", distinct_id="x")'
        ours = {"imports": "import lifebeat", "before": 'lifebeat.attach(scheduler, app_name="x", app_version="1")'}
        sides = [
            _side("bare", on),
            _side("posthog", on, imports="from posthog import Posthog", after=sdk),
            _side("lifebeat", on, **ours),
        ]
        return measure.compare(sides, rounds=1 if tiny else 5)


def _side(name: str, environ: dict[str, str], *, imports: str = "", before: str = "", after: str = "") -> Side:
    return Side(name, HOST.format(imports=imports, before=before, after=after), environ)


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was to be shown."""
    ours, sdk, bare = (found[name]["latest"] for name in ("lifebeat", "posthog", "bare"))
    return [
        Goal(
            "an event loop's latest turn while Lifebeat starts and imports the SDK",
            f"≤ {GOAL * 1000:.0f} ms",
            span(ours),
            f"bare {span(bare)}, `posthog` {span(sdk)}",
            ours <= GOAL,
        )
    ]


def section(found: dict[str, Any]) -> str:
    """What the page says."""
    rows = [[name, span(side["latest"])] for name, side in found.items()]
    return (
        "## An event loop at the start\n\n"
        "The latest turn in the second and a half around a start on an `AsyncIOScheduler`, in\n"
        "which the first event is delivered; a loop that is not held up turns every 2 ms.\n\n"
        + table(["side", "latest turn"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

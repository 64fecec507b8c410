"""What a start costs: what is added to a bare host by PostHog's SDK, by Lifebeat, and by Lifebeat turned off."""

from __future__ import annotations

import measure
import nodejs
from measure import Side
from page import Goal, span, table, times

BARE = """
from apscheduler.schedulers.background import BackgroundScheduler
scheduler = BackgroundScheduler()
before, start, cpu = memory(), time.perf_counter(), time.process_time()
{imports}
{before}
scheduler.start()
{after}
seconds, busy = time.perf_counter() - start, time.process_time() - cpu
tell(seconds=seconds, cpu=busy, megabytes=memory() - before, sdk=int("posthog" in sys.modules))
os._exit(0)
"""
NODE = """
{client}
setInterval(() => {{}}, 86400000)
tell({{ seconds: (performance.now() - begin) / 1000, megabytes: memory() - before,
       cpu: process.cpuUsage(cpu).user / 1e6, sdk: 0 }})
process.exit(0)
"""
NOWHERE = "http://127.0.0.1:9"
ROUNDS = 15
GOAL, OFF_GOAL = 0.30, 0.12


def side(name: str, imports: str = "", before: str = "", after: str = "", **environ: str) -> Side:
    """A host that differs in what is around its start."""
    return Side(name, BARE.format(imports=imports, before=before, after=after), environ)


def sides() -> list[Side]:
    """All of them."""
    ours = ("from lifebeat import attach", 'attach(scheduler, app_name="notes", app_version="1")')
    on = {"TELEMETRY_API_KEY": "phc_test", "TELEMETRY_HOST": NOWHERE}
    found = [
        side("bare"),
        side("import posthog", "import posthog"),
        side("posthog", "from posthog import Posthog", after=f'Posthog("phc_test", host="{NOWHERE}")'),
        side("lifebeat", *ours, **on),
        side("lifebeat off", *ours, TELEMETRY_ENABLED="false"),
    ]
    if nodejs.missing() is None:
        client = nodejs.CLIENT + "capture('startup')"
        found += [
            nodejs.side("node", NODE.format(client="")),
            nodejs.side("posthog-node", NODE.format(client=client), TELEMETRY_HOST=NOWHERE),
        ]
    return found


def measured(*, tiny: bool = False) -> dict[str, dict[str, float]]:
    """The figures by side."""
    return measure.compare(sides(), rounds=1 if tiny else ROUNDS)


def added(found: dict[str, dict[str, float]], name: str, figure: str = "seconds") -> float:
    """What a side adds to its bare host."""
    return found[name][figure] - found["node" if name == "posthog-node" else "bare"][figure]


def goals(found: dict[str, dict[str, float]]) -> list[Goal]:
    """What was to be shown."""
    ours, off = added(found, "lifebeat"), added(found, "lifebeat off")
    sdk, imported = added(found, "posthog"), added(found, "import posthog")
    return [
        Goal(
            "start: what `import lifebeat`, `attach` and `start` add",
            f"≤ {GOAL:.2f} ×",
            span(ours),
            f"{times(ours / sdk)} of `import posthog` and its client ({span(sdk)})",
            ours <= GOAL * sdk,
            "most of it is the import of Lifebeat's own modules (`python -X importtime`).",
        ),
        Goal(
            "the same, telemetry off",
            f"≤ {OFF_GOAL:.2f} ×",
            span(off),
            f"{times(off / imported)} of `import posthog` ({span(imported)})",
            off <= OFF_GOAL * imported,
        ),
    ]


def bars(found: dict[str, dict[str, float]]) -> list[tuple[str, float]]:
    """What the picture shows: milliseconds by side."""
    return [(name, added(found, name) * 1000) for name in found if name not in {"bare", "node"}]


def section(found: dict[str, dict[str, float]]) -> str:
    """What the page says."""
    sdk = added(found, "posthog")
    rows = [
        [
            name,
            span(added(found, name)),
            times(added(found, name) / sdk),
            span(added(found, name, "cpu")),
            f"{added(found, name, 'megabytes'):.1f} MB",
        ]
        for name in found
        if name not in {"bare", "node"}
    ]
    return (
        "## What a start costs\n\n![Milliseconds by side](pictures/start.svg)\n\n"
        "Added to a host with a `BackgroundScheduler` until `start()` has returned: by `import posthog`, by that and\n"
        "its client, by Lifebeat, and by Lifebeat turned off. Memory is the peak of the resident set. `posthog-node`\n"
        "is what it adds to Node, until its first `capture`.\n\n"
        + table(["side", "time", "against `posthog`", "CPU", "memory"], rows)
    )


if __name__ == "__main__":
    measure.program(measured, section, __doc__)

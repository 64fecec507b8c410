"""What a start costs: the bare host, the same with PostHog's SDK, with Lifebeat, and with Lifebeat turned off."""

from __future__ import annotations

from measure import Side, compare

BARE = """
from apscheduler.schedulers.background import BackgroundScheduler
scheduler = BackgroundScheduler()
before, start, cpu = memory(), time.perf_counter(), time.process_time()
{imports}
{before}
scheduler.start()
{after}
seconds, busy = time.perf_counter() - start, time.process_time() - cpu
tell(seconds=seconds, cpu=busy, megabytes=memory() - before, threads=len(__import__("threading").enumerate()))
os._exit(0)
"""


def side(name: str, imports: str = "", before: str = "", after: str = "", **environ: str) -> Side:
    """A host that differs in what is around its start."""
    return Side(name, BARE.format(imports=imports, before=before, after=after), environ)


def measured(rounds: int) -> dict[str, dict[str, float]]:
    """The figures by side."""
    ours = ("from lifebeat import attach", 'attach(scheduler, app_name="notes", app_version="1")')
    on = {"TELEMETRY_API_KEY": "phc_test", "TELEMETRY_HOST": "http://127.0.0.1:9"}
    return compare(
        [
            side("bare"),
            side("posthog", "from posthog import Posthog", after='Posthog("phc_test", host="http://127.0.0.1:9")'),
            side("lifebeat", *ours, **on),
            side("lifebeat off", *ours, TELEMETRY_ENABLED="false"),
        ],
        rounds=rounds,
    )

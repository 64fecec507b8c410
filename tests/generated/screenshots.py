"""The pictures of the page, ``docs/pictures/*.png``: ``make pictures``, where Debian's Chromium is installed.

One is of an application after its first start, the others of one with jobs of its own for a day. The runs of that day
are made up, as nobody waits a day for a picture; all else is a host that has just run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from browser import Browser, missing
from hosts import Installation, end
from lifebeat.clock import SystemClock
from lifebeat.history import History
from lifebeat.schedule.instants import SECOND
from lifebeat.testing import FakeClock, PostHogServer

if TYPE_CHECKING:
    from collections.abc import Mapping

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
TELEMETRY = """
jobs:
  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start, enabled: '${telemetryEnabled}', once: application}
  heartbeat:
    run: lifebeat_jobs.telemetry:heartbeat
    every: ${telemetryHeartbeatInterval}
    phase: 5h
    enabled: ${telemetryEnabled}
    once: application
  shutdown:
    {run: 'lifebeat_jobs.telemetry:shutdown', when: shutdown, enabled: '${telemetryEnabled}', once: application}
"""
OWN = """
  nightly-report: {run: 'notes_jobs:report', cron: '0 3 * * *', once: application}
  import-mail: {run: 'notes_jobs:report', every: 2h, once: application}
  backup: {run: 'notes_jobs:report', cron: '0 1,13 * * *', once: application}
"""
START = {"view-start": (1000, 560, False)}
VIEWS = {"view-light": (1000, 960, False), "view-dark": (1000, 960, True), "view-phone": (360, 800, False)}


def fill(state: Path) -> None:
    """Make up the runs of a day: two kinds of jobs that work, and a backup that failed in the night."""
    now = int(SystemClock().time())
    clock = FakeClock(now // 3600 * 3600 - 86400)
    history = History(state, clock=clock, kept=lambda: timedelta(days=30), may_make=lambda: True, warn=print)
    for hour in range(24):
        of_day = (now // 3600 + hour) % 24
        ran = ["import-mail"] if of_day % 2 == 0 else []
        ran += ["nightly-report"] if of_day == 3 else ["backup"] if of_day in {1, 13} else []
        for job in ran:
            with suppress(OSError), history.run(job, int(clock.time()) * SECOND, shared=True, timeout=None):
                clock.advance(2)
                if job == "backup" and of_day == 1:
                    raise OSError(28, "No space left on device", "/mnt/backup")
        clock.advance(3600 - clock.time() % 3600)
    history.close(10)


def take(directory: Path, receiver: PostHogServer, jobs: str, views: Mapping[str, tuple[int, int, bool]]) -> None:
    """Start a host with those jobs, and take the pictures of its page."""
    made = Installation(directory, receiver)
    made.write(appName="notes", appVersion="1.4.2")
    (made.config / "jobs.yaml").write_text(jobs)
    (made.directory / "notes_jobs.py").write_text("def report() -> None:\n    pass\n")
    common = ("--config", "config", "--allow", "notes_jobs")
    with subprocess.Popen([sys.executable, "-m", "lifebeat", "run", *common], cwd=made.directory,
                          env=made.environ(PYTHONPATH="."), stderr=subprocess.DEVNULL) as host:  # fmt: skip
        receiver.wait_for(lambda server: "startup" in server.names(), timeout=30)
        if OWN in jobs:
            fill(made.config / "lifebeat")
        page = made.lifebeat("view", "--json", *common, PYTHONPATH=".")
        assert page.stdout is not None
        url = json.loads("".join(iter(page.stdout.readline, "}\n")) + "}")["url"]
        for name, (width, height, dark) in views.items():
            browser = Browser(width, height, dark=dark)
            browser.go(url)
            browser.picture(PICTURES / f"{name}.png")
            browser.close()
        end(page)
        host.terminate()


def main() -> int:
    """Take the pictures."""
    reason = missing()
    if reason:
        print(f"no pictures: {reason}")
        return 1
    with tempfile.TemporaryDirectory() as directory:
        # A mount of its own, as a volume is: without one, a page in a container has a warning.
        subprocess.run(["mount", "--bind", directory, directory], check=True)
        for name, jobs, views in (("start", TELEMETRY, START), ("day", TELEMETRY + OWN, VIEWS)):
            (Path(directory) / name).mkdir()
            with PostHogServer() as receiver:
                take(Path(directory) / name, receiver, jobs, views)
        subprocess.run(["umount", "--lazy", directory], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

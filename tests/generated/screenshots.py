"""The pictures of the page, ``docs/pictures/view-*.png``: ``make pictures``, where Debian's Chromium is installed.

The runs of the day before are made up, as nobody waits a day for a picture; all else is a host that has just run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from browser import Browser, missing
from hosts import Installation, end
from lifebeat.clock import SystemClock
from lifebeat.history import History
from lifebeat.schedule.instants import SECOND
from lifebeat.testing import FakeClock, PostHogServer

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
JOBS = """
jobs:
  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start, enabled: '${telemetryEnabled}', once: application}
  heartbeat:
    run: lifebeat_jobs.telemetry:heartbeat
    every: ${telemetryHeartbeatInterval}
    phase: 5h
    enabled: ${telemetryEnabled}
    once: application
  nightly-report: {run: 'notes_jobs:report', cron: '0 3 * * *', once: application}
  import-mail: {run: 'notes_jobs:report', every: 2h, once: application}
  backup: {run: 'notes_jobs:report', cron: '0 1,13 * * *', once: application}
"""
VIEWS = {"light": (1000, 960, False), "dark": (1000, 960, True), "phone": (360, 800, False)}


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


def main() -> int:
    """Take the pictures."""
    reason = missing()
    if reason:
        print(f"no pictures: {reason}")
        return 1
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # in a container no warning is in the picture
    with tempfile.TemporaryDirectory(dir=memory) as directory, PostHogServer() as receiver:
        made = Installation(Path(directory), receiver)
        made.write(appName="notes", appVersion="1.4.2")
        (made.config / "jobs.yaml").write_text(JOBS)
        (made.directory / "notes_jobs.py").write_text("def report() -> None:\n    pass\n")
        common = ("--config", "config", "--allow", "notes_jobs")
        with subprocess.Popen([sys.executable, "-m", "lifebeat", "run", *common], cwd=made.directory,
                              env=made.environ(PYTHONPATH="."), stderr=subprocess.DEVNULL) as host:  # fmt: skip
            receiver.wait_for(lambda server: "startup" in server.names(), timeout=30)
            fill(made.config / "lifebeat")
            page = made.lifebeat("view", "--json", *common, PYTHONPATH=".")
            assert page.stdout is not None
            url = json.loads("".join(iter(page.stdout.readline, "}\n")) + "}")["url"]
            for name, (width, height, dark) in VIEWS.items():
                browser = Browser(width, height, dark=dark)
                browser.go(url)
                browser.picture(PICTURES / f"view-{name}.png")
                browser.close()
            end(page)
            host.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())

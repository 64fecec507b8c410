"""Every scheduler of APScheduler: the same life, with a sync and an async job function of the host's."""

from __future__ import annotations

import importlib.util
import textwrap
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from hosts import end, eventually
from test_workers import INSTANCE_ID

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

INTERVAL = 0.5
JOBS = """
    import asyncio
    import threading
    from pathlib import Path

    def note(kind):
        with Path(f"{kind}.txt").open("a") as file:
            file.write(f"{threading.current_thread() is threading.main_thread()}\\n")

    def plain():
        note("plain")

    async def asynchronous():
        await asyncio.sleep(0)
        note("asynchronous")
"""
JOB_FILE = """
    jobs:
      plain: {run: "hostjobs:plain", every: 500ms, max_instances: 99}
      asynchronous: {run: "hostjobs:asynchronous", every: 500ms, max_instances: 99}
      startup: {run: "lifebeat_jobs.telemetry:startup", when: start, once: application}
      heartbeat:
        run: lifebeat_jobs.telemetry:heartbeat
        every: ${telemetryHeartbeatInterval}
        once: application
        max_instances: 99  # a busy machine may be late by more than the interval
      shutdown: {run: "lifebeat_jobs.telemetry:shutdown", when: shutdown, once: application}
"""
HOST = """
    import signal
    import lifebeat
    from apscheduler.schedulers.{module} import {name}Scheduler

    scheduler = {name}Scheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", allow=["hostjobs"])
"""
ASYNCIO_MAIN = """
    import asyncio

    async def main():
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        scheduler.start()
        await stop.wait()
        scheduler.shutdown()

    asyncio.run(main())
"""
GEVENT_MAIN = """
    import gevent

    gevent.signal_handler(signal.SIGTERM, scheduler.shutdown)
    scheduler.start().join()
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A scheduler and the program around it.

    Attributes:
        module: Where in ``apscheduler.schedulers`` it is.
        main: What runs it until SIGTERM, and then stops it.
        needs: The modules of which one has to be there.
        on_loop: Whether async functions are run on the scheduler's own loop, in the main thread.
        before: What has to come before all imports.
    """

    module: str
    main: str
    needs: tuple[str, ...] = ()
    on_loop: bool = False
    before: str = ""


KINDS = {
    "Background": Kind(
        "background",
        """
        import threading

        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        scheduler.start()
        stop.wait()
        scheduler.shutdown()
        """,
    ),
    "Blocking": Kind(
        "blocking",
        """
        import sys

        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        try:
            scheduler.start()
        except SystemExit:
            scheduler.shutdown()
        """,
    ),
    "AsyncIO": Kind("asyncio", ASYNCIO_MAIN, on_loop=True),
    "Gevent": Kind("gevent", GEVENT_MAIN, needs=("gevent",)),
    "Gevent, patched": Kind(
        "gevent",
        GEVENT_MAIN,
        needs=("gevent",),
        before="from gevent import monkey; monkey.patch_all()",
    ),
    "Tornado": Kind(
        "tornado",
        """
        from tornado.ioloop import IOLoop

        def stop():
            scheduler.shutdown()
            loop.add_callback(loop.stop)

        loop = IOLoop.current()
        loop.asyncio_loop.add_signal_handler(signal.SIGTERM, stop)
        scheduler.start()
        loop.start()
        """,
        needs=("tornado",),
        on_loop=True,
    ),
    "Twisted": Kind(
        "twisted",
        """
        from twisted.internet import reactor

        reactor.addSystemEventTrigger("before", "shutdown", scheduler.shutdown)
        reactor.callWhenRunning(scheduler.start)
        reactor.run()
        """,
        needs=("twisted",),
    ),
    "Qt": Kind(
        "qt",
        """
        import sys

        try:
            from PySide6.QtCore import QCoreApplication, QTimer
        except ImportError:
            from PyQt6.QtCore import QCoreApplication, QTimer

        app = QCoreApplication(sys.argv)
        signal.signal(signal.SIGTERM, lambda *_: app.quit())
        timer = QTimer()  # Python hears of signals only while it runs
        timer.timeout.connect(lambda: None)
        timer.start(50)
        scheduler.start()
        app.exec()
        scheduler.shutdown()
        """,
        needs=("PySide6", "PyQt6"),
    ),
}


def program(name: str) -> str:
    """The host's program for a kind of scheduler."""
    kind = KINDS[name]
    parts = (kind.before, HOST.format(module=kind.module, name=name.partition(",")[0]), kind.main)
    return "\n".join(textwrap.dedent(part) for part in parts)


def ran(path: Path) -> list[str]:
    """What the runs of a job function have noted: whether each was in the main thread."""
    return path.read_text().split() if path.exists() else []


def instants(receiver: PostHogServer) -> list[float]:
    """The instants that the heartbeats belong to."""
    times = [
        datetime.fromisoformat(timestamp) for _, timestamp, event, _ in receiver.distinct() if event == "heartbeat"
    ]
    return [one.timestamp() // INTERVAL for one in times]


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.soak] * (one in {"Twisted", "Gevent"})) for one in KINDS]
)
def test_scheduler(installation: Installation, receiver: PostHogServer, name: str) -> None:
    """One startup, a heartbeat per instant, one shutdown, a clean end; functions run where they should."""
    kind = KINDS[name]
    if kind.needs and not any(map(importlib.util.find_spec, kind.needs)):
        pytest.skip(f"{name} needs {' or '.join(kind.needs)}")
    installation.write(telemetryHeartbeatInterval="500ms", telemetryInstanceId=INSTANCE_ID)
    (installation.directory / "hostjobs.py").write_text(textwrap.dedent(JOBS))
    (installation.config / "jobs.yaml").write_text(textwrap.dedent(JOB_FILE))
    notes = [installation.directory / file for file in ("plain.txt", "asynchronous.txt")]
    process = installation.script(program(name))
    eventually(lambda: len(instants(receiver)) >= 2 and all(len(ran(path)) >= 2 for path in notes))
    code, out, err = end(process)
    assert (code, out) == (0, ""), err
    assert [line for line in err.splitlines() if not line.startswith("notes sends anonymous telemetry ")] == []
    names = receiver.names()
    assert (names[0], names[-1], names.count("startup"), names.count("shutdown")) == ("startup", "shutdown", 1, 1)
    assert len(instants(receiver)) == len(set(instants(receiver)))
    assert [set(ran(path)) for path in notes] == [{"False"}, {str(kind.on_loop)}]

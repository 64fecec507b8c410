"""The whole life of applications that embed Lifebeat, as processes of their own."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import pytest

from hosts import end, eventually

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer

BACKGROUND = """
    import logging, sys, time
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", signals=True)
    scheduler.start()
    print("ready", flush=True)
    if "stay" in sys.argv:
        while True:
            time.sleep(1)
    sys.stdin.readline() if False else time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 1.5)
    {ending}
"""
ASYNCIO = """
    import asyncio, logging, sys
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    import lifebeat

    logging.basicConfig(level=logging.INFO, stream=sys.stdout)

    async def main():
        scheduler = AsyncIOScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", signals=True)
        scheduler.start()
        print("ready", flush=True)
        await asyncio.sleep({seconds})
        scheduler.shutdown()

    asyncio.run(main())
"""


def beats(receiver: PostHogServer) -> int:
    """How many heartbeats have arrived."""
    return receiver.names().count("heartbeat")


@pytest.mark.parametrize("ending", ["scheduler.shutdown()", "pass"])
def test_background_scheduler_reports_its_whole_life(
    installation: Installation, receiver: PostHogServer, ending: str
) -> None:
    """Startup at start, heartbeats on the interval, shutdown at shutdown() and at a plain interpreter exit."""
    installation.write(telemetryHeartbeatInterval="500ms")
    process = installation.script(BACKGROUND.format(ending=ending))
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, ""), out
    assert receiver.names()[0] == "startup"
    assert receiver.names()[-1] == "shutdown"
    assert 1 <= beats(receiver) <= 4
    assert len(receiver.distinct()) == len(receiver.events)


def test_asyncio_scheduler_reports_its_whole_life(installation: Installation, receiver: PostHogServer) -> None:
    """The same on an event loop, whose end does not lose the last event."""
    installation.write(telemetryHeartbeatInterval="500ms")
    process = installation.script(ASYNCIO.format(seconds=1.5))
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, ""), out
    assert receiver.names()[0] == "startup"
    assert receiver.names()[-1] == "shutdown"
    assert 1 <= beats(receiver) <= 4


@pytest.mark.parametrize("host", [BACKGROUND.format(ending="time.sleep(60)"), ASYNCIO.format(seconds=60)])
def test_sigterm_reports_the_shutdown_and_ends_by_the_signal(
    installation: Installation, receiver: PostHogServer, host: str
) -> None:
    """SIGTERM, where the host left it at its default, ends in a shutdown event and the signal's own exit status."""
    process = installation.script(host)
    receiver.wait_for(1)
    code, _, err = end(process)
    assert (code, err) == (-signal.SIGTERM, "")
    assert receiver.names() == ["startup", "shutdown"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_lifebeat_run_reports_its_whole_life(
    installation: Installation, receiver: PostHogServer, number: signal.Signals
) -> None:
    """``lifebeat run`` lives the same life, and ends by the signal that ended it."""
    installation.write(telemetryHeartbeatInterval="500ms", appVersion="2.0")
    process = installation.lifebeat("run", "--config", "config")
    eventually(lambda: beats(receiver) >= 2)
    code, _, err = end(process, number)
    assert code == -number, err
    assert receiver.names()[0] == "startup"
    assert receiver.names()[-1] == "shutdown"
    assert receiver.names().count("startup") == receiver.names().count("shutdown") == 1
    assert "Traceback" not in err


def test_second_signal_ends_at_once(installation: Installation, receiver: PostHogServer) -> None:
    """Who goes on sending SIGTERM does not want to wait; those of the first half second are one."""
    receiver.hang()
    installation.write(telemetryShutdownTimeout="60s")  # longer than this waits
    process = installation.lifebeat("run", "--config", "config")
    eventually(lambda: receiver.requests)
    eventually(lambda: process.poll() is not None or process.send_signal(signal.SIGTERM))
    assert process.returncode == -signal.SIGTERM


def test_late_start_and_pause_do_not_lose_the_startup(installation: Installation, receiver: PostHogServer) -> None:
    """A scheduler that is started seconds after ``attach``, and paused, still runs the startup job."""
    process = installation.script("""
        import time
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
        time.sleep(2.5)
        scheduler.start(paused=True)
        time.sleep(1.5)
        scheduler.resume()
        time.sleep(1)
        scheduler.shutdown()
    """)
    process.communicate(timeout=20)
    assert receiver.names() == ["startup", "shutdown"]


def test_attach_after_start(installation: Installation, receiver: PostHogServer) -> None:
    """``attach`` on a scheduler that runs already starts at once."""
    process = installation.script("""
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        scheduler.start()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
        scheduler.shutdown()
    """)
    process.communicate(timeout=20)
    assert receiver.names() == ["startup", "shutdown"]


def test_a_scheduler_that_lives_twice(installation: Installation, receiver: PostHogServer) -> None:
    """A scheduler that is stopped and started again has two lives."""
    process = installation.script("""
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
        for _ in range(2):
            scheduler.start()
            scheduler.shutdown()
    """)
    _, err = process.communicate(timeout=20)
    assert receiver.names() == ["startup", "shutdown"] * 2, err


def test_the_host_keeps_what_is_its_own(installation: Installation, receiver: PostHogServer) -> None:
    """The host's store, default pool and job IDs are untouched, and clearing its jobs does not clear Lifebeat's."""
    process = installation.script("""
        import time
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
        scheduler.add_job(print, "interval", hours=1, id="heartbeat")
        scheduler.start()
        kept = {"heartbeat", "lifebeat:heartbeat"}  # a run that is made up for comes and goes
        while not kept <= {job.id for job in scheduler.get_jobs()}:
            time.sleep(0.02)
        scheduler.remove_all_jobs()
        print([job.id for job in scheduler.get_jobs() if job.id in kept])
        scheduler.shutdown()
    """)
    out, _ = process.communicate(timeout=20)
    assert out.splitlines()[-1] == "['lifebeat:heartbeat']"


def test_uncaught_exception_in_the_host(installation: Installation, receiver: PostHogServer) -> None:
    """A host that dies of an exception still says that it stopped, and its traceback is its own."""
    process = installation.script(BACKGROUND.format(ending="raise RuntimeError('the host is broken')"))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.strip().endswith("RuntimeError: the host is broken")
    assert receiver.names()[-1] == "shutdown"


def test_python_minus_m_is_the_command(installation: Installation) -> None:
    """``python -m lifebeat`` is the command."""
    assert installation.start(sys.executable, "-m", "lifebeat", "--version").communicate()[0].startswith("lifebeat ")

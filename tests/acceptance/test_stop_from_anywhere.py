"""A stop from anywhere: the scheduler's shutdown returns, and the shutdown event is at the receiver."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE, end

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer

HEAD = """
import asyncio, os, signal, sys, threading, time
from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.blocking import BlockingScheduler
import lifebeat

def attached(scheduler, **more):
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", **more)
    return scheduler

def soon(scheduler, work, seconds=0.7):
    scheduler.add_job(work, "interval", seconds=seconds)  # not once: APScheduler trips over that job's own removal

done = threading.Event()
"""
ENDINGS = {
    "a job": """
scheduler = attached(BackgroundScheduler())
scheduler.start()
def stop():
    try:
        scheduler.shutdown()
    except RuntimeError:  # APScheduler's own, where its pool would wait for itself
        pass
    done.set()
soon(scheduler, stop)
assert done.wait(20)
""",
    "a job without waiting": """
scheduler = attached(BackgroundScheduler())
scheduler.start()
def stop():
    scheduler.shutdown(wait=False)
    done.set()
soon(scheduler, stop)
assert done.wait(20)
""",
    "a listener": """
scheduler = attached(BackgroundScheduler())
first = threading.Lock()
def stop(_):
    if first.acquire(blocking=False):  # two jobs may end at once
        threading.Thread(target=scheduler.shutdown, kwargs={"wait": False}).start()
        done.set()
scheduler.add_listener(stop, EVENT_JOB_EXECUTED)
scheduler.start()
soon(scheduler, int)
assert done.wait(20)
""",
    "a daemon thread, and the program ends at once": """
scheduler = attached(BackgroundScheduler())
scheduler.start()
time.sleep(0.7)
threading.Thread(target=scheduler.shutdown, daemon=True).start()
time.sleep(0.01)
""",
    "without waiting": """
scheduler = attached(BackgroundScheduler())
scheduler.start()
time.sleep(0.7)
scheduler.shutdown(wait=False)
""",
    "right after the start": """
scheduler = attached(BackgroundScheduler())
scheduler.start()
scheduler.shutdown()
""",
    "sys.exit in a thread's finally": """
scheduler = attached(BackgroundScheduler())
scheduler.start()
try:
    time.sleep(0.7)
    sys.exit(0)
finally:
    scheduler.shutdown()
""",
    "a job of a blocking scheduler": """
scheduler = attached(BlockingScheduler())
soon(scheduler, lambda: scheduler.shutdown(wait=False))
scheduler.start()
""",
    "a coroutine, and the loop ends at once": """
async def main():
    scheduler = attached(AsyncIOScheduler())
    scheduler.start()
    await asyncio.sleep(0.7)
    scheduler.shutdown()
asyncio.run(main())
""",
    "an async job": """
async def main():
    scheduler = attached(AsyncIOScheduler())
    ended = asyncio.Event()
    async def stop():
        scheduler.shutdown(wait=False)
        ended.set()
    scheduler.start()
    soon(scheduler, stop)
    await ended.wait()
asyncio.run(main())
""",
    "close, and the scheduler goes on": """
scheduler = BackgroundScheduler()
handle = lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
scheduler.start()
time.sleep(0.7)
assert handle.close(20)
assert scheduler.running
os._exit(0)
""",
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_a_stop_from_anywhere_is_told(installation: Installation, receiver: PostHogServer, ending: str) -> None:
    """One startup and one shutdown, no traceback, and the process ends."""
    process = installation.script(HEAD + ENDINGS[ending])
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    assert receiver.names() == ["startup", "shutdown"]


def test_a_server_that_raises_sigterm_again_after_its_lifespan(
    installation: Installation, receiver: PostHogServer
) -> None:
    """As uvicorn and hypercorn do, at the default: what the listener has not seen to by then never happens."""
    process = installation.script(
        HEAD
        + """
async def main():
    scheduler = attached(AsyncIOScheduler(), signals=False)
    scheduler.start()
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)
    scheduler.shutdown()
asyncio.run(main())
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.raise_signal(signal.SIGTERM)
"""
    )
    receiver.wait_for(1)
    (installation.directory / "go").touch()
    process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGTERM
    _, ledger, _ = installation.run("log", "--config", "config", "--json")
    assert sorted(one["event"] for one in json.loads(ledger)) == ["shutdown", "startup"]


def test_a_plain_script_that_does_nothing_at_a_sigterm(installation: Installation, receiver: PostHogServer) -> None:
    """``attach`` sees to SIGTERM where the host left it at its default, without being asked to, on all schedulers."""
    process = installation.script(
        HEAD
        + "for scheduler in [attached(BackgroundScheduler()) for _ in range(2)]:\n    scheduler.start()\ntime.sleep(60)"
    )
    receiver.wait_for(1)
    status, _, err = end(process)
    assert (status, "Traceback" in err) == (-signal.SIGTERM, False)
    assert receiver.names() == ["startup", "shutdown"]


def test_ten_signals_at_once_are_one(installation: Installation, receiver: PostHogServer) -> None:
    """A supervisor that signals the group and the process does not mean: at once."""
    process = installation.lifebeat("run", "--config", "config")
    receiver.wait_for(1)
    for _ in range(9):
        process.send_signal(signal.SIGTERM)
    code, _, _ = end(process)
    assert code == -signal.SIGTERM
    assert receiver.names() == ["startup", "shutdown"]


def test_a_hosts_handler_set_later_is_never_touched(installation: Installation, receiver: PostHogServer) -> None:
    """Who sets a handler after ``attach`` has the signal for himself, and his scheduler's stop is told as ever."""
    process = installation.script(
        HEAD
        + """
scheduler = attached(BackgroundScheduler())
scheduler.start()
def mine(*_):
    scheduler.shutdown()
    print("mine", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, mine)
time.sleep(60)
"""
    )
    receiver.wait_for(1)
    code, out, _ = end(process)
    assert (code, out) == (7, "mine\n")
    assert receiver.names() == ["startup", "shutdown"]


def test_a_filter_of_the_host_that_raises_loses_nothing(installation: Installation, receiver: PostHogServer) -> None:
    """A bug in a logging filter is the host's own; our lines go missing, and nothing else."""
    process = installation.script(
        "import logging\n"
        + HEAD
        + """
class Broken(logging.Filter):
    def filter(self, record):
        raise ValueError("no")
logging.getLogger("lifebeat").addFilter(Broken())
scheduler = attached(BackgroundScheduler())
scheduler.start()
time.sleep(0.7)
scheduler.shutdown()
"""
    )
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert receiver.names() == ["startup", "shutdown"]

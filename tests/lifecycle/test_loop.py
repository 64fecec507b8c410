"""An event loop that Lifebeat runs on is not held up: not by its start, not by its jobs, not by its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Callable

    from hosts import Installation
    from lifebeat.testing import PostHogServer

BOUND = 20.0
STOP_BOUND = 500.0 + 50.0  # half a second, and what a busy machine takes to wake a thread
TRIES = 6
HOST = """
    import asyncio, os, time
    from apscheduler.schedulers.asyncio import AsyncIOScheduler
    from lifebeat import attach

    late = []

    def waits():
        # For how long each thread of this process has waited for a processor: that is the machine's, not Lifebeat's.
        found = {}
        for thread in os.listdir("/proc/self/task") if "SUBTRACT" in os.environ else ():
            try:
                with open(f"/proc/self/task/{thread}/schedstat") as file:
                    found[thread] = int(file.read().split()[1]) / 1e9
            except OSError:
                pass
        return found

    class Turn:
        def __init__(self):
            self.begun, self.waits = time.perf_counter(), waits()

        def length(self):
            now, waited = time.perf_counter(), waits()
            return now - self.begun - sum(waited[one] - self.waits.get(one, 0.0) for one in waited)

    async def tick():
        while True:
            turn = Turn()
            await asyncio.sleep(0.001)
            late.append(turn.length() - 0.001)

    async def main():
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.05)
        scheduler = AsyncIOScheduler()
        attach(scheduler, app_name="notes", app_version="1.4.2")
        scheduler.start()
        await asyncio.sleep(1.0)
        latest, turn = max(late), Turn()
        scheduler.shutdown()
        stop = turn.length()
        await asyncio.sleep(0.3)
        ticking.cancel()
        print(latest * 1000, stop * 1000)

    asyncio.run(main())
"""


def healthy(server: PostHogServer) -> None:
    """A PostHog that answers."""
    server.resume()


def hanging(server: PostHogServer) -> None:
    """One that takes the request and never answers."""
    server.hang()


def refusing(server: PostHogServer) -> None:
    """None at all."""
    server.refuse()


def turns(installation: Installation, number: int) -> tuple[float, float]:
    """By how many milliseconds the latest turn of a host's loop was late, and how many the stop took.

    Of every second process without what its threads waited for a processor. Asking for that takes time as well, and on
    a machine with nothing else to do more than it takes off.
    """
    environ = {"SUBTRACT": "1"} if number % 2 else {}
    out, err = installation.script(HOST, **environ).communicate(timeout=DEADLINE)
    assert out, err
    latest, stop = out.splitlines()[-1].split()
    return float(latest), float(stop)


@pytest.mark.parametrize("behave", [healthy, hanging, pytest.param(refusing, marks=pytest.mark.soak)])
def test_a_loop_is_not_held_up(
    installation: Installation, receiver: PostHogServer, behave: Callable[[PostHogServer], None]
) -> None:
    """No turn is later than 20 ms, from attach over heartbeats up to the stop; the best of six processes.

    The import of PostHog's SDK is among what happens in that time. The stop takes half a second at most: the shutdown
    is recorded before the listener returns, and what the network does not take by then goes on in the background.
    """
    behave(receiver)
    installation.write(telemetryHeartbeatInterval="200ms", telemetryShutdownTimeout="3s")
    taken = [turns(installation, 0)]
    while (min(taken)[0] > BOUND or min(stop for _, stop in taken) > STOP_BOUND) and len(taken) < TRIES:
        taken.append(turns(installation, len(taken)))
    print(f"{behave.__name__}: the latest turns were late by {', '.join(f'{one:.1f} ms' for one, _ in taken)}")
    assert min(taken)[0] <= BOUND
    assert min(stop for _, stop in taken) <= STOP_BOUND
    code, out, _ = installation.run("log", "--config", "config", "--json")
    assert code == 0
    assert [one["event"] for one in json.loads(out)].count("shutdown") == len(taken)
    if behave is healthy:
        installation.run("flush", "--config", "config")  # what the loop's half second was too short for
        in_order = [one["event"] for one in sorted(receiver.events, key=lambda one: str(one["timestamp"]))]
        assert (in_order[0], in_order[-1]) == ("startup", "shutdown")


def test_nothing_is_lost_by_an_early_end(installation: Installation, receiver: PostHogServer) -> None:
    """A loop that ends while its start is still under way has its startup and its shutdown all the same."""
    code = HOST.replace("asyncio.sleep(1.0)", "asyncio.sleep(0)").replace("asyncio.sleep(0.3)", "asyncio.sleep(0)")
    process = installation.script(code)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    assert receiver.names() == ["startup", "shutdown"]


def test_no_stop_at_all(installation: Installation, receiver: PostHogServer) -> None:
    """Nor is anything lost if the application just ends in that moment."""
    begin, _, _ = HOST.partition("        await asyncio.sleep(1.0)")
    process = installation.script(begin + "\n    asyncio.run(main())\n")
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, err
    assert "Traceback" not in out + err
    assert receiver.names() == ["startup", "shutdown"]

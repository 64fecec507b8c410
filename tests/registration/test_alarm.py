"""The event by which a scheduler waits for its instants and for a descriptor: first of all, still an event."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from hosts import eventually
from lifebeat.registration import alarm
from lifebeat.registration.alarm import Alarm

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell of changes")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Something to wait for, and the end to write to."""
    reading, writing = os.pipe()
    yield reading, writing
    for one in (reading, writing):
        os.close(one)


def nobody() -> None:
    """Nothing is done about it."""


def within(seconds: float, alarm: threading.Event, timeout: float | None = None) -> bool:
    """Wait for the alarm, and see that it took no longer than that."""
    begin = time.monotonic()
    found = alarm.wait(timeout)
    assert time.monotonic() - begin < seconds
    return found


def test_it_is_an_event(pipe: tuple[int, int]) -> None:
    """It is set, waited for and cleared as an event is, from any thread."""
    made = Alarm(pipe[0], nobody)
    assert not within(0.5, made, 0)
    assert not within(0.5, made, 0.05)
    made.set()
    assert within(0.5, made)
    assert made.is_set()
    made.clear()
    assert not within(0.5, made, 0.01)
    threading.Timer(0.05, made.set).start()
    assert within(5, made)


def test_a_wait_is_as_long_as_that_of_an_event(pipe: tuple[int, int]) -> None:
    """A wait ends when its time is up, and not before, however often it is interrupted by something to read."""
    read: list[bytes] = []
    made = Alarm(pipe[0], lambda: read.append(os.read(pipe[0], 1)))
    for number in range(3):
        threading.Timer(0.02 * number, os.write, (pipe[1], b".")).start()
    begin = time.monotonic()
    assert not made.wait(0.2)
    assert 0.2 <= time.monotonic() - begin < 0.4
    assert len(read) == 3


def test_a_wait_is_exact(pipe: tuple[int, int]) -> None:
    """A wait of two seconds ends as exactly as that of an event, which one for descriptors alone would not."""

    def lateness(event: threading.Event) -> float:
        begin = time.monotonic()
        event.wait(2)
        return time.monotonic() - begin - 2

    found: list[list[float]] = [[], []]

    def wait(event: threading.Event, late: list[float]) -> None:
        late.extend(lateness(event) for _ in range(3))

    events = Alarm(pipe[0], nobody), threading.Event()
    threads = [threading.Thread(target=wait, args=one) for one in zip(events, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(found[0]) < min(found[1]) + 0.001


def test_who_is_woken_up_all_the_time_hears_of_it(pipe: tuple[int, int]) -> None:
    """What can be read is told of in a wait that is over at once, as it is in a busy scheduler."""
    read: list[bytes] = []
    made = Alarm(pipe[0], lambda: read.append(os.read(pipe[0], 1)))
    os.write(pipe[1], b"..")
    made.set()
    assert made.wait()
    made.clear()
    assert not made.wait(0)
    assert len(read) == 2


def test_what_can_be_read_is_told_of(pipe: tuple[int, int]) -> None:
    """What is told is called in the thread that waits, as often as there is something, and not after the end."""
    told: list[threading.Thread] = []

    def take() -> None:
        os.read(pipe[0], 1)
        told.append(threading.current_thread())

    made = Alarm(pipe[0], take)
    waiting = threading.Thread(target=made.wait)
    waiting.start()
    for number in range(3):
        os.write(pipe[1], b".")
        eventually(lambda number=number: len(told) == number + 1)
    assert set(told) == {waiting}
    left: list[str] = []
    made.leave(lambda: left.append("left"))
    os.write(pipe[1], b".")
    assert not waiting.join(0.2)
    assert (len(told), left, waiting.is_alive()) == (3, ["left"], True)
    made.set()
    waiting.join()


def test_a_descriptor_that_somebody_closed(pipe: tuple[int, int]) -> None:
    """Where the descriptor is gone it still is an event, and a scheduler goes on by it."""
    gone = os.dup(pipe[0])
    made = Alarm(gone, nobody)
    os.close(gone)
    assert not within(0.5, made, 0.05)
    threading.Timer(0.05, made.set).start()
    assert within(5, made)


def test_it_looks_now_and_then(pipe: tuple[int, int]) -> None:
    """In a long wait it is told of now and then, in case that something was not."""
    told: list[float] = []
    made = Alarm(pipe[0], lambda: told.append(time.monotonic()), longest=0.05)
    made.wait(0.4)
    assert 3 <= len(told) <= 8


def test_a_scheduler_that_runs_already(pipe: tuple[int, int]) -> None:
    """A running scheduler takes it up at once, and fires, wakes up and stops as before."""
    scheduler: Any = BackgroundScheduler(executors={"default": {"type": "debug"}})  # APScheduler's pools end for good
    scheduler.start()
    told, fired = threading.Event(), threading.Event()

    def take() -> None:
        os.read(pipe[0], 1)
        told.set()

    leave = alarm.attend(scheduler, pipe[0], take)
    os.write(pipe[1], b".")
    assert told.wait(5)
    scheduler.add_job(fired.set, "interval", seconds=0.1)
    assert fired.wait(5)
    assert leave is not None
    leave(nobody)
    fired.clear()
    assert fired.wait(5)
    for _ in range(2):
        scheduler.shutdown()
        fired.clear()
        scheduler.start()
        scheduler.add_job(fired.set)
        assert fired.wait(5)
    scheduler.shutdown()


def test_a_scheduler_that_was_woken_up_before(pipe: tuple[int, int]) -> None:
    """A scheduler that is told of something to do, before its thread has begun to wait, does not forget it."""
    scheduler: Any = BackgroundScheduler()
    scheduler._event = threading.Event()
    scheduler.wakeup()
    alarm.attend(scheduler, pipe[0], nobody)
    assert within(5, scheduler._event)


def test_schedulers_that_wait_in_another_way(pipe: tuple[int, int]) -> None:
    """A scheduler with a loop, or an event, of its own is left alone."""

    class Own(BackgroundScheduler):  # type: ignore[misc]  # APScheduler ships no types
        def _main_loop(self) -> None:
            """Another one."""

    scheduler: Any = BackgroundScheduler()
    scheduler._event = event = object()
    assert alarm.attend(scheduler, pipe[0], nobody) is None
    assert scheduler._event is event
    assert alarm.attend(Own(), pipe[0], nobody) is None


def test_more_descriptors_than_can_be_waited_for(pipe: tuple[int, int]) -> None:
    """Beyond the first 1,024 descriptors a scheduler is left alone."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    high = os.dup2(pipe[0], 1500)
    try:
        scheduler: Any = BackgroundScheduler()
        scheduler._event = event = threading.Event()
        assert alarm.attend(scheduler, high, nobody) is None
        assert scheduler._event is event
    finally:
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

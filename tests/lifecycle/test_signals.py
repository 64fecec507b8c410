"""Stop signals: none is lost, and all is as before when it is over."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE
from lifebeat.lifecycle.signals import StopSignals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hosts import Installation


@pytest.fixture
def signals() -> Iterator[StopSignals]:
    """Handlers of a signal that nobody else here uses, for a main thread that waits."""
    made = StopSignals((signal.SIGUSR1,))
    made.install(wakeup=True)
    yield made
    made.restore()


def test_a_signal_wakes_who_waits(signals: StopSignals) -> None:
    """A signal ends the wait, also one that came before it."""
    assert not signals.wait(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.wait(DEADLINE)
    assert signals.received is signal.SIGUSR1


def test_the_signal_itself_writes_the_byte(signals: StopSignals) -> None:
    """The wait would end although no handler in Python had run yet: one of a moment before the wait runs after it."""
    assert signal.set_wakeup_fd(-1) not in {-1, None}


def test_all_is_put_back(signals: StopSignals) -> None:
    """Afterwards the handlers are those of before, and the one place for waking is free."""
    signals.restore()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("times", [3, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_stopped_in_the_moment_of_its_start(installation: Installation, times: int) -> None:
    """A host that is told to stop as soon as it says that it has started does so."""
    installation.write(telemetryEnabled=False)
    slowest = 0.0
    for _ in range(times):
        process = installation.lifebeat("run", "--config", "config")
        assert process.stderr is not None
        while "started" not in process.stderr.readline():
            assert process.poll() is None
        begin = time.monotonic()
        process.terminate()
        try:
            process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail("it did not stop")
        slowest = max(slowest, time.monotonic() - begin)
        assert process.returncode == -signal.SIGTERM
    print(f"{times} stops, the slowest in {slowest:.2f} s")

"""A start that follows a boot of the machine is delivered after a while; everything else is delivered at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifebeat_jobs import boot, telemetry
from lifebeat_jobs.delivery import next_attempt
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.testing import PostHogServer

pytestmark = pytest.mark.skipif(boot.boot_id() is None, reason="this system does not name its boots")


@pytest.fixture
def application(tmp_path: Path, receiver: PostHogServer) -> Application:
    """An installation that has started before, on this boot of the machine."""
    made = Application(tmp_path, state_dir=tmp_path)
    made.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryInstanceId=INSTANCE_ID)
    telemetry.startup(made.context())
    assert (receiver.names(), made.scheduled) == (["startup"], {})
    return made


def after_a_boot(application: Application) -> None:
    """Let it look as if the machine had been booted since."""
    application.outbox.set_note(boot.NOTE, "6d1f1b5e-former-boot 0.0")


def start_after_boot(application: Application) -> float:
    """Start after a boot; how long deliveries are held back, in seconds."""
    after_a_boot(application)
    telemetry.startup(application.context())
    held = boot.held_until(application.outbox, application.clock.time())
    assert held is not None
    return held - application.clock.time()


def test_a_restart_without_a_boot_is_delivered_at_once(application: Application, receiver: PostHogServer) -> None:
    """After a crash, a kill or a release nothing is held back."""
    telemetry.startup(application.context())
    assert (receiver.names(), application.scheduled) == (["startup"] * 2, {})


def test_a_start_after_a_boot_is_held_back(application: Application, receiver: PostHogServer) -> None:
    """It waits for a time by chance, of three hours at most, and the scheduler comes back for it."""
    held = start_after_boot(application)
    assert 0 < held <= boot.LONGEST_HOLD == 3 * 3600
    assert receiver.names() == ["startup"]
    ((delay, work),) = application.scheduled.values()
    assert delay.total_seconds() == pytest.approx(held, abs=1)
    assert next_attempt(application.context(), application.outbox) == application.clock.time() + held
    application.clock.advance(delay.total_seconds() + 0.001)
    work()
    assert receiver.names() == ["startup"] * 2


def test_what_comes_meanwhile_goes_along(application: Application, receiver: PostHogServer) -> None:
    """A heartbeat in that time waits as well, also over a restart, and they arrive in one request."""
    held = start_after_boot(application)
    telemetry.heartbeat(application.context())
    telemetry.startup(application.context())
    assert len(receiver.requests) == 1
    application.clock.advance(held + 0.001)
    telemetry.heartbeat(application.context())
    assert receiver.names() == ["startup", "startup", "heartbeat", "startup", "heartbeat"]
    assert len(receiver.requests) == 2


def test_a_stop_delivers_what_is_held_back(application: Application, receiver: PostHogServer) -> None:
    """A short life after a boot is delivered when it ends."""
    start_after_boot(application)
    telemetry.shutdown(application.context(timeout=5))
    assert receiver.names() == ["startup", "startup", "shutdown"]


def test_an_operator_is_not_held_back(application: Application, receiver: PostHogServer) -> None:
    """``lifebeat flush`` delivers at once."""
    start_after_boot(application)
    assert telemetry.flush(application.context(), None) == 1
    assert receiver.names() == ["startup"] * 2


def test_chance_spreads_them(application: Application) -> None:
    """No two of a crowd are held back for the same time."""
    assert len({start_after_boot(application) for _ in range(20)}) == 20


def test_a_clock_that_is_set_back_holds_nothing_back_for_long(
    application: Application, receiver: PostHogServer
) -> None:
    """Three hours do not become a year because the clock went back by one."""
    start_after_boot(application)
    application.clock.jump(-365 * 86400)
    telemetry.heartbeat(application.context())
    assert receiver.names() == ["startup", "startup", "heartbeat"]


def test_a_system_that_does_not_name_its_boots(application: Application) -> None:
    """Where nothing tells one boot from the next, nothing is held back."""
    after_a_boot(application)
    boot.started(application.outbox, None, application.clock.time(), draw=lambda: 1.0)
    assert boot.held_until(application.outbox, application.clock.time()) is None

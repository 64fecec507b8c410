"""``attach`` and the handle that it returns, inside a host's own process."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

import lifebeat
from hosts import eventually
from lifebeat.lifecycle.signals import sigterm_of_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer


@pytest.fixture
def scheduler(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A scheduler in a process in which telemetry may run towards loopback."""
    monkeypatch.setenv("LIFEBEAT_TEST_MODE", "loopback")
    monkeypatch.delenv("DO_NOT_TRACK", raising=False)
    made: Any = BackgroundScheduler(timezone="UTC")
    yield made
    if made.running:
        made.shutdown()


def attach(scheduler: Any, installation: Installation, **more: Any) -> lifebeat.Lifebeat:
    return lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", config_dir=installation.config, **more)


def test_status(scheduler: Any, installation: Installation, receiver: PostHogServer) -> None:
    """``status`` says whether telemetry is on, who said so, what waits, and when the jobs run next."""
    handle = attach(scheduler, installation)
    scheduler.start()
    receiver.wait_for(1)
    eventually(lambda: handle.status()["waiting"] == 0)
    told = handle.status()
    assert told["telemetry"] == "on"
    assert told["jobs"]["heartbeat"] is not None
    assert told["jobs"]["startup"] is None
    assert told["instance_id"] == receiver.events[0]["distinct_id"]


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_a_directory_that_cannot_be_looked_at_pauses_telemetry(
    scheduler: Any, installation: Installation, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Whatever the system answers when it is asked for a file there, ``attach`` does not raise, and the host runs."""
    (installation.directory / "file").touch()
    installation.config = installation.directory / name
    handle = attach(scheduler, installation, host=installation.receiver.url)
    scheduler.start()
    assert handle.status()["telemetry"] == "paused"
    assert "telemetry is paused until this is fixed" in caplog.text


def test_a_host_may_change_or_lose_its_working_directory(
    scheduler: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative directory is that of the call; where the working directory is gone telemetry is paused."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(installation.directory)
    handle = lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", config_dir="config")
    monkeypatch.chdir(gone)
    assert handle.setconfig("telemetryHeartbeatInterval", "6h") == str(installation.config / "config.json")
    gone.rmdir()
    assert handle.status()["telemetry"] == "on"
    other: Any = BackgroundScheduler(timezone="UTC")
    lost = lifebeat.attach(other, app_name="notes", app_version="1", host=installation.receiver.url, signals=False)
    other.start()
    assert lost.status()["telemetry"] == "paused"
    assert "the working directory is gone" in lost.status()["reason"]
    other.shutdown()


def test_preview(scheduler: Any, installation: Installation, receiver: PostHogServer) -> None:
    """``preview`` gives the events without sending anything, also while telemetry is off."""
    handle = attach(scheduler, installation, enabled=False)
    names = [json.loads(body)["event"] for body in handle.preview()]
    assert names[:3] == ["startup", "heartbeat", "shutdown"]  # then those that other tests have declared
    assert [json.loads(body)["event"] for body in handle.preview("heartbeat")] == ["heartbeat"]
    assert receiver.connections == 0


def test_flush(scheduler: Any, installation: Installation, receiver: PostHogServer) -> None:
    """``flush`` delivers what an outage left behind, and says how much that was."""
    receiver.refuse()
    handle = attach(scheduler, installation)
    scheduler.start()
    eventually(lambda: handle.status()["waiting"] == 1)
    receiver.accept_again()
    eventually(lambda: handle.flush(timeout=5) or handle.status()["waiting"] == 0)
    assert receiver.names() == ["startup"]


def test_close_leaves_the_scheduler_to_its_host(
    scheduler: Any, installation: Installation, receiver: PostHogServer
) -> None:
    """``close`` ends Lifebeat's part with a shutdown event; the scheduler goes on with the host's jobs alone."""
    handle = attach(scheduler, installation)
    scheduler.add_job(print, "interval", hours=1, id="the host's")
    scheduler.start()
    receiver.wait_for(1)
    assert handle.close(timeout=5)
    assert receiver.names() == ["startup", "shutdown"]
    assert [job.id for job in scheduler.get_jobs()] == ["the host's"]
    scheduler.shutdown()
    assert receiver.names() == ["startup", "shutdown"]


def test_attach_twice(
    scheduler: Any, installation: Installation, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A second ``attach`` to a scheduler says so and returns the first one's handle."""
    first = attach(scheduler, installation)
    assert attach(scheduler, installation) is first
    assert "attach() was called twice" in caplog.text
    scheduler.start()
    scheduler.shutdown()
    assert receiver.names() == ["startup", "shutdown"]


def test_a_broken_job_of_the_host_raises(scheduler: Any, installation: Installation) -> None:
    """A fault in the host's own jobs is the host's bug: ``attach`` raises, with the place, and attaches nothing."""
    (installation.config / "jobs.yaml").write_text("jobs:\n  mine: {run: 'myapp.jobs:report', every: 1h}\n")
    with pytest.raises(lifebeat.ConfigError) as raised:
        attach(scheduler, installation)
    assert raised.value.problems[0].line == 2
    scheduler.start()
    assert scheduler.get_jobs() == []


def test_a_broken_telemetry_job_does_not_raise(
    scheduler: Any, installation: Installation, receiver: PostHogServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault that an operator made in telemetry's jobs is said once; the host starts all the same."""
    (installation.config / "jobs.yaml").write_text(
        "jobs:\n  heartbeat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 0s}\n"
    )
    attach(scheduler, installation)
    scheduler.start()
    scheduler.shutdown()
    assert caplog.text.count("telemetry is paused") == 1
    assert receiver.connections == 0


def test_own_jobs_run_beside_telemetry_and_without_it(
    scheduler: Any, installation: Installation, receiver: PostHogServer
) -> None:
    """A host's own jobs of the same file run whether telemetry is on or off."""
    (installation.config / "jobs.yaml").write_text("jobs:\n  mine: {run: 'test_embedding:mine', every: 100ms}\n")
    ran.clear()
    attach(scheduler, installation, enabled=False, allow=["test_embedding"])
    scheduler.start()
    eventually(lambda: len(ran) >= 3)
    scheduler.shutdown()
    assert receiver.connections == 0


ran: list[int] = []


def mine() -> None:
    """A job of the host's."""
    ran.append(1)


def test_signals_leave_a_host_handler_alone() -> None:
    """SIGTERM is left to the host that has a handler for it."""
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert sigterm_of_host() is None
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, former)


def test_a_scheduler_can_be_forgotten(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers that a program makes and drops are not kept alive by having been attached to."""
    import gc
    import weakref

    monkeypatch.setenv("LIFEBEAT_TEST_MODE", "loopback")
    made: Any = BackgroundScheduler(timezone="UTC")
    attach(made, installation)
    made.start()
    made.shutdown()
    seen = weakref.ref(made)
    del made
    eventually(lambda: gc.collect() >= 0 and seen() is None)

"""What an application passes in code is known to the commands beside it: while it runs, killed, and off."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually

if TYPE_CHECKING:
    import subprocess

    from hosts import Installation
    from lifebeat.testing import PostHogServer

HOST = """
    import json, signal
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    scheduler = BackgroundScheduler()
    handle = lifebeat.attach(scheduler, config_dir="config", **json.loads({arguments!r}))
    scheduler.start()
    print("started", flush=True)
    while True:
        signal.pause()
"""


@pytest.fixture
def bare(installation: Installation) -> Installation:
    """An installation whose config says nothing: all is passed in code."""
    (installation.config / "config.json").unlink()
    return installation


def start(installation: Installation, **more: Any) -> subprocess.Popen[str]:
    """Start a host that passes everything in code."""
    arguments = {"app_name": "notes", "app_version": "1.4.2", "api_key": "phc_in_code_only"}
    arguments |= {"host": installation.receiver.url, **more}
    process = installation.script(HOST.replace("{arguments!r}", repr(json.dumps(arguments))))
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def status(installation: Installation) -> dict[str, Any]:
    """What ``lifebeat status`` tells programs."""
    found: dict[str, Any] = json.loads(installation.run("status", "--json", "--config", "config")[1])
    return found


def test_commands_know_what_the_running_host_was_told(bare: Installation, receiver: PostHogServer) -> None:
    """Key, host, name and version are the application's, with who says so; ``flush`` delivers with them."""
    assert "no application has run here yet" in status(bare)["application"]
    process = start(bare)
    receiver.wait_for(1)
    found = status(bare)
    assert (found["telemetry"], found["host"], found["api_key"]) == ("on", receiver.url, "phc_... (16 characters)")
    assert found["application"].startswith(f"notes 1.4.2, process {process.pid}, since ")
    assert found["summary"].startswith(f"On. notes 1.4.2 sends to {receiver.url} every 24h; last delivered ")
    layers = bare.run("config", "--layers", "--config", "config")[1]
    assert f"host argument (notes 1.4.2, process {process.pid}, since " in layers
    previewed = json.loads(bare.run("preview", "startup", "--json", "--config", "config")[1])
    (sent,) = receiver.events
    same = set(sent["properties"]) - {"$lib_version"}
    assert {name: previewed["properties"][name] for name in same} == {name: sent["properties"][name] for name in same}
    process.kill()
    process.wait()
    found = status(bare)
    assert found["application"].startswith("notes 1.4.2, last seen ")
    assert (found["telemetry"], found["host"]) == ("on", receiver.url)


def test_modules_of_the_host_need_not_be_there_for_the_command(bare: Installation, receiver: PostHogServer) -> None:
    """Where a command cannot import the host's own jobs, it still says what the host does."""
    (bare.config / "jobs.yaml").write_text(
        "jobs:\n"
        "  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start, once: application}\n"
        "  report: {run: 'only_there:report', every: 1h}\n"
    )
    elsewhere = bare.directory / "elsewhere"
    elsewhere.mkdir()
    (bare.directory / "only_there.py").write_text("def report(): ...\n")
    process = start(bare, allow=["only_there"])
    receiver.wait_for(1)
    (bare.directory / "only_there.py").rename(elsewhere / "only_there.py")
    assert status(bare)["telemetry"] == "on"
    process.kill()


def test_flush_delivers_with_the_key_that_is_only_in_code(bare: Installation, receiver: PostHogServer) -> None:
    """Events of a host that was killed while the server was away go out by ``flush``."""
    receiver.refuse()
    process = start(bare)
    eventually(lambda: status(bare)["waiting"] == 1)
    process.kill()
    process.wait()
    receiver.accept_again()
    code, out, _ = bare.run("flush", "--config", "config")
    assert (code, out) == (0, "1 delivered, 0 waiting\n")
    assert receiver.names() == ["startup"]


def test_off_by_argument_is_shown_off(bare: Installation, receiver: PostHogServer) -> None:
    """A host that says no in code is off in every command, running and afterwards, and for its other processes."""
    first = start(bare)
    receiver.wait_for(1)
    second = start(bare, enabled=False)
    eventually(lambda: status(bare)["telemetry"] == "off")
    assert "host argument" in status(bare)["reason"]
    for process in (first, second):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert receiver.names() == ["startup"]
    assert status(bare)["summary"].startswith("Off: ")


def test_off_by_argument_writes_nothing(bare: Installation, receiver: PostHogServer) -> None:
    """In a directory where nothing has run, a host that is off leaves nothing."""
    process = start(bare, enabled=False)
    process.terminate()
    process.communicate(timeout=20)
    assert list(bare.config.iterdir()) == []
    assert receiver.connections == 0


def test_two_applications_in_one_directory_are_named(bare: Installation, receiver: PostHogServer) -> None:
    """A second application is told once, and ``status`` names the first."""
    first = start(bare)
    receiver.wait_for(1)
    second = start(bare, app_name="shop")
    eventually(lambda: status(bare)["application"].startswith("shop"))
    assert status(bare)["also_used_by"] == "notes"
    first.kill()
    second.terminate()
    _, err = second.communicate(timeout=20)
    assert err.count("'shop' and 'notes' use the config directory") == 1

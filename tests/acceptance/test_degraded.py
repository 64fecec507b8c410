"""A machine that fails: the host goes on, what is lost is said in one line, and nothing else is heard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from mounts import filled, mounted, needs_mount

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer

HOST = """
    import logging, sys, time
    from apscheduler.schedulers.background import BackgroundScheduler
    import lifebeat

    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    ran = []
    scheduler = BackgroundScheduler()
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
    scheduler.add_job(lambda: ran.append(1), "interval", seconds=0.2)
    scheduler.start()
    time.sleep(1.5)
    scheduler.shutdown()
    print("the host ran", len(ran) >= 5)
"""


# Root that heeds permissions as any other user does.
WITHOUT_OVERRIDE = ("--bounding-set=-dac_override", "--inh-caps=-dac_override")


def said(installation: Installation, *before: str, **environ: str) -> list[str]:
    """Run the host to its end, with another program before it; the warnings that it heard from Lifebeat."""
    path = installation.directory / "host.py"
    path.write_text(textwrap.dedent(HOST))
    process = installation.start(*before, sys.executable, str(path), **environ)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, ""), out + err
    assert out.splitlines()[-1] == "the host ran True"
    assert "Traceback" not in out
    return [
        line
        for line in out.splitlines()
        if line.startswith(("WARNING lifebeat", "ERROR")) and "is delivered to" not in line
    ]


@needs_mount
def test_read_only_config_moves_state_below_home(installation: Installation, receiver: PostHogServer) -> None:
    """Where config cannot be written, state and ID live below home, and nothing is lost."""
    with mounted(installation.config, "--bind", str(installation.config)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(installation.config)], check=True)
        assert said(installation) == []
        assert said(installation) == []
    assert receiver.names() == ["startup", "shutdown"] * 2
    assert len({event["distinct_id"] for event in receiver.events}) == 1


@needs_mount
def test_nothing_is_sent_where_no_id_can_be_stored(installation: Installation, receiver: PostHogServer) -> None:
    """Where nothing can be written no ID can be kept, so nothing is sent, and that is said."""
    nowhere = installation.directory / "nowhere"
    nowhere.mkdir()
    with (
        mounted(nowhere, "-t", "tmpfs", "-o", "size=64k", "tmpfs"),
        mounted(installation.config, "--bind", str(installation.config)),
    ):
        subprocess.run(["mount", "-o", "remount,ro", str(nowhere)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(installation.config)], check=True)
        lines = said(installation, HOME=str(nowhere))
    assert receiver.events == []
    assert lines
    assert all("telemetryStateDir" in line or "telemetryInstanceId" in line for line in lines)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root, and setpriv to take its special rights away",
)
def test_config_directory_of_another_user_moves_state_below_home(
    installation: Installation, receiver: PostHogServer
) -> None:
    """Where config belongs to another user, state and ID live below home, the config stays, and nothing is lost."""
    home = installation.directory / "home"
    home.mkdir()
    for path in (installation.config, *installation.config.iterdir()):
        os.chown(path, 65534, 65534)
    before = {path.name: path.read_bytes() for path in installation.config.iterdir()}
    for _ in range(2):
        assert said(installation, "setpriv", *WITHOUT_OVERRIDE, HOME=str(home)) == []
    assert receiver.names() == ["startup", "shutdown"] * 2
    assert len({event["distinct_id"] for event in receiver.events}) == 1
    assert {path.name: path.read_bytes() for path in installation.config.iterdir()} == before


@needs_mount
def test_full_disk_does_not_stop_the_host(installation: Installation, receiver: PostHogServer) -> None:
    """On a full disk the host goes on, and what could not be kept is said."""
    full = installation.directory / "full"
    full.mkdir()
    with mounted(full, "-t", "tmpfs", "-o", "size=256k", "tmpfs"):
        installation.write(telemetryStateDir=str(full), telemetryInstanceId="6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11")
        filled(full)
        lines = said(installation)
    assert lines
    assert receiver.names() in ([], ["startup"], ["startup", "shutdown"])


@pytest.mark.parametrize(
    "content", [b"garbage" * 1000, b"SQLite format 3\x00" + b"\xff" * 5000], ids=["noise", "a header"]
)
def test_corrupt_database_is_moved_away(installation: Installation, receiver: PostHogServer, content: bytes) -> None:
    """A corrupt outbox is set aside under a new name, that is said once, and telemetry goes on."""
    (installation.config / "lifebeat").mkdir()
    (installation.config / "lifebeat/lifebeat.sqlite3").write_bytes(content)
    lines = said(installation)
    assert len(lines) == 1, lines
    assert receiver.names() == ["startup", "shutdown"]
    (aside,) = [path for path in (installation.config / "lifebeat").iterdir() if "damaged" in path.name]
    assert aside.read_bytes() == content


@pytest.mark.parametrize("content", [b'{"telemetryEnabled": fal', b"\xff\xfe", b'["a"]', b'{"a": 1}}'])
def test_corrupt_config_sends_nothing_and_is_left_as_it_is(
    installation: Installation, receiver: PostHogServer, content: bytes
) -> None:
    """A config.json that cannot be read may say off: nothing is sent, it is said once, and no byte of it changes."""
    (installation.config / "config.json").write_bytes(content)
    lines = said(installation, TELEMETRY_API_KEY="phc_test", TELEMETRY_HOST=receiver.url)
    assert len(lines) == 1
    assert "config/config.json:" in lines[0]
    assert receiver.connections == 0
    assert (installation.config / "config.json").read_bytes() == content


@pytest.mark.soak
def test_offline_is_one_line(installation: Installation, receiver: PostHogServer) -> None:
    """Being offline is one line when it begins and one when it ends, whatever happens in between."""
    receiver.refuse()
    installation.write(telemetryHeartbeatInterval="300ms")
    lines = said(installation)
    assert len(lines) == 1
    assert "cannot be delivered" in lines[0]
    assert said(installation) == []
    receiver.accept_again()
    process = installation.script(HOST)
    out, _ = process.communicate(timeout=30)
    assert sum("is delivered to" in line for line in out.splitlines()) == 1, out


@pytest.mark.soak
def test_events_of_an_outage_are_never_sent_after_an_opt_out(
    installation: Installation, receiver: PostHogServer
) -> None:
    """Opt-out during an outage with twenty events pending: not one of them is ever sent."""
    receiver.refuse()
    installation.write(telemetryHeartbeatInterval="20ms")
    process = installation.lifebeat("run", "--config", "config")
    from hosts import eventually
    from test_crash import recorded

    eventually(
        lambda: (installation.config / "lifebeat/lifebeat.sqlite3").exists() and len(recorded(installation)) >= 20
    )
    assert installation.run("setconfig", "telemetryEnabled", "false", "--config", "config")[0] == 0
    receiver.accept_again()
    process.terminate()
    process.communicate(timeout=20)
    known = recorded(installation)
    installation.write(telemetryEnabled=True, telemetryHeartbeatInterval="24h")
    assert said(installation) == []
    assert {one[0] for one in receiver.distinct()} & set(known) == set()
    assert sorted(receiver.names()) == ["shutdown", "startup"]

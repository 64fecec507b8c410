"""``prove-off``: what it shows, and that it would show more if there were more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hosts import end, eventually
from lifebeat.cli.proof import prove

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer


def test_off_attempts_nothing(installation: Installation, receiver: PostHogServer) -> None:
    """With telemetry off nothing is attempted, and the command exits 0."""
    before = sorted(installation.directory.rglob("*"))
    code, out, err = installation.run("prove-off", "--config", "config")
    assert (code, err) == (0, "")
    assert "Attempted: no connection, no look-up, no file, no database, no process, no thread." in out
    assert sorted(installation.directory.rglob("*")) == before
    assert receiver.connections == 0


def test_life_with_telemetry_on_is_seen(installation: Installation, receiver: PostHogServer) -> None:
    """The same life with telemetry on shows connections, look-ups, files, databases and threads."""
    attempts = prove(installation.config, installation.environ(), off=False)
    kinds = {one["kind"] for one in attempts}
    assert {"socket.connect", "socket.getaddrinfo", "open for writing", "sqlite3.connect", "thread"} <= kinds
    assert receiver.connections > 0


def test_an_installation_that_is_on_stays_as_it_is(installation: Installation, receiver: PostHogServer) -> None:
    """With events pending, a host running and a broken job of its own, nothing changes, and the proof stands."""
    receiver.refuse()
    installation.write(telemetryInstanceId="6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11")
    (installation.directory / "notes_jobs.py").write_text(
        "open('imported', 'w').close()\ndef report(): open('ran', 'w')\n"
    )
    host = installation.lifebeat("run", "--config", "config")
    eventually(lambda: "startup" in installation.run("log", "--config", "config")[1])
    (installation.config / "jobs.yaml").write_text(
        "jobs:\n"
        "  heartbeat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 24h, enabled: '${telemetryEnabled}'}\n"
        "  report: {run: 'notes_jobs:report', every: 1s}\n"
        "  broken: {run: 'notes_jobs:report', evry: 1s}\n"
    )
    before = {path.name: path.read_bytes() for path in installation.config.glob("*.[jy]*")}
    code, out, err = installation.run(
        "prove-off", "--config", "config", "--allow", "notes_jobs", PYTHONPATH=str(installation.directory)
    )
    assert code == 0
    assert "Attempted: no connection, no look-up, no file, no database, no process, no thread." in out
    assert "Left out: 1 job of the application's own." in out
    assert "unknown field 'evry'" in err
    assert {path.name: path.read_bytes() for path in installation.config.glob("*.[jy]*")} == before
    assert not (installation.directory / "ran").exists()
    assert "startup" in installation.run("log", "--config", "config")[1]
    end(host)

"""``prove-off``: what it shows, and that it would show more if there were more."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def test_on_is_seen(installation: Installation, receiver: PostHogServer) -> None:
    """The same life with telemetry on shows connections, look-ups, files, databases and threads."""
    attempts = prove(installation.config, installation.environ(), off=False)
    kinds = {one.kind for one in attempts}
    assert {"socket.connect", "socket.getaddrinfo", "open for writing", "sqlite3.connect", "thread"} <= kinds
    assert receiver.connections > 0

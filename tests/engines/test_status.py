"""``lifebeat status`` beside an engine: reachable or not, who is in, what waits, what ran last, and the agreed ID."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from hosts import Installation, end, eventually

if TYPE_CHECKING:
    from lifebeat.testing import PostHogServer
    from postgresql import PostgreSQL

pytestmark = pytest.mark.xdist_group("postgresql")


def status(installation: Installation, engine: dict[str, str]) -> dict[str, Any]:
    """What the command says."""
    _, out, err = installation.run("status", "--json", **engine)
    assert out, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_procrastinate(installation: Installation, postgresql: PostgreSQL, receiver: PostHogServer) -> None:
    """The process that runs is in; the ID that the machines agreed on is known without asking the database."""
    installation.write(telemetryHeartbeatInterval="1s", appName="notes")
    engine = {"LIFEBEAT_ENGINE": "procrastinate", "LIFEBEAT_DATABASE": postgresql.schema()}
    process = installation.lifebeat("run", **engine)
    eventually(lambda: "heartbeat" in receiver.names())
    found = status(installation, engine)
    assert [one.split(":")[1] for one in found["engine"]["members"]] == [str(process.pid)]
    assert found["engine"]["last_run"]["job_id"] == "heartbeat"
    assert {event["distinct_id"] for event in receiver.events} == {found["instance_id"]}
    _, out, _ = installation.run("status", **engine)
    assert "procrastinate: reachable; in: " in out
    end(process)
    assert status(installation, engine)["engine"]["members"] == []
    assert status(installation, {})["engine"]["reason"].startswith(
        "environment (LIFEBEAT_ENGINE): 'procrastinate' needs"
    )


@pytest.mark.parametrize(
    ("engine", "url", "server"),
    [("procrastinate", "postgresql://x@127.0.0.1:1/x", "PostgreSQL"), ("celery", "redis://127.0.0.1:1/0", "Redis")],
)
def test_a_server_that_is_not_there(installation: Installation, engine: str, url: str, server: str) -> None:
    """It is said with the reason, and what else there is to say is said all the same."""
    found = status(installation, {"LIFEBEAT_ENGINE": engine, "LIFEBEAT_DATABASE": url})
    assert found["telemetry"] == "on"
    assert found["engine"]["reachable"] is False
    assert server in found["engine"]["reason"]

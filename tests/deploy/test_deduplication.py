"""What PostHog makes of an event that is sent twice: the engine and keys of its table, run on a real ClickHouse."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat_jobs import telemetry
from sending import INSTANCE_ID, Application

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.testing import PostHogServer

chdb = pytest.importorskip("chdb", reason="there is no wheel of chdb for this platform", exc_type=ImportError)

# Of PostHog's events table the engine, the keys and the columns that count: which rows are the same event. The others
# (persons, elements, materialized properties) decide nothing here.
TABLE = """
CREATE TABLE events (
    uuid UUID, event String, properties String, timestamp DateTime64(6, 'UTC'), team_id Int64, distinct_id String,
    _timestamp DateTime
) ENGINE = ReplacingMergeTree(_timestamp)
PARTITION BY toYYYYMM(timestamp)
ORDER BY (team_id, toDate(timestamp), event, cityHash64(distinct_id), cityHash64(uuid))
"""
# In a process of its own: the engine starts threads that a test run would trip over.
ENGINE = """
import json, sys
from chdb import session

engine = session.Session(sys.argv[1])
engine.query("CREATE DATABASE posthog")
engine.query("USE posthog")
told = json.load(sys.stdin)
engine.query(told["table"])
for number, batch in enumerate(told["batches"]):
    rows = ", ".join(
        "('{uuid}', '{event}', '{{}}', parseDateTime64BestEffort('{timestamp}', 6, 'UTC'), 1, '{distinct_id}',"
        " {number})".format(**one, number=number)
        for one in batch
    )
    engine.query("INSERT INTO events VALUES " + rows)
engine.query("OPTIMIZE TABLE events FINAL")
print(str(engine.query("SELECT count() FROM events", "TabSeparated")))
"""


def stored(directory: Path, batches: list[list[dict[str, Any]]]) -> int:
    """How many rows remain after the merge."""
    told = {"table": TABLE, "batches": batches}
    command = [sys.executable, "-c", ENGINE, str(directory / "clickhouse")]
    done = subprocess.run(command, input=json.dumps(told), capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_an_event_that_is_sent_twice_counts_once(installation: Installation, receiver: PostHogServer) -> None:
    """Everything that a life sent, sent a second time as after a lost answer, is there once after the merge."""
    installation.write(telemetryHeartbeatInterval="200ms")
    process = installation.script("""
        import time
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
        scheduler.start()
        time.sleep(2)
        scheduler.shutdown()
    """)
    process.communicate(timeout=20)
    sent = receiver.events
    batches = [request.json()["batch"] for request in receiver.requests]
    rows = stored(installation.directory, batches + batches)
    print(f"{len(sent)} events, each sent twice: {rows} rows")
    assert rows == len(receiver.distinct()) == len(sent) >= 4


def test_a_moved_timestamp_would_count_twice(tmp_path: Path) -> None:
    """The engine is the real one: were the time not fixed when the event happens, midnight would double it."""
    event = {"uuid": "01a20864-fb27-7d33-bd2e-aa0f98f51937", "event": "heartbeat", "distinct_id": "x"}
    late, early = ({**event, "timestamp": f"2026-11-2{day}T00:00:0{day}.000+00:00"} for day in (3, 4))
    assert stored(tmp_path, [[late], [early]]) == 2
    assert stored(tmp_path / "again", [[late], [late]]) == 1


def test_heartbeats_of_three_pods_with_one_id_count_once(tmp_path: Path, receiver: PostHogServer) -> None:
    """Pods that share an ID and no database tell each instant alike, and one row of it remains."""
    beats = 4
    for number in range(3):
        pod = Application(tmp_path / str(number), state_dir=tmp_path / str(number))
        pod.directory.mkdir()
        pod.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryInstanceId=INSTANCE_ID)
        for _ in range(beats):
            instant = pod.context().instant
            pod.clock.advance(number + 0.25)
            telemetry.heartbeat(replace(pod.context(), instant=instant))
            pod.clock.advance(86400 - number - 0.25)
    assert len(receiver.events) == 3 * beats
    assert stored(tmp_path, [request.json()["batch"] for request in receiver.requests]) == beats

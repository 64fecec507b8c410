"""What ``docs/operate.md`` says of erasing: the statements for PostHog's side, and the proof that nothing is left."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import hogql
from artifacts import ROOT
from hosts import Installation, end, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.testing import PostHogServer

PAGE = (ROOT / "docs/operate.md").read_text()
SELECT, DELETE = re.findall(r"<!-- run by tests/deploy/test_erasure.py -->\n *```sql\n *(.*?)\n *```", PAGE)
# Our own words for the columns that count here. In PostHog's cluster `events` reads from `sharded_events`.
ENGINE = """
import json, sys
from chdb import session

engine = session.Session(sys.argv[1])
engine.query("CREATE DATABASE posthog")
engine.query("USE posthog")
engine.query(
    "CREATE TABLE sharded_events (uuid UUID, team_id Int64, distinct_id String, timestamp DateTime64(6, 'UTC'))"
    " ENGINE = ReplacingMergeTree(timestamp) ORDER BY (team_id, cityHash64(distinct_id), cityHash64(uuid))"
)
engine.query("CREATE VIEW events AS SELECT * FROM sharded_events WHERE team_id = 1")
for team, distinct_id in json.loads(sys.argv[2]):
    engine.query(f"INSERT INTO sharded_events VALUES (generateUUIDv4(), {team}, '{distinct_id}', now64())")
select, delete = sys.argv[3:]
found = lambda query: len(str(engine.query(query, "TabSeparated")).split())
before = found(select)
engine.query(delete + " SETTINGS mutations_sync = 2")
print(json.dumps([before, found(select), found("SELECT uuid FROM sharded_events")]))
"""


def test_the_statements_erase_one_installation(tmp_path: Path) -> None:
    """On a real ClickHouse they find and delete every event of that instance ID, of that project, and no other."""
    pytest.importorskip("chdb", reason="there is no wheel of chdb for this platform", exc_type=ImportError)
    [ours] = set(re.findall(r"'([0-9a-f-]{36})'", SELECT + DELETE))
    rows = [(1, ours), (1, ours), (1, ours.replace("6", "7")), (2, ours)]
    command = [sys.executable, "-c", ENGINE, str(tmp_path / "clickhouse"), json.dumps(rows), SELECT, DELETE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [2, 0, 2]


def test_posthog_reads_the_query() -> None:
    """PostHog's own parser takes the query that selects the events."""
    if importlib.util.find_spec("hogql_parser") is None:
        pytest.skip("there is no wheel of hogql-parser for this platform")
    assert "error" not in hogql.parse({"select": SELECT})["select"]


def test_nothing_is_attempted_any_more(installation: Installation, receiver: PostHogServer) -> None:
    """Turned off, with the outbox deleted, a whole life attempts nothing: in the words that the page quotes."""
    process = installation.lifebeat("run")
    eventually(lambda: receiver.events)
    end(process)
    assert installation.run("setconfig", "telemetryEnabled", "false")[0] == 0
    for path in (installation.config / "lifebeat").glob("lifebeat.sqlite3*"):
        path.unlink()
    code, out, _ = installation.run("prove-off")
    assert code == 0, out
    assert re.findall(r"^Attempted: .*$", out, re.MULTILINE) == re.findall(r"`(Attempted: [^`]+)`", PAGE)

"""Whatever stands in a file: a plan, or an error that says where; never a traceback, a long wait or much memory."""

from __future__ import annotations

import json
import random
import resource
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifebeat.errors import ConfigError
from lifebeat.jobfile import reader as jobfile
from lifebeat.jobfile.fields import FIELDS
from lifebeat.schedule.instants import SECOND
from lifebeat.schedule.triggers import instants_of
from lifebeat.settings import layers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRIES = 3
LONGEST = 2.0  # seconds of a processor that others use as well; alone all are below one
MEGABYTES = 200
JOBS = """\
# yaml-language-server: $schema=schema/jobs.schema.json
jobs:
  beat: &beat
    run: lifebeat_jobs.telemetry:heartbeat
    every: ${telemetryHeartbeatInterval}
    phase: installation
    jitter: 5m
    once: application
    misfire_grace: 1h
    coalesce: true
    max_instances: 2
  'report-1':
    run: "lifebeat_jobs.telemetry:startup"
    cron: 30 2,4-6 */2 * mon-fri
    timezone: Europe/Berlin
    args: {}
    enabled: no
    description: |
      Zwölf Boxkämpfer jagen Viktor
  once: {run: lifebeat_jobs.telemetry:shutdown, at: 2028-02-29T12:00, timeout: 90s}
  end:
    run: lifebeat_jobs.telemetry:shutdown
    when: shutdown
"""
OVERLAY = (
    "telemetryHeartbeatInterval: 12h\njobs:\n  beat: {every: 1h}\n  end: null\n  new:\n    run: a.b:c\n    at: x\n"
)
CONFIG = json.dumps(
    {
        "telemetryEnabled": True,
        "telemetryHost": "https://eu.i.posthog.com",
        "telemetryHeartbeatInterval": "24h",
        "telemetryOutboxEvents": 1000,
        "slack": {"token": "xoxb", "channels": ["a", 1.5, None]},
    },
    indent=2,
)
PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"- ",
        b"\t",
        b"\n",
        b"\r",
        b"\x00",
        b"\xff",
        b"\xc3",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"!!",
    ),
    *(
        b"!!python/object/apply:os.system [ls]",
        b"---\n",
        b"...",
        b"'",
        b'"',
        b"|",
        b">",
        b"%YAML 9.9\n",
        b"#",
        b"\\u0000",
    ),
    *(
        b"9" * 400,
        b"-1",
        b"1e999",
        b".nan",
        b"~",
        b"null",
        b"yes",
        b"24:00",
        b"0x",
        b"0o17",
        b"${",
        b"${x}",
        b"${telemetryHost}",
    ),
    *(
        "\u2028".encode(),
        "\ufeff".encode(),
        "٣".encode(),
        b"*/0",
        b"*-5/2",
        b"99999999999h",
        b"0.0000001s",
        b"every",
        b"cron",
    ),
]
BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
MONSTERS: dict[str, bytes] = {
    "laughs": (BOMB + "jobs: *a11\n").encode(),
    "deep YAML": b"jobs: " + b"[" * 100_000,
    "deep mappings": b"\n".join(b" " * n + b"a:" for n in range(1000)),
    "deep JSON": b'{"a": ' + b"[" * 100_000,
    "closed JSON": b'{"telemetryHost": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "many digits": b'{"telemetryOutboxEvents": ' + b"9" * 500_000 + b"}",
    "a long line": b"jobs: {a: {run: " + b"x" * 500_000 + b"}}",
    "many keys": b"".join(b"k%d: v\n" % n for n in range(30_000)),
    "many twice": b"jobs:\n" + b"  a: {}\n" * 20_000,
    "many faults": b"jobs:\n" + b"".join(b"  j%d: {evry: 1}\n" % n for n in range(10_000)),
    "NUL": b"\x00" * 1000,
    "surrogate": b'{"telemetryHost": "\\ud800"}',
    "UTF-16": JOBS.encode("utf-16"),
    "large": b"# " + b"x" * (6 << 20),
    "colons": b":" * 100_000,
    "quotes": b"'" * 99_999,
    "question marks": b"? " * 20_000,
    "dashes": b"- " * 20_000,
    "anchors": b"".join(b"a%d: &a%d 1\n" % (n, n) for n in range(30_000)),
    "cron list": b"jobs: {a: {run: a:b, cron: '" + b"1," * 100_000 + b" * * * *'}}",
}


def read(directory: Path, name: str, data: bytes) -> float:
    """Have a file read as Lifebeat would; how many seconds of the processor that took."""
    path = directory / name
    path.write_bytes(data)
    start = time.process_time()
    try:
        merged = layers.merge([layers.packaged(), layers.from_file(path)])
        is_job_file = name == "jobs.yaml"
        found = jobfile.load(
            path if is_job_file else jobfile.packaged(),
            merged,
            overlay=None if is_job_file else path,
            import_disabled=True,
        )
        for problem in (*merged.problems, *found.problems):
            assert problem.message
            assert "Traceback" not in str(problem)
        for spec in found.specs:
            instants = instants_of(spec.trigger, job_id=spec.id, seed="x", started_at=0.0)
            assert instants is None or instants.after(1_800_000_000 * SECOND) != 0
    except ConfigError as error:
        assert error.problems  # noqa: PT017 - either way is right
    return time.process_time() - start


def mutated(number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Files of every kind, each broken in some places at random."""
    dice = random.Random(seed)
    originals = [("jobs.yaml", JOBS), ("config.json", CONFIG), ("config.yaml", OVERLAY), ("jobs.yaml", OVERLAY)]
    originals.append(("jobs.yaml", jobfile.packaged().read_text()))
    for _ in range(number):
        name, text = dice.choice(originals)
        data = bytearray(text.encode())
        for _ in range(dice.choice([1, 1, 2, 3, 8])):
            at, length = dice.randrange(len(data) + 1), dice.choice([0, 1, 1, 5, 40])
            new = dice.choice([dice.choice(PIECES), dice.randbytes(dice.randrange(4)), bytes(data[at : at + 30])])
            data[at : at + length] = new
        yield name, bytes(data)


@pytest.mark.parametrize("number", [300, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_broken_bytes(tmp_path: Path, number: int) -> None:
    """Job files, overlays and config files with bytes changed, lost or doubled are read or refused, in a second."""
    slowest = 0.0
    for name, data in mutated(number, seed=number):
        taken = read(tmp_path, name, data)
        assert taken < LONGEST, (taken, data)
        slowest = max(slowest, taken)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{number} broken files: the slowest took {slowest * 1000:.0f} ms; peak memory of the test run {peak:.0f} MB")


# There is one reader of YAML, so the second file in it is for the soak.
@pytest.mark.parametrize("name", ["jobs.yaml", "config.json", pytest.param("config.yaml", marks=pytest.mark.soak)])
@pytest.mark.parametrize("monster", list(MONSTERS))
def test_monsters(tmp_path: Path, monster: str, name: str) -> None:
    """YAML bombs, deep nesting, huge numbers and long lines are refused or read, within a second and 200 MB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = [read(tmp_path, name, MONSTERS[monster])]
    while min(taken) >= LONGEST and len(taken) < TRIES:
        taken.append(read(tmp_path, name, MONSTERS[monster]))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert min(taken) < LONGEST
    assert grown < MEGABYTES


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["1h", "start", "0 4 * * *"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
WORDS = st.one_of(st.sampled_from([one.name for one in FIELDS]), st.text(max_size=10))
FILES = st.fixed_dictionaries(
    {"jobs": st.dictionaries(st.text(max_size=10), st.dictionaries(WORDS, VALUES, max_size=6), max_size=3)}
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=FILES)
def test_any_values(tmp_path: Path, content: dict[str, Any]) -> None:
    """Any value of any type in any field is a plan or a located error."""
    assert read(tmp_path, "jobs.yaml", json.dumps(content).encode()) < LONGEST


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), name=st.sampled_from(["jobs.yaml", "config.json", "config.yaml"]))
def test_any_bytes(tmp_path: Path, data: bytes, name: str) -> None:
    """So are any bytes at all."""
    assert read(tmp_path, name, data) < LONGEST

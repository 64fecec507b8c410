"""The installation on record: what the running host was told, and that commands beside it know it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat import record as records
from lifebeat.clock import SystemClock
from lifebeat.settings.source import ConfigSource

if TYPE_CHECKING:
    from pathlib import Path


def written(directory: Path, **arguments: Any) -> str | None:
    """Put down a process with these arguments; what there is to warn of."""
    source = ConfigSource(directory, arguments=arguments, environ={"TELEMETRY_HOST": "http://127.0.0.1:9"}, modules={})
    return records.write(directory, source, allow=("notes.jobs",), clock=SystemClock())


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Arguments, environment, modules, interpreter, directory and process come back; what was not given is left out."""
    assert written(tmp_path, appName="notes", appVersion="1.4.2", telemetryEnabled=None) is None
    record = records.read(tmp_path)
    assert record is not None
    assert record.arguments == {"appName": "notes", "appVersion": "1.4.2"}
    assert record.environment == {"TELEMETRY_HOST": "http://127.0.0.1:9"}
    assert (record.allow, record.executable, record.process) == (("notes.jobs",), sys.executable, os.getpid())
    assert record.is_running
    assert record.label.startswith(f"host argument (notes 1.4.2, process {os.getpid()}, since ")
    assert stat.S_IMODE((tmp_path / records.FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["reaped", "a zombie", "its number is another's"])
def test_a_process_that_is_gone_was_last_seen(tmp_path: Path, how: str) -> None:
    """Of a process that was killed the record stays, and says so, also where nobody reaps it, as in a container."""
    written(tmp_path, appName="notes", appVersion="1.4.2")
    path = tmp_path / records.FILE_NAME
    content = json.loads(path.read_text())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | (os.WNOWAIT if how == "a zombie" else 0))
    process = os.getpid() if "another" in how else ended.pid
    started = [content["host"]["started"][0], 0.0 if "another" in how else content["host"]["started"][1]]
    changed = {"process": process, "started": [*started, content["host"]["started"][2]]}
    path.write_text(json.dumps(content | {"host": content["host"] | changed}))
    record = records.read(tmp_path)
    assert record is not None
    assert not record.is_running
    assert record.label.startswith("host argument (notes 1.4.2, last seen ")
    ended.wait()


def test_a_second_process_of_the_application_changes_nothing(tmp_path: Path) -> None:
    """While the process on record runs and was told the same, its record stands."""
    written(tmp_path, appName="notes", appVersion="1.4.2")
    before = (tmp_path / records.FILE_NAME).read_bytes()
    written(tmp_path, appName="notes", appVersion="1.4.2")
    assert (tmp_path / records.FILE_NAME).read_bytes() == before


def test_two_applications_in_one_directory_are_said_once(tmp_path: Path) -> None:
    """Two names in one directory are one warning with both, however often they take turns."""
    assert written(tmp_path, appName="notes", appVersion="1") is None
    said = [written(tmp_path, appName=name, appVersion="1") for name in ("shop", "notes", "shop", "notes")]
    assert [one for one in said if one] == [said[0]]
    assert said[0] is not None
    assert "'shop' and 'notes'" in said[0]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"host": 1}', b'{"host": {"arguments": 3}}', b"[" * 100_000]
)
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    """Whatever is in the file, nothing is raised, and the next process writes its own."""
    (tmp_path / records.FILE_NAME).write_bytes(content)
    assert records.read(tmp_path) is None
    assert records.read_opt_out(tmp_path) is None
    written(tmp_path, appName="notes", appVersion="1")
    assert records.read(tmp_path) is not None

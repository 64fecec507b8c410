"""Off is sticky: an opt-out that was seen ends by a yes, or by its file that is there, whole, and says nothing."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat import installation, record
from lifebeat.clock import SystemClock
from lifebeat.consent import EarlierOptOut
from lifebeat.settings.source import ConfigSource
from lifebeat.storage.state_dir import FOLDER

if TYPE_CHECKING:
    from pathlib import Path


class Process:
    """One process of an installation, as far as consent is concerned."""

    def __init__(self, directory: Path, *, remember: bool = True, environ: Any = None, **arguments: Any) -> None:
        self.source = ConfigSource(directory, arguments=arguments, environ=environ or {}, modules={})
        self.source.earlier_opt_out = EarlierOptOut(self.source, SystemClock(), remember=remember)

    @property
    def is_off(self) -> bool:
        """Whether it reads that telemetry is off."""
        return self.source.read().opted_out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config directory in which an application has run."""
    source = ConfigSource(tmp_path, arguments={"appName": "notes"}, environ={}, modules={})
    (tmp_path / FOLDER).mkdir()
    record.write(tmp_path / FOLDER, source, allow=(), clock=SystemClock())
    return tmp_path


def put(path: Path, text: str, *, age: float = 10.0) -> None:
    """Write a file that has been as it is for some seconds."""
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))


GONE = {
    "absent": None,
    "empty": "",
    "blank": " \n",
    "half-written": '{"telemetryEna',
    "null": "null",
    "a list": "[]\n",
    "a directory": "directory",
}


@pytest.mark.parametrize("what", GONE)
@pytest.mark.parametrize("when", ["while running", "at the next start"])
def test_an_opt_out_outlives_its_file(config: Path, what: str, when: str) -> None:
    """A file that is gone, empty, half-written or no file takes no opt-out back, running or started again."""
    file = config / "config.json"
    put(file, '{"telemetryEnabled": false}')
    process = Process(config)
    assert process.is_off
    file.unlink()
    if GONE[what] == "directory":
        file.mkdir()
    elif GONE[what] is not None:
        put(file, str(GONE[what]))
    assert (process if when == "while running" else Process(config)).is_off


@pytest.mark.parametrize("text", ['{"appName": "notes"}', '{"telemetryEnabled": true}', "{}"])
@pytest.mark.parametrize("when", ["while running", "at the next start"])
def test_the_file_that_said_no_takes_it_back(config: Path, text: str, when: str) -> None:
    """The same file, there and whole, without the no or with a yes, ends it."""
    put(config / "config.json", '{"telemetryEnabled": false}')
    process = Process(config)
    assert process.is_off
    put(config / "config.json", text)
    assert not (process if when == "while running" else Process(config)).is_off
    known = record.read_opt_out(config / FOLDER)
    assert known is not None
    assert known.is_over


def test_a_file_that_was_just_written_is_not_believed_yet(config: Path) -> None:
    """What an editor has written this moment may be the first half of it."""
    put(config / "config.yaml", "appName: notes\ntelemetryEnabled: false\n")
    process = Process(config)
    assert process.is_off
    put(config / "config.yaml", "appName: notes\n", age=0)
    assert process.is_off
    put(config / "config.yaml", "appName: notes\n")
    assert not process.is_off


@pytest.mark.parametrize(
    "no", [{"environ": {"TELEMETRY_ENABLED": "false"}}, {"environ": {"DO_NOT_TRACK": "1"}}, {"telemetryEnabled": False}]
)
def test_one_process_says_no_for_all(config: Path, no: dict[str, Any]) -> None:
    """What one process is told by its environment or its host holds for the others, and for those to come."""
    put(config / "config.json", '{"telemetryEnabled": true}')
    worker = Process(config, telemetryEnabled=True)
    assert not worker.is_off
    assert Process(config, **no).is_off
    assert worker.is_off
    assert Process(config).is_off


def test_a_newer_yes_ends_the_no_of_one_process(config: Path) -> None:
    """A yes in a file, written after the no, ends it; so does one in the environment of a later process."""
    assert Process(config, environ={"DO_NOT_TRACK": "1"}).is_off
    assert Process(config).is_off
    put(config / "config.json", '{"telemetryEnabled": true}', age=-1)
    assert not Process(config).is_off
    assert Process(config, environ={"TELEMETRY_ENABLED": "false"}).is_off
    assert not Process(config, environ={"TELEMETRY_ENABLED": "true"}).is_off


def test_setting_it_to_true_is_an_explicit_yes(config: Path) -> None:
    """``setconfig telemetryEnabled true`` ends every earlier no."""
    assert Process(config, environ={"DO_NOT_TRACK": "1"}).is_off
    installation.set_setting(config, "telemetryEnabled", "true", state_dir=config / FOLDER)
    assert not Process(config).is_off


def test_a_host_takes_back_what_it_said_itself(config: Path) -> None:
    """An application whose own switch goes off and on again is followed."""
    assert Process(config, telemetryEnabled=False).is_off
    assert Process(config).is_off
    assert not Process(config, telemetryEnabled=True).is_off


@pytest.mark.parametrize("environ", [{"CI": "true"}, {"PYTEST_VERSION": "9"}])
def test_ci_and_tests_say_no_for_themselves_only(config: Path, environ: dict[str, str]) -> None:
    """A CI environment and a test run are nobody's opt-out."""
    assert Process(config, environ=environ).is_off
    assert not Process(config).is_off


def test_a_look_puts_nothing_down(config: Path) -> None:
    """A command that looks in an environment that says no changes nothing for anybody."""
    before = (config / FOLDER / record.FILE_NAME).read_bytes()
    assert Process(config, remember=False, environ={"DO_NOT_TRACK": "1"}).is_off
    assert (config / FOLDER / record.FILE_NAME).read_bytes() == before
    assert not Process(config).is_off


def test_off_makes_no_file_where_nothing_has_run(tmp_path: Path) -> None:
    """An installation that was never on has no state, and gets none; the process itself remembers."""
    put(tmp_path / "config.json", '{"telemetryEnabled": false}')
    process = Process(tmp_path)
    assert process.is_off
    (tmp_path / "config.json").unlink()
    assert process.is_off
    assert list(tmp_path.iterdir()) == []

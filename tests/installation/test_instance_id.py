"""The instance ID: random, made once, and kept where all processes of the installation find it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE, eventually
from lifebeat import installation
from lifebeat.errors import ConfigError
from lifebeat.settings.edit import ConfigNotWritable
from lifebeat.storage import state_dir as statedir
from lifebeat.testing import telemetry_allowed
from mounts import mounted, needs_mount
from sending import LOOPBACK, Application

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1] / "support"
# As an operator wrote it: another program's keys, another indentation, an escape, no end of line at the end.
WRITTEN = '{\n\t"zones" : [1,2 , 3],\n\t"name": "caf\\u00e9",\n\t"telemetryHost": "http://127.0.0.1:9"\n}'


def of(application: Application) -> str | None:
    """The application's ID, made if there is none."""
    return installation.make_id(application.settings(), application.directory, application.state_dir)


def rotated(application: Application) -> tuple[str, str | None]:
    """A new ID, and the layer that overrides it."""
    new, settings = installation.rotate_id(application.directory), application.settings()
    return new, None if settings.instance_id == new else settings.sources[installation.KEY]


def is_random(found: str | None) -> bool:
    """Whether it is a UUID of version 4, in the usual spelling."""
    return found is not None and str(uuid.UUID(found)) == found and uuid.UUID(found).version == 4


def kept(application: Application) -> str | None:
    """The ID in the file of the state directory."""
    assert application.state_dir is not None
    return statedir.read_id(application.state_dir / statedir.ID_FILE)


@pytest.fixture
def application(tmp_path: Path) -> Application:
    """An installation with a config directory and a state directory, both empty."""
    (tmp_path / "config").mkdir()
    (tmp_path / "state").mkdir()
    return Application(tmp_path / "config", state_dir=tmp_path / "state")


@pytest.mark.parametrize("name", ["config", os.fsdecode(b"c\xff\xe9"), "round", "nowhere"])
def test_a_seed_is_found_wherever_the_config_directory_is(tmp_path: Path, name: str) -> None:
    """A name that is not UTF-8, links in a circle and a directory that is not there have a seed, always the same."""
    (tmp_path / "round").symlink_to("round")
    place = tmp_path / name
    assert installation.seed(place) == installation.seed(place) != installation.seed(tmp_path)


def test_made_once(application: Application) -> None:
    """The first who asks makes it; everybody after that, restarts included, is told the same."""
    assert application.context().instance_id is None
    first = of(application)
    assert is_random(first)
    again = Application(application.directory, state_dir=application.state_dir)
    assert of(again) == of(application) == again.context().instance_id == first
    assert json.loads((application.directory / "config.json").read_text()) == {"telemetryInstanceId": first}
    assert kept(application) is None


def test_looking_makes_nothing(application: Application) -> None:
    """Asking whether there is an ID leaves both directories empty."""
    assert application.context().instance_id is None
    assert [*application.directory.iterdir(), *(application.state_dir or application.directory).iterdir()] == []


def test_derived_from_nothing(tmp_path: Path) -> None:
    """Twenty installations on one machine have twenty IDs."""
    found: set[str | None] = set()
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        found.add(of(Application(tmp_path / str(number))))
    assert len(found) == 20


def test_all_else_in_the_file_stays(application: Application) -> None:
    """Other keys, their order, the indentation and the file's mode are as they were, byte for byte."""
    path = application.directory / "config.json"
    path.write_text(WRITTEN)
    path.chmod(0o640)
    found = of(application)
    inserted = f',\n\t"telemetryInstanceId": "{found}"'
    assert path.read_text() == WRITTEN.replace("\n}", f"{inserted}\n}}")
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in application.directory.iterdir()] == ["config.json"]


@pytest.mark.parametrize("empty", ["null", '""', '"  "'])
def test_an_empty_key_is_filled(application: Application, empty: str) -> None:
    """A key that an operator left empty is where the ID goes."""
    path = application.directory / "config.json"
    path.write_text(f'{{"telemetryInstanceId": {empty}, "other": 1}}')
    assert path.read_text() != (found := of(application))
    assert path.read_text() == f'{{"telemetryInstanceId": "{found}", "other": 1}}'


def test_a_given_id_is_used(application: Application) -> None:
    """What the environment or the file says is the ID, and nothing is written."""
    given = str(uuid.uuid4())
    application.environ = {**LOOPBACK, "TELEMETRY_INSTANCE_ID": given}
    assert of(application) == given
    assert list(application.directory.iterdir()) == []


START = """
import sys, time
from pathlib import Path
from sending import Application
from lifebeat import installation

config, state, name = sys.argv[1:]
context = Application(Path(config), state_dir=Path(state)).context()
Path(state, f"ready-{name}").touch()
while not Path(state, "go").exists():
    time.sleep(0.001)
print(installation.make_id(context.settings, context.config_dir, context.state_dir))
"""


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes; none is left behind."""
    made: list[subprocess.Popen[str]] = []
    yield made
    for process in made:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["config", "state"])
def test_processes_that_start_together_agree(
    application: Application, children: list[subprocess.Popen[str]], tmp_path: Path, where: str
) -> None:
    """Eight processes that ask at the same moment get one ID, which is the one that is kept."""
    if where == "state":  # the directory above is missing too, so that config cannot be written
        application.directory = tmp_path / "missing" / "config"
    assert application.state_dir is not None
    environ = {**telemetry_allowed(), "PYTHONPATH": str(TESTS)}
    for number in range(8):
        command = [sys.executable, "-c", START, str(application.directory), str(application.state_dir), str(number)]
        children.append(
            subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    state = application.state_dir
    eventually(lambda: len(list(state.glob("ready-*"))) == 8 or any(child.poll() for child in children))
    (state / "go").touch()
    answers = [child.communicate(timeout=DEADLINE) for child in children]
    assert {err for _, err in answers} == {""}
    (found,) = {out.strip() for out, _ in answers}
    assert is_random(found)
    assert application.context().instance_id == found
    assert (kept(application) == found) is (where == "state")


def test_config_that_cannot_be_written(application: Application, tmp_path: Path) -> None:
    """The ID is kept in the state directory, and stays the same."""
    application.directory = tmp_path / "missing" / "config"
    found = of(application)
    assert is_random(found)
    assert of(application) == kept(application) == found
    assert not (tmp_path / "missing").exists()


@needs_mount
def test_a_read_only_directory(application: Application) -> None:
    """With config on a read-only file system it is the same, and the file in it stays as it was."""
    path = application.directory / "config.json"
    path.write_text(WRITTEN)
    with mounted(application.directory, "--bind", str(application.directory)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(application.directory)], check=True)
        found = of(application)
        assert is_random(found)
        assert of(application) == kept(application) == found
    assert path.read_text() == WRITTEN


@pytest.mark.parametrize("state", ["none", "below a file", "a dangling link"])
def test_nowhere_to_keep_it(application: Application, tmp_path: Path, state: str) -> None:
    """Where it can be kept nowhere there is none: no error, and no ID that changes with every start."""
    application.directory = tmp_path / "missing" / "config"
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "state")
    places = {"none": None, "below a file": tmp_path / "file" / "state", "a dangling link": tmp_path / "link" / "x"}
    application.state_dir = places[state]
    assert of(application) is None
    assert application.context().instance_id is None


@pytest.mark.parametrize(
    "content",
    [b'{"telemetryEnabled": true,', b"\xff\xfe\x00garbage", b"[1, 2]", b'{"a": 1}\n{"b": 2}'],
    ids=["cut off", "bytes", "a list", "two"],
)
def test_a_corrupt_config_stays_as_it_is(application: Application, content: bytes) -> None:
    """Not a byte of a file that cannot be read is changed; the ID is kept in the state directory."""
    path = application.directory / "config.json"
    path.write_bytes(content)
    found = of(application)
    assert is_random(found)
    assert of(application) == kept(application) == found
    assert path.read_bytes() == content
    with pytest.raises(ConfigError):
        installation.rotate_id(application.directory)
    assert path.read_bytes() == content


def test_half_an_id_is_replaced(application: Application, tmp_path: Path) -> None:
    """What a power cut left of the file in the state directory is no ID; a whole one takes its place."""
    application.directory = tmp_path / "missing" / "config"
    assert application.state_dir is not None
    (application.state_dir / statedir.ID_FILE).write_text("6c62b5ae-9d3c-4f4e-a9")
    found = of(application)
    assert is_random(found)
    assert kept(application) == found


def test_rotate(application: Application) -> None:
    """A new ID takes the place of the old one, in the file and for all that is asked from then on."""
    old = of(application)
    new, overrides = rotated(application)
    assert is_random(new)
    assert new != old
    assert overrides is None
    assert of(application) == new


def test_rotate_says_what_overrides_it(application: Application) -> None:
    """Where the environment gives the ID, the new one has no effect, and that is said."""
    application.environ = {**LOOPBACK, "TELEMETRY_INSTANCE_ID": str(uuid.uuid4())}
    new, overrides = rotated(application)
    assert json.loads((application.directory / "config.json").read_text()) == {"telemetryInstanceId": new}
    assert overrides is not None
    assert "environment" in overrides


def test_rotate_where_it_cannot_be_kept(application: Application, tmp_path: Path) -> None:
    """Nothing is made up that nobody would find again."""
    application.directory = tmp_path / "missing" / "config"
    with pytest.raises(ConfigNotWritable):
        installation.rotate_id(application.directory)
    assert not (tmp_path / "missing").exists()
    assert application.context().instance_id is None

"""Where state is kept, by what can really be written, and an instance ID that processes agree on."""

from __future__ import annotations

import errno
import os
import re
import stat
import textwrap
import uuid
from typing import TYPE_CHECKING

import pytest

from lifebeat.storage.locks import held
from lifebeat.storage.state_dir import (
    ID_FILE,
    StateDir,
    StateNotWritable,
    agree_on_id,
    dies_with_container,
    make,
    read_id,
    state_dir,
)
from test_configfile import DENY, FLOCK, names, needs_denial, needs_mounts, run, shared, together

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["shared"]
ONE, OTHER = "6f9619ff-8b86-4d11-b42d-00c04fc964ff", "0c1e7a52-9d0f-4c55-8f5c-6a7cf9a3f1ab"


def look(
    config: Path,
    setting: str | None = None,
    environ: dict[str, str] | None = None,
    *,
    app_name: str | None = "notes",
    create: bool = False,
) -> StateDir:
    """Ask for the state directory."""
    environ = environ or {}
    return state_dir(setting=setting, environ=environ, config_dir=config, app_name=app_name, create=create)


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A directory that nobody can make, root neither: it would be in a file."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "config"


def test_setting_goes_before_systemd_config_and_home(tmp_path: Path, blocked: Path) -> None:
    """The setting goes before systemd's directory, that before the config directory, and one below home comes last."""
    config, systemd, home = (tmp_path / name for name in ("config", "systemd", "home"))
    environ = {"STATE_DIRECTORY": f"{systemd}:{tmp_path}/second", "HOME": str(home)}
    assert look(config, str(tmp_path / "own"), environ) == StateDir(tmp_path / "own", "telemetryStateDir")
    assert look(config, environ=environ) == StateDir(systemd, "$STATE_DIRECTORY")
    environ["STATE_DIRECTORY"] = str(blocked)
    assert look(config, environ=environ) == StateDir(config / "lifebeat", "the config directory")
    found = look(blocked, environ=environ)
    assert found.reason == "the fallback in $HOME"
    assert found.path is not None
    assert found.path.parent == home / ".local/state/lifebeat"
    assert re.fullmatch("notes-[0-9a-f]{8}", found.path.name)


def test_setting_that_is_relative(tmp_path: Path) -> None:
    """A relative setting is below the config directory, and one with ~/ below home."""
    assert look(tmp_path / "config", "../state").path == tmp_path / "config" / "../state"
    assert look(tmp_path / "config", "~/state", {"HOME": str(tmp_path)}).path == tmp_path / "state"


@pytest.mark.parametrize("place", ["file", "file/config"])
def test_setting_that_cannot_be_used(tmp_path: Path, place: str) -> None:
    """Nothing takes the place of a directory that was asked for, and the reason says what to do."""
    path = tmp_path / place
    (tmp_path / "file").touch(0o755)
    found = look(tmp_path, str(path), {"STATE_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)})
    assert found == StateDir(
        None,
        f"telemetryStateDir, {str(path)!r}, cannot be used (Not a directory); "
        "set telemetryStateDir to a directory that this user can write",
    )


def test_fallback_is_one_directory_per_installation(tmp_path: Path, blocked: Path) -> None:
    """The directory below home is one per installation and application, and XDG_STATE_HOME moves it."""
    environ = {"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    found = look(blocked, environ=environ)
    assert found.reason == "the fallback in $XDG_STATE_HOME"
    assert found.path == look(blocked / "." / "x" / "..", environ=environ).path
    assert found.path != look(blocked.with_name("other"), environ=environ).path
    names_made = [
        str(made.path.relative_to(tmp_path / "state/lifebeat")).rpartition("-")[0]
        for name in (None, "", "../../etc", "My App/2 ü", "x" * 90)
        if (made := look(blocked, environ=environ, app_name=name)).path
    ]
    assert names_made == ["app", "app", "etc", "My-App-2", "x" * 50]
    environ["XDG_STATE_HOME"] = "relative"
    assert look(blocked, environ=environ).reason == "the fallback in $HOME"


def test_no_writable_directory_names_each_that_was_tried(blocked: Path) -> None:
    """Where nothing can be written there is no directory, and the reason names each that was tried."""
    found = look(blocked, environ={"STATE_DIRECTORY": str(blocked / "systemd"), "HOME": str(blocked)})
    assert found.path is None
    for tried in ("$STATE_DIRECTORY", "the config directory", "the fallback in $HOME", "set telemetryStateDir to"):
        assert tried in found.reason
    assert look(blocked, environ={"HOME": "relative"}).path is None


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """A look says which directory it would be, and makes none; making makes those that are missing, for us alone."""
    (tmp_path / "there").mkdir(mode=0o755)
    mode = (tmp_path / "there").stat().st_mode
    for place in ("there", "missing", "missing/deeper"):
        path = tmp_path / place
        assert look(tmp_path, str(path)) == StateDir(path, "telemetryStateDir")
    assert names(tmp_path) == ["there"]
    assert look(tmp_path, "missing/deeper", create=True).path == tmp_path / "missing/deeper"
    make(tmp_path / "there" / "below")
    make(tmp_path / "there")
    for made in ("missing", "missing/deeper", "there/below"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o700
    assert (tmp_path / "there").stat().st_mode == mode


def test_link_that_leads_nowhere(tmp_path: Path) -> None:
    """A link that leads nowhere cannot become a directory, and does not count as one that could."""
    (tmp_path / "config").symlink_to("gone")
    for create in (False, True):
        found = look(tmp_path / "config", environ={"HOME": str(tmp_path)}, create=create)
        assert found.reason == "the fallback in $HOME"


def test_directory_that_cannot_be_made(blocked: Path) -> None:
    """A directory that cannot be made is an error that names it and says what to do."""
    with pytest.raises(StateNotWritable, match=r"file/config: cannot be written: .*; set telemetryStateDir to"):
        make(blocked)
    with pytest.raises(StateNotWritable, match="set telemetryStateDir to"):
        agree_on_id(blocked / ID_FILE, ONE)


LOOK = """
import os, sys
from pathlib import Path
from lifebeat.storage.state_dir import *
def tell(place):
    for create in (False, True):
        found = state_dir(setting=place, environ={}, config_dir=Path("/"), app_name=None, create=create)
        print(found.path or found.reason)
"""


def test_directory_without_permission_is_not_used(shared: Path) -> None:
    """A directory without the permission to write in it is no place, nor is one that would have to be made there."""
    shared.chmod(0o555)
    program = """
if os.geteuid() == 0:
    os.setuid(65534)
tell(sys.argv[1])
tell(sys.argv[1] + "/below")
"""
    said = run(LOOK + program, shared).splitlines()
    shared.chmod(0o755)
    assert len(said) == 4
    for line in said[:2]:
        assert line.startswith(f"telemetryStateDir, {str(shared)!r}, is not writable; set")
    assert f"is not writable (nor {str(shared)!r}, in which it would be made)" in said[2]
    assert "cannot be used (Permission denied)" in said[3]


@needs_mounts
def test_read_only_mount(tmp_path: Path) -> None:
    """On a read-only file system nothing can be written, for root neither."""
    program = """
import subprocess
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[1]], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", sys.argv[1]], check=True)
tell(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", sys.argv[1]], check=True)
tell(sys.argv[1])
"""
    said = run(LOOK + program, tmp_path, prefix=("unshare", "-m")).splitlines()
    assert len(said) == 4
    for line in said:
        assert "is on a read-only file system; set telemetryStateDir to" in line


# -- the instance ID -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ONE.encode(), ONE),
        (f"  {ONE.upper()}\r\n".encode(), ONE),
        (b"", None),
        (b"\0" * 37, None),
        (b"\xff", None),
        (ONE[:-1].encode(), None),
        (str(uuid.UUID(int=0)).encode(), None),
    ],
)
def test_only_a_whole_uuid_is_an_id(tmp_path: Path, content: bytes, found: str | None) -> None:
    """Only a whole UUID is an ID; whatever else a power cut has left is none."""
    path = tmp_path / ID_FILE
    assert read_id(path) is None
    path.write_bytes(content)
    assert read_id(path) == found


def test_first_id_stays(tmp_path: Path) -> None:
    """The first ID is kept, for its owner alone and with nothing beside it; later ones are not taken."""
    path = tmp_path / "new" / "state" / ID_FILE
    assert agree_on_id(path, ONE.upper()) == ONE
    assert agree_on_id(path, OTHER) == ONE
    assert path.read_text() == f"{ONE}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(path.parent) == [ID_FILE]
    with pytest.raises(ValueError, match="is not a UUID"):
        agree_on_id(path, "me")


def test_broken_id_is_replaced(tmp_path: Path) -> None:
    """What is no ID is replaced, and what killed processes have left beside it is removed."""
    path = tmp_path / ID_FILE
    path.write_bytes(b"")
    (tmp_path / f".{ID_FILE}.0123456789ab.lifebeat-tmp").touch()
    assert agree_on_id(path, ONE) == ONE
    assert read_id(path) == ONE
    assert names(tmp_path) == [ID_FILE]


def test_waiting_is_bounded(tmp_path: Path) -> None:
    """Where another process is at a broken ID for too long, there is none."""
    path = tmp_path / ID_FILE
    path.touch()
    with held(tmp_path, timeout=0) as got:
        assert got
        with pytest.raises(StateNotWritable, match="cannot be written"):
            agree_on_id(path, ONE)
    assert names(tmp_path) == [ID_FILE]


@pytest.mark.parametrize(
    ("broken", "denied"), [(False, []), (True, []), pytest.param(False, FLOCK, marks=needs_denial)]
)
def test_many_agree_on_one_id(tmp_path: Path, broken: bool, denied: list[int]) -> None:
    """Eight processes that start together end up with one ID, from no file (without locks too) or a broken one."""
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        if broken:
            (tmp_path / str(number) / ID_FILE).touch()
    program = """
        import errno, sys, uuid
        from pathlib import Path
        from lifebeat.storage.state_dir import *
        # begin
        if sys.argv[3] != "[]":
            deny(eval(sys.argv[3]), errno.ENOLCK)
        for number in range(20):
            path = Path(sys.argv[2]) / str(number) / "instance-id"
            found = agree_on_id(path, str(uuid.uuid4()))
            assert read_id(path) == found
            print(found)
    """
    said = set(together(DENY + textwrap.dedent(program), 8, tmp_path, denied))
    assert len(said) == 1
    assert [read_id(tmp_path / str(number) / ID_FILE) for number in range(20)] == said.pop().split()
    assert {name for number in range(20) for name in names(tmp_path / str(number))} == {ID_FILE}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks to be killed")
def test_killed_while_writing(tmp_path: Path) -> None:
    """Killed at any point, a process leaves no ID or a whole one."""
    program = """
        import itertools, os, random, select, signal, sys, uuid
        from pathlib import Path
        from lifebeat.storage.state_dir import *
        random.seed(1)
        for number in range(30):
            directory = Path(sys.argv[1]) / str(number)
            read, write = os.pipe()
            child = os.fork()
            if not child:
                for count in itertools.count():
                    agree_on_id(directory / str(count) / "instance-id", str(uuid.uuid4()))
                    os.write(write, b".")
            os.close(write)
            os.read(read, 1)
            select.select([], [], [], random.uniform(0, 0.005))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            for path in directory.glob("*/instance-id"):
                assert read_id(path) is not None
    """
    run(program, tmp_path)


LINK = {"x86_64": [86, 265], "aarch64": [37]}.get(os.uname().machine)


@needs_denial
@pytest.mark.parametrize("before", [None, b"", f"{OTHER}\n".encode()])
def test_no_hard_links(tmp_path: Path, before: bytes | None) -> None:
    """On a file system without hard links one process after the other looks, and the first one's ID is kept."""
    path = tmp_path / ID_FILE
    if before is not None:
        path.write_bytes(before)
    program = """
import errno, sys
from pathlib import Path
from lifebeat.storage.state_dir import *
deny(eval(sys.argv[2]), errno.EPERM)
for candidate in sys.argv[3:]:
    print(agree_on_id(Path(sys.argv[1]), candidate))
"""
    said = run(DENY + program, path, LINK, ONE, OTHER).split()
    assert said == ([OTHER] * 2 if before else [ONE] * 2)
    assert names(tmp_path) == [ID_FILE]


def test_id_that_may_not_be_read(shared: Path) -> None:
    """An ID that this user may not read is another user's, and is not replaced."""
    path = shared / ID_FILE
    path.write_text(f"{ONE}\n")
    path.chmod(0)
    program = """
import os, sys
from pathlib import Path
from lifebeat.storage.state_dir import *
import lifebeat.settings.edit  # while the interpreter's own files may be read
if os.geteuid() == 0:
    os.setuid(65534)
try:
    agree_on_id(Path(sys.argv[1]), sys.argv[2])
except StateNotWritable as error:
    print(error)
"""
    assert os.strerror(errno.EACCES) in run(program, path, OTHER)
    path.chmod(0o600)
    assert path.read_text() == f"{ONE}\n"


# -- where it lies ---------------------------------------------------------------------------------------------------


def test_directory_that_every_user_may_write(tmp_path: Path) -> None:
    """In such a directory, as volumes often are, a folder of our own is used, for us alone."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    found = look(tmp_path, environ={"STATE_DIRECTORY": str(volume)}, create=True)
    assert found == StateDir(volume / "lifebeat", "$STATE_DIRECTORY")
    assert stat.S_IMODE((volume / "lifebeat").stat().st_mode) == 0o700


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    """A config directory with such a name has its state below it, or in a directory of its own below home."""
    config = type(tmp_path)(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    assert look(config, create=True).path == config / "lifebeat"
    assert look(config / "lifebeat" / "x\0y", environ={"HOME": str(tmp_path)}).reason == "the fallback in $HOME"


CONTAINER = r"""
21 1 0:30 / / rw,relatime - overlay overlay rw,lowerdir=/a
22 21 0:31 / /proc rw - proc proc rw
23 21 8:1 /volumes/a /var/lib/my\040app rw - ext4 /dev/sda1 rw
24 21 0:40 / /scratch rw - tmpfs tmpfs rw
"""
MACHINE = """
21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
24 21 0:40 / /scratch rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("mounts", "path", "sign", "dies"),
    [
        (CONTAINER, "/app/config/lifebeat", True, True),
        (CONTAINER, "/var/lib/my app/lifebeat", True, False),
        (CONTAINER, "/var/lib/my apple", True, True),
        (CONTAINER, "/scratch/state", True, True),
        (MACHINE, "/app/config/lifebeat", True, True),
        (MACHINE, "/app/config/lifebeat", False, False),
        (MACHINE, "/scratch/state", False, False),
    ],
)
def test_state_that_dies_with_its_container(tmp_path: Path, mounts: str, path: str, sign: bool, dies: bool) -> None:
    """What lies on a container's own layer, or in its memory, dies with it; what is mounted from outside stays."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(mounts.lstrip())
    if sign:
        (tmp_path / ".dockerenv").touch()
    assert dies_with_container(type(tmp_path)(path), {}, root=tmp_path) is dies

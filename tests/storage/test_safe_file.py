"""Files that people make are read without waiting for them, and what we make belongs to whom it should."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE
from lifebeat.storage import safe_file

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 1000
root_only = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to be others")
SERVICE, PERSON = 4321, 4322


def as_user(user: int, path: Path, *, groups: tuple[int, ...] = ()) -> str:
    """Write a file as another user; what came of it."""
    be = f"import os; os.setgroups({list(groups)}); os.setgid({user}); os.setuid({user})"
    command = [sys.executable, "-c", WRITE.format(be=be), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


WRITE = """
import sys
from pathlib import Path
from lifebeat.storage import safe_file
{be}
try:
    print(safe_file.write(Path(sys.argv[1]), b"new"))
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that other users can reach."""
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o011)
    made = tmp_path / "etc"
    made.mkdir(mode=0o755)
    return made


def test_content_and_absence(tmp_path: Path) -> None:
    """A file is its bytes, none is none, also behind a link that leads nowhere."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"x" * LIMIT)
    link.symlink_to("nowhere")
    assert safe_file.read(file, limit=LIMIT) == b"x" * LIMIT
    assert safe_file.read(tmp_path / "none", limit=LIMIT) is None
    assert safe_file.read(link, limit=LIMIT) is None


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * 1024**3)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "it is a directory, expected a regular file"),
        (pipe, "it is a pipe, expected a regular file"),
        (listening, "it is a socket, expected a regular file"),
        (link_to("/dev/zero"), "it is a device, expected a regular file"),
        (sparse, f"it has {3 * 1024**3} bytes, expected at most {LIMIT}"),
        (link_to("/proc/self/smaps"), f"it has more than {LIMIT} bytes"),
        (circle, "its links lead round in a circle"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed")
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    """A pipe, a device, a directory, too much: each is said in our words, and nothing waits for it."""
    path = tmp_path / "jobs.yaml"
    make(path)
    with pytest.raises(safe_file.CannotRead) as raised:
        safe_file.read(path, limit=LIMIT)
    assert str(raised.value) == f"{path}: cannot be read: {reason}"


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "file/inside"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    """Names that no file can have are refused with a reason, not with a traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(safe_file.CannotRead):
        safe_file.read(tmp_path / name, limit=LIMIT)


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Such a file is read like any other, and its name can be printed."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    path.write_bytes(b"coffee")
    assert safe_file.read(path, limit=LIMIT) == b"coffee"
    with pytest.raises(safe_file.CannotRead) as raised:
        safe_file.read(path, limit=1)
    assert "caf\\xe9" in str(raised.value)


def test_fingerprint_sees_every_change(tmp_path: Path) -> None:
    """Made, edited, made a directory, gone: each looks different from what was before."""
    path = tmp_path / "file"
    seen = [safe_file.fingerprint(path)]
    path.write_text("one")
    seen.append(safe_file.fingerprint(path))
    path.write_text("two")
    seen.append(safe_file.fingerprint(path))
    path.unlink()
    path.mkdir()
    seen.append(safe_file.fingerprint(path))
    path.rmdir()
    assert all(before != after for before, after in itertools.pairwise(seen))
    assert safe_file.fingerprint(path) == seen[0]


def test_write_replaces_and_keeps_the_mode(tmp_path: Path) -> None:
    """What was there is replaced as a whole behind its link, with its mode; a new file is private."""
    path, link = tmp_path / "config.json", tmp_path / "link.json"
    assert safe_file.write(path, b"one")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    link.symlink_to(path.name)
    before = path.stat().st_ino
    assert safe_file.write(link, b"two")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"two", 0o644)
    assert path.stat().st_ino != before
    assert link.is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "link.json"]


def test_write_asks_before_it_replaces(tmp_path: Path) -> None:
    """If somebody else has changed the file meanwhile, nothing is done and nothing is left behind."""
    path = tmp_path / "config.json"
    path.write_bytes(b"theirs")
    assert not safe_file.write(path, b"ours", unless=lambda: True)
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


@root_only
def test_mount_of_its_own_is_written_in_place(tmp_path: Path) -> None:
    """A file that is mounted by itself, as in a container, cannot be renamed over, and is written all the same."""
    path, source = tmp_path / "config.json", tmp_path / "source.json"
    path.touch()
    source.write_bytes(b"something longer than what comes")
    program = f"mount --bind {source} {path} && exec {sys.executable} -c '{WRITE.format(be='')}' {path}"
    command = ["unshare", "--mount", "sh", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "True\n", done.stderr
    assert source.read_bytes() == b"new"
    assert {entry.name for entry in tmp_path.iterdir()} == {"config.json", "source.json"}


def test_what_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    """A pipe, or a device such as ``/dev/full``, is written into; no file takes its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        safe_file.write(pipe, b"nobody reads")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert safe_file.write(pipe, b"read")
    assert (os.read(reader, 9), pipe.is_fifo()) == (b"read", True)
    os.close(reader)


@root_only
def test_file_in_a_directory_that_may_not_be_written(shared: Path) -> None:
    """Who may write the file but not the directory writes it in place."""
    path = shared / "config.json"
    path.write_bytes(b"old and long")
    os.chown(path, SERVICE, SERVICE)
    assert as_user(SERVICE, path) == "True"
    assert (path.read_bytes(), path.stat().st_uid) == (b"new", SERVICE)


@root_only
def test_root_makes_files_for_the_owner_of_the_directory(shared: Path) -> None:
    """What root makes in a service's directory is the service's: files, folders, lock files."""
    os.chown(shared, SERVICE, PERSON)
    safe_file.write(shared / "config.json", b"{}")
    os.close(safe_file.create(shared / "lock"))
    safe_file.make_directory(shared / "lifebeat" / "below")
    made = [shared / "config.json", shared / "lock", shared / "lifebeat", shared / "lifebeat" / "below"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(SERVICE, PERSON)}


@root_only
def test_root_keeps_the_owner_of_a_file(shared: Path) -> None:
    """A file that root replaces stays whose it was."""
    path = shared / "config.json"
    path.write_bytes(b"old")
    os.chown(path, SERVICE, PERSON)
    safe_file.write(path, b"new")
    assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (SERVICE, PERSON, b"new")


@root_only
def test_who_cannot_give_a_file_away_is_told_whom_to_be(shared: Path) -> None:
    """In another's directory that everybody may write no file is made that its owner could not use."""
    os.chown(shared, SERVICE, SERVICE)
    shared.chmod(0o777)
    answer = as_user(PERSON, shared / "config.json")
    assert f"run this as user {SERVICE}" in answer
    assert list(shared.iterdir()) == []


@root_only
def test_member_of_the_group_shares_with_the_group(shared: Path) -> None:
    """Who may write a directory as one of its group makes files that the group can use."""
    os.chown(shared, SERVICE, SERVICE)
    shared.chmod(0o770)
    assert as_user(PERSON, shared / "config.json", groups=(SERVICE,)) == "True"
    found = (shared / "config.json").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (PERSON, SERVICE, 0o660)


@root_only
def test_roots_directory_is_anybodys_who_may_write_it(shared: Path) -> None:
    """A volume that belongs to root is used by the service that runs in it."""
    shared.chmod(0o777)
    assert as_user(SERVICE, shared / "config.json") == "True"
    assert (shared / "config.json").stat().st_uid == SERVICE


def test_sweep_removes_what_killed_processes_left(tmp_path: Path) -> None:
    """Only temporary files of that very file are removed."""
    path = tmp_path / "config.json"
    left = tmp_path / ".config.json.0123.lifebeat-tmp"
    other = tmp_path / ".other.json.0123.lifebeat-tmp"
    for file in (path, left, other):
        file.touch()
    safe_file.sweep(path)
    with contextlib.suppress(OSError):
        left.stat()
        pytest.fail("it is still there")
    assert path.exists()
    assert other.exists()

"""Config that is edited while the application runs, in all the ways in which editors and clusters write files."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from conftest import eventually
from lifebeat.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

PROMISED = 2.0


@contextmanager
def watching(*files: Path) -> Generator[list[float]]:
    """Times at which a change of these files was noticed."""
    noticed: list[float] = []
    watch = Watch(lambda: list(files), lambda: noticed.append(time.monotonic()))
    watch.start()
    try:
        yield noticed
    finally:
        watch.stop()


@pytest.fixture(params=["told", "looking"])
def how(request: pytest.FixtureRequest) -> Iterator[str]:
    """As Linux tells of changes, and as if nothing did."""
    name = "lifebeat.inotify"
    kept = sys.modules.get(name)
    if request.param == "looking":
        sys.modules[name] = None  # type: ignore[assignment]  # how Python marks a module that cannot be imported
    yield request.param
    if request.param == "looking":
        del sys.modules[name]
    if kept is not None:
        sys.modules[name] = kept


def in_place(path: Path) -> None:
    """As ``echo >`` and some editors do."""
    path.write_text("jobs: []  # edited\n")


def by_rename(path: Path) -> None:
    """As most editors do: a new file takes the name."""
    new = path.with_suffix(".new")
    new.write_text("jobs: []  # edited\n")
    new.replace(path)


def removed(path: Path) -> None:
    """The file goes."""
    path.unlink()


def same_size_and_time(path: Path) -> None:
    """As a build that sets all times alike: only the content differs."""
    before = path.stat()
    path.write_text(path.read_text().replace("one", "two"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("edit", [in_place, by_rename, removed, same_size_and_time])
def test_an_edit_is_noticed(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    """However a file is edited, it is noticed within two seconds."""
    path = tmp_path / "jobs.yaml"
    path.write_text("jobs: []  # one\n")
    with watching(path) as noticed:
        edit(path)
        eventually(lambda: noticed, timeout=PROMISED)


@pytest.mark.usefixtures("how")
def test_a_file_that_comes(tmp_path: Path) -> None:
    """A file is noticed that was not there, in a directory that was not there."""
    path = tmp_path / "deployments" / "production.yaml"
    with watching(tmp_path / "jobs.yaml", path) as noticed:
        path.parent.mkdir()
        path.write_text("jobs: {}\n")
        eventually(lambda: noticed, timeout=PROMISED)


@pytest.mark.usefixtures("how")
def test_a_config_map_is_swapped(tmp_path: Path) -> None:
    """A mounted ConfigMap is a link to a file below a link to a directory, and only that one changes."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "jobs.yaml").write_text(f"jobs: []  # {version}\n")
    data, path = tmp_path / "..data", tmp_path / "jobs.yaml"
    data.symlink_to("1")
    path.symlink_to("..data/jobs.yaml")
    with watching(path) as noticed:
        (tmp_path / "..data_tmp").symlink_to("2")
        (tmp_path / "..data_tmp").replace(data)
        eventually(lambda: noticed, timeout=PROMISED)
    assert path.read_text() == "jobs: []  # 2\n"


@pytest.mark.usefixtures("how")
def test_what_a_link_leads_to(tmp_path: Path) -> None:
    """A file is noticed that is edited in another directory, to which a link leads."""
    (tmp_path / "config").mkdir()
    (tmp_path / "elsewhere.yaml").write_text("jobs: []\n")
    path = tmp_path / "config" / "jobs.yaml"
    path.symlink_to(tmp_path / "elsewhere.yaml")
    with watching(path) as noticed:
        in_place(tmp_path / "elsewhere.yaml")
        eventually(lambda: noticed, timeout=PROMISED)


@pytest.mark.usefixtures("how")
def test_a_directory_that_is_swapped(tmp_path: Path) -> None:
    """A release that takes the place of another, by a link to its directory, is noticed."""
    for version in ("1", "2"):
        (tmp_path / version / "config").mkdir(parents=True)
        (tmp_path / version / "config" / "jobs.yaml").write_text(f"jobs: []  # {version}\n")
    current = tmp_path / "current"
    current.symlink_to("1")
    with watching(current / "config" / "jobs.yaml") as noticed:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").replace(current)
        eventually(lambda: noticed, timeout=PROMISED)
        noticed.clear()
        in_place(tmp_path / "2" / "config" / "jobs.yaml")
        eventually(lambda: noticed, timeout=PROMISED)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are looked at")
def test_nobody_wakes_up_while_nothing_happens(tmp_path: Path) -> None:
    """Where the system tells, the thread sleeps: it does not run once in three seconds."""
    path = tmp_path / "jobs.yaml"
    path.write_text("jobs: []\n")
    others = {one.native_id for one in threading.enumerate()}
    with watching(path):
        [number] = {one.native_id for one in threading.enumerate()} - others
        status = Path(f"/proc/self/task/{number}/status")

        def switches() -> int:
            lines = status.read_text().splitlines()
            return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

        def is_asleep() -> bool:
            before = switches()
            time.sleep(0.5)
            return switches() == before

        eventually(is_asleep)
        before = switches()
        time.sleep(3)
        assert switches() == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems are looked at")
def test_a_system_that_tells(tmp_path: Path) -> None:
    """Where the system tells, an edit is noticed before the next look would be."""
    path = tmp_path / "jobs.yaml"
    delays: list[float] = []
    with watching(path) as noticed:
        for number in range(5):
            noticed.clear()
            path.write_text(f"jobs: []  # {number}\n")
            start = time.monotonic()
            eventually(lambda: noticed, timeout=PROMISED)
            delays.append(noticed[-1] - start)
    assert min(delays) < 0.5, delays


@pytest.mark.usefixtures("how")
def test_it_stops(tmp_path: Path) -> None:
    """After the stop nothing is called any more, and the thread ends."""
    path = tmp_path / "jobs.yaml"
    with watching(path) as noticed:
        pass
    path.write_text("jobs: []\n")
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "lifebeat-watch"], timeout=PROMISED)
    assert noticed == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_many_open_files(tmp_path: Path) -> None:
    """A host with more than a thousand open files is told of changes all the same."""
    path = tmp_path / "jobs.yaml"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with watching(path) as noticed:
            path.write_text("jobs: []\n")
            eventually(lambda: noticed, timeout=PROMISED)
    finally:
        for one in opened:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

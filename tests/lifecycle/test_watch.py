"""Config that is edited while the application runs, in all the ways in which editors and clusters write files."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import eventually
from lifebeat.clock import SystemClock
from lifebeat.lifecycle.watch import Watch
from lifebeat.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    Watching = Callable[..., AbstractContextManager[list[float]]]

PROMISED = 2.0


@contextmanager
def by_being_told() -> Generator[None]:
    """Linux tells of changes."""
    yield


@contextmanager
def by_looking() -> Generator[None]:
    """As if nothing told."""
    name = "lifebeat.lifecycle.inotify"
    kept = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # how Python marks a module that cannot be imported
    yield
    del sys.modules[name]
    if kept is not None:
        sys.modules[name] = kept


WAYS = {"told": by_being_told, "looking": by_looking}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems are looked at")
told = pytest.mark.parametrize("watching", ["told"], indirect=True)


@pytest.fixture(params=list(WAYS))
def watching(request: pytest.FixtureRequest) -> Iterator[Watching]:
    """Watches files for the length of a block, and gives the times at which a change of them was noticed."""
    with WAYS[request.param]():

        @contextmanager
        def watch_files(*files: Path) -> Generator[list[float]]:
            noticed: list[float] = []
            watch = Watch(lambda: list(files), SystemClock())
            watch.start(lambda: noticed.append(time.monotonic()))
            try:
                yield noticed
            finally:
                watch.stop()

        yield watch_files


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


@pytest.mark.parametrize("edit", [in_place, by_rename, removed, same_size_and_time])
def test_an_edit_is_noticed(watching: Watching, tmp_path: Path, edit: Callable[[Path], None]) -> None:
    """However a file is edited, it is noticed within two seconds."""
    path = tmp_path / "jobs.yaml"
    path.write_text("jobs: []  # one\n")
    with watching(path) as noticed:
        edit(path)
        eventually(lambda: noticed, timeout=PROMISED)


def test_a_file_that_comes(watching: Watching, tmp_path: Path) -> None:
    """A file is noticed that was not there, in a directory that was not there."""
    path = tmp_path / "deployments" / "production.yaml"
    with watching(tmp_path / "jobs.yaml", path) as noticed:
        path.parent.mkdir()
        path.write_text("jobs: {}\n")
        eventually(lambda: noticed, timeout=PROMISED)


def test_a_config_map_is_swapped(watching: Watching, tmp_path: Path) -> None:
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


def test_what_a_link_leads_to(watching: Watching, tmp_path: Path) -> None:
    """A file is noticed that is edited in another directory, to which a link leads."""
    (tmp_path / "config").mkdir()
    (tmp_path / "elsewhere.yaml").write_text("jobs: []\n")
    path = tmp_path / "config" / "jobs.yaml"
    path.symlink_to(tmp_path / "elsewhere.yaml")
    with watching(path) as noticed:
        in_place(tmp_path / "elsewhere.yaml")
        eventually(lambda: noticed, timeout=PROMISED)


def test_a_directory_that_is_swapped(watching: Watching, tmp_path: Path) -> None:
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


@LINUX
@told
def test_nobody_wakes_up_while_nothing_happens(watching: Watching, tmp_path: Path) -> None:
    """Where the system tells, who waits for that sleeps, also while a log is written beside the config."""
    path, log = tmp_path / "jobs.yaml", tmp_path / "app.log"
    path.write_text("jobs: []\n")
    log.touch()

    def switches() -> int:
        lines = [
            line
            for one in threading.enumerate()
            if one.name == "lifebeat-watch"
            for line in Path(f"/proc/self/task/{one.native_id}/status").read_text().splitlines()
        ]
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def is_asleep() -> bool:
        before = switches()
        time.sleep(0.5)
        return switches() == before

    with watching(path):
        eventually(is_asleep)
        before = switches()
        for number in range(30):
            with log.open("a") as file:
                file.write(f"{number}\n")
            time.sleep(0.05)
        assert switches() == before


@LINUX
@told
def test_a_file_that_is_written_in_pieces(watching: Watching, tmp_path: Path) -> None:
    """What somebody has open for writing is looked at when it is closed, and not half of it before."""
    path = tmp_path / "jobs.yaml"
    path.write_text("jobs: []\n")
    with watching(path) as noticed:
        in_place(path)
        eventually(lambda: noticed, timeout=PROMISED)
        noticed.clear()
        with path.open("w", encoding="utf-8") as file:
            file.write("jobs:\n")
            file.flush()
            other = tmp_path / "other.yaml"
            with watching(other) as others:  # as long as another edit takes to be noticed
                in_place(other)
                eventually(lambda: others, timeout=PROMISED)
            assert noticed == []
        eventually(lambda: noticed, timeout=PROMISED)


@LINUX
@told
def test_a_directory_in_which_much_happens(watching: Watching, tmp_path: Path) -> None:
    """Files that come and go all the time beside the config keep nobody from noticing an edit."""
    path, done = tmp_path / "jobs.yaml", threading.Event()
    path.write_text("jobs: []\n")

    def churn() -> None:
        while not done.wait(0.01):
            (tmp_path / "temporary").touch()
            (tmp_path / "temporary").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        with watching(path) as noticed:
            in_place(path)
            eventually(lambda: noticed, timeout=PROMISED)
    finally:
        done.set()
        thread.join()


@LINUX
@told
def test_no_thread_and_no_descriptor_is_left(watching: Watching, tmp_path: Path) -> None:
    """After the stop the thread is gone and its descriptors are closed."""
    path = tmp_path / "jobs.yaml"
    for number in range(3):
        path.write_text(f"jobs: []  # {number}\n")
        with watching(path) as noticed:
            in_place(path)
            eventually(lambda noticed=noticed: noticed, timeout=PROMISED)
        eventually(lambda: not [one for one in threading.enumerate() if one.name == "lifebeat-watch"])
        assert not [one for one in opened() if "inotify" in one]


def opened() -> list[str]:
    """What this process has open."""
    found: list[str] = []
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(one.readlink()))
    return found


@LINUX
@told
def test_a_system_that_tells(watching: Watching, tmp_path: Path) -> None:
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


def test_it_stops(watching: Watching, tmp_path: Path) -> None:
    """After the stop nothing is called any more, and the thread ends."""
    path = tmp_path / "jobs.yaml"
    with watching(path) as noticed:
        pass
    path.write_text("jobs: []\n")
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "lifebeat-watch"], timeout=PROMISED)
    assert noticed == []


@LINUX
@told
def test_many_open_files(watching: Watching, tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("by", "calls"), [(3600.0, [3600.0]), (-86400.0, [-86400.0]), (0.2, [])])
def test_a_clock_that_was_set_is_noticed_once(
    tmp_path: Path, by: float, calls: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock is held against boot time; what a time server corrects by fractions of a second is no jump."""
    clock, seen = FakeClock(), list[float]()
    monkeypatch.setattr("lifebeat.lifecycle.watch.time.monotonic", clock.monotonic)
    watch = Watch(lambda: [tmp_path / "jobs.yaml"], clock)
    watch.clock_changed = seen.append
    clock.advance(100)
    watch.look_at_clock()
    clock.jump(by)
    watch.look_at_clock()
    watch.look_at_clock()
    assert [round(one) for one in seen] == [round(one) for one in calls]


def test_a_machine_that_slept_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot time went on while the time awake stood still: the scheduler has to look at the clock again."""
    clock, seen = FakeClock(), list[float]()
    monkeypatch.setattr("lifebeat.lifecycle.watch.time.monotonic", lambda: 500.0)
    watch = Watch(lambda: [tmp_path / "jobs.yaml"], clock)
    watch.clock_changed = seen.append
    watch.look_at_clock()
    clock.advance(9 * 3600)
    watch.look_at_clock()
    assert seen == [0.0]


def test_a_look_that_fails_is_not_the_last(tmp_path: Path) -> None:
    """Whatever is raised while a file is looked at or an edit is applied, the next edit is noticed."""
    path, seen = tmp_path / "jobs.yaml", list[int]()
    path.write_text("jobs: {}\n")

    def changed() -> None:
        seen.append(1)
        raise KeyboardInterrupt  # what a host's module does at its import, and no Ctrl-C

    watch = Watch(lambda: [path], SystemClock())
    watch.start(changed)
    try:
        in_place(path)
        eventually(lambda: len(seen) == 1, timeout=PROMISED)
        by_rename(path)
        path.write_text("jobs: {}  # again\n")
        eventually(lambda: len(seen) >= 2, timeout=PROMISED)
    finally:
        watch.stop()

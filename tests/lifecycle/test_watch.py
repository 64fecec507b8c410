"""Config that is edited while the application runs, in all the ways in which editors and clusters write files."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

from hosts import eventually
from lifebeat.lifecycle.watch import Watch
from lifebeat.registration import alarm

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from lifebeat.lifecycle.watch import Attend

    Watching = Callable[..., AbstractContextManager[list[float]]]

PROMISED = 2.0


@contextmanager
def by_a_thread() -> Generator[Attend | None]:
    """Linux tells, and a thread of the watch's own waits."""
    yield None


@contextmanager
def by_looking() -> Generator[Attend | None]:
    """As if nothing told."""
    name = "lifebeat.lifecycle.inotify"
    kept = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # how Python marks a module that cannot be imported
    yield None
    del sys.modules[name]
    if kept is not None:
        sys.modules[name] = kept


@contextmanager
def by_a_scheduler() -> Generator[Attend]:
    """Linux tells, and a scheduler's thread waits."""
    scheduler: Any = BackgroundScheduler()
    scheduler.start()
    yield partial(alarm.attend, scheduler)
    scheduler.shutdown()


@contextmanager
def by_a_loop() -> Generator[Attend]:
    """Linux tells, and an asyncio loop waits."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="a loop")
    thread.start()
    yield partial(alarm.attend_on_loop, loop)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


WAYS = {"thread": by_a_thread, "looking": by_looking, "scheduler": by_a_scheduler, "loop": by_a_loop}
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems are looked at")
told = pytest.mark.parametrize("watching", ["thread", "scheduler", "loop"], indirect=True)


@pytest.fixture(params=list(WAYS))
def watching(request: pytest.FixtureRequest) -> Iterator[Watching]:
    """Watches files for the length of a block, and gives the times at which a change of them was noticed."""
    with WAYS[request.param]() as attend:

        @contextmanager
        def watch_files(*files: Path) -> Generator[list[float]]:
            noticed: list[float] = []
            watch = Watch(lambda: list(files), lambda: noticed.append(time.monotonic()), attend)
            watch.start()
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
            if one.name in {"lifebeat-watch", "APScheduler", "a loop"}
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
@pytest.mark.parametrize("watching", ["scheduler", "loop"], indirect=True)
def test_no_thread_and_no_descriptor_is_left(watching: Watching, tmp_path: Path) -> None:
    """Where somebody waits anyway, no thread of the watch's does, and after the stop its descriptors are closed."""
    path = tmp_path / "jobs.yaml"
    threads = threading.active_count()
    for number in range(3):
        path.write_text(f"jobs: []  # {number}\n")
        with watching(path) as noticed:
            in_place(path)
            eventually(lambda noticed=noticed: noticed, timeout=PROMISED)
            eventually(lambda: threading.active_count() <= threads)
        eventually(lambda: not [one for one in opened() if "inotify" in one])


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

"""One life on a scheduler that only remembers, so that time and threads are the test's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import threading
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat import ConfigError, history
from lifebeat.lifecycle.application import Application
from lifebeat.lifecycle.ending import LOOP_WAIT
from lifebeat.lifecycle.life import Life
from lifebeat.log import get_logger
from lifebeat.once.alone import Alone
from lifebeat.once.files import FileCoordinator
from lifebeat.once.protocol import Busy, CannotCoordinate, Joined, Unavailable, UnknownJob
from lifebeat.schedule.instants import SECOND, to_datetime, to_instant
from lifebeat.settings.source import ConfigSource
from lifebeat.testing import FakeClock
from lifebeat_jobs import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta
    from pathlib import Path

    from lifebeat.clock import Moment
    from lifebeat.context import JobContext
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.once.protocol import Coordinator
    from lifebeat.schedule.instants import Instants

HOUR = 3600 * SECOND
ran: list[tuple[str, datetime, datetime]] = []
uptimes: list[timedelta] = []
released = threading.Event()
asked = threading.Event()


def note(context: JobContext) -> None:
    """A host's job: write down that it ran, for which instant, and since when the application runs."""
    ran.append((context.job_id, context.instant, context.started_at))
    uptimes.append(context.uptime)


async def note_async(context: JobContext, word: str = "") -> None:
    """The same as a coroutine."""
    ran.append((context.job_id + word, context.instant, context.started_at))


def hang() -> None:
    """A host's job that does not end before it is released."""
    released.wait(30)


stops: list[Callable[[], object]] = []
contexts: list[JobContext] = []


def stop_again() -> None:
    """A host's shutdown job that stops what is being stopped."""
    stops[0]()


def keep(context: JobContext) -> None:
    """A host's job that keeps what it was given."""
    contexts.append(context)


outcomes: list[Exception | None] = []
told: list[tuple[str, str | None]] = []


def print_page() -> None:
    """A host's job that fails as the test says."""
    outcome = outcomes.pop(0)
    if outcome is not None:
        raise outcome


def alarm(job: str, error: str | None) -> None:
    """A host's ``on_failure``."""
    told.append((job, error))


def leave(job: str, error: str | None) -> None:
    """A host's ``on_failure`` that would end the process."""
    sys.exit(f"{job}: {error}")


def fail() -> None:
    """A host's job that fails."""
    raise ValueError("no paper")


async def cancelled() -> None:
    """A host's job whose work was cancelled by somebody else."""
    raise asyncio.CancelledError


def pages() -> Any:
    """A host's job that returns what nobody runs."""
    return (number for number in range(3))


def handed_over(context: JobContext) -> Any:
    """A host's job that returns a coroutine."""
    return note_async(context, "!")


class RememberedScheduler:
    """What a life asks of a scheduler, remembered."""

    event_loop = None

    def __init__(self) -> None:
        self.added: dict[str, tuple[Instants, Callable[[datetime], object]]] = {}
        self.once: dict[str, Callable[[datetime], object]] = {}
        self.calls: list[str] = []
        self.drained: list[bool | None] = []

    def add(
        self, spec: JobSpec, instants: Instants, jitter: Any, run: Callable[[datetime], object], words: str = ""
    ) -> None:
        del jitter, words
        self.calls.append(f"add {spec.id}")
        self.added[spec.id] = (instants, run)

    def change(self, spec: JobSpec) -> None:
        self.calls.append(f"change {spec.id}")

    def add_once(
        self, job_id: str, delay: timedelta, run: Callable[[datetime], object], *, is_hosts: bool = False
    ) -> None:
        del delay, is_hosts
        self.once[job_id] = run

    def remove(self, job_id: str) -> None:
        self.calls.append(f"remove {job_id}")
        self.added.pop(job_id, None)

    def look_again(self, *, set_back: bool) -> None:
        self.calls.append(f"look again {set_back}")

    def drain(self, timeout: float | None, *, hosts: bool | None = None, but: int | None = None) -> bool:
        del timeout, but
        self.drained.append(hosts)
        return True

    def work(self) -> None:
        """Run what was to run once, until nothing more is."""
        while self.once:
            for run in [self.once.pop(job_id) for job_id in list(self.once)]:
                run(to_datetime(0))


class Failing:
    """A coordinator that cannot be reached for some calls, and then is another's."""

    def __init__(self, inner: Coordinator, times: int, error: type[Exception] = Unavailable) -> None:
        self._inner = inner
        self.left = times
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name in {"join", "claim", "latest"} and self.left > 0:
            self.left -= 1

            def fail(*_: Any) -> Any:
                raise self._error("the disk is full")

            return fail
        return getattr(self._inner, name)


class Process:
    """A process of the application, as far as it can know."""

    def __init__(self, config: Path, clock: FakeClock | None = None, **settings: Any) -> None:
        source = ConfigSource(config, arguments=settings, environ={"HOME": str(config)}, modules={})
        self.clock = clock or FakeClock()
        self.application = Application(source, allow=[__name__], clock=self.clock, logger=get_logger())
        self.scheduler = RememberedScheduler()
        self.life: Life | None = None

    def start(self, wrap: Callable[[Coordinator], Any] = lambda made: made, *, work: bool = True) -> Process:
        """Start a life, and run what it wants to run at once."""
        state = self.application.state_dir(create=True)
        assert state is not None
        self.life = Life(self.application, self.scheduler, wrap(FileCoordinator(state, clock=self.clock)))
        self.life.start()
        if work:
            self.scheduler.work()
        return self

    def stop(self) -> None:
        """Stop the life."""
        assert self.life is not None
        self.life.stop()

    def edit(self) -> list[str]:
        """Have edited config noticed; what the scheduler was asked."""
        assert self.life is not None
        self.scheduler.calls.clear()
        self.life.edited()
        return self.scheduler.calls


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config directory; and nothing has run."""
    ran.clear()
    uptimes.clear()
    return tmp_path


def jobs(config: Path, text: str) -> None:
    (config / "jobs.yaml").write_text("jobs:\n" + text.replace("RUN", f"{__name__}:note"))


def names() -> list[str]:
    return [job for job, _, _ in ran]


def test_start_jobs_run_once_in_a_life(config: Path) -> None:
    """A ``when: start`` job runs once in a life, and again in the next one."""
    jobs(config, "  a: {run: 'RUN', when: start}\n")
    for _ in range(2):
        Process(config).start().stop()
    assert names() == ["a", "a"]


@pytest.mark.parametrize("once", ["process", "application"])
def test_a_life_too_short_still_has_its_start_jobs(config: Path, once: str) -> None:
    """Start jobs that no thread came to run are run at the stop, before the shutdown jobs."""
    jobs(config, f"  z: {{run: 'RUN', when: shutdown, once: {once}}}\n  a: {{run: 'RUN', when: start, once: {once}}}\n")
    Process(config).start(work=False).stop()
    assert names() == ["a", "z"]


def test_one_of_eight_processes_runs_what_is_shared(config: Path) -> None:
    """Of eight processes the first runs the start job, one each instant, the last the shutdown job."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n"
        "  b: {run: 'RUN', every: 1h, once: application}\n"
        "  p: {run: 'RUN', every: 1h}\n"
        "  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    clock = FakeClock()
    processes = [Process(config, clock) for _ in range(8)]
    for process in processes:
        process.start()
        clock.advance(60)
    instant = to_datetime((int(clock.time()) // 3600 + 1) * HOUR)
    for process in processes:
        process.scheduler.added["b"][1](instant)
        process.scheduler.added["p"][1](instant)
    for process in processes:
        process.stop()
    assert [names().count(job) for job in "abpz"] == [1, 1, 8, 1]
    assert names()[-1] == "z"
    assert {started for job, _, started in ran if job in "abz"} == {to_datetime(int(FakeClock().time() * SECOND))}


@pytest.mark.parametrize("days", [1, pytest.param(10, marks=pytest.mark.soak)])
def test_an_application_restarted_hourly_beats_once_a_day(config: Path, days: int) -> None:
    """Days of hourly restarts, each down at the very instant, are one run a day."""
    jobs(config, "  beat: {run: 'RUN', every: 24h, once: application}\n")
    clock = FakeClock()
    clock.jump(-(clock.time() % 86400) - 60)  # a minute to midnight, where the grid has its instants
    for _ in range(24 * days):
        process = Process(config, clock).start()
        clock.advance(3500)
        process.stop()
        clock.advance(100)  # down while the clock passes the hour
    instants = [instant for _, instant, _ in ran]
    assert len(instants) == len(set(instants)) == days


def test_a_run_missed_by_more_than_its_grace_is_left_out(config: Path) -> None:
    """``misfire_grace`` holds over restarts too."""
    jobs(config, "  beat: {run: 'RUN', every: 24h, once: application, misfire_grace: 1h}\n")
    clock = FakeClock()
    for wait in (600, 86400 * 2 + 7200):
        clock.jump(86400 - clock.time() % 86400 - 60)
        Process(config, clock).start().stop()
        clock.advance(60 + wait)
        Process(config, clock).start().stop()
    assert len(ran) == 1


def test_the_id_exists_before_the_plan_does(config: Path) -> None:
    """At a first start each job is registered once, on the instants that the new ID gives."""
    jobs(
        config,
        "  own: {run: 'RUN', every: 1h, phase: installation}\n"
        "  shared: {run: 'RUN', every: 1h, phase: installation, once: application}\n"
        "  beat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 24h, phase: installation, once: application}\n",
    )
    process = Process(config, telemetryHost="http://127.0.0.1:9").start(work=False)
    assert process.application.instance_id() is None
    assert process.scheduler.added == {}
    process.scheduler.work()
    assert process.application.instance_id() is not None
    assert sorted(call for call in process.scheduler.calls if "missed" not in call) == [
        "add beat",
        "add own",
        "add shared",
    ]
    again = Process(config, telemetryHost="http://127.0.0.1:9").start(work=False)
    assert again.scheduler.added["own"][0] == process.scheduler.added["own"][0]
    again.stop()
    process.stop()


def test_shared_jobs_are_registered_after_the_start_jobs(config: Path) -> None:
    """No heartbeat comes before the startup, by the order of lines."""
    jobs(config, "  a: {run: 'RUN', when: start, once: application}\n  b: {run: 'RUN', every: 1h, once: application}\n")
    process = Process(config).start(work=False)
    assert process.scheduler.calls == []
    process.scheduler.work()
    assert process.scheduler.calls == ["add b"]
    process.stop()


def test_an_edit_before_the_start_jobs_registers_no_shared_job(config: Path) -> None:
    """The ID that is written into the config file is an edit, and comes while the process is joining."""
    jobs(config, "  a: {run: 'RUN', when: start, once: application}\n  b: {run: 'RUN', every: 1h, once: application}\n")
    process = Process(config).start(work=False)
    assert process.life is not None
    process.life._membership.join(1.0)  # pyright: ignore[reportPrivateUsage]  # a moment in the middle of a start
    jobs(config, "  a: {run: 'RUN', when: start, once: application}\n  b: {run: 'RUN', every: 2h, once: application}\n")
    assert process.edit() == []
    assert list(process.scheduler.once) == [":begin"]
    process.scheduler.work()
    assert process.scheduler.calls == ["add b"]
    assert process.scheduler.once == {}
    process.stop()


@pytest.mark.parametrize("times", [1, 5])
def test_a_join_that_failed_is_tried_again(config: Path, times: int) -> None:
    """A disk that was full at the start and has room later: one startup, one shutdown, and it is said once each."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    first, second = Process(config), Process(config)
    first.start(lambda made: Failing(made, times))
    second.start()
    first.stop()
    second.stop()
    assert names() == ["a", "z"]


def test_a_claim_that_failed_is_tried_again(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An instant that could not be claimed is claimed later, and the outage is said when it begins and ends."""
    caplog.set_level("INFO", "lifebeat")
    jobs(config, "  b: {run: 'RUN', every: 1h, once: application}\n")
    process = Process(config)
    coordinators: list[Failing] = []

    def wrap(made: Coordinator) -> Failing:
        coordinators.append(Failing(made, 0))
        return coordinators[0]

    process.start(wrap)
    coordinators[0].left = 2
    process.scheduler.added["b"][1](to_datetime(HOUR))
    assert ran == []
    process.scheduler.work()
    assert names() == ["b"]
    assert caplog.text.count("are paused, others keep running") == 1
    assert caplog.text.count("are resumed") == 1
    process.stop()


def test_who_stands_alone_ends_alone(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where processes cannot be coordinated each reports for itself: its startup and its shutdown."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n"
        "  b: {run: 'RUN', every: 1h, once: application}\n"
        "  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    processes = [Process(config).start(lambda made: Failing(made, 1, CannotCoordinate)) for _ in range(2)]
    for process in processes:
        process.scheduler.added["b"][1](to_datetime(HOUR))
        process.stop()
    assert [names().count(job) for job in "abz"] == [2, 2, 2]
    assert "each reports for itself" in caplog.text


def test_a_coordinator_that_is_away_until_the_stop_leaves_one_alone(config: Path) -> None:
    """On one machine, a process that could never join has its startup and its shutdown at the stop."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    Process(config).start(lambda made: Failing(made, 10_000), work=False).stop()
    assert names() == ["a", "z"]


def test_an_edit_touches_only_what_changed(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed job takes the place of the old one, a removed one is removed, a new one added, the rest not touched."""
    caplog.set_level("INFO", "lifebeat")
    jobs(config, "  a: {run: 'RUN', every: 1h}\n  b: {run: 'RUN', every: 1h}\n  c: {run: 'RUN', every: 1h}\n")
    process = Process(config).start()
    jobs(config, "  a: {run: 'RUN', every: 1h}\n  b: {run: 'RUN', every: 2h}\n  d: {run: 'RUN', every: 1h}\n")
    assert sorted(process.edit()) == ["add b", "add d", "remove b", "remove c"]
    assert "edited config is applied: added d; changed b (trigger); removed c" in caplog.text
    caplog.clear()
    process.edit()
    assert "applied" not in caplog.text
    process.stop()


def test_an_edit_of_the_description_keeps_the_next_run(config: Path) -> None:
    """The same trigger and phase keep what is due, also while it is overdue; the new work is what runs."""
    jobs(config, "  a: {run: 'RUN', every: 1h}\n")
    process = Process(config).start()
    (config / "jobs.yaml").write_text(
        f"jobs:\n  a: {{run: '{__name__}:note_async', every: 1h, description: later, args: {{word: '!'}}}}\n"
    )
    assert process.edit() == ["change a"]
    process.scheduler.added["a"][1](to_datetime(HOUR))
    assert names() == ["a!"]
    process.stop()


def test_an_invalid_edit_is_refused_whole(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken edit is said with its place, and nothing of it is applied."""
    jobs(config, "  a: {run: 'RUN', every: 1h}\n")
    process = Process(config).start()
    jobs(config, "  a: {run: 'RUN', every: -1h, jiter: 1m}\n  b: {run: 'RUN', every: 1h}\n")
    assert process.edit() == []
    assert process.edit() == []  # somebody ordered something: that is no edit, and the fault is known
    assert caplog.text.count("edited config is not applied") == 1
    assert "jobs.yaml:2:" in caplog.text
    assert "(and 1 more, see: lifebeat check)" in caplog.text
    process.stop()


def test_an_opt_out_beside_an_invalid_edit_leaves_the_hosts_jobs(config: Path) -> None:
    """Who has opted out and then breaks the job file keeps the jobs of his own as they were."""
    (config / "config.yaml").write_text("telemetryEnabled: false\n")
    jobs(config, "  a: {run: 'RUN', every: 1h}\n  b: {run: 'RUN', every: 1h, once: application}\n")
    process = Process(config).start()
    before = dict(process.scheduler.added)
    for broken in ("  a: {run: 'RUN', evry: 1h}\n  c: {run: 'RUN', every: 1h}\n", "  a: {"):
        jobs(config, broken)
        assert process.edit() == []
        assert process.scheduler.added == before
    process.stop()


@pytest.mark.parametrize("content", [None, "", "   \n"])
@pytest.mark.parametrize("name", ["jobs.yaml", "config.yaml"])
def test_what_vanishes_or_is_empty_is_no_edit(
    config: Path, caplog: pytest.LogCaptureFixture, name: str, content: str | None
) -> None:
    """An editor writes in pieces, a checkout takes files away for a moment: the plan and the settings go on."""
    (config / "config.yaml").write_text("telemetryHeartbeatInterval: 7h\n")
    jobs(config, "  a: {run: 'RUN', every: '${telemetryHeartbeatInterval}'}\n")
    process = Process(config).start()
    kept = (config / name).read_text()
    if content is None:
        (config / name).unlink()
    else:
        (config / name).write_text(content)
    assert process.edit() == []
    assert caplog.text.count("is gone or empty") == 1
    assert process.application.source.read().heartbeat_interval.total_seconds() == 7 * 3600
    (config / name).write_text(kept.replace("7h", "8h").replace("  a:", "  b:"))
    assert process.edit() != []
    process.stop()


def test_a_host_fault_raises_and_a_telemetry_fault_does_not(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``check`` raises for the host's own jobs; telemetry's pause telemetry."""
    (config / "jobs.yaml").write_text("jobs:\n  a: {run: 'lifebeat_jobs.telemetry:startup', every: -1h}\n")
    Process(config).application.check()
    assert "telemetry is paused until this is fixed" in caplog.text
    jobs(config, "  a: {run: 'RUN', every: -1h}\n")
    with pytest.raises(ConfigError):
        Process(config).application.check()


def test_off_covers_telemetry_whatever_the_file_says(config: Path) -> None:
    """With telemetry off its jobs are not in the plan, although the job file does not ask the switch."""
    (config / "jobs.yaml").write_text(
        "jobs:\n  beat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 1h, once: application}\n"
    )
    process = Process(config, telemetryEnabled=False).start()
    assert process.scheduler.added == {}
    process.stop()


def test_an_async_job_is_awaited_without_a_loop(config: Path) -> None:
    """An async function is awaited also where the scheduler has no loop."""
    (config / "jobs.yaml").write_text(
        f"jobs:\n  a: {{run: '{__name__}:note_async', when: start, args: {{word: '!'}}}}\n"
    )
    Process(config).start().stop()
    assert names() == ["a!"]


def test_a_shutdown_job_that_hangs_is_left_behind(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown job has its timeout and no more."""
    released.clear()
    (config / "jobs.yaml").write_text(f"jobs:\n  z: {{run: '{__name__}:hang', when: shutdown, timeout: 200ms}}\n")
    process = Process(config).start()
    started = time.monotonic()
    process.stop()
    released.set()
    assert time.monotonic() - started < 5
    assert "did not end within its timeout" in caplog.text


def test_a_job_that_outlives_its_timeout_is_left_behind(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A function that cannot be cancelled is reported when its time is up, and its thread is free again."""
    released.clear()
    (config / "jobs.yaml").write_text(f"jobs:\n  a: {{run: '{__name__}:hang', every: 1h, timeout: 100ms}}\n")
    process = Process(config).start()
    started = time.monotonic()
    process.scheduler.added["a"][1](to_datetime(0))
    released.set()
    assert time.monotonic() - started < 5
    assert "job a did not end within its timeout" in caplog.text
    process.stop()


def test_a_hosts_failure_is_the_schedulers_to_report(config: Path) -> None:
    """What a host's job raises is returned to the scheduler, for its listeners."""
    (config / "jobs.yaml").write_text(f"jobs:\n  a: {{run: '{__name__}:fail', every: 1h, once: application}}\n")
    process = Process(config).start()
    assert str(process.scheduler.added["a"][1](to_datetime(HOUR))) == "no paper"
    process.stop()


def test_a_run_that_failed_is_repeated_and_the_failure_is_told_once(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """``retry`` repeats the run; the log and ``on_failure`` hear of the beginning and the end of a failure."""
    caplog.set_level("INFO")
    outcomes[:] = [ValueError("no paper"), ValueError("no ink"), None, None, ValueError("no paper")]
    told.clear()
    (config / "jobs.yaml").write_text(
        f"jobs:\n  a:\n    run: '{__name__}:print_page'\n    every: 1h\n"
        f"    retry: {{attempts: 3, wait: 10s}}\n    on_failure: '{__name__}:alarm'\n"
    )
    process = Process(config).start()
    assert str(process.scheduler.added["a"][1](to_datetime(HOUR))) == "no paper"
    assert str(process.scheduler.once.pop("a:retry")(to_datetime(0))) == "no ink"
    process.scheduler.once.pop("a:retry")(to_datetime(0))
    assert told == [("a", "ValueError: no paper"), ("a", None)]
    assert process.scheduler.once == {}
    process.scheduler.added["a"][1](to_datetime(2 * HOUR))
    assert str(process.scheduler.added["a"][1](to_datetime(3 * HOUR))) == "no paper"
    assert [line.message for line in caplog.records if "until it works" in line.message] == [
        "job a failed; until it works again, further failures are only in `lifebeat runs`"
    ] * 2
    assert caplog.text.count("job a works again") == 1
    assert told == [("a", "ValueError: no paper"), ("a", None), ("a", "ValueError: no paper")]
    process.stop()


@pytest.mark.parametrize("timeout", ["", ", timeout: 20s"])
def test_what_a_job_returns_is_run_or_is_a_failure(
    config: Path, caplog: pytest.LogCaptureFixture, timeout: str
) -> None:
    """A coroutine is run; of a generator it is said that it runs nothing, and of a cancelled task that it failed."""
    jobs = {"a": "handed_over", "b": "pages", "c": "cancelled"}
    (config / "jobs.yaml").write_text(
        "jobs:\n" + "".join(f"  {job}: {{run: '{__name__}:{run}', every: 1h{timeout}}}\n" for job, run in jobs.items())
    )
    process = Process(config).start()
    ended = {job: process.scheduler.added[job][1](to_datetime(HOUR)) for job in jobs}
    assert names() == ["a!"]
    assert str(ended["b"]) == "it returned a generator, which runs nothing; name a function that runs it"
    assert isinstance(ended["c"], asyncio.CancelledError)
    assert "job c failed" in caplog.text
    process.stop()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_life(config: Path) -> None:
    """A forked child neither runs the parent's shutdown jobs nor ends its run."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    process = Process(config).start()
    child = os.fork()
    if child == 0:
        process.stop()
        os._exit(len(ran))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    process.stop()
    assert names() == ["a", "z"]


def test_background_work_of_a_name_is_one_at_a_time(config: Path) -> None:
    """Work of one name is not started a second time while it is under way, and again afterwards."""
    jobs(config, f"  a: {{run: '{__name__}:keep', when: start}}\n")
    process = Process(config).start()
    start = contexts.pop().background
    begun: list[int] = []
    gate = threading.Event()

    def work() -> None:
        begun.append(1)
        gate.wait(10)

    for _ in range(5):
        start("delivery", work)
    eventually(lambda: begun)
    assert len(begun) == 1
    gate.set()

    def begins_again() -> bool:
        start("delivery", work)
        return len(begun) > 1

    eventually(begins_again)
    process.stop()


def test_uptime_is_told_by_boot_time(config: Path) -> None:
    """A clock that was set by 57 years makes no uptime of 57 years."""
    jobs(config, "  z: {run: 'RUN', when: shutdown}\n")
    clock = FakeClock()
    process = Process(config, clock).start()
    clock.jump(57 * 365 * 86400)
    clock.advance(3600)
    process.stop()
    assert [uptime.total_seconds() for uptime in uptimes] == [3600]


def test_an_instant_that_a_clock_shows_twice_runs_once(config: Path) -> None:
    """After the clock went back, what has run does not run again, shared or not."""
    jobs(config, "  p: {run: 'RUN', every: 1h}\n  s: {run: 'RUN', every: 1h, once: application}\n")
    process = Process(config).start()
    for instant in (HOUR, 2 * HOUR, HOUR, 2 * HOUR):
        for job in "ps":
            process.scheduler.added[job][1](to_datetime(instant))
    assert [names().count(job) for job in "ps"] == [2, 2]
    assert process.life is not None
    process.scheduler.calls.clear()
    process.life.clock_changed(-3600.0)
    assert process.scheduler.calls == ["look again True"]
    process.stop()


def test_a_rotated_id_begins_with_an_uptime_of_zero(config: Path) -> None:
    """What runs after ``rotate-id`` is another installation: new phases, new uptime."""
    (config / "config.json").write_text('{"telemetryInstanceId": "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52"}')
    jobs(config, "  a: {run: 'RUN', every: 1h, phase: installation}\n  z: {run: 'RUN', when: shutdown}\n")
    clock = FakeClock()
    process = Process(config, clock).start()
    clock.advance(7200)
    (config / "config.json").write_text('{"telemetryInstanceId": "7c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e53"}')
    assert process.edit() == ["remove a", "add a"]
    clock.advance(60)
    process.stop()
    assert [uptime.total_seconds() for uptime in uptimes] == [60]


def test_what_an_engine_brings_runs_here(config: Path) -> None:
    """A run from an engine's queue is run for its instant; a job that is not known, or a stop, is for another."""
    jobs(config, "  s: {run: 'RUN', every: 1h, once: application, misfire_grace: 1h}\n")
    clock = FakeClock()
    process = Process(config, clock).start(lambda _: Alone(clock))
    assert process.life is not None
    instant = int(clock.time() // 3600) * HOUR
    process.life.run_claimed("s", instant)
    process.life.run_claimed("s", instant - 2 * HOUR)
    assert [instant for _, instant, _ in ran] == [to_datetime(instant)]
    with pytest.raises(UnknownJob):
        process.life.run_claimed("t", instant)
    process.stop()
    with pytest.raises(Busy):
        process.life.run_claimed("s", instant)


@pytest.mark.parametrize(
    ("fields", "is_skipped"),
    [
        ("every: 1h", True),
        ("every: 1h, coalesce: false", False),
        ("every: 1h, max_instances: 2", None),
        ("at: 2020-01-01T00:00Z", False),
    ],
    ids=["coalescing", "each", "with room", "the last"],
)
def test_a_run_that_an_engine_brings_while_one_is_under_way(
    config: Path, caplog: pytest.LogCaptureFixture, fields: str, is_skipped: bool | None
) -> None:
    """A job that coalesces skips it and says so, unless none follows; of others each comes again later."""
    jobs(config, f"  s: {{run: 'test_life:hang', {fields}, once: application}}\n")
    clock = FakeClock()
    process = Process(config, clock).start(lambda _: Alone(clock))
    life = process.life
    assert life is not None
    instant = int(clock.time() // 3600) * HOUR
    released.clear()
    first = threading.Thread(target=life.run_claimed, args=("s", instant))
    first.start()
    eventually(lambda: life._running["s"] == 1, 5)  # pyright: ignore[reportPrivateUsage]  # what no other call shows
    if is_skipped is None:
        released.set()
    if is_skipped is False:
        with pytest.raises(Busy):
            life.run_claimed("s", instant + HOUR)
    else:
        life.run_claimed("s", instant + HOUR)
    assert ("a run was skipped" in caplog.text) == bool(is_skipped)
    released.set()
    first.join()
    process.stop()


class Slow(Alone):
    """A coordinator whose server does not answer."""

    def leave(self, timeout: float) -> Moment:
        released.wait(30)
        return super().leave(timeout)


class Asking(Alone):
    """A coordinator whose server takes its time."""

    def claim(self, job_id: str, instant: int) -> bool:
        asked.set()
        assert released.wait(30)
        return super().claim(job_id, instant)


def test_an_instant_that_comes_during_a_slow_claim_is_not_skipped(config: Path) -> None:
    """While a claim is asked for, nothing runs yet: the next instant is claimed as well, a little later."""
    released.clear()
    asked.clear()
    jobs(config, "  a: {run: 'RUN', every: 1h, once: application, coalesce: false}\n")
    clock = FakeClock()
    process = Process(config, clock).start(lambda _: Asking(clock))
    fire = process.scheduler.added["a"][1]
    first = threading.Thread(target=fire, args=(to_datetime(HOUR),))
    first.start()
    assert asked.wait(10)
    fire(to_datetime(2 * HOUR))
    assert process.life is not None
    process.life.pass_over("a", to_datetime(3 * HOUR), late=False)  # as APScheduler skips it
    released.set()
    first.join()
    process.scheduler.work()
    assert [to_instant(instant) for _, instant, _ in ran] == [HOUR, 2 * HOUR, 3 * HOUR]
    process.stop()


def test_a_stop_is_over_in_time_whatever_the_coordinator_does(config: Path) -> None:
    """A disk or a server that does not answer does not hold up a stop beyond its deadline."""
    released.clear()
    (config / "jobs.yaml").write_text(TELEMETRY)
    process = Process(config, FakeClock(), telemetryShutdownTimeout="500ms", telemetryHost="http://127.0.0.1:9")
    process.start(lambda _: Slow(process.clock))
    started = time.monotonic()
    process.stop()
    taken = time.monotonic() - started
    released.set()
    assert taken < 0.5 + 0.25


TELEMETRY = """jobs:
  z: {run: 'lifebeat_jobs.telemetry:shutdown', when: shutdown, once: application}
"""


def shutdowns(process: Process) -> list[str]:
    """The shutdown events on record: when each was."""
    found = telemetry.entries(process.application.context("log"), 10)
    return [json.loads(one["body"])["timestamp"] for one in found if one["event"] == "shutdown"]


def test_a_stop_on_a_loop_returns_when_the_end_is_on_record(config: Path) -> None:
    """However long that takes within the stop's time: what comes after it may be a signal that ends the process."""
    (config / "jobs.yaml").write_text(TELEMETRY)
    process = Process(config, telemetryShutdownTimeout="9s").start()
    assert process.life is not None
    database = config / "lifebeat/lifebeat.sqlite3"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None, check_same_thread=False)) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(LOOP_WAIT + 0.3, busy.execute, ["COMMIT"])
        timer.start()
        process.life.stop(on_loop=True)
        assert len(shutdowns(process)) == 1
        timer.join()
    assert process.scheduler.drained == [False]  # a start job under way is waited for, what may need the loop is not


class Killed(FileCoordinator):
    """A process that is killed in its stop: as soon as its end is recorded, or as soon as it has left."""

    def __init__(self, directory: Path, clock: FakeClock, *, records: bool) -> None:
        super().__init__(directory, clock=clock)
        self._records = records

    def leave(self, timeout: float) -> Moment | None:
        left = super().leave(timeout)
        return left if self._records else self.close()

    def finish(self, timeout: float) -> None:
        del timeout
        self.close()


@pytest.mark.parametrize("records", [True, False])
def test_an_end_that_a_kill_cut_short_is_reported_once(config: Path, *, records: bool) -> None:
    """The next start reports it with its own time, and the same event if it was recorded after all."""
    (config / "jobs.yaml").write_text(TELEMETRY)
    process = Process(config)
    ended = process.clock.time()
    process.start(lambda _: Killed(config / "lifebeat", process.clock, records=records)).stop()
    assert len(shutdowns(process)) == records
    process.clock.advance(3600)
    Process(config, process.clock).start().stop()
    _, first = shutdowns(process)
    assert datetime.fromisoformat(first).timestamp() == pytest.approx(ended, abs=0.01)


def test_a_stop_from_inside_a_shutdown_job_returns(config: Path) -> None:
    """Nobody waits for himself."""
    (config / "jobs.yaml").write_text(f"jobs:\n  z: {{run: '{__name__}:stop_again', when: shutdown}}\n")
    process = Process(config).start()
    assert process.life is not None
    stops[:] = [process.life.stop]
    started = time.monotonic()
    process.stop()
    assert process.life.wait(0)
    assert time.monotonic() - started < 5


def test_nothing_is_written_where_everything_is_off(config: Path) -> None:
    """Where everything is off a life leaves no file."""
    application = Process(config, telemetryEnabled=False).application
    life = Life(application, RememberedScheduler(), Alone(application.clock))
    life.start()
    life.stop()
    assert list(config.iterdir()) == []


class Lost(Alone):
    """A coordinator that joins, and whose answer is lost each time."""

    left = False

    def join(self, timeout: float) -> Joined:
        super().join(timeout)
        raise Unavailable("the connection was cut")

    def leave(self, timeout: float) -> Moment:
        self.left = True
        return super().leave(timeout)


def test_a_join_whose_answer_was_lost_is_left_again(config: Path) -> None:
    """A process that does not know whether it is in leaves all the same, so that nobody waits for it."""
    jobs(config, "  s: {run: 'RUN', every: 1h, once: application}\n")
    process = Process(config)
    coordinator = Lost(process.clock)
    life = Life(process.application, process.scheduler, coordinator, shares_id=True)
    life.start()
    process.scheduler.once.pop(":begin")(process.application.now())
    life.stop()
    assert coordinator.left


def test_runs_are_remembered(config: Path) -> None:
    """Planned runs, those that came too late and those that were skipped have a row each, the claimed ones once."""
    jobs(
        config,
        "  a: {run: 'RUN', every: 1h, once: application}\n"
        f"  b: {{run: '{__name__}:fail', every: 1h}}\n"
        "  z: {run: 'RUN', when: shutdown}\n",
    )
    process = Process(config).start()
    assert process.life is not None
    process.scheduler.added["a"][1](to_datetime(HOUR))
    process.life.pass_over("a", to_datetime(HOUR), late=True)
    process.scheduler.added["b"][1](to_datetime(HOUR))
    process.life.pass_over("b", to_datetime(2 * HOUR), late=False)
    process.stop()
    found = history.read(process.application.state_dir(create=False))
    assert sorted((one.job, one.outcome) for one in found) == [
        ("a", "ok"),
        ("b", "failed"),
        ("b", "skipped"),
        ("z", "ok"),
    ]


def test_a_failing_on_failure_is_only_logged(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever ``on_failure`` does, the run has its own outcome, and the next one comes."""
    (config / "jobs.yaml").write_text(
        f"jobs:\n  a: {{run: '{__name__}:fail', every: 1h, on_failure: '{__name__}:leave'}}\n"
    )
    process = Process(config).start()
    assert str(process.scheduler.added["a"][1](to_datetime(HOUR))) == "no paper"
    process.stop()
    assert "on_failure of job a failed" in caplog.text
    (run,) = history.read(process.application.state_dir(create=False))
    assert run.reason == "ValueError: no paper"

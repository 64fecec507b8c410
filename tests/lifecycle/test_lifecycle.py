"""A life with a scheduler that only remembers, so that time and threads are the test's."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat import ConfigError
from lifebeat.engines.apscheduler import LocalEngine
from lifebeat.lifecycle.life import Lifecycle
from lifebeat.once.files import Presence
from lifebeat.schedule.instants import SECOND, to_datetime
from lifebeat.settings.source import ConfigSource
from lifebeat.storage import state_dir as statedir
from lifebeat.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from lifebeat.context import JobContext
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.schedule.instants import Instants
    from lifebeat.testing import PostHogServer

STARTUP = "  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start, once: application}\n"
ran: list[tuple[str, datetime, datetime]] = []


def note(context: JobContext) -> None:
    """A host's job: write down that it ran, for which instant, and since when the application runs."""
    ran.append((context.job_id, context.instant, context.started_at))


async def note_async(context: JobContext, word: str = "") -> None:
    """The same as a coroutine."""
    ran.append((context.job_id + word, context.instant, context.started_at))


def hang() -> None:
    """A host's job that does not end."""
    time.sleep(30)


class RememberedScheduler:
    """What a life asks of a scheduler, remembered."""

    event_loop = None

    def __init__(self) -> None:
        self.added: dict[str, tuple[Instants, Callable[[datetime], None]]] = {}
        self.once: dict[str, Callable[[datetime], None]] = {}
        self.calls: list[str] = []

    def add(self, spec: JobSpec, instants: Instants, jitter: Any, run: Callable[[datetime], None]) -> None:
        del jitter
        self.calls.append(f"add {spec.id}")
        self.added[spec.id] = (instants, run)

    def add_once(self, job_id: str, delay: timedelta, run: Callable[[datetime], None]) -> None:
        del delay
        self.calls.append(f"once {job_id}")
        self.once[job_id] = run

    def remove(self, job_id: str) -> None:
        self.calls.append(f"remove {job_id}")
        self.added.pop(job_id, None)

    def attend(self, descriptor: int, told: Callable[[], None]) -> None:
        """It does not wait."""

    def drain(self, timeout: float) -> bool:
        del timeout
        return True

    def work(self) -> None:
        """Run what was to run once."""
        for run in [self.once.pop(job_id) for job_id in list(self.once)]:
            run(to_datetime(0))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config directory; and nothing has run."""
    ran.clear()
    return tmp_path


def make(config: Path, clock: FakeClock | None = None, **settings: Any) -> Lifecycle:
    """A life in a process of its own, as far as it can know."""
    source = ConfigSource(config, arguments=settings, environ={"HOME": str(config)}, modules={})
    return Lifecycle(
        source, allow=[__name__], clock=clock or FakeClock(), logger=logging.getLogger("lifebeat"), watching=False
    )


def make_id(life: Lifecycle) -> None:
    """Do what the telemetry of some process does at a first start."""
    state = life.state_dir(create=True)
    assert state is not None
    statedir.agree_on_id(state / statedir.ID_FILE, "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52")


def jobs(config: Path, text: str) -> None:
    (config / "jobs.yaml").write_text("jobs:\n" + text.replace("RUN", f"{__name__}:note"))


def test_start_jobs_run_once(config: Path) -> None:
    """A ``when: start`` job runs once in a life, and again in the next one."""
    jobs(config, "  a: {run: 'RUN', when: start}\n")
    life = make(config)
    for _ in range(2):
        scheduler = RememberedScheduler()
        life.start(scheduler)
        scheduler.work()
        life.stop()
    assert [job for job, _, _ in ran] == ["a", "a"]


def test_a_life_too_short_still_has_its_start_jobs(config: Path) -> None:
    """Start jobs that no thread came to run are run at the stop, before the shutdown jobs."""
    jobs(config, "  z: {run: 'RUN', when: shutdown}\n  a: {run: 'RUN', when: start}\n")
    life = make(config)
    life.start(RememberedScheduler())
    life.stop()
    assert [job for job, _, _ in ran] == ["a", "z"]


def test_one_of_many_processes(config: Path) -> None:
    """Of eight processes the first runs the start job, one each instant, the last the shutdown job."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n"
        "  b: {run: 'RUN', every: 1h, once: application}\n"
        "  p: {run: 'RUN', every: 1h}\n"
        "  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    clock = FakeClock()
    lives = [make(config, clock) for _ in range(8)]
    schedulers = [RememberedScheduler() for _ in lives]
    for life, scheduler in zip(lives, schedulers, strict=True):
        life.start(scheduler)
        scheduler.work()
        clock.advance(60)
    instant = to_datetime((int(clock.time()) // 3600 + 1) * 3600 * SECOND)
    for scheduler in schedulers:
        scheduler.added["b"][1](instant)
        scheduler.added["p"][1](instant)
    for life in lives:
        life.stop()
    names = [job for job, _, _ in ran]
    assert [names.count(job) for job in "abpz"] == [1, 1, 8, 1]
    assert names[-1] == "z"
    starts = {started for job, _, started in ran if job in "abz"}
    assert starts == {to_datetime(int(FakeClock().time() * SECOND))}


def test_an_application_restarted_hourly_beats_once_a_day(config: Path) -> None:
    """Ten days of hourly restarts, each down at the very instant, are ten heartbeats."""
    jobs(config, "  beat: {run: 'RUN', every: 24h, once: application}\n")
    clock = FakeClock()
    clock.jump(-(clock.time() % 86400) - 60)  # a minute to midnight, where the grid has its instants
    for _ in range(24 * 10):
        life, scheduler = make(config, clock), RememberedScheduler()
        life.start(scheduler)
        scheduler.work()
        clock.advance(3500)
        life.stop()
        clock.advance(100)  # down while the clock passes the hour
    instants = [instant for _, instant, _ in ran]
    assert len(instants) == len(set(instants)) == 10


def test_a_run_missed_by_more_than_its_grace_is_left_out(config: Path) -> None:
    """``misfire_grace`` holds over restarts too."""
    jobs(config, "  beat: {run: 'RUN', every: 24h, once: application, misfire_grace: 1h}\n")
    clock = FakeClock()
    for wait in (600, 86400 * 2 + 7200):
        clock.jump(86400 - clock.time() % 86400 - 60)
        life, scheduler = make(config, clock), RememberedScheduler()
        life.start(scheduler)
        scheduler.work()
        life.stop()
        clock.advance(60 + wait)
        life, scheduler = make(config, clock), RememberedScheduler()
        life.start(scheduler)
        scheduler.work()
        life.stop()
    assert len(ran) == 1


def test_instants_from_before_the_id_do_not_count(config: Path) -> None:
    """At a first start jobs run at the instants that the new ID gives, not at those of the moment before it too."""
    jobs(config, f"{STARTUP}  a: {{run: 'RUN', every: 1h, phase: installation, once: application}}\n")
    clock = FakeClock()
    life, scheduler = make(config, clock, telemetryEnabled=True), RememberedScheduler()
    life.start(scheduler)
    before, run = scheduler.added["a"]
    make_id(life)
    now = int(clock.time() * SECOND)
    run(to_datetime(before.after(now) or 0))
    assert ran == []
    after, run = scheduler.added["a"]
    assert after != before
    scheduler.once["a:missed"](to_datetime(now))
    assert ran == []
    run(to_datetime(after.after(now) or 0))
    assert len(ran) == 1
    life.stop()


def test_an_hour_at_which_the_id_is_made(config: Path) -> None:
    """A jittered run that came due while the ID was made runs once: at once, or when the ID's own jitter says."""
    jobs(config, f"{STARTUP}  a: {{run: 'RUN', cron: '0 * * * *', jitter: 10s}}\n")
    clock = FakeClock()
    for seconds, expected in ((0.0, 0), (10.0, 1)):
        life, scheduler = make(config, clock, telemetryEnabled=True), RememberedScheduler()
        life.start(scheduler)
        instants, run = scheduler.added["a"]
        due = instants.after(int(clock.time() * SECOND)) or 0
        clock.jump(due / SECOND + seconds - clock.time())
        make_id(life)
        run(to_datetime(due))
        assert len(ran) == expected
        life.stop()
        (config / statedir.ID_FILE).unlink()


def test_who_makes_the_id_is_waited_for(config: Path) -> None:
    """A run that depends on the ID waits while the process that is in already makes it, and gives up its instant."""
    shared = "  b: {run: 'RUN', every: 1h, once: application}\n"
    jobs(config, f"{STARTUP}{shared}  a: {{run: 'RUN', every: 1h, phase: installation}}\n")
    first, second = make(config, telemetryEnabled=False), make(config, telemetryEnabled=True)
    for life in (first, second):
        scheduler = RememberedScheduler()
        life.start(scheduler)
        scheduler.work()
    waiting = threading.Thread(target=scheduler.added["a"][1], args=[to_datetime(0)])
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    make_id(first)
    waiting.join()
    assert ran == []
    scheduler.added["a"][1](to_datetime(0))
    assert len(ran) == 1
    for life in (second, first):
        life.stop()


@pytest.mark.parametrize("on", [True, False])
def test_an_id_that_nobody_makes(on: bool) -> None:
    """Where the first process could make no ID no run waits for one, and without telemetry none does either."""
    nowhere = Path("/proc/nowhere")
    life, scheduler = make(nowhere, telemetryEnabled=on, telemetryStateDir=str(nowhere)), RememberedScheduler()
    life.start(scheduler)
    begin = time.monotonic()
    scheduler.work()
    assert list(scheduler.added) == (["heartbeat"] if on else [])
    assert time.monotonic() - begin < 1
    life.stop()


def test_start_jobs_come_first(config: Path) -> None:
    """However many jobs stand before them in the file: those may wait for what the start jobs do."""
    lines = "".join(f"  a{number}: {{run: 'RUN', every: 1h, once: application}}\n" for number in range(30))
    jobs(config, f"{lines}{STARTUP}")
    life, scheduler = make(config, telemetryEnabled=True), RememberedScheduler()
    life.start(scheduler)
    assert scheduler.calls[0] == "once startup"
    life.stop()


def test_the_last_one_out_where_nothing_runs_at_a_start(config: Path) -> None:
    """Of three processes that no start job brings in, the last one out runs the shutdown job, and no other."""
    jobs(
        config,
        "  b: {run: 'RUN', every: 1h, once: application}\n  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    lives = [make(config) for _ in range(3)]
    for life in lives:
        scheduler = RememberedScheduler()
        life.start(scheduler)
        scheduler.work()
    for number, life in enumerate(lives):
        assert [job for job, _, _ in ran] == []
        life.stop()
        assert number < 2 or [job for job, _, _ in ran] == ["z"]


class Elsewhere(LocalEngine):
    """As if others of the application's processes went on, on other machines."""

    def leave(self, timeout: float) -> bool:
        return super().leave(timeout) and False


class CutOff(Lifecycle):
    """A life in a process that ends before a thread beside it has done anything."""

    def _background(self, name: str, work: Callable[[], None]) -> None:
        """Nothing comes of it."""


def test_a_process_that_leaves_others_behind(config: Path, receiver: PostHogServer) -> None:
    """What a process has recorded is delivered when it leaves, as nobody else may have its disk."""
    jobs(config, STARTUP + "  z: {run: 'lifebeat_jobs.telemetry:shutdown', when: shutdown, once: application}\n")
    arguments = {"telemetryApiKey": "phc_test", "telemetryHost": receiver.url}
    environ = {"HOME": str(config), "LIFEBEAT_TEST_MODE": "loopback"}
    scheduler = RememberedScheduler()

    def make_engine(life: Lifecycle) -> LocalEngine:
        presence = Presence(config, clock=life.clock)
        return Elsewhere(
            scheduler,
            find_house=lambda: presence,
            clock=life.clock,
            say_once=life.say_once,
            await_opening=lambda _: None,
        )

    life = CutOff(
        ConfigSource(config, arguments=arguments, environ=environ, modules={}),
        allow=[],
        clock=FakeClock(),
        logger=logging.getLogger("lifebeat"),
        watching=False,
        make_engine=make_engine,
    )
    life.start(scheduler)
    life.stop()
    assert receiver.names() == ["startup"]


class HeldScheduler(RememberedScheduler):
    """One that takes its time to take a job, as an engine does whose server does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answered = threading.Event(), threading.Event()

    def add(self, spec: JobSpec, instants: Instants, jitter: Any, run: Callable[[datetime], None]) -> None:
        super().add(spec, instants, jitter, run)
        self.asked.set()
        self.answered.wait()


def test_a_stop_does_not_wait_for_what_is_registered(config: Path) -> None:
    """A job that is being registered just now, and is not in the end, holds up no stop."""
    jobs(config, "  z: {run: 'RUN', when: shutdown}\n")
    life, scheduler = make(config, telemetryShutdownTimeout="1s"), HeldScheduler()
    life.start(scheduler)
    threads = threading.active_count()
    jobs(config, "  z: {run: 'RUN', when: shutdown}\n  b: {run: 'RUN', every: 1h}\n")
    thread = threading.Thread(target=life.reload)
    thread.start()
    assert scheduler.asked.wait(5)
    begin = time.monotonic()
    life.stop()
    took = time.monotonic() - begin
    scheduler.answered.set()
    thread.join()
    assert took < 1
    assert threading.active_count() <= threads
    assert [job for job, _, _ in ran] == ["z"]


def test_an_edit_touches_only_what_changed(config: Path) -> None:
    """A changed job takes the place of the old one, a removed one is removed, a new one added, the rest not touched."""
    jobs(config, "  a: {run: 'RUN', every: 1h}\n  b: {run: 'RUN', every: 1h}\n  c: {run: 'RUN', every: 1h}\n")
    life, scheduler = make(config), RememberedScheduler()
    life.start(scheduler)
    scheduler.calls.clear()
    jobs(config, "  a: {run: 'RUN', every: 1h}\n  b: {run: 'RUN', every: 2h}\n  d: {run: 'RUN', every: 1h}\n")
    life.reload()
    assert sorted(scheduler.calls) == ["add b", "add d", "remove c"]
    life.stop()


def test_an_invalid_edit_is_refused(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken edit is said with its place, and what ran before goes on."""
    jobs(config, "  a: {run: 'RUN', every: 1h}\n")
    life, scheduler = make(config), RememberedScheduler()
    life.start(scheduler)
    scheduler.calls.clear()
    jobs(config, "  a: {run: 'RUN', every: -1h}\n")
    life.reload()
    assert scheduler.calls == []
    assert "jobs.yaml:2:" in caplog.text
    assert "what ran before goes on" in caplog.text
    life.stop()


def test_a_host_fault_raises_and_a_telemetry_fault_does_not(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``check`` raises for the host's own jobs; telemetry's are said and live on."""
    (config / "jobs.yaml").write_text("jobs:\n  a: {run: 'lifebeat_jobs.telemetry:startup', every: -1h}\n")
    make(config).check()
    assert "telemetry is held" in caplog.text
    jobs(config, "  a: {run: 'RUN', every: -1h}\n")
    with pytest.raises(ConfigError):
        make(config).check()


def test_async_jobs(config: Path) -> None:
    """An async function is awaited also where the scheduler has no loop."""
    (config / "jobs.yaml").write_text(
        f"jobs:\n  a: {{run: '{__name__}:note_async', when: start, args: {{word: '!'}}}}\n"
    )
    life, scheduler = make(config), RememberedScheduler()
    life.start(scheduler)
    scheduler.work()
    life.stop()
    assert [job for job, _, _ in ran] == ["a!"]


def test_a_shutdown_job_that_hangs_is_left_behind(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown job has its timeout and no more."""
    (config / "jobs.yaml").write_text(f"jobs:\n  z: {{run: '{__name__}:hang', when: shutdown, timeout: 200ms}}\n")
    life = make(config)
    life.start(RememberedScheduler())
    started = time.monotonic()
    life.stop()
    assert time.monotonic() - started < 5
    assert "did not end within its timeout" in caplog.text


def test_a_job_that_outlives_its_timeout_is_left_behind(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A function that cannot be cancelled is reported when its time is up, and its thread is free again."""
    (config / "jobs.yaml").write_text(f"jobs:\n  a: {{run: '{__name__}:hang', every: 1h, timeout: 100ms}}\n")
    life, scheduler = make(config), RememberedScheduler()
    life.start(scheduler)
    started = time.monotonic()
    scheduler.added["a"][1](to_datetime(0))
    assert time.monotonic() - started < 5
    assert "job a did not end within its timeout" in caplog.text
    life.stop()


def test_a_forked_child_has_no_life(config: Path) -> None:
    """A forked child neither runs the parent's shutdown jobs nor ends its run."""
    jobs(
        config,
        "  a: {run: 'RUN', when: start, once: application}\n  z: {run: 'RUN', when: shutdown, once: application}\n",
    )
    life, scheduler = make(config), RememberedScheduler()
    life.start(scheduler)
    scheduler.work()
    child = os.fork()
    if child == 0:
        life.stop()
        os._exit(len(ran))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    life.stop()
    assert [job for job, _, _ in ran] == ["a", "z"]


def test_background_work_is_one_at_a_time(config: Path) -> None:
    """Work of one name is not started a second time while it is under way."""
    life = make(config)
    context = life.context("x")
    begun: list[int] = []

    def work() -> None:
        begun.append(1)
        time.sleep(0.2)

    for _ in range(5):
        context.background("delivery", work)
    eventually(lambda: begun)
    time.sleep(0.3)
    assert len(begun) == 1


def test_no_threads_and_no_files_for_an_empty_plan(config: Path) -> None:
    """Where everything is off nothing is written."""
    life = make(config, telemetryEnabled=False)
    life.start(RememberedScheduler())
    life.stop()
    assert list(config.iterdir()) == []

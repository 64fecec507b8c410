"""Jobs on APScheduler: instants, jitter, the executor, and what a running edit leaves alone."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_JOB_MISSED
from apscheduler.schedulers.background import BackgroundScheduler

from hosts import DEADLINE, eventually
from lifebeat.jobfile.spec import JobSpec
from lifebeat.registration.executor import MAX_THREADS
from lifebeat.registration.registry import ALIAS, Registry
from lifebeat.registration.triggers import InstantTrigger
from lifebeat.schedule.instants import SECOND, Grid, Single, jitter_of, to_datetime, to_instant
from lifebeat.schedule.triggers import Cron, Every

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOUR = 3600 * SECOND


def nothing(*_: Any) -> None:
    """Do nothing."""


def no_jitter(_: int) -> int:
    return 0


@pytest.fixture
def scheduler() -> Iterator[Any]:
    """A scheduler, stopped afterwards."""
    made: Any = BackgroundScheduler(timezone="UTC")
    yield made
    if made.running:
        made.shutdown()


def registry(
    scheduler: Any, started: Callable[[], None] = nothing, stopped: Callable[[bool], None] = nothing
) -> Registry:
    made = Registry(scheduler, started=started, stopped=stopped)
    made.listen()
    return made


def spec(job_id: str, interval: timedelta = timedelta(hours=1), **more: Any) -> JobSpec:
    return JobSpec(job_id, "tests:nothing", Every(interval), **more)


def fires(trigger: InstantTrigger, start: int, count: int) -> list[int]:
    found: list[int] = []
    previous, now = None, to_datetime(start)
    for _ in range(count):
        fired = trigger.get_next_fire_time(previous, now)
        assert fired is not None
        found.append(to_instant(fired))
        previous = now = fired
    return found


def test_instants_are_the_grid_whatever_the_start() -> None:
    """Two schedulers that start at different times fire at the same instants."""
    grid = Grid(HOUR, 7)
    first = fires(InstantTrigger(grid, no_jitter, coalesce=True), 10 * HOUR, 10)
    second = fires(InstantTrigger(grid, no_jitter, coalesce=True), 10 * HOUR + 12345, 10)
    assert first == [(10 + number) * HOUR + 7 for number in range(10)]
    assert second == [(11 + number) * HOUR + 7 for number in range(10)]


def test_jitter_does_not_accumulate() -> None:
    """A year of runs with jitter stays within the jitter of its grid, one run for each instant."""
    jitter = partial(jitter_of, "job", "seed", jitter=timedelta(minutes=50))
    runs = fires(InstantTrigger(Grid(HOUR), jitter, coalesce=True), 0, 24 * 365)
    assert [run // HOUR for run in runs] == list(range(runs[0] // HOUR, runs[0] // HOUR + len(runs)))
    assert max(run % HOUR for run in runs) < 50 * 60 * SECOND
    assert len({run % HOUR for run in runs}) > 8000


def test_a_restart_between_instant_and_run_loses_nothing() -> None:
    """A process that starts after the instant but before its jittered run still runs it."""
    jitter = partial(jitter_of, "job", "seed", jitter=timedelta(minutes=50))
    trigger = InstantTrigger(Grid(HOUR), jitter, coalesce=True)
    due = 5 * HOUR + jitter(5 * HOUR)
    again = trigger.get_next_fire_time(None, to_datetime(due - 1))
    assert again is not None
    assert to_instant(again) == due
    assert trigger.instant_of(again) == to_datetime(5 * HOUR)


def test_after_a_sleep_straight_to_the_latest() -> None:
    """A laptop that slept for a year finds the latest instant at once, not after a million steps."""
    trigger = InstantTrigger(Grid(2 * SECOND), no_jitter, coalesce=True)
    year = 365 * 24 * HOUR
    found = trigger.get_next_fire_time(to_datetime(0), to_datetime(year + 1))
    assert found == to_datetime(year)


def test_own_store_and_executor(scheduler: Any) -> None:
    """Jobs live in a store and an executor of Lifebeat's own, and have IDs that a host's cannot meet."""
    made = registry(scheduler)
    scheduler.start()
    made.add(spec("heartbeat"), Grid(HOUR), no_jitter, nothing)
    (job,) = scheduler.get_jobs()
    assert (job.id, job._jobstore_alias, job.executor) == ("lifebeat:heartbeat", ALIAS, ALIAS)
    assert (job.misfire_grace_time, job.coalesce, job.max_instances) == (None, True, 1)


@pytest.mark.parametrize(
    ("grace", "shown", "outcome"),
    [(0.05, 1, EVENT_JOB_MISSED), (59.5, 60, EVENT_JOB_EXECUTED), (None, None, EVENT_JOB_EXECUTED)],
)
def test_late_run_is_skipped_after_misfire_grace(
    scheduler: Any, grace: float | None, shown: int | None, outcome: int
) -> None:
    """A run that starts later than it may is left out, by fractions of a second too, as after a pause."""
    outcomes: list[int] = []

    def hear(event: Any) -> None:
        outcomes.append(event.code)

    scheduler.add_listener(hear, EVENT_JOB_MISSED | EVENT_JOB_EXECUTED)
    made = registry(scheduler)
    scheduler.start(paused=True)
    due = to_instant(datetime.now(tz=UTC)) + SECOND // 10
    beat = spec("beat", misfire_grace=None if grace is None else timedelta(seconds=grace))
    made.add(beat, Single(due), no_jitter, nothing)
    (job,) = scheduler.get_jobs()
    assert job.misfire_grace_time == shown
    eventually(lambda: to_instant(datetime.now(tz=UTC)) > due + SECOND // 10)
    scheduler.resume()
    eventually(lambda: outcomes)
    assert outcomes == [outcome]


def test_configure_after_attach(scheduler: Any) -> None:
    """A host that configures its scheduler after attaching loses nothing."""
    ran = threading.Event()
    made = registry(scheduler)
    scheduler.configure(job_defaults={"misfire_grace_time": 1})
    scheduler.start()
    made.add_once("x", timedelta(0), lambda _: ran.set())
    assert ran.wait(5)


def test_unchanged_jobs_keep_their_next_run(scheduler: Any) -> None:
    """Changing one job's interval leaves the next run of 999 others as it is, to the microsecond."""
    made = registry(scheduler)
    scheduler.start()
    for number in range(1000):
        made.add(spec(f"job-{number}"), Grid(HOUR, number), no_jitter, nothing)
    before = {number: made.next_run(f"job-{number}") for number in range(1000)}
    made.add(spec("job-7", timedelta(hours=2)), Grid(2 * HOUR, 7), no_jitter, nothing)
    after = {number: made.next_run(f"job-{number}") for number in range(1000)}
    assert {number for number in before if before[number] != after[number]} <= {7}
    assert len(scheduler.get_jobs()) == 1000


def test_runs_know_their_instant(scheduler: Any) -> None:
    """A run is told its instant on the grid, not the moment at which it happens to run."""
    seen: list[datetime] = []
    made = registry(scheduler)
    scheduler.start()
    interval = SECOND // 5
    made.add(spec("job", timedelta(seconds=0.2)), Grid(interval, 3), no_jitter, seen.append)
    eventually(lambda: len(seen) >= 5)
    assert [to_instant(one) % interval for one in seen] == [3] * len(seen)
    assert len(set(seen)) == len(seen)
    assert seen[0].tzinfo is UTC


def test_host_listeners_hear_of_runs(scheduler: Any) -> None:
    """A host's own listeners are told of runs, failures and misfires as of any job's."""
    heard: list[int] = []

    def hear(event: Any) -> None:
        heard.append(event.code)

    scheduler.add_listener(hear, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR | EVENT_JOB_MISSED)
    made = registry(scheduler)
    scheduler.start()

    def fail(_: datetime) -> None:
        raise RuntimeError("a job's own fault")

    made.add_once("good", timedelta(0), nothing)
    made.add_once("bad", timedelta(0), fail)
    eventually(lambda: len(heard) == 2)
    assert sorted(heard) == sorted([EVENT_JOB_EXECUTED, EVENT_JOB_ERROR])


def test_printed_jobs_say_when_they_run(
    scheduler: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """``print_jobs()`` and APScheduler's own warnings have the trigger in the words of the job file."""
    gate = threading.Event()
    made = registry(scheduler)
    scheduler.start()
    made.add(
        spec("busy", timedelta(milliseconds=50)), Grid(SECOND // 20), no_jitter, lambda _: nothing(gate.wait(DEADLINE))
    )
    made.add(
        JobSpec("nightly", "tests:nothing", Cron("0 3 * * 1-5", "Europe/Berlin")), Single(2**52), no_jitter, nothing
    )
    scheduler.print_jobs()
    assert "nightly (trigger: cron 0 3 * * 1-5 (Europe/Berlin), next run at: " in capsys.readouterr().out
    eventually(lambda: 'Execution of job "busy (trigger: every 50ms, ' in caplog.text)
    gate.set()


def test_the_page_of_flask_apscheduler_runs_a_job(scheduler: Any) -> None:
    """Its REST interface lists the jobs and runs one of them at once, for the moment of that run."""
    from flask import Flask
    from flask_apscheduler import APScheduler

    ran: list[datetime] = []
    app = Flask(__name__)
    app.config["SCHEDULER_API_ENABLED"] = True
    rest = APScheduler(scheduler=scheduler, app=app)
    made = registry(scheduler)
    rest.start()
    made.add(spec("tidy"), Grid(HOUR), no_jitter, ran.append)
    client = app.test_client()
    page: Any = client.get("/scheduler/jobs").json
    [listed] = page
    assert (listed["name"], listed["trigger"]) == ("tidy", "every 1h")
    assert client.post(f"/scheduler/jobs/{listed['id']}/run").status_code == 200
    assert abs((datetime.now(tz=UTC) - ran[0]).total_seconds()) < DEADLINE


def test_a_job_that_exits_runs_again(scheduler: Any) -> None:
    """A job that calls ``sys.exit`` has failed, and is neither the end of its thread nor of its runs."""
    ran: list[datetime] = []
    failed: list[BaseException] = []

    def hear(event: Any) -> None:
        failed.append(event.exception)

    scheduler.add_listener(hear, EVENT_JOB_ERROR)

    def leave(instant: datetime) -> None:
        ran.append(instant)
        sys.exit("done")

    made = registry(scheduler)
    scheduler.start()
    made.add(spec("one"), Grid(SECOND // 20), no_jitter, leave)
    eventually(lambda: len(failed) > MAX_THREADS)
    assert {type(one) for one in failed} == {SystemExit}


def test_more_jobs_than_threads(scheduler: Any) -> None:
    """What finds no thread waits in line, in order, and runs when one is free."""
    gate = threading.Event()
    ran: list[int] = []

    def work(number: int, _: datetime) -> None:
        ran.append(number)
        gate.wait(DEADLINE)

    made = registry(scheduler)
    scheduler.start()
    soon = to_instant(datetime.now(tz=UTC)) + SECOND // 2
    for number in range(MAX_THREADS + 5):
        made.add(spec(f"job{number}"), Single(soon + number), no_jitter, partial(work, number))
    eventually(lambda: len(ran) == MAX_THREADS)
    gate.set()
    eventually(lambda: len(ran) == MAX_THREADS + 5)
    assert ran[MAX_THREADS:] == list(range(MAX_THREADS, MAX_THREADS + 5))


def test_no_thread_remains_when_nothing_runs(scheduler: Any) -> None:
    """The executor's threads are gone when their work is done: an idle host has none of ours."""
    made = registry(scheduler)
    scheduler.start()
    for number in range(50):
        made.add_once(f"job-{number}", timedelta(0), lambda _: time.sleep(0.01))
    eventually(
        lambda: not scheduler.get_jobs() and not [one for one in threading.enumerate() if one.name == "lifebeat-job"]
    )


def test_shutdown_waits_for_jobs_that_use_the_scheduler(scheduler: Any) -> None:
    """A job that calls the scheduler while it is being shut down does not deadlock with it, and is waited for."""
    begun, done = threading.Event(), threading.Event()
    made = registry(scheduler)
    scheduler.start()

    def work(_: datetime) -> None:
        begun.set()
        time.sleep(0.3)
        made.remove("no such job")
        done.set()

    made.add_once("job", timedelta(0), work, is_hosts=True)
    assert begun.wait(5)
    scheduler.shutdown(wait=True)
    assert done.is_set()


def test_a_run_may_ask_for_another_of_its_name(scheduler: Any) -> None:
    """What runs once and is registered again by its own run runs again, and is not skipped as being under way."""
    ran: list[int] = []
    made = registry(scheduler)
    scheduler.start()

    def work(_: datetime) -> None:
        ran.append(1)
        if len(ran) == 1:
            made.add_once("begin", timedelta(0), work)
            eventually(lambda: len(ran) == 2)

    made.add_once("begin", timedelta(0), work)
    eventually(lambda: len(ran) == 2)
    eventually(lambda: not scheduler.get_jobs())


def test_shutdown_without_wait(scheduler: Any) -> None:
    """``shutdown(wait=False)`` does not wait for a job."""
    begun, release = threading.Event(), threading.Event()
    made = registry(scheduler)
    scheduler.start()

    def work(_: datetime) -> None:
        begun.set()
        release.wait(10)

    made.add_once("job", timedelta(0), work)
    assert begun.wait(5)
    started = time.monotonic()
    scheduler.shutdown(wait=False)
    assert time.monotonic() - started < 2
    release.set()
    assert made.drain(5)


def test_removing_all_jobs_keeps_ours(scheduler: Any) -> None:
    """A host that removes all its jobs does not remove Lifebeat's, and one that has run does not run again."""
    ran: list[datetime] = []
    made = registry(scheduler)
    scheduler.start()
    made.add(spec("heartbeat"), Grid(HOUR), no_jitter, nothing)
    made.add_once("startup", timedelta(0), ran.append)
    eventually(lambda: ran)
    scheduler.add_job(nothing, "interval", hours=1)
    scheduler.remove_all_jobs()
    assert [job.id for job in scheduler.get_jobs()] == ["lifebeat:heartbeat"]
    assert len(ran) == 1


@pytest.mark.parametrize("derived", [False, True])
def test_a_stop_on_an_event_loop_is_said_to_be_one(derived: bool) -> None:
    """Under AsyncIOScheduler, and a host's class made from it, the stop knows that it holds up a loop."""
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    kind: Any = type("Derived", (AsyncIOScheduler,), {}) if derived else AsyncIOScheduler
    on_loop: list[bool] = []

    async def live() -> None:
        scheduler = kind()
        registry(scheduler, stopped=on_loop.append)
        scheduler.start()
        scheduler.shutdown()
        await asyncio.sleep(0)

    asyncio.run(live())
    assert on_loop == [True]


def test_telemetrys_runs_do_not_hold_up_a_stop_that_waits(scheduler: Any) -> None:
    """``shutdown(wait=True)`` waits for the host's own jobs only; ours have the deadline of the stop."""
    begun, release = threading.Event(), threading.Event()
    made = registry(scheduler)
    scheduler.start()

    def work(_: datetime) -> None:
        begun.set()
        release.wait(DEADLINE)

    made.add_once("delivery", timedelta(0), work)
    assert begun.wait(5)
    scheduler.shutdown(wait=True)
    assert made.drain(0, hosts=True)
    assert not made.drain(0, hosts=False)
    release.set()
    assert made.drain(5)


def test_a_job_that_stops_the_scheduler_is_not_waited_for(scheduler: Any) -> None:
    """A stop from inside a job returns: nobody waits for himself."""
    done = threading.Event()
    made = registry(scheduler)
    scheduler.start()

    def stop(_: datetime) -> None:
        scheduler.shutdown(wait=True)
        done.set()

    made.add_once("stop", timedelta(0), stop, is_hosts=True)
    assert done.wait(5)


def test_a_clock_that_is_set_back_brings_the_next_run_forward(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock went back, jobs run at their wall time, and not when the old time comes again."""
    made = registry(scheduler)
    scheduler.start()
    made.add(spec("hourly"), Grid(HOUR), no_jitter, nothing)
    before = made.next_run("hourly")
    assert before is not None

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # noqa: ARG003 - as it is called
            return before - timedelta(days=365)

    monkeypatch.setattr("lifebeat.registration.registry.datetime", Earlier)
    made.look_again(set_back=True)
    monkeypatch.undo()
    after = made.next_run("hourly")
    assert after is not None
    assert timedelta(0) <= after - (before - timedelta(days=365)) <= timedelta(hours=1)


def test_shutdown_right_after_start(scheduler: Any) -> None:
    """A scheduler that is stopped while its first jobs are being handed out fails in no thread."""
    for _ in range(30):
        made = registry(scheduler)
        scheduler.start()
        begun = threading.Event()
        for number in range(10):
            made.add_once(f"job-{number}", timedelta(0), lambda _, begun=begun: begun.set())
        begun.wait(5)
        scheduler.shutdown()
        made.unlisten()


def test_stopped_in_the_middle_of_its_start(scheduler: Any) -> None:
    """A signal may come while the scheduler is starting: it stops, everybody is told, and nothing is raised."""
    stopped: list[bool] = []
    went_well: list[bool] = []

    def stop() -> None:
        made.shut_down()
        went_well.append(True)

    made = registry(scheduler, started=stop, stopped=lambda _: stopped.append(True))
    scheduler.start()
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "APScheduler"])
    assert (stopped, went_well, scheduler.running) == ([True], [True], False)

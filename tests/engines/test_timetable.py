"""What is due, as the engines beyond one machine ask it; and the same plan on every engine."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import pytest

from lifebeat.cli.upcoming import upcoming
from lifebeat.clock import SystemClock
from lifebeat.engines.dispatch import Dispatch
from lifebeat.engines.postgres import Installation
from lifebeat.engines.procrastinate.legacy import ProcrastinateEngine, make_app
from lifebeat.engines.timetable import Due, Timetable
from lifebeat.jobfile.spec import JobSpec
from lifebeat.schedule.instants import (
    SECOND,
    At,
    Cron,
    Every,
    Grid,
    Single,
    Trigger,
    instants_of,
    jitter_of,
    to_instant,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from postgresql import PostgreSQL

RUN = "lifebeat_jobs.telemetry:heartbeat"
SEED = "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"


def job(job_id: str = "job", trigger: Trigger | None = None, **fields: Any) -> JobSpec:
    """A job that the application shares."""
    return JobSpec(job_id, RUN, trigger or Every(timedelta(seconds=10)), once="application", **fields)


def at_once(_: int) -> int:
    """No jitter."""
    return 0


def ten_seconds(**fields: Any) -> Timetable:
    """A job on a grid of ten seconds, of which nothing up to second 100 is to come."""
    timetable = Timetable()
    timetable.put(job(**fields), Grid(10 * SECOND), at_once, since=100 * SECOND)
    return timetable


def seconds(due: list[Due]) -> list[float]:
    """The instants in seconds."""
    return [one.instant / SECOND for one in due]


def test_each_instant_is_told_once() -> None:
    """An instant is due when it comes, and not again."""
    timetable = ten_seconds()
    assert timetable.next() == 110 * SECOND
    assert timetable.due(109 * SECOND) == []
    assert seconds(timetable.due(110 * SECOND)) == [110]
    assert timetable.due(119 * SECOND) == []
    assert seconds(timetable.due(121 * SECOND)) == [120]


def test_missed_instants_become_one() -> None:
    """After a sleep only the latest is told, and the grid goes on."""
    timetable = ten_seconds()
    assert seconds(timetable.due(155 * SECOND)) == [150]
    assert seconds(timetable.due(160 * SECOND)) == [160]


def test_missed_instants_that_do_not() -> None:
    """With ``coalesce: false`` every missed instant is told."""
    assert seconds(ten_seconds(coalesce=False).due(135 * SECOND)) == [110, 120, 130]


def test_what_is_too_late() -> None:
    """What is later than ``misfire_grace`` is not told; what comes after is."""
    timetable = ten_seconds(misfire_grace=timedelta(seconds=3))
    assert timetable.due(114 * SECOND) == []
    assert seconds(timetable.due(122 * SECOND)) == [120]


def test_jitter() -> None:
    """A run waits for its jitter, keeps its instant, and a later instant does not make it come sooner."""
    timetable = Timetable()
    timetable.put(job(), Grid(10 * SECOND), lambda _: 4 * SECOND, since=100 * SECOND)
    assert timetable.next() == 114 * SECOND
    assert timetable.due(113 * SECOND) == []
    assert seconds(timetable.due(132 * SECOND)) == [120]
    assert seconds(timetable.due(134 * SECOND)) == [130]


def test_what_was_given_back_is_told_again() -> None:
    """What could not be used is due again at once; where the job coalesces, the latest takes its place."""
    timetable = ten_seconds()
    timetable.give_back(timetable.due(110 * SECOND))
    assert seconds(timetable.due(111 * SECOND)) == [110]
    timetable.give_back([Due("job", 110 * SECOND)])
    assert seconds(timetable.due(125 * SECOND)) == [120]
    assert timetable.due(125 * SECOND) == []
    eager = ten_seconds(coalesce=False)
    eager.give_back(eager.due(120 * SECOND))
    assert seconds(eager.due(120 * SECOND)) == [110, 120]


def test_a_replaced_job() -> None:
    """A job of the same ID takes the place of the old one, whose instants never come."""
    timetable = ten_seconds()
    timetable.put(job(), Single(500 * SECOND), at_once, since=100 * SECOND)
    assert timetable.next() == 500 * SECOND
    assert seconds(timetable.due(600 * SECOND)) == [500]
    assert timetable.next() is None


def test_a_removed_job() -> None:
    """Of a job that was taken away nothing comes, given back or not."""
    timetable = ten_seconds()
    due = timetable.due(110 * SECOND)
    timetable.remove("job")
    timetable.give_back(due)
    assert timetable.next() is None
    assert timetable.due(1000 * SECOND) == []


# -- the same on every engine ------------------------------------------------------------------------------------------

YEAR = [
    (job("beat", Every(timedelta(hours=24), "installation")), 366),
    (job("often", Every(timedelta(hours=7), timedelta(hours=3)), jitter=timedelta(minutes=20)), 1250),
    (job("hours", Cron("30 * * * *", "Europe/Stockholm"), jitter=timedelta(seconds=90)), 8784),
    (job("nights", Cron("30 2 * * *", "Europe/Stockholm")), 366),
    (job("midnight", Cron("0 0 * * *", "America/Asuncion")), 366),
    (job("half", Cron("15,45 1,2 * * 0", "Australia/Lord_Howe")), 208),
    (job("leap", Cron("0 12 29 2 *", "UTC")), 1),
    (job("moment", At(datetime(2028, 2, 29, 23, 59, tzinfo=UTC))), 1),
]


class Steady:
    """A clock that is set."""

    def __init__(self, now: float) -> None:
        self.now = int(now * SECOND)

    def time(self) -> float:
        """What it was set to, a trifle later so that nothing is lost in rounding."""
        return (self.now + 0.5) / SECOND

    def monotonic(self) -> float:
        """The same."""
        return self.time()


def nothing(*_args: Any, **_kwargs: Any) -> Any:
    """Takes all, and knows of nothing."""
    return {}


class Sent:
    """Whatever an engine is given to work with: it takes all, and keeps what is sent and when."""

    resend_after = 0

    def __init__(self, now: float) -> None:
        self.clock = Steady(now)
        self.rows: list[tuple[int, int]] = []

    def __getattr__(self, _: str) -> Any:
        return nothing

    @property
    def whole(self) -> Any:
        """It, for whatever it is needed."""
        return self

    connector = shared = logger = whole

    async def execute_query_async(self, _: str, *, instants: list[int], **_columns: Any) -> None:
        """What Procrastinate's connector is told."""
        self.rows += [(instant, self.clock.now) for instant in instants]

    def send(self, batches: list[list[Due]]) -> None:
        """What Celery is told."""
        self.rows += [(due.instant, self.clock.now) for batch in batches for due in batch]


class AtOnce(asyncio.Event):
    """Nobody waits for it."""

    async def wait(self) -> Literal[True]:
        """Now."""
        return True


def by_procrastinate(sent: Sent, spec: JobSpec, instants: Any, jitter: Callable[[int], int], count: int) -> None:
    """Let what sends on PostgreSQL do it, at each moment at which something is due."""
    dispatch: Any = Dispatch(sent.whole, sent.whole.clock, "lifebeat", nothing)
    dispatch.put(spec, instants, jitter, make_up=False)
    dispatch._changed = AtOnce()

    async def work() -> None:
        while len(sent.rows) < count:
            sent.clock.now = dispatch._timetable.next()
            await dispatch._send(sent)

    asyncio.run(work())


def by_celery(sent: Sent, spec: JobSpec, instants: Any, jitter: Callable[[int], int], count: int) -> None:
    """Let what sends in Celery's beat do it, at each moment at which something is due."""
    from lifebeat.engines.beat import BeatEngine, Sending

    sending: Any = Sending(sent.whole, send=sent.send, stay=lambda: None)
    engine: Any = BeatEngine(sent.whole, sent.whole, {})
    sending._engine = engine
    engine.add(spec, instants, jitter, nothing, make_up=False)
    while len(sent.rows) < count:
        sent.clock.now = engine.timetable.next()
        sending.send_due()


@pytest.mark.xdist_group("timetable")
@pytest.mark.parametrize("send", [by_procrastinate, by_celery])
def test_a_year_is_sent_as_planned(send: Callable[..., None]) -> None:
    """What each engine sends in that year, by its own code, is what the plan says, instant by instant."""
    now = datetime(2027, 9, 1, 10, 0, 7, tzinfo=UTC).timestamp()
    for spec, count in YEAR:
        sent = Sent(now)
        sent.whole.life = sent
        instants = instants_of(spec.trigger, job_id=spec.id, seed=SEED, started_at=now)
        send(sent, spec, instants, partial(jittered, spec), count)
        planned = [(to_instant(run.instant), to_instant(run.starts)) for run in upcoming(spec, SEED, now, count)]
        assert sent.rows[:count] == planned


def jittered(spec: JobSpec, instant: int) -> int:
    """How much later it starts."""
    return jitter_of(spec.id, SEED, instant, spec.jitter) if spec.jitter else 0


# -- clocks that disagree ----------------------------------------------------------------------------------------------


class Shifted(SystemClock):
    """A clock that is off by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        """The wrong time."""
        return time.time() + self._seconds


@pytest.mark.xdist_group("postgresql")
def test_clocks_that_disagree(postgresql: PostgreSQL) -> None:
    """Two workers whose clocks are half a period apart put every instant into the queue once."""
    database, failures = postgresql.schema(), list[str]()
    installation = Installation(database)
    installation.open(check=lambda connection: ProcrastinateEngine(life(), database).check(connection))

    async def work(offset: float) -> None:
        dispatch = Dispatch(installation, Shifted(offset), "lifebeat", failures.append)
        for number in range(10):
            dispatch.put(job(f"job-{number}"), Grid(SECOND // 5), at_once, make_up=True)
        async with make_app(database).open_async() as app:
            await asyncio.wait_for(dispatch.run(app), 3)

    def run(offset: float) -> None:
        with pytest.raises(TimeoutError):
            asyncio.run(work(offset))

    threads = [threading.Thread(target=run, args=(offset,)) for offset in (-0.05, 0.05)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    installation.close()
    rows = postgresql.sql("SELECT args->>'job', args->>'instant' FROM procrastinate_jobs", database)
    assert failures == []
    assert len(rows) >= 100
    assert len(set(rows)) == len(rows)


def life() -> Any:
    """What an engine needs of a life here: a clock and a logger."""

    class Life:
        clock = SystemClock()
        logger = logging.getLogger("test")

    return Life()

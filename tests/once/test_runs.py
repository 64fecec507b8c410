"""What a process does with a run that Procrastinate's queue gives it, and what the database is told of it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from procrastinate import App, PsycopgConnector

from hosts import eventually
from lifebeat.clock import SystemClock
from lifebeat.engines import EngineUnavailable
from lifebeat.engines.dispatch import CLAIM_AND_SEND, FORGET, STALLED
from lifebeat.engines.inhand import InHand, NotHere, NotNow, Row
from lifebeat.engines.postgres import Installation
from lifebeat.engines.procrastinate.legacy import ProcrastinateEngine, attach, retry_of
from lifebeat.errors import ConfigError
from lifebeat.jobfile.spec import JobSpec
from lifebeat.once.claims import Roster
from lifebeat.schedule.instants import SECOND, Every, Grid, Single

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lifebeat.engines import Claim
    from postgresql import PostgreSQL

pytestmark = pytest.mark.xdist_group("postgresql")
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


class Life:
    """What an engine needs of a life here."""

    clock = SystemClock()
    logger = logging.getLogger("lifebeat")

    def say_once(self, key: str, message: str) -> None:
        """Nothing is said twice here."""
        self.logger.warning("%s: %s", key, message)


def an_engine(database: str = NOWHERE) -> Any:
    """One process's part."""
    life: Any = Life()
    return ProcrastinateEngine(life, database)


def add(engine: Any, work: Callable[[int], None], **fields: Any) -> None:
    """A job of the engine's, whose runs are told their instant in seconds."""

    def run(instant: Any, claim: Claim) -> None:
        if claim():
            work(round(instant.timestamp()))

    spec = JobSpec("job", "noting:note", Every(timedelta(seconds=10)), once="application", **fields)
    engine.add(spec, Single(0), at_once, run, make_up=False)


def at_once(_: int) -> int:
    """No jitter."""
    return 0


def nothing(_instant: Any, _claim: Claim) -> None:
    """A run that does not matter."""


def begin(engine: Any, row: int, instant: int) -> threading.Thread:
    """Run in a thread, as a worker does."""
    thread = threading.Thread(target=engine.run, args=(Row(row, 0), "job", instant * SECOND))
    thread.start()
    return thread


def now() -> int:
    """This second."""
    return int(time.time())


# -- what may run ------------------------------------------------------------------------------------------------------


class Slow:
    """A job whose runs last until they are let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.over = threading.Event()

    def __call__(self, instant: int) -> None:
        """Run."""
        self.begun.append(instant)
        assert self.over.wait(20)


def test_no_more_than_max_instances() -> None:
    """A run over the limit goes back to the queue, and runs when there is a place."""
    engine, slow = an_engine(), Slow()
    add(engine, slow, coalesce=False)
    first = begin(engine, 1, 10)
    eventually(lambda: slow.begun == [10])
    for row, instant in ((2, 20), (3, 30), (2, 20)):
        with pytest.raises(NotNow):
            engine.run(Row(row, 0), "job", instant * SECOND)
    slow.over.set()
    first.join()
    engine.run(Row(2, 5), "job", 20 * SECOND)
    assert slow.begun == [10, 20]


def test_those_that_wait_become_one(caplog: pytest.LogCaptureFixture) -> None:
    """Of a job that coalesces the latest waits for a place, and the others are left out; a line says each."""
    engine, slow = an_engine(), Slow()
    add(engine, slow)
    first = begin(engine, 1, 10)
    eventually(lambda: slow.begun == [10])
    for row, instant in ((2, 20), (3, 30)):
        with pytest.raises(NotNow):
            engine.run(Row(row, 0), "job", instant * SECOND)
    engine.run(Row(2, 1), "job", 20 * SECOND)
    slow.over.set()
    first.join()
    engine.run(Row(3, 1), "job", 30 * SECOND)
    assert slow.begun == [10, 30]
    (said,) = caplog.messages
    assert said.startswith("the run of job job at 1970-01-01 00:00:20+00:00 was left out: max_instances (1) are under")


def test_several_instances() -> None:
    """As many as ``max_instances`` allows run beside each other."""
    engine, slow = an_engine(), Slow()
    add(engine, slow, max_instances=2)
    threads = [begin(engine, 1, 10), begin(engine, 2, 20)]
    eventually(lambda: sorted(slow.begun) == [10, 20])
    with pytest.raises(NotNow):
        engine.run(Row(3, 0), "job", 30 * SECOND)
    slow.over.set()
    for thread in threads:
        thread.join()


def test_too_late_at_the_run(caplog: pytest.LogCaptureFixture) -> None:
    """A run that lay in the queue for longer than ``misfire_grace`` does not begin, and is said."""
    engine, begun = an_engine(), list[int]()
    add(engine, begun.append, misfire_grace=timedelta(seconds=30))
    engine.run(Row(1, 0), "job", (now() - 60) * SECOND)
    on_time = now() - 5
    engine.run(Row(2, 0), "job", on_time * SECOND)
    assert begun == [on_time]
    assert [message[:34] for message in caplog.messages] == ["the run of job job was missed by 6"]


def test_who_has_waited_is_not_given_up(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run over the limit is asked for again without end; one that nobody knows is given up, and a line says so."""
    monkeypatch.setattr("lifebeat.engines.procrastinate.legacy.GIVES_UP", 0.0)
    retry, row = retry_of(logging.getLogger("lifebeat")), a_job()
    assert all(retry.get_retry_exception(NotNow("busy"), row) for _ in range(100))
    assert caplog.messages == []
    monkeypatch.setattr("lifebeat.engines.procrastinate.legacy.GIVES_UP", 0.05)
    assert retry.get_retry_exception(NotHere("unknown"), row) is not None
    eventually(lambda: retry.get_retry_exception(NotHere("unknown"), row) is None)
    assert caplog.messages == ["a run of job job is given up: nobody knows the job"]
    assert retry.get_retry_exception(ValueError("failed"), row) is None


def a_job() -> Any:
    """A row of the queue that was tried often."""
    from procrastinate.jobs import Job

    task = {"task_name": "lifebeat.run", "task_kwargs": {"job": "job"}, "queue": "lifebeat"}
    return Job(id=1, lock=None, queueing_lock=None, attempts=1000, **task)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("error", [ValueError("no paper"), SystemExit(3)], ids=["an error", "sys.exit"])
def test_a_failing_job_is_said_once(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """A run that fails is said with its traceback, once; and one that calls ``sys.exit`` ends no worker."""

    def fail(_: int) -> None:
        raise error

    engine = an_engine()
    add(engine, fail)
    with pytest.raises(Exception, match="job job failed"):
        engine.run(Row(1, 0), "job", now() * SECOND)
    assert caplog.messages == ["job job failed"]
    assert "in fail" in caplog.text


# -- what the database knows of runs -----------------------------------------------------------------------------------


class Queue:
    """A queue with one run, which a worker has taken."""

    def __init__(self, postgresql: PostgreSQL) -> None:
        self.url = postgresql.schema()
        self.installation = Installation(self.url)
        self.installation.open(check=an_engine(self.url).check)
        self._server = postgresql
        columns = "(queue_name, task_name, status, worker_id)"
        self.sql("INSERT INTO procrastinate_workers DEFAULT VALUES")
        self.sql(f"INSERT INTO procrastinate_jobs {columns} VALUES ('lifebeat', 'lifebeat.run', 'doing', 1)")

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Run a statement."""
        return self._server.sql(query, self.url)

    def rows(self) -> list[tuple[Any, ...]]:
        """The runs in it."""
        return self.sql("SELECT status::text, attempts FROM procrastinate_jobs")

    async def stalled(self) -> int:
        """How many of them are those of dead workers."""
        async with App(connector=PsycopgConnector(conninfo=self.url, min_size=1)).open_async() as app:
            return len([*await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=STALLED)])


@pytest.fixture
def queue(postgresql: PostgreSQL) -> Iterator[Queue]:
    """A queue with one run, which a worker has taken."""
    found = Queue(postgresql)
    yield found
    found.installation.close()


def stalled(queue: Queue) -> int:
    """How many runs are those of dead workers."""
    return asyncio.run(queue.stalled())


@pytest.mark.parametrize(
    "loss",
    [
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'",
        "DELETE FROM procrastinate_workers",
    ],
    ids=["silent", "deleted"],
)
def test_a_run_lives_as_long_as_its_process(queue: Queue, loss: str) -> None:
    """A run whose worker is silent, or was taken for dead, is nobody else's as long as its process says so."""
    in_hand = InHand()
    with in_hand.hold(Row(1, 0)):
        queue.sql(loss)
        assert stalled(queue) == 1
        queue.installation.work(in_hand.tell)
        assert stalled(queue) == 0
        queue.installation.work(in_hand.tell)
    assert queue.rows() == [("doing", 0)]


@pytest.mark.parametrize(
    ("error", "left"),
    [(None, []), (ValueError("failed"), [("failed", 1)]), (NotHere("job"), [("todo", 1)])],
    ids=["succeeded", "failed", "put back"],
)
def test_an_end_that_could_not_be_noted(queue: Queue, error: Exception | None, left: list[tuple[str, int]]) -> None:
    """How a run ended is noted later where Procrastinate could not, and then it is forgotten."""
    in_hand = InHand(settling=0.0)
    try:
        with in_hand.hold(Row(1, 0)):
            if error is not None:
                raise error
    except (ValueError, NotHere):
        pass
    assert not in_hand.is_empty()
    queue.installation.work(in_hand.tell)
    assert queue.rows() == left
    assert in_hand.is_empty()


def test_an_end_that_was_noted(queue: Queue) -> None:
    """What Procrastinate has noted itself, and what another has taken since, is left alone."""
    in_hand = InHand(settling=0.0)
    with in_hand.hold(Row(1, 0)):
        queue.sql("UPDATE procrastinate_jobs SET attempts = 1")  # another runs it again
    with in_hand.hold(Row(2, 0)):
        pass
    queue.installation.work(in_hand.tell)
    assert queue.rows() == [("doing", 1)]


def test_a_run_that_is_to_be_done_again_and_has_ended(queue: Queue) -> None:
    """What others were to run again, and have not begun when it ends here, is over."""
    in_hand = InHand(settling=0.0)
    with in_hand.hold(Row(1, 0)) as begins:
        assert begins
        queue.sql("UPDATE procrastinate_jobs SET status = 'todo', attempts = 1")
        with pytest.raises(NotNow), in_hand.hold(Row(1, 1)):
            pass
    queue.installation.work(in_hand.tell)
    assert queue.rows() == []


def test_a_run_that_comes_back_to_where_it_has_ended(queue: Queue) -> None:
    """What was taken for a dead one's, and comes again to the process in which it has ended, does not run again."""
    in_hand = InHand(settling=0.0)
    with in_hand.hold(Row(1, 0)):
        queue.sql("UPDATE procrastinate_jobs SET attempts = 1")
    with in_hand.hold(Row(1, 1)) as begins:
        assert not begins
    queue.installation.work(in_hand.tell)
    assert queue.rows() == []


# -- claims ------------------------------------------------------------------------------------------------------------


def claim(connection: psycopg.Connection[Any], *instants: int) -> int:
    """How many of the instants were put into the queue."""
    columns = {"jobs": ["job"] * len(instants), "instants": [one * SECOND for one in instants]}
    row = connection.execute(CLAIM_AND_SEND, {**columns, "queue": "lifebeat", "task": "lifebeat.run"}).fetchone()
    return len(row[0]) if row else 0


def test_a_claim_that_was_forgotten_is_not_given_again(queue: Queue) -> None:
    """Of each job the latest claims are kept; whoever comes with an earlier instant is refused."""
    with psycopg.connect(queue.url, autocommit=True) as connection:
        assert claim(connection, *range(100, 110)) == 10
        for _ in range(2):
            connection.execute(FORGET, {"kept": 3})
        assert queue.sql("SELECT instant / 1000000 FROM lifebeat_claims ORDER BY 1") == [(107,), (108,), (109,)]
        assert claim(connection, 90, 104, 106) == 0
        assert claim(connection, 109, 110) == 1


def test_a_clock_that_was_ahead_stops_no_job(queue: Queue) -> None:
    """Claims of a time to come, by a clock that was wrong, make nothing be refused."""
    ahead = now() + 1_000_000
    with psycopg.connect(queue.url, autocommit=True) as connection:
        assert claim(connection, *range(ahead, ahead + 10)) == 10
        for _ in range(2):
            connection.execute(FORGET, {"kept": 3})
        assert claim(connection, now()) == 1
        assert claim(connection, ahead) == 0


def test_on_one_machine_neither(tmp_path: Path) -> None:
    """The processes of one machine remember the same: what they have forgotten, and not what a wrong clock has said."""
    roster = Roster(tmp_path / "presence.sqlite3")
    ahead = 1_000_000.0
    assert roster.claim("job", ahead)
    assert all(roster.claim("job", float(number)) for number in range(1, 150))
    assert not any(roster.claim("job", float(number)) for number in range(150))
    assert roster.claim("job", 150.0)
    assert roster.claim("other", 1.0)


# -- the session -------------------------------------------------------------------------------------------------------


def test_coming_in_takes_no_longer_than_it_may() -> None:
    """A session that is held up holds up nobody who comes or goes for longer than he has."""
    engine, since = an_engine(), time.monotonic()
    with engine._installation._lock:
        with pytest.raises(EngineUnavailable, match="did not answer in time"):
            engine.join(0.2)
        assert not engine.leave(0.2)
    assert time.monotonic() - since < 5


def test_phases_follow_the_id(queue: Queue) -> None:
    """Who began with another seed is told when there is an ID; what the move would make up for is not run."""
    told: list[str] = []
    engine = an_engine(queue.url)
    engine.open(lambda: told.append(engine.seed()))
    eventually(lambda: len(told) == 1)

    def added_again() -> None:
        told.append(engine.seed())
        hourly = JobSpec("hourly", "noting:note", Every(timedelta(hours=1)), once="application")
        engine.add(hourly, Grid(SECOND * 3600), at_once, nothing, make_up=True)

    engine._ready = added_again
    agreed = queue.installation.agree_on_id("6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11")
    eventually(lambda: len(told) == 2)
    assert told[1] == agreed != told[0]
    engine.drain(20)
    engine.close()
    assert engine._dispatch._unseen == []
    assert queue.sql("SELECT count(*) FROM lifebeat_claims") == [(0,)]


def test_an_unreadable_database_is_not_quoted(tmp_path: Path) -> None:
    """A URL that cannot be read is a mistake of the host's at once, and its password is in no message."""
    app = App(connector=PsycopgConnector())
    with pytest.raises(ConfigError, match="'database' cannot be read") as caught:
        attach(app, app_name="notes", app_version="1", config_dir=tmp_path, database="postgres:/u:hunter2@h x")
    assert "hunter2" not in str(caught.value)

"""What every coordinator has to do, whatever is underneath: one suite for files and for each engine.

Run it on another one like this, in a test file of its own::

    class TestFiles(Conformance):
        factory = "conformance_of_files:make"

        @pytest.fixture
        def arguments(self, tmp_path):
            return [str(tmp_path)]

``factory`` names a function, importable from the tests' folders, that each of the real processes calls with the
arguments (texts) to get a coordinator of one application; other arguments, another application.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import multiprocessing
import os
import signal
import time
import uuid
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from lifebeat.once.protocol import Coordinator

    Start = Callable[[], "Member"]

T = TypeVar("T")
JOB = "heartbeat"
SECOND = 1_000_000
DEADLINE = 60.0
# Forked from one process that has imported what they need: that takes milliseconds, and a test starts up to nine.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([
    "pytest", "lifebeat.engines.celery.worker", "lifebeat.engines.procrastinate", "procrastinate.worker",
    "celery.app.amqp", "celery.concurrency.solo", "celery.loaders.app", "celery.worker.autoscale",
    "celery.worker.components", "celery.worker.consumer", "celery.worker.strategy", "kombu.transport.redis",
])  # fmt: skip


class Member:
    """A process of the application, which does what it is told by the test, one thing after the other."""

    def __init__(self, factory: str, arguments: list[str]) -> None:
        self._connection, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_be, args=(theirs, factory, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, verb: str, *arguments: Any) -> None:
        """Tell it to do something, without waiting for the answer."""
        self._connection.send([verb, *arguments])

    def receive(self) -> Any:
        """Return the answer to the oldest thing sent; ``{"unavailable": …}`` where it could not be done."""
        return self._connection.recv()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Tell it to do something, and return the answer."""
        self.send(verb, *arguments)
        return self.receive()

    def signal(self, number: int) -> None:
        """Send it a signal; a killed one is waited for."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.join()

    def close(self) -> None:
        """End it by force, if it has not ended."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()


class _Body:
    """The same, inside the process."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.coordinator = coordinator
        self.ran: list[tuple[str, int]] = []
        self.orders: dict[str, Any] = {}
        coordinator.start(self.run, self.exchange)

    def run(self, job_id: str, instant: int) -> None:
        self.ran.append((job_id, instant))

    def exchange(self, heard: dict[str, Any]) -> dict[str, Any]:
        """Take orders that are newer elsewhere, and return those that are newer here, as a life does."""
        known = dict(self.orders)
        self.orders |= {name: one for name, one in heard.items() if one["at"] > known.get(name, {"at": 0})["at"]}
        return {name: one for name, one in known.items() if one["at"] > heard.get(name, {"at": 0})["at"]}

    def order(self, name: str, at: float) -> None:
        self.orders[name] = {"at": at}

    def ordered(self) -> dict[str, Any]:
        return self.orders

    def join(self, timeout: float = 30.0) -> Any:
        joined = self.coordinator.join(timeout)
        left = joined.unfinished
        return {
            "first": joined.first,
            "run": joined.run,
            "started": joined.started.wall,
            "unfinished": None if left is None else left.run,
        }

    def claim(self, job_id: str, instants: list[int]) -> None:
        """Claim one instant after the other, and run what is ours here."""
        for instant in instants:
            if self.coordinator.claim(job_id, instant):
                self.run(job_id, instant)

    def skip(self, job_id: str, instant: int) -> None:
        self.coordinator.skip(job_id, instant)

    def runs(self) -> list[tuple[str, int]]:
        """Return what has run in this process so far."""
        return self.ran

    def latest(self, job_id: str) -> int | None:
        return self.coordinator.latest(job_id)

    def agree(self, candidate: str) -> str:
        return self.coordinator.agree(candidate)

    def drain(self, timeout: float = 30.0) -> bool:
        return self.coordinator.drain(timeout)

    def leave(self, timeout: float = 30.0) -> bool:
        last = self.depart(timeout)
        if last:
            self.finish(timeout)
        return last

    def depart(self, timeout: float = 30.0) -> bool:
        """Leave, and report no end."""
        return self.coordinator.leave(timeout) is not None

    def finish(self, timeout: float = 30.0) -> None:
        self.coordinator.finish(timeout)

    def close(self) -> None:
        self.coordinator.close()

    def answer(self, verb: str, arguments: list[Any]) -> Any:
        from lifebeat.once.protocol import CannotCoordinate, Unavailable

        try:
            return getattr(self, verb)(*arguments)
        except (Unavailable, CannotCoordinate) as error:
            return {"unavailable": str(error)}


def everybody(members: list[Member], verb: str, *arguments: Any) -> list[Any]:
    """Tell all of them the same at once, and return their answers."""
    for member in members:
        member.send(verb, *arguments)
    return [member.receive() for member in members]


def until(found: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Return what is found as soon as it is true; fails when time is up."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end, f"still {result!r}"
        time.sleep(0.05)
    return result


def coming(number: int) -> list[int]:
    """Return as many instants that begin in a moment: what was due before a join is nobody's."""
    first = int((time.time() + 0.3) * SECOND)
    return [first + one * SECOND // 5 for one in range(number)]


class Conformance:
    """The suite. Its tests need real processes, and whatever server the coordinator has."""

    factory: ClassVar[str]
    is_of_machines: ClassVar[bool] = True
    """Whether it coordinates several machines; those of one have their orders in a file."""
    gone_after: ClassVar[float] = 0.0
    """How many seconds after its kill a process counts as gone."""

    @pytest.fixture
    def arguments(self) -> list[str]:
        raise NotImplementedError

    @pytest.fixture
    def start(self, arguments: list[str]) -> Iterator[Start]:
        """Start a process of the application."""
        started: list[Member] = []

        def begin() -> Member:
            started.append(Member(self.factory, arguments))
            return started[-1]

        yield begin
        for member in started:
            member.close()

    def leave_unfinished(self, start: Start) -> str:  # noqa: ARG002 - for those who override it
        """Bring about a run whose end nobody has reported, and return its ID."""
        pytest.skip("this coordinator leaves no run unfinished that a test could bring about")

    # -- who is in ---------------------------------------------------------------------------------------------

    def test_first_in_and_last_out(self, start: Start) -> None:
        """One of three that join at once is the first, one of three that leave at once the last; all know one run."""
        members = [start() for _ in range(3)]
        joined = everybody(members, "join")
        assert sorted(one["first"] for one in joined) == [False, False, True]
        assert len({one["run"] for one in joined}) == 1
        assert len({one["started"] for one in joined}) == 1
        assert sorted(everybody(members, "leave")) == [False, False, True]

    def test_leaving_while_another_is_in_is_not_the_last(self, start: Start) -> None:
        """Who leaves while another is in is not the last; who comes then is not the first."""
        one, other, third = start(), start(), start()
        run = one.ask("join")["run"]
        other.ask("join")
        assert one.ask("leave") is False
        later = third.ask("join")
        assert (later["first"], later["run"]) == (False, run)
        assert other.ask("leave") is False
        assert third.ask("leave") is True

    def test_joining_after_the_last_begins_a_new_run(self, start: Start) -> None:
        """After the last has left, the next is the first of another run, also in a process that was in before."""
        one, other = start(), start()
        runs = [one.ask("join")]
        one.ask("leave")
        runs.append(other.ask("join"))
        other.ask("leave")
        runs.append(one.ask("join"))
        assert [run["first"] for run in runs] == [True] * 3
        assert len({run["run"] for run in runs}) == 3
        assert [run["unfinished"] for run in runs] == [None] * 3
        assert one.ask("leave") is True

    def test_second_join_gets_the_same_answer(self, start: Start) -> None:
        """A process that is in already gets the same answer."""
        member = start()
        assert member.ask("join") == member.ask("join")
        assert member.ask("leave") is True

    def test_leaving_without_joining_is_never_the_last(self, start: Start) -> None:
        """Who is not in is never the last, whether others are in or not."""
        one, other = start(), start()
        assert one.ask("leave") is False
        other.ask("join")
        assert one.ask("leave") is False
        assert other.ask("leave") is True
        assert other.ask("leave") is False

    def test_killed_process_is_gone(self, start: Start) -> None:
        """A process that was killed keeps nobody from being the last."""
        one, other = start(), start()
        everybody([one, other], "join")
        one.signal(signal.SIGKILL)
        time.sleep(self.gone_after)
        assert other.ask("leave") is True

    def test_joining_after_all_were_killed_begins_a_new_run(self, start: Start) -> None:
        """When all were killed, the next to join is the first of a new run."""
        members = [start() for _ in range(3)]
        run = everybody(members, "join")[0]["run"]
        for member in members:
            member.signal(signal.SIGKILL)
        time.sleep(self.gone_after)
        joined = start().ask("join")
        assert joined["first"] is True
        assert joined["run"] != run

    def test_each_round_of_eight_has_one_first_and_one_last(self, start: Start) -> None:
        """Eight processes join and leave at once, three times: each time one is the first and one the last."""
        members = [start() for _ in range(8)]
        runs: set[str] = set()
        for _ in range(3):
            joined = everybody(members, "join")
            assert [one["first"] for one in joined].count(True) == 1
            runs |= {one["run"] for one in joined}
            assert everybody(members, "leave").count(True) == 1
        assert len(runs) == 3

    def test_unfinished_run_is_given_once(self, start: Start) -> None:
        """Of those who join next one learns of a run whose end nobody has reported, and only one."""
        run = self.leave_unfinished(start)
        members = [start() for _ in range(4)]
        told = [one["unfinished"] for one in everybody(members, "join")]
        assert [one for one in told if one] == [run]

    # -- whose an instant is -----------------------------------------------------------------------------------

    def ran(self, members: list[Member]) -> collections.Counter[tuple[str, int]]:
        """Count what has run, in all of them together."""
        lists = [member.ask("runs") for member in members]
        return collections.Counter((job, instant) for one in lists for job, instant in one)

    def test_each_instant_runs_once(self, start: Start) -> None:
        """Eight processes that claim the same 30 instants of two jobs run each of them once, all together."""
        members = [start() for _ in range(8)]
        everybody(members, "join")
        instants = coming(30)
        for job in (JOB, "other"):
            everybody(members, "claim", job, instants)
        until(lambda: len(self.ran(members)) == 60)
        assert set(self.ran(members).values()) == {1}

    def test_claim_outlives_who_claimed(self, start: Start) -> None:
        """What has run is not run again by a process that comes after all have gone."""
        one = start()
        one.ask("join")
        first, second = coming(2)
        one.ask("claim", JOB, [first])
        until(lambda: self.ran([one]))
        one.ask("drain")
        one.ask("leave")
        one.signal(signal.SIGKILL)
        other = start()
        other.ask("join")
        other.ask("claim", JOB, [first])
        other.ask("claim", JOB, [second])
        until(lambda: self.ran([other]))
        assert self.ran([other]) == {(JOB, second): 1}

    def test_latest_claim_is_known_to_all(self, start: Start) -> None:
        """The latest instant claimed for a job is known to all, and there is none at first."""
        one, other = start(), start()
        everybody([one, other], "join")
        assert one.ask("latest", JOB) is None
        first, second, third = coming(3)
        one.ask("claim", JOB, [first])
        one.ask("claim", JOB, [second])
        one.ask("claim", "other", [third])
        until(lambda: other.ask("latest", JOB) == second)  # none counts that is still to come
        assert other.ask("latest", "nobody's") is None

    def test_skipped_instant_is_the_latest_and_still_runs_for_who_had_it_due(self, start: Start) -> None:
        """Who has just joined counts as done what was due before it; who was in then runs that once all the same."""
        one, other = start(), start()
        everybody([one, other], "join")
        first, second = coming(2)
        other.ask("skip", JOB, first)
        one.ask("claim", JOB, [first])
        other.ask("skip", JOB, first)
        other.ask("claim", JOB, [first, second])
        until(lambda: len(self.ran([one, other])) == 2)
        assert set(self.ran([one, other]).values()) == {1}
        other.ask("skip", "new", first)
        until(lambda: one.ask("latest", "new") == first)  # none counts that is still to come

    def test_kills_while_claiming(self, start: Start) -> None:
        """Processes that are killed while they claim leave nothing that keeps others from claiming, or claims twice."""
        instants = coming(50)
        instants, later = instants[:40], instants[40:]
        victims = [start() for _ in range(3)]
        survivor = start()
        everybody([*victims, survivor], "join")
        for member in victims:
            member.send("claim", JOB, instants)
        for member in victims:
            time.sleep(0.05)
            member.signal(signal.SIGKILL)
        time.sleep(self.gone_after)
        survivor.ask("claim", JOB, later)
        until(lambda: {(JOB, instant) for instant in later} <= set(self.ran([survivor])))
        assert set(self.ran([survivor]).values()) == {1}

    # -- the rest ----------------------------------------------------------------------------------------------

    def test_eight_processes_agree_on_one_value(self, start: Start) -> None:
        """Eight processes that offer a value each agree on one of them, for good."""
        members = [start() for _ in range(8)]
        candidates = [str(uuid.uuid4()) for _ in members]
        for candidate, member in zip(candidates, members, strict=True):
            member.send("agree", candidate)
        agreed = {member.receive() for member in members}
        assert len(agreed) == 1
        assert agreed <= set(candidates)
        assert start().ask("agree", str(uuid.uuid4())) in agreed

    def test_latest_order_is_known_to_all_machines(self, start: Start) -> None:
        """What was ordered on one machine before it joined or after is known to all, and the latest counts."""
        if not self.is_of_machines:
            pytest.skip("processes of one machine have one file of orders")
        one, other = start(), start()
        one.ask("order", JOB, 1.0)
        everybody([one, other], "join")
        one.ask("order", "", 2.0)
        other.ask("order", JOB, 3.0)
        expected = {JOB: {"at": 3.0}, "": {"at": 2.0}}
        until(lambda: one.ask("ordered") == other.ask("ordered") == expected)
        late = start()
        late.ask("join")
        assert late.ask("ordered") == expected

    def test_drain_is_done_at_once_when_nothing_runs(self, start: Start) -> None:
        """When nothing runs, draining is done at once; closing gives nothing back."""
        member = start()
        member.ask("join")
        began = time.monotonic()
        assert member.ask("drain", 10.0) is True
        assert member.ask("leave") is True
        assert member.ask("close") is None
        assert time.monotonic() - began < DEADLINE / 2

    def test_frozen_process_holds_nobody_up_for_longer_than_asked(self, start: Start) -> None:
        """While a process is stopped at any moment of its work, others get an answer within their time."""
        busy, other = start(), start()
        busy.ask("join")
        other.ask("join")
        busy.send("claim", JOB, coming(3000))
        for _ in range(3):
            time.sleep(0.05)
            busy.signal(signal.SIGSTOP)
            began = time.monotonic()
            other.ask("leave", 1.0)
            other.ask("join", 1.0)
            assert time.monotonic() - began < 4.0
            busy.signal(signal.SIGCONT)


def _be(connection: Connection, factory: str, arguments: list[str]) -> None:
    """Be a member: do what is asked, until nobody asks any more."""
    os.setsid()  # as those who start unrelated services do; others of one group may be each other's successors
    module, _, name = factory.partition(":")
    body = _Body(getattr(importlib.import_module(module), name)(*arguments))
    with contextlib.suppress(EOFError):
        while True:
            verb, *rest = connection.recv()
            connection.send(body.answer(verb, rest))
    os._exit(0)  # whatever threads there are

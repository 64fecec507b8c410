"""Presence: first in, last out, one claim per instant, with real processes that fork, leave and are killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import random
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest

from lifebeat.clock import SystemClock
from lifebeat.once import claims as roster
from lifebeat.once import processes as siblings
from lifebeat.once.files import Departure, Presence, PresenceUnavailable
from lifebeat.storage.locks import held
from lifebeat.testing import FakeClock
from mounts import filled, mounted, needs_mount

if TYPE_CHECKING:
    from collections.abc import Iterator

ACTOR = Path(__file__).parents[1] / "support" / "presence_actor.py"
PATIENCE = 30.0
needs_proc = pytest.mark.skipif(siblings.world() is None, reason="reloads are only seen through Linux's /proc")


class Member:
    """The test's end of a process that does what it is told."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self._connection = connection
        self._lines = connection.makefile("rw")
        self.pid = int(self._lines.readline())

    def send(self, verb: str, *arguments: object) -> None:
        print(json.dumps([verb, *arguments]), file=self._lines, flush=True)

    def answer(self) -> Any:
        return json.loads(self._lines.readline())

    def ask(self, verb: str, *arguments: object) -> Any:
        self.send(verb, *arguments)
        return self.answer()

    def has_answered(self, timeout: float = 0.0) -> bool:
        return bool(select.select([self._connection], [], [], timeout)[0])

    def is_silent(self) -> bool:
        return not self.has_answered(0.1)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone or a zombie."""
        os.kill(self.pid, signal.SIGKILL)
        _wait(lambda: siblings.find(self.pid) is None if siblings.world() else _is_dead(self.pid))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
        self._connection.close()


class Stage:
    """Starts processes and ends them."""

    def __init__(self, listener: socket.socket, mother: Member, directory: Path) -> None:
        self.directory = directory
        self._listener = listener
        self._mother = mother
        self._started: list[int] = []
        self._members: dict[int, Member] = {}

    def start(self) -> Member:
        """A process of its own, in its own process group."""
        self._started.append(self._mother.ask("start", str(self.directory)))
        return self.arrival(self._started[-1])

    def fork(self, parent: Member, *, stranger: bool = False) -> Member:
        """A child of ``parent``."""
        return self.arrival(parent.ask("fork", stranger))

    def crew(self, size: int) -> tuple[Member, list[Member]]:
        """A parent, and children of it."""
        parent = self.start()
        return parent, [self.fork(parent) for _ in range(size)]

    def arrival(self, pid: int) -> Member:
        """Wait until that process has connected."""
        while pid not in self._members:
            member = Member(self._listener.accept()[0])
            self._members[member.pid] = member
        return self._members[pid]

    def close(self) -> None:
        for member in self._members.values():
            member.close()
        for pid in self._started:
            os.killpg(pid, signal.SIGKILL)
            self._mother.ask("reap", pid)


@pytest.fixture(scope="module")
def mother() -> Iterator[tuple[socket.socket, Member]]:
    """The process that all others are forked from, for Python starts slowly, and where they connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with subprocess.Popen([sys.executable, str(ACTOR), str(listener.getsockname()[1])]) as process:
            member = Member(listener.accept()[0])
            yield listener, member
            member.close()
            process.wait(PATIENCE)


@pytest.fixture
def stage(mother: tuple[socket.socket, Member], tmp_path: Path) -> Iterator[Stage]:
    made = Stage(*mother, tmp_path / "state")
    yield made
    made.close()


def _report(counts: str) -> None:
    print(counts)


def _wait(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not come true"
        time.sleep(0.005)


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _together(members: list[Member], verb: str, *arguments: object) -> list[Any]:
    """Have all do it in the same moment; the last argument of the verb is when."""
    moment = time.monotonic() + 0.005
    for member in members:
        member.send(verb, *arguments, moment)
    return [member.answer() for member in members]


def _firsts(arrivals: list[Any]) -> int:
    return sum(arrival["first"] for arrival in arrivals)


# -- one process -----------------------------------------------------------------------------------------------------


def test_constructor_touches_nothing(tmp_path: Path) -> None:
    """Making the object makes no file and no directory."""
    Presence(tmp_path / "state", clock=FakeClock())
    assert list(tmp_path.iterdir()) == []


def test_first_in_last_out(tmp_path: Path) -> None:
    """The first in starts the application at the clock's time, and the last one out ends it."""
    clock = FakeClock()
    first, second = (Presence(tmp_path, clock=clock) for _ in range(2))
    begun = clock.time()
    one = first.join()
    clock.advance(3600)
    two = second.join()
    assert (one.first, two.first) == (True, False)
    assert (two.run, two.started_at) == (one.run, begun)
    assert first.leave() is Departure.OTHERS_REMAIN
    assert second.leave() is Departure.LAST


def test_join_is_idempotent(tmp_path: Path) -> None:
    """Who is in already is told the same again, and leaves once."""
    presence = Presence(tmp_path, clock=FakeClock())
    assert presence.join() is presence.join()
    assert [presence.leave(), presence.leave()] == [Departure.LAST, Departure.OTHERS_REMAIN]


def test_next_run_is_new(tmp_path: Path) -> None:
    """After the last one out, the next in is first again, with a new run and nothing unfinished."""
    presence = Presence(tmp_path, clock=FakeClock())
    before = presence.join()
    presence.leave()
    after = presence.join()
    assert after.first
    assert after.run != before.run
    assert after.unfinished is None


def test_leave_without_join(tmp_path: Path) -> None:
    """Who was never in is not the last one out, and leaves no trace."""
    assert Presence(tmp_path, clock=FakeClock()).leave() is Departure.OTHERS_REMAIN
    assert list(tmp_path.iterdir()) == []


def test_only_the_last_is_true() -> None:
    """As a condition, a departure says whether the end is to be told."""
    assert [bool(departure) for departure in Departure] == [True, False, False]


def test_keys_are_apart(tmp_path: Path) -> None:
    """Two applications share a directory under different keys."""
    one, other = Presence(tmp_path, clock=FakeClock()), Presence(tmp_path, clock=FakeClock(), key="other")
    assert one.join().first
    assert other.join().first
    assert one.claim("job", 1.0)
    assert other.claim("job", 1.0)
    assert one.leave() is Departure.LAST


@pytest.mark.parametrize("key", ["", "../up", "a/b", "ä"])
def test_key_must_be_a_name(tmp_path: Path, key: str) -> None:
    """A key that is not a plain name is refused with what is allowed."""
    with pytest.raises(ValueError, match="letters, digits"):
        Presence(tmp_path, clock=FakeClock(), key=key)


# -- claims ----------------------------------------------------------------------------------------------------------


def test_claim_once_over_restarts(tmp_path: Path) -> None:
    """An instant is claimed once per job, by this object or any later one."""
    assert Presence(tmp_path, clock=FakeClock()).claim("heartbeat", 1.5)
    later = Presence(tmp_path, clock=FakeClock())
    assert not later.claim("heartbeat", 1.5)
    assert later.claim("report", 1.5)


def test_claims_survive_a_jumping_clock(tmp_path: Path) -> None:
    """A clock that goes a day forth and back repeats nothing, and hides nothing from catching up."""
    clock = FakeClock()
    presence = Presence(tmp_path, clock=clock)
    today = clock.time()
    assert presence.claim("heartbeat", today)
    clock.jump(86_400)
    assert presence.claim("heartbeat", today + 86_400)
    clock.jump(-86_400)
    assert not presence.claim("heartbeat", today)
    assert presence.last_claim("heartbeat") == today
    assert presence.claim("heartbeat", today + 3600)
    clock.jump(86_400)
    assert not presence.claim("heartbeat", today + 86_400)
    assert presence.last_claim("heartbeat") == today + 86_400


def test_last_claim_of_nothing(tmp_path: Path) -> None:
    """A job that never ran has no last claim."""
    presence = Presence(tmp_path, clock=FakeClock())
    presence.claim("other", 1.0)
    assert presence.last_claim("heartbeat") is None


def test_claims_are_bounded(tmp_path: Path) -> None:
    """The last hundred instants of each job are kept, in the order in which they were claimed."""
    presence = Presence(tmp_path, clock=FakeClock())
    presence.claim("other", 5.0)
    instants = [float(number) for number in range(120, 0, -1)]
    assert all(presence.claim("job", instant) for instant in instants)
    assert not any(presence.claim("job", instant) for instant in instants[-100:])
    assert not presence.claim("other", 5.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "presence.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM claims WHERE job = 'job'").fetchone() == (100,)


def test_claims_of_eight_processes(stage: Stage) -> None:
    """Of eight processes that all want the same instants, exactly one gets each, also after a restart."""
    _, members = stage.crew(8)
    instants = [float(number) for number in range(100)]
    answers: list[list[float]] = _together(members, "claim", "heartbeat", instants)
    won = [len(answer) for answer in answers]
    _report(f"claims: {sum(won)} won of {len(instants)} instants, by process {won}")
    assert sorted(itertools.chain.from_iterable(answers)) == instants
    assert stage.start().ask("claim", "heartbeat", instants) == []


def test_nobody_is_kept_out(stage: Stage) -> None:
    """A process that claims without pause does not keep another from coming, claiming and going."""
    busy, other = stage.start(), stage.start()
    busy.send("claim_for", 1.0)
    done = 0
    while not busy.has_answered():
        assert "run" in other.ask("join", 0.0, 1.0)
        assert other.ask("claim", "other", [float(done)]) == [float(done)]
        assert other.ask("leave", 1.0) == "LAST"
        done += 1
    _report(f"kept out: never, {done} visits beside {busy.answer()} claims without a pause")
    assert done > 1


def test_those_who_wait_are_next(stage: Stage) -> None:
    """Who waits for the gate is alone in the queue, so that nobody who comes again and again gets in before."""
    member, queue = stage.start(), stage.directory / "presence.queue"
    stage.directory.mkdir()
    with held(stage.directory / "presence.gate", timeout=0) as got:
        assert got
        member.send("claim", "job", [1.0])
        _wait(lambda: not _is_free(queue))
    assert member.answer() == [1.0]
    assert _is_free(queue)


def _is_free(path: Path) -> bool:
    with held(path, timeout=0) as free:
        return free


# -- many processes --------------------------------------------------------------------------------------------------


def test_eight_at_once(stage: Stage) -> None:
    """Eight processes that come at once have one first and one run; leaving at once, one last."""
    _, members = stage.crew(8)
    arrivals = _together(members, "join")
    assert _firsts(arrivals) == 1
    assert len({(arrival["run"], arrival["started_at"]) for arrival in arrivals}) == 1
    random.shuffle(members)
    departures = Counter(_together(members, "leave", 10.0))
    assert departures == {"LAST": 1, "OTHERS_REMAIN": 7}


def _races(stage: Stage, rounds: int) -> None:
    _, members = stage.crew(8)
    seen: list[Any] = []
    moment = time.monotonic() + 0.02
    for seed, member in enumerate(members):
        member.send("races", rounds, seed, moment)
    for member in members:
        seen += member.answer()
    begun = Counter(run for run, first, _ in seen if first)
    ended = Counter(run for run, _, departure in seen if departure == "LAST")
    _report(f"races: {len(seen)} visits, {begun.total()} runs begun, {ended.total()} ended")
    assert begun == ended == Counter({run for run, _, _ in seen})


def test_races(stage: Stage) -> None:
    """However processes come and go, every run is begun by one and ended by one."""
    _races(stage, 10)


@pytest.mark.soak
def test_races_for_long(stage: Stage) -> None:
    """The same, fifty times as often."""
    _races(stage, 500)


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.soak)])
def test_rounds_at_once(stage: Stage, rounds: int) -> None:
    """Time and again, all come at once and all go at once: one first and one last each time."""
    _, members = stage.crew(4)
    firsts = lasts = 0
    for _ in range(rounds):
        random.shuffle(members)
        firsts += _firsts(_together(members, "join"))
        lasts += _together(members, "leave", 10.0).count("LAST")
    _report(f"rounds: {rounds}, firsts {firsts}, lasts {lasts}")
    assert (firsts, lasts) == (rounds, rounds)


def test_kill_of_one(stage: Stage) -> None:
    """One that is killed is no more in the way: the last of the others is the last one out."""
    _, (one, two, three) = stage.crew(3)
    run = one.ask("join")["run"]
    two.ask("join")
    one.kill()
    assert three.ask("join") == {**two.ask("join"), "first": False}
    assert two.ask("join")["run"] == run
    assert two.ask("leave") == "OTHERS_REMAIN"
    assert three.ask("leave") == "LAST"


def test_kill_of_all(stage: Stage) -> None:
    """After all were killed, the next in is first, of a new run; that the old one crashed is not told as an end."""
    _, members = stage.crew(3)
    run = {member.ask("join")["run"] for member in members}
    for member in members:
        member.kill()
    arrival = stage.start().ask("join")
    assert arrival["first"]
    assert arrival["run"] not in run
    assert arrival["unfinished"] is None


# -- forks -----------------------------------------------------------------------------------------------------------


def test_child_is_not_its_parent(stage: Stage) -> None:
    """A forked child is not in: its leaving means nothing, and it may join by itself."""
    parent = stage.start()
    run = parent.ask("join")["run"]
    child = stage.fork(parent)
    assert child.ask("leave") == "OTHERS_REMAIN"
    arrival = child.ask("join")
    assert (arrival["first"], arrival["run"]) == (False, run)
    assert parent.ask("leave") == "OTHERS_REMAIN"
    assert child.ask("leave") == "LAST"


def test_child_does_not_keep_the_lock(stage: Stage) -> None:
    """A child that outlives its killed parent does not keep the application alive."""
    parent = stage.start()
    parent.ask("join")
    stage.fork(parent, stranger=True)
    parent.kill()
    assert stage.start().ask("join")["first"]


def test_fork_in_the_middle_of_a_claim(stage: Stage) -> None:
    """A child that is forked while a thread of its parent has the database open can use it."""
    assert stage.start().ask("fork_while_claiming", 30) == 30


# -- reloads ---------------------------------------------------------------------------------------------------------


@needs_proc
def test_heir_that_comes_later(stage: Stage) -> None:
    """A worker that was starting when the last one left continues its run."""
    parent, (old,) = stage.crew(1)
    begun = old.ask("join")
    new = stage.fork(parent)
    assert old.ask("leave", 0.05) == "HANDED_OVER"
    arrival = new.ask("join")
    assert arrival == {**begun, "first": False}
    assert new.ask("leave") == "LAST"


@needs_proc
def test_heir_that_comes_in_time(stage: Stage) -> None:
    """The last one out waits for those who are starting: once one is in, others remain."""
    parent, (old,) = stage.crew(1)
    old.ask("join")
    new = stage.fork(parent)
    old.send("leave", PATIENCE)
    assert old.is_silent()
    assert not new.ask("join")["first"]
    assert old.answer() == "OTHERS_REMAIN"


@needs_proc
def test_heir_that_dies_in_time(stage: Stage) -> None:
    """If all who were starting are killed, the last one out was the last after all, and none is taken for alive."""
    parent, (old,) = stage.crew(1)
    old.ask("join")
    new = [stage.fork(parent).pid for _ in range(2)]
    old.send("leave", PATIENCE)
    assert old.is_silent()
    parent.ask("kill", new[0])
    assert old.is_silent()
    parent.ask("kill", new[1])
    assert old.answer() == "LAST"
    arrival = stage.fork(parent).ask("join")
    assert arrival["first"]
    assert arrival["unfinished"] is None


@needs_proc
def test_heir_that_never_comes(stage: Stage) -> None:
    """If the next one in was not yet there when the run was handed over, it begins a new one and is told of the old."""
    parent, (old,) = stage.crew(1)
    begun = old.ask("join")
    never = stage.fork(parent)
    assert old.ask("leave", 0.0) == "HANDED_OVER"
    left = time.time()
    never.kill()
    arrival = stage.start().ask("join")
    assert arrival["first"]
    assert arrival["run"] != begun["run"]
    assert arrival["unfinished"].pop("left_at") == pytest.approx(left, abs=PATIENCE)
    assert arrival["unfinished"] == {"run": begun["run"], "started_at": begun["started_at"]}
    assert stage.fork(parent).ask("join")["unfinished"] is None


@needs_proc
def test_handed_on_and_on(stage: Stage) -> None:
    """A run that the heir hands over again is the heir's business: the first to leave no longer waits for it."""
    parent, (one,) = stage.crew(1)
    run = one.ask("join")["run"]
    two, three = stage.fork(parent), stage.fork(parent)
    one.send("leave", PATIENCE)
    assert one.is_silent()
    two.ask("join")
    assert two.ask("leave", 0.0) == "HANDED_OVER"
    assert one.answer() == "OTHERS_REMAIN"
    assert three.ask("join")["run"] == run
    assert three.ask("leave") == "LAST"


@needs_proc
def test_workers_recycled_together(stage: Stage) -> None:
    """The last of several that leave together waits for those that are started in their place once they have ended."""
    parent, (one, two) = stage.crew(2)
    _together([one, two], "join")
    assert one.ask("leave") == "OTHERS_REMAIN"
    two.send("leave", PATIENCE)
    assert two.is_silent()
    assert not stage.fork(parent).ask("join")["first"]
    assert two.answer() == "OTHERS_REMAIN"


@needs_proc
def test_who_was_starting() -> None:
    """Who started in the very tick of a handing over continues the run only if it was seen; before it, in any case."""
    me = _seen(os.getpid())
    seen = json.dumps([me.identity])

    def falls_to_me(ticks: int, heirs: str) -> bool:
        return roster.Run("run", 0.0, 0, "token", 0.0, siblings.world(), ticks, heirs).falls_to(me)

    assert not falls_to_me(me.started - 1, "[]")
    assert not falls_to_me(me.started, "[]")
    assert falls_to_me(me.started, seen)
    assert falls_to_me(me.started + 1, "[]")


@needs_proc
def test_stop_of_all(stage: Stage) -> None:
    """Workers that have left and still live are no heirs: at a stop the last one knows so at once."""
    _, members = stage.crew(4)
    _together(members, "join")
    began = time.monotonic()
    departures = [member.ask("leave", PATIENCE) for member in members]
    assert departures == ["OTHERS_REMAIN"] * 3 + ["LAST"]
    assert time.monotonic() - began < PATIENCE / 2


def test_workers_recycled_one_at_a_time(stage: Stage) -> None:
    """As long as another remains, workers are replaced within the same run."""
    parent, members = stage.crew(2)
    run = _together(members, "join")[0]["run"]
    for _ in range(5):
        old = members.pop(0)
        assert old.ask("leave") == "OTHERS_REMAIN"
        old.close()
        parent.ask("reap", old.pid)
        members.append(stage.fork(parent))
        arrival = members[-1].ask("join")
        assert (arrival["first"], arrival["run"]) == (False, run)
    assert [member.ask("leave") for member in members] == ["OTHERS_REMAIN", "LAST"]


def test_only_worker_recycled(stage: Stage) -> None:
    """The only worker's leaving cannot be told from a stop where its successor is started after its end."""
    parent, (old,) = stage.crew(1)
    old.ask("join")
    assert old.ask("leave") == "LAST"
    assert stage.fork(parent).ask("join")["first"]


def test_only_worker_of_a_master_that_is_in(stage: Stage) -> None:
    """A master that joins before it forks keeps the run together while its only worker is recycled."""
    master = stage.start()
    assert master.ask("join")["first"]
    for _ in range(2):
        worker = stage.fork(master)
        assert not worker.ask("join")["first"]
        assert worker.ask("leave") == "OTHERS_REMAIN"
    assert master.ask("leave", 0.0) == "LAST"


@needs_proc
def test_spawned_workers(stage: Stage) -> None:
    """Children that multiprocessing spawns are each other's heirs; its resource tracker and other programs are not."""
    parent = stage.start()
    old = stage.arrival(parent.ask("spawn"))
    old.ask("join")
    new = stage.arrival(parent.ask("spawn"))
    assert old.ask("leave", 0.0) == "HANDED_OVER"
    assert not new.ask("join")["first"]
    assert new.ask("leave", 0.0) == "LAST"


@needs_proc
def test_other_children_are_no_heirs(stage: Stage) -> None:
    """A resource tracker, another program, a child in another process group: none of them is coming."""
    parent, (old,) = stage.crew(1)
    old.ask("join")
    parent.ask("track")
    stage.fork(parent, stranger=True)
    assert old.ask("leave", 0.0) == "LAST"


@needs_proc
def test_same_command_is_not_the_same_program() -> None:
    """Two programs that one parent started with the same command are strangers; two forks of one are not."""
    with contextlib.ExitStack() as cleanup:
        found: list[siblings.Process] = []
        for _ in range(2):
            process = cleanup.enter_context(subprocess.Popen(["sleep", "60"]))
            cleanup.callback(process.kill)
            _wait(lambda pid=process.pid: _runs(pid, b"sleep"))
            found.append(_seen(process.pid))
        assert found[0].command == found[1].command
        assert not siblings.alike(*found)
        assert siblings.alike(found[0], found[0])


def _runs(pid: int, program: bytes) -> bool:
    found = siblings.find(pid)
    return found is not None and found.command.startswith(program)


def _seen(pid: int) -> siblings.Process:
    found = siblings.find(pid)
    assert found is not None
    return found


@needs_proc
def test_only_the_young_are_starting(stage: Stage) -> None:
    """A sibling that has lived for a minute without coming is not waited for."""
    _, (one, other) = stage.crew(2)
    me, now = _seen(one.pid), siblings.now()
    minute = 60 * os.sysconf("SC_CLK_TCK")
    assert [process.pid for process in siblings.starting(me, now)] == [other.pid]
    assert siblings.starting(me, now + minute) == []


def _reload(stage: Stage, parent: Member, old: list[Member], chance: random.Random) -> tuple[list[Member], list[Any]]:
    """As gunicorn does: start the new ones, which take a while, and stop the old ones at once."""
    pids = [parent.ask("fork", False, chance.random() * 0.2) for _ in old]
    chance.shuffle(old)
    departures = _together(old, "leave", chance.choice([0.05, 0.1, 0.5]))
    assert set(departures) <= {"OTHERS_REMAIN", "HANDED_OVER"}
    for member in old:
        member.close()
        parent.ask("reap", member.pid)
    new = [stage.arrival(pid) for pid in pids]
    return new, _together(new, "join")


def _reloads(stage: Stage, times: int) -> None:
    parent, members = stage.crew(4)
    arrivals = _together(members, "join")
    chance = random.Random(times)
    for _ in range(times):
        members, more = _reload(stage, parent, members, chance)
        arrivals += more
    departures = Counter(_together(members, "leave", 10.0))
    _report(f"reloads: {times}, firsts {_firsts(arrivals)} of {len(arrivals)}, at the end {dict(departures)}")
    assert _firsts(arrivals) == 1
    assert len({arrival["run"] for arrival in arrivals}) == 1
    assert departures == {"LAST": 1, "OTHERS_REMAIN": 3}


@needs_proc
def test_reloads(stage: Stage) -> None:
    """A server that is reloaded again and again is one run, with one first and one last."""
    _reloads(stage, 4)


@needs_proc
@pytest.mark.soak
def test_reloads_for_long(stage: Stage) -> None:
    """The same, fifty times as often."""
    _reloads(stage, 200)


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_corrupt_database(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A corrupt database is set aside as it is, said once, and work goes on."""
    database = tmp_path / "presence.sqlite3"
    database.write_bytes(content)
    presence = Presence(tmp_path, clock=FakeClock())
    with caplog.at_level(logging.WARNING, "lifebeat"):
        assert presence.join().first
        assert presence.claim("job", 1.0)
        assert not presence.claim("job", 1.0)
        assert presence.leave() is Departure.LAST
    assert (tmp_path / "presence.sqlite3.corrupt").read_bytes() == content
    assert len(caplog.records) == 1
    assert "set aside as 'presence.sqlite3.corrupt'" in caplog.text


def test_tables_of_somebody_else(tmp_path: Path) -> None:
    """A database with other tables under our names is set aside as well."""
    with contextlib.closing(sqlite3.connect(tmp_path / "presence.sqlite3")) as database:
        database.execute("CREATE TABLE run (something TEXT)")
    assert Presence(tmp_path, clock=FakeClock()).join().first
    assert (tmp_path / "presence.sqlite3.corrupt").exists()


def test_database_lost_while_others_are_in(tmp_path: Path) -> None:
    """Who comes when the database was lost is not the first, for others are in; the last one out still is the last."""
    one, two = (Presence(tmp_path, clock=FakeClock()) for _ in range(2))
    one.join()
    (tmp_path / "presence.sqlite3").unlink()
    assert not two.join().first
    assert one.leave() is Departure.OTHERS_REMAIN
    assert two.leave() is Departure.LAST


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_first_use_while_a_fork_is_under_way() -> None:
    """A thread may need this for the first time in the middle of another's fork: nothing is said, nothing hangs."""
    code = """
import importlib, logging, os, sqlite3
for name in ("lifebeat.once.claims", "lifebeat_jobs.outbox"):
    os.register_at_fork(before=lambda name=name: importlib.import_module(name))
for _ in range(2):
    if (pid := os.fork()) == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_mount
def test_leaving_on_a_full_disk(stage: Stage) -> None:
    """A disk that has become full makes nobody the last one who is not."""
    stage.directory.mkdir()
    with mounted(stage.directory, "-t", "tmpfs", "-o", "size=256k", "tmpfs"):
        _, (one, two, three) = stage.crew(3)
        _together([one, two, three], "join")
        filled(stage.directory)
        assert [one.ask("leave"), two.ask("leave")] == ["OTHERS_REMAIN", "OTHERS_REMAIN"]
        assert three.ask("leave") in ("LAST", {"unavailable": ANY})


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    """A state directory that cannot be made is an error that names it and says what to do."""
    (tmp_path / "file").write_text("")
    presence = Presence(tmp_path / "file" / "state", clock=FakeClock())
    for ask in (presence.join, lambda: presence.claim("job", 1.0), lambda: presence.last_claim("job")):
        with pytest.raises(PresenceUnavailable, match=r"file/state'.*set telemetryStateDir"):
            ask()


def test_database_that_cannot_be_opened(tmp_path: Path) -> None:
    """If only the database cannot be opened, joining fails and leaves nobody in."""
    (tmp_path / "presence.sqlite3").mkdir()
    presence = Presence(tmp_path, clock=FakeClock())
    with pytest.raises(PresenceUnavailable, match=r"'presence\.sqlite3': unable to open"):
        presence.join()
    (tmp_path / "presence.sqlite3").rmdir()
    assert Presence(tmp_path, clock=FakeClock()).join().first


def test_leaving_without_a_database(tmp_path: Path) -> None:
    """Where nothing can be written any more, only the last one out is left without an answer."""
    one, two = (Presence(tmp_path, clock=FakeClock()) for _ in range(2))
    one.join()
    two.join()
    (tmp_path / "presence.sqlite3").unlink()
    (tmp_path / "presence.sqlite3").mkdir()
    assert one.leave() is Departure.OTHERS_REMAIN
    with pytest.raises(PresenceUnavailable):
        two.leave()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody else")
def test_directory_of_somebody_else(tmp_path: Path) -> None:
    """A process that may not write in the directory is told so."""
    program = (
        "import os, sys; from pathlib import Path; from lifebeat.once.files import *; from lifebeat.clock import *\n"
        "presence = Presence(Path('.'), clock=SystemClock()); import sqlite3; os.setuid(65534)\n"
        "try: presence.join()\n"
        "except PresenceUnavailable as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Permission denied" in done.stdout


def test_waits_are_bounded(tmp_path: Path) -> None:
    """A process that holds the gate holds others up no longer than they allow, and cannot keep them in."""
    presence, other = (Presence(tmp_path, clock=SystemClock()) for _ in range(2))
    presence.join()
    began = time.monotonic()
    with held(tmp_path / "presence.gate", timeout=0) as got:
        assert got
        with pytest.raises(PresenceUnavailable, match=r"other processes have held 'presence\.gate' for 0\.1 s"):
            other.join(timeout=0.1)
        with pytest.raises(PresenceUnavailable):
            presence.leave(timeout=0.1)
    assert 0.2 <= time.monotonic() - began < 5
    assert other.join().first

"""Jobs that are started, paused and resumed without an edit, in one life and in several."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

import lifebeat
from hosts import eventually
from lifebeat import history, steering
from lifebeat.clock import SystemClock
from lifebeat.consent import EarlierOptOut
from lifebeat.once.alone import Alone
from lifebeat.schedule.instants import SECOND, to_datetime, to_instant
from lifebeat.steering import Orders
from lifebeat.testing import FakeClock
from test_life import HOUR, Process, hang, jobs, names, ran, released

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.once.protocol import Exchange, Joined, RunInstant
    from lifebeat.steering import Answer

SHARED = "  a: {run: 'RUN', every: 1h, once: application}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config directory; and nothing has run."""
    ran.clear()
    return tmp_path


def order(process: Process, verb: str, job: str = "a", **how: Any) -> Answer:
    """Give an order on the command line, so to say, without telling the process."""
    application = process.application
    spec = steering.find(application.load().specs, job)
    give = getattr(steering, verb)
    if verb == "pause":
        how = {"until": None, "why": None, **how}
    answer: Answer = give(application.state_dir(create=False), spec, process.clock, **how)
    return answer


def follow(process: Process) -> None:
    """Have the process notice what was ordered, and run what it wants to run."""
    assert process.life is not None
    process.life.edited()
    process.scheduler.work()


def fire(process: Process, instant: int, job: str = "a") -> None:
    """Let the scheduler's time come."""
    process.scheduler.added[job][1](to_datetime(instant))


def remembered(process: Process) -> list[tuple[str, str, bool]]:
    """What is remembered: job, outcome, by hand."""
    found = history.read(process.application.state_dir(create=False))
    return [(one.job, one.outcome, one.by_hand) for one in found]


def test_one_of_several_processes_runs_an_order(config: Path) -> None:
    """What is started by hand is run once for its own instant; the next planned run stays where it is."""
    jobs(config, SHARED + "  p: {run: 'RUN', every: 1h}\n")
    clock = FakeClock()
    processes = [Process(config, clock).start() for _ in range(3)]
    registered = [process.scheduler.added["a"] for process in processes]
    clock.advance(1)
    assert order(processes[0], "start").done
    assert order(processes[0], "start", "p").done
    for process in (*processes, *processes):
        follow(process)
    assert sorted(names()) == ["a", "p", "p", "p"]
    assert {to_instant(instant) for _, instant, _ in ran} == {int(clock.time() * SECOND)}
    assert [process.scheduler.added["a"] for process in processes] == registered
    clock.advance(1)
    late = Process(config, clock).start()
    assert sorted(names()) == ["a", "p", "p", "p"]
    for process in (*processes, late):
        process.stop()
    assert sorted(remembered(late)) == [("a", "ok", True), ("p", "ok", True)]  # the three are one process here


def test_an_order_outlives_a_kill_and_is_void_in_time(config: Path) -> None:
    """A shared order that nobody followed is followed by the next process, for ten minutes."""
    jobs(config, SHARED)
    clock = FakeClock()
    gone = Process(config, clock)
    for wait, expected in ((steering.START_WITHIN - 1, ["a"]), (steering.START_WITHIN + 1, [])):
        ran.clear()
        assert order(gone, "start").done
        clock.advance(wait)
        Process(config, clock).start().stop()
        assert names() == expected


def test_a_paused_job_does_not_run_and_is_not_made_up_for(config: Path) -> None:
    """From the order on no instant is run, none of the pause is after it, over restarts too; by hand it runs."""
    jobs(config, SHARED + "  z: {run: 'RUN', when: shutdown}\n")
    clock = FakeClock()
    clock.jump(3600 - clock.time() % 3600 - 60)
    process = Process(config, clock).start()
    due = (int(clock.time()) // 3600 + 1) * HOUR
    fire(process, due - HOUR)
    assert order(process, "pause", why="the disk is\n full").words == "a: paused: the disk is  full"
    assert order(process, "pause", "z").done
    clock.advance(120)
    fire(process, due)
    process.stop()
    process = Process(config, clock).start()
    assert names() == ["a"]
    order(process, "start")
    follow(process)
    assert names() == ["a", "a"]
    clock.advance(3600)
    assert order(process, "resume").done
    process.stop()
    process = Process(config, clock).start()
    assert names() == ["a", "a"]
    fire(process, due + 2 * HOUR)
    assert names() == ["a", "a", "a"]
    order(process, "resume", "z")
    process.stop()
    assert names() == ["a", "a", "a", "z"]


def test_a_pause_ends_by_itself(config: Path) -> None:
    """``until`` needs no process that is there then, and nobody who resumes."""
    jobs(config, SHARED)
    clock = FakeClock()
    process = Process(config, clock).start()
    now = clock.time()
    assert not order(process, "pause", until=now).done
    order(process, "pause", until=now + 60)
    fire(process, int(now * SECOND) + 1)
    clock.advance(60)
    fire(process, int(now * SECOND) + 2)
    assert names() == []
    fire(process, int(clock.time() * SECOND))
    assert names() == ["a"]
    assert order(process, "resume").words == "a: is not paused"
    process.stop()


def test_a_job_file_without_the_job_forgets_it(config: Path) -> None:
    """A job that is taken out of the job file and put back is not paused; a broken edit forgets nothing."""
    jobs(config, SHARED)
    process = Process(config).start()
    order(process, "pause")
    state = process.application.state_dir(create=False)
    jobs(config, "  a: {run: 'RUN', every: -1h}\n")
    follow(process)
    assert list(steering.read(state)) == ["a"]
    jobs(config, "  b: {run: 'RUN', every: 1h}\n")
    follow(process)
    assert steering.read(state) == {}
    jobs(config, SHARED)
    follow(process)
    fire(process, HOUR)
    assert names() == ["a"]
    process.stop()


def test_an_order_while_one_runs_is_skipped(config: Path) -> None:
    """``max_instances`` holds for planned runs and those by hand together."""
    released.clear()
    (config / "jobs.yaml").write_text(f"jobs:\n  a: {{run: '{hang.__module__}:hang', every: 1h}}\n")
    process = Process(config).start()
    running = threading.Thread(target=fire, args=(process, HOUR))
    running.start()
    eventually(lambda: remembered(process) == [("a", "running", False)])
    process.clock.advance(1)
    order(process, "start")
    follow(process)
    released.set()
    running.join()
    process.stop()
    assert sorted(remembered(process)) == [("a", "ok", False), ("a", "skipped", True)]


def test_what_cannot_be_ordered_says_why(config: Path) -> None:
    """Telemetry is not started by hand, nor a job that is off; a name that is not there raises."""
    beat = "  beat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 1h}\n"
    jobs(config, beat + "  a: {run: 'RUN', every: 1h, enabled: false}\n")
    process = Process(config)
    assert "not started by hand" in order(process, "start", "beat").words
    assert "enabled: true" in order(process, "start").words
    assert order(process, "pause", "beat").done
    with pytest.raises(lifebeat.LifebeatError, match="did you mean 'beat'"):
        steering.find(process.application.load().specs, "baet")
    spec = steering.find(process.application.load().specs, "a")
    assert not steering.pause(None, spec, process.clock, until=None, why=None).done
    (config / "file").write_text("")
    assert not steering.pause(config / "file", spec, process.clock, until=None, why=None).done


def test_a_handle_gives_orders_and_a_running_host_follows(config: Path) -> None:
    """The handle does what the commands do; another process's order is followed within two seconds."""
    jobs(config, "  a: {run: 'RUN', every: 24h}\n")
    scheduler: Any = BackgroundScheduler()
    handle = lifebeat.attach(
        scheduler, app_name="notes", app_version="1", config_dir=config, allow=["test_life"], enabled=False
    )
    scheduler.start()
    assert handle.pause("a", why="a test").done
    assert handle.start("a").done
    eventually(lambda: names() == ["a"])
    assert handle.resume("a").words == "a: resumed"
    (spec,) = Process(config).application.load().specs
    assert steering.start(config / "lifebeat", spec, SystemClock()).done
    began = time.monotonic()
    eventually(lambda: names() == ["a", "a"])
    assert time.monotonic() - began < 10  # two seconds, and what a busy machine takes
    scheduler.shutdown()


def test_an_opt_out_and_an_edit_change_no_order(config: Path) -> None:
    """Between a pause and its end telemetry is turned off and the job is edited: it stays paused."""
    jobs(config, SHARED)
    process = Process(config).start()
    order(process, "pause")
    (config / "config.yaml").write_text("telemetryEnabled: false\n")
    follow(process)
    jobs(config, SHARED.replace("1h", "2h"))
    follow(process)
    fire(process, 2 * HOUR)
    assert names() == []
    order(process, "start")
    follow(process)
    assert names() == ["a"]
    order(process, "resume")
    process.clock.advance(1)
    fire(process, int(process.clock.time() * SECOND))
    assert names() == ["a", "a"]
    process.stop()


# -- several machines --------------------------------------------------------------------------------------------------


class OnAnEngine(Alone):
    """A coordinator of one machine of several, which exchanges orders when it is asked to."""

    def __init__(self, clock: Clock, all_know: Orders) -> None:
        super().__init__(clock)
        self.all_know = all_know
        self.exchange: Exchange = lambda _: {}

    def start(self, run: RunInstant, exchange: Exchange) -> None:  # noqa: ARG002 - nothing is brought
        """Remember how orders are exchanged."""
        self.exchange = exchange

    def join(self, timeout: float) -> Joined:
        """Exchange, and join."""
        self.renew()
        return super().join(timeout)

    def renew(self) -> None:
        """Exchange as every few seconds."""
        self.all_know |= self.exchange(dict(self.all_know))


class Machine(Process):
    """A process on a machine of its own."""

    def __init__(self, directory: Path, clock: FakeClock, all_know: Orders) -> None:
        directory.mkdir(exist_ok=True)
        jobs(directory, SHARED + "  beat: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 1h, once: application}\n")
        super().__init__(directory, clock, appName="notes", telemetryApiKey="phc_x", telemetryHost="http://127.0.0.1:9")
        source = self.application.source
        source.earlier_opt_out = EarlierOptOut(source, clock, remember=True)
        self.coordinator = OnAnEngine(clock, all_know)
        self.start(lambda _: self.coordinator)

    @property
    def is_on(self) -> bool:
        """Whether telemetry is, as the plan has it."""
        assert self.life is not None
        self.life.edited()  # its files are watched
        return "beat" in self.scheduler.added


def test_a_pause_holds_on_all_machines(config: Path) -> None:
    """The latest order counts on each, also on one that joins later and where clocks differ; it outlives the server."""
    clock, all_know = FakeClock(), Orders()
    one, other = (Machine(config / name, clock, all_know) for name in ("one", "other"))

    def tell(*machines: Machine) -> list[bool]:
        for machine in machines:
            machine.coordinator.renew()
        spec = steering.find(one.application.load().specs, "a")
        return [machine.application.may_run(spec.id, machine.application.now()) for machine in machines]

    assert order(one, "pause", why="the disk is full").done
    assert tell(one, other) == [False, False]
    all_know.clear()  # as a server does that loses its data
    late = Machine(config / "late", clock, all_know)
    assert tell(other, one, late) == [False] * 3
    clock.jump(-60)  # this machine's clock is behind the one on which the pause was ordered
    order(other, "resume")
    clock.jump(60)
    assert tell(other, one, late) == [True] * 3
    assert order(late, "start").done
    tell(late, one)
    follow(one)
    assert names() == []  # a run is ordered on one machine
    for machine in (one, other, late):
        machine.stop()


def test_an_opt_out_holds_on_all_machines(config: Path) -> None:
    """While it holds none is on, nor one that joins later; taken back where it was given, it is for all."""
    clock, all_know = FakeClock(), Orders()
    clock.jump(time.time() - clock.time())  # files have the time of this machine
    one, other = (Machine(config / name, clock, all_know) for name in ("one", "other"))
    assert one.is_on
    assert other.is_on
    file = config / "one" / "config.json"
    file.write_text('{"telemetryEnabled": false}')
    assert not one.is_on
    one.coordinator.renew()
    other.coordinator.renew()
    assert not other.is_on
    assert str(file) in other.application.consent().reason
    late = Machine(config / "late", clock, all_know)
    assert not late.is_on
    file.write_text('{"telemetryEnabled": true}')
    assert one.is_on
    for machine in (one, other, late):
        machine.coordinator.renew()
        machine.is_on  # noqa: B018 - it looks
        machine.scheduler.work()
        assert machine.is_on
        machine.stop()

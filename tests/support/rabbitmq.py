"""A real RabbitMQ for tests, where Debian's package is installed: a node of its own, stopped after."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import pytest

from hosts import eventually


class RabbitMQ:
    """One node on a port of loopback."""

    def __init__(self) -> None:
        program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        if not program.exists():
            pytest.skip("rabbitmq-server is not installed")
        self._directory = Path(tempfile.mkdtemp(prefix="lb-rabbitmq-"))
        self.port, distribution = _free_port(), _free_port()
        self._environ = {
            **os.environ,
            "HOME": str(self._directory),
            "RABBITMQ_NODENAME": f"lifebeat-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(self._directory),
            "RABBITMQ_LOG_BASE": str(self._directory),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
        }
        self._process = subprocess.Popen(
            [str(program)], env=self._environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def url(self) -> str:
        """The server."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        eventually(self._answers, 60)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(40)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port

"""Hosts that run as processes of their own, and how tests wait for what they do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from lifebeat.testing import telemetry_allowed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lifebeat.testing import PostHogServer

DEADLINE = 30.0


class Installation:
    """A config directory with settings in it, and a way to start programs on it."""

    def __init__(self, directory: Path, receiver: PostHogServer) -> None:
        self.directory = directory
        self.config = directory / "config"
        self.config.mkdir(parents=True)
        self.receiver = receiver
        # A long time for the last flush, so that a busy machine changes no outcome; tests of time set their own.
        self.write(telemetryApiKey="phc_test", telemetryHost=receiver.url, telemetryShutdownTimeout="20s")
        self.started: list[subprocess.Popen[str]] = []

    def write(self, **settings: Any) -> None:
        """Put settings into config.json, keeping those that are there."""
        path = self.config / "config.json"
        there: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**there, **settings}, indent=4))

    def environ(self, **more: str) -> dict[str, str]:
        """An environment in which telemetry may run, towards loopback."""
        return {**telemetry_allowed(), "PYTHONUNBUFFERED": "1", "HOME": str(self.directory), **more}

    def start(self, *command: str, **environ: str) -> subprocess.Popen[str]:
        """Start a program in the installation's directory."""
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environ(**environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def script(self, code: str, **environ: str) -> subprocess.Popen[str]:
        """Start Python code as a program of its own, outside our tree."""
        path = self.directory / f"host_{len(self.started)}.py"
        path.write_text(textwrap.dedent(code))
        return self.start(sys.executable, str(path), **environ)

    def lifebeat(self, *args: str, **environ: str) -> subprocess.Popen[str]:
        """Start a lifebeat command."""
        return self.start(sys.executable, "-m", "lifebeat", *args, **environ)

    def run(self, *args: str, **environ: str) -> tuple[int, str, str]:
        """Run a lifebeat command to its end; its exit code, output and errors."""
        process = self.lifebeat(*args, **environ)
        out, err = process.communicate(timeout=DEADLINE)
        return process.returncode, out, err


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    """Send a signal and wait for the end; the exit code, output and errors."""
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    return process.returncode, out, err


def eventually(condition: Callable[[], Any], timeout: float = DEADLINE) -> Any:
    """Wait until a condition holds; returns what it gave."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"did not come true within {timeout} s"
        time.sleep(0.02)
    return value


def process_environment() -> dict[str, str]:
    """This process's environment, as a plain mapping."""
    return dict(os.environ)

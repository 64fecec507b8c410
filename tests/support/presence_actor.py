"""A process of an application, for tests of presence: it connects to the test and does what it is told.

``python presence_actor.py PORT`` is the mother of all; ``start``, ``fork`` and ``spawn`` make more, which connect as
well. Every line from the test is ``[verb, *arguments]``, every line back the answer, as JSON.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from lifebeat.clock import SystemClock
from lifebeat.once.files import Departure, Presence, PresenceUnavailable


class Actor:
    def __init__(self, port: int, directory: Path, presence: Presence | None = None) -> None:
        self.port = port
        self.directory = directory
        self.presence = presence or Presence(directory, clock=SystemClock())
        self.children: list[Any] = []

    def play(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connection, connection.makefile("rw") as lines:
            print(os.getpid(), file=lines, flush=True)
            for line in lines:
                verb, *arguments = json.loads(line)
                print(json.dumps(self.answer(verb, arguments)), file=lines, flush=True)

    def answer(self, verb: str, arguments: list[Any]) -> Any:
        try:
            answer = getattr(self, verb)(*arguments)
        except PresenceUnavailable as error:
            return {"unavailable": str(error)}
        if isinstance(answer, enum.Enum):
            return answer.name
        return dataclasses.asdict(answer) if dataclasses.is_dataclass(answer) else answer  # type: ignore[arg-type]

    def join(self, at: float = 0.0, timeout: float = 5.0) -> Any:
        _wait_until(at)
        return self.presence.join(timeout)

    def leave(self, timeout: float = 1.0, at: float = 0.0) -> Departure:
        _wait_until(at)
        return self.presence.leave(timeout)

    def claim(self, job_id: str, instants: list[float], at: float = 0.0) -> list[float]:
        _wait_until(at)
        return [instant for instant in instants if self.presence.claim(job_id, instant)]

    def claim_for(self, seconds: float) -> int:
        """Claim one instant after the other without a pause; how many there were."""
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            self.presence.claim("busy", float(number))
            number += 1
        return number

    def races(self, rounds: int, seed: int, at: float = 0.0) -> list[tuple[str, bool, str]]:
        """Come and go at random; tells of every time the run, whether as the first, and how it left."""
        chance = random.Random(seed)
        _wait_until(at)
        seen: list[tuple[str, bool, str]] = []
        for _ in range(rounds):
            time.sleep(chance.random() * 0.01)
            arrival = self.presence.join(20.0)
            time.sleep(chance.random() * 0.01)
            seen.append((arrival.run, arrival.first, self.presence.leave(20.0).name))
        return seen

    def start(self, directory: str) -> int:
        """A process in a process group of its own, as a service is."""
        if pid := os.fork():
            os.setpgid(pid, pid)
            return pid
        os.setpgid(0, 0)
        Actor(self.port, Path(directory)).play()
        for child in multiprocessing.active_children():
            child.terminate()
        os._exit(0)

    def fork(self, stranger: bool = False, boot: float | None = None) -> int:
        """A child that has this process's own presence object; with ``boot`` it takes that long to start."""
        if pid := os.fork():
            return pid
        if stranger:
            os.setpgid(0, 0)
        child = Actor(self.port, self.directory, self.presence)
        if boot is not None:
            time.sleep(boot)
        child.play()
        os._exit(0)

    def fork_while_claiming(self, children: int) -> int:
        """How many children could claim that were forked while a thread was claiming."""
        stop = threading.Event()
        thread = threading.Thread(target=self._claim_until, args=(stop,))
        thread.start()
        good = 0
        for number in range(children):
            if (pid := os.fork()) == 0:
                self._claim_and_exit(float(number))
            good += os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        return good

    def _claim_and_exit(self, instant: float) -> None:
        signal.alarm(10)  # a child that hangs is ended, and does not count
        code = 1
        try:
            code = 0 if self.presence.claim("child", instant) else 1
        finally:
            os._exit(code)

    def _claim_until(self, stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            self.presence.claim("parent", float(number))
            number += 1

    def spawn(self) -> int | None:
        child = multiprocessing.get_context("spawn").Process(target=spawned, args=(self.port, self.directory))
        child.start()
        self.children.append(child)
        return child.pid

    def track(self) -> bool:
        """Start multiprocessing's resource tracker and another program."""
        resource_tracker.ensure_running()
        self.children.append(subprocess.Popen(["sleep", "60"]))
        return True

    def reap(self, pid: int) -> int:
        return os.waitpid(pid, 0)[1]

    def kill(self, pid: int) -> int:
        """End a child and leave it a zombie."""
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid


def spawned(port: int, directory: Path) -> None:
    Actor(port, directory).play()


def _wait_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))


if __name__ == "__main__":
    Actor(int(sys.argv[1]), Path.cwd()).play()

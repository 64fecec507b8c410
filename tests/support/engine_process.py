"""A process that does with a coordinator what a life does, and writes down what happens: ``python engine_process.py``.

It joins, tells the start where it is the first, offers the instants of some jobs on a grid, and leaves at a SIGTERM.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from lifebeat.once.protocol import Joined, Unavailable

if TYPE_CHECKING:
    from lifebeat.once.protocol import Coordinator

SECOND = 1_000_000


class Actor:
    """One process of the application.

    Args:
        coordinator: What it shares with the others.
        file: Where it writes down what happens.
        jobs: How many jobs there are.
        every: Seconds from one instant to the next.
        takes: Seconds that a run takes.
    """

    def __init__(self, coordinator: Coordinator, file: str, *, jobs: int, every: float, takes: float) -> None:
        self.coordinator = coordinator
        self.file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.jobs = [f"tick-{number}" for number in range(jobs)]
        self.every = int(every * SECOND)
        self.takes = takes
        self.stopped = threading.Event()

    def write(self, what: str, *rest: object) -> None:
        """Write a line."""
        os.write(self.file, f"{what} {time.time():.6f} {os.getpid()} {' '.join(map(str, rest))}\n".encode())

    def run(self, job_id: str, instant: int) -> None:
        """Run a job."""
        self.write("begun", job_id, instant)
        time.sleep(self.takes)
        self.write("ended", job_id, instant)

    def live(self) -> None:
        """Live until the stop."""
        self.coordinator.start(self.run, lambda _: {})
        if (joined := self.join()) is not None:
            self.write("joined", joined.run)
            if joined.unfinished:
                self.write("shutdown", joined.unfinished.run, joined.unfinished.left.wall)
            if joined.first:
                self.write("startup", joined.run)
            self.offer()
        self.coordinator.drain(10)
        try:
            if self.coordinator.leave(5):
                self.write("shutdown", joined.run if joined else "")
        except Unavailable as error:
            self.write("unknown", error)
        self.coordinator.close()
        self.write("left")

    def join(self) -> Joined | None:
        """Join, as often as it takes; ``None`` at a stop."""
        while not self.stopped.is_set():
            try:
                return self.coordinator.join(2)
            except Unavailable:
                self.stopped.wait(0.2)
        return None

    def offer(self) -> None:
        """Offer the latest instant of each job until the stop, and again where it could not be."""
        threads = [threading.Thread(target=self.offer_one, args=(job,), daemon=True) for job in self.jobs]
        for thread in threads:
            thread.start()
        self.stopped.wait()
        for thread in threads:
            thread.join(10)

    def offer_one(self, job: str) -> None:
        """Offer the latest instant of a job until the stop."""
        offered = int(time.time() * SECOND) // self.every * self.every
        while not self.stopped.is_set():
            now = int(time.time() * SECOND)
            instant = now // self.every * self.every
            if instant == offered:
                self.stopped.wait((instant + self.every - now) / SECOND)
                continue
            try:
                if self.coordinator.claim(job, instant):
                    self.run(job, instant)
                offered = instant
            except Unavailable:
                self.stopped.wait(0.5)


def main() -> None:
    """Live as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("factory", help="module:function that makes the coordinator, as in the conformance suite")
    parser.add_argument("database")
    parser.add_argument("file")
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--takes", type=float, default=0.0)
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    logging.getLogger("lifebeat").setLevel(logging.INFO)
    module, _, name = args.factory.partition(":")
    coordinator = getattr(importlib.import_module(module), name)(args.database)
    actor = Actor(coordinator, args.file, jobs=args.jobs, every=args.every, takes=args.takes)
    signal.signal(signal.SIGTERM, lambda number, frame: actor.stopped.set())  # noqa: ARG005 - as a handler is called
    actor.live()


if __name__ == "__main__":
    main()

"""The same instance with all that is real: job functions, outbox and claims on disk, the SDK, HTTP to a server."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fleet_life import Instance, World
from fleet_light import Light, Tally

from lifebeat.once.files import Presence
from lifebeat.testing import PostHogServer
from lifebeat_jobs import telemetry
from lifebeat_jobs.delivery import begin_boot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from fleet_scenario import Scenario

    from lifebeat.context import JobContext
    from lifebeat_jobs.outbox import Entry

Line = tuple[str, float, int, float | None]


class Whole(Instance):
    """An instance in a directory."""

    def __init__(self, world: World, number: int, directory: Path, server: PostHogServer) -> None:
        super().__init__(world, number)
        (directory / "config.json").write_text(json.dumps({"telemetryInstanceId": self.id}))
        self._directory = directory
        self._server = server
        self._settings = world.settings_of(directory)
        self._refuses = False
        self.house = Presence(directory, clock=world.clock)

    def begin(self) -> None:
        """It was there before: it knows the boot."""
        self.world.clock.boots = self.boots
        begin_boot(telemetry.open_outbox(self._context(), create=True), self.world.clock, self.draw)
        super().begin()

    def startup(self) -> None:
        """The application started, maybe on a machine that was booted meanwhile."""
        self._do(telemetry.startup)

    def heartbeat(self) -> None:
        """The application is running."""
        self._do(telemetry.heartbeat)

    def shutdown(self) -> None:
        """The application stops."""
        self._do(telemetry.shutdown)

    def deliver(self) -> None:
        """The scheduler comes back for a delivery."""
        self._prepare()
        self._again()

    def ledger(self) -> list[Line]:
        """What became of each event, in the order in which they were recorded."""
        return _lines(reversed(telemetry.open_outbox(self._context()).entries(limit=1000)))

    def _do(self, job: Callable[[JobContext], None]) -> None:
        self._prepare()
        job(self._context())

    def _prepare(self) -> None:
        """Let chance begin anew, and the server do what the scenario says."""
        self.seed()
        self.world.clock.boots = self.boots
        answer, takes = self.world.scenario.answer(self.world.clock.now, self.number)
        refuses = answer.status is None and not takes
        if refuses != self._refuses:
            (self._server.refuse if refuses else self._server.accept_again)()
            self._refuses = refuses
        if answer.delivered or takes:
            self._server.answer(200, body=None if answer.delivered else b"cut off")
        else:
            self._server.answer(503)

    def _context(self) -> JobContext:
        return self.world.context(self._directory, self._settings, background=_at_once, later=self._later)

    def _later(self, _: str, delay: timedelta, work: Callable[[], None]) -> None:
        self.alarm, self._again = self.world.clock.now + delay.total_seconds(), work


def _at_once(_: str, work: Callable[[], None]) -> None:
    work()


def _lines(entries: Iterable[Entry]) -> list[Line]:
    return [(one.event, one.recorded_at, one.attempts, one.finished_at) for one in entries]


def differences(scenario: Scenario, numbers: Iterable[int]) -> tuple[int, list[str]]:
    """Live these instances' days twice, in memory and whole; how many events they had, and where they differ."""
    events, found = 0, list[str]()
    for number in numbers:
        tally = Tally.over(scenario.end)
        light = Light(World(scenario), number, tally)
        light.live()
        lines, taken = _whole(scenario, number)
        events += len(lines)
        expected = _lines(light.queue.rows.values())
        if (lines, taken) != (expected, sum(map(sum, tally.taken.values()))):
            found.append(f"instance {number}: in memory {expected}, whole {lines} and {taken} events taken")
    return events, found


def _whole(scenario: Scenario, number: int) -> tuple[list[Line], int]:
    with tempfile.TemporaryDirectory() as directory, PostHogServer() as server:
        one = Whole(World(scenario, server.url), number, Path(directory), server)
        one.live()
        return one.ledger(), len(server.events)

"""The same instance with all that is real: job functions, outbox on disk, HTTP to a server."""

from __future__ import annotations

import logging
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fleet_life import LATE, Instance
from fleet_light import Light, Tally
from fleet_scenario import instance_id

from lifebeat.context import Consent, JobContext
from lifebeat.log import Logger
from lifebeat.schedule.instants import SECOND, to_datetime
from lifebeat.settings.source import ConfigSource
from lifebeat.testing import PostHogServer, telemetry_allowed
from lifebeat_jobs import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fleet_scenario import Scenario

Line = tuple[str, int, float | None]
LOGGER = Logger(logging.getLogger("fleet"), {})
LOGGER.setLevel(logging.CRITICAL)


class Whole(Instance):
    """An instance in a directory."""

    def __init__(self, scenario: Scenario, number: int, directory: Path, server: PostHogServer) -> None:
        super().__init__(scenario, number)
        environ = {**telemetry_allowed(), "TELEMETRY_HOST": server.url, "TELEMETRY_API_KEY": "phc_fleet"}
        self._settings = ConfigSource(directory, environ=environ, modules={}).read()
        self._directory = directory
        self._server = server
        self._refuses = False

    def startup(self) -> None:
        """The application started."""
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
        """Return what became of each event, in the order in which they were recorded."""
        entries = telemetry.open_outbox(self._context()).entries(limit=1000)
        return [(one.event, one.attempts, one.finished_at) for one in reversed(entries)]

    def _do(self, job: Callable[[JobContext], None]) -> None:
        self._prepare()
        job(self._context())

    def _prepare(self) -> None:
        """Let the server do what the scenario says."""
        answer, takes = self.scenario.answer(self.clock.now, self.number)
        refuses = answer.status is None and not takes
        if refuses != self._refuses:
            (self._server.refuse if refuses else self._server.accept_again)()
            self._refuses = refuses
        if answer.delivered or takes:
            self._server.answer(200, body=None if answer.delivered else b"cut off")
        else:
            self._server.answer(503)

    def _context(self) -> JobContext:
        now = to_datetime(int(self.clock.now * SECOND))
        return JobContext(
            job_id="fleet",
            instant=now,
            started_at=now,
            uptime=timedelta(0),
            settings=self._settings,
            instance_id=instance_id(self.number),
            config_dir=self._directory,
            state_dir=self._directory,
            clock=self.clock,
            logger=LOGGER,
            timeout=None,
            read_settings=lambda: self._settings,
            read_consent=lambda: Consent("on", "", ""),
            background=lambda _, work: work(),
            later=self._later,
        )

    def _later(self, _: str, delay: timedelta, work: Callable[[], None]) -> None:
        self._again = work
        self.wake(delay.total_seconds())


def differences(scenario: Scenario, numbers: Iterable[int]) -> tuple[int, list[str]]:
    """Live these instances' days twice, in memory and whole; how many events they had, and where they differ."""
    events, found = 0, list[str]()
    for number in numbers:
        light = Light(scenario, number, Tally.over(scenario.end))
        light.live()
        expected = [(one.kind, one.attempts, one.delivered) for one in light.events]
        lines, taken = _whole(scenario, number)
        events += len(lines)
        if taken != sum(one.arrived for one in light.events) or not _agree(lines, expected):
            found.append(f"instance {number}: in memory {expected}, whole {lines} and {taken} events taken")
    return events, found


def _agree(lines: list[Line], expected: list[Line]) -> bool:
    """Return whether both say the same, but for what floats lose."""
    moments = zip((line[2] or 0.0 for line in lines), (line[2] or 0.0 for line in expected), strict=False)
    return [line[:2] for line in lines] == [line[:2] for line in expected] and all(
        abs(one - other) < LATE for one, other in moments
    )


def _whole(scenario: Scenario, number: int) -> tuple[list[Line], int]:
    with tempfile.TemporaryDirectory() as directory, PostHogServer() as server:
        one = Whole(scenario, number, Path(directory), server)
        one.live()
        return one.ledger(), len(server.events)

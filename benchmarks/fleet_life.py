"""An instance's days on a simulated clock: Lifebeat's own schedule and engine drive it from one thing to the next."""

from __future__ import annotations

import logging
import random
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet_scenario import BEGINNING, Scenario, Step, instance_id
from lifebeat.engines.apscheduler import LocalEngine

from lifebeat import installation
from lifebeat.context import Consent, JobContext
from lifebeat.jobfile import reader as jobfile
from lifebeat.registration.triggers import InstantTrigger
from lifebeat.schedule.instants import SECOND, Instants, instants_of, to_datetime
from lifebeat.settings.source import ConfigSource
from lifebeat.testing import telemetry_allowed

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lifebeat.engines import Claim
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.once.files import Presence
    from lifebeat.settings.table import Settings

NEVER = float("inf")


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.boots = 0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def boot_id(self) -> str:
        return f"boot-{self.boots}"


class World:
    """What the instances in one process of the simulation share: the clock, the settings and the shipped job file.

    Args:
        scenario: What happens.
        host: Where PostHog is, if it is a real one.
    """

    def __init__(self, scenario: Scenario, host: str = "http://127.0.0.1:9") -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.logger = logging.getLogger("fleet")
        self.logger.setLevel(logging.CRITICAL)
        self._environ = {**telemetry_allowed(), "TELEMETRY_HOST": host, "TELEMETRY_API_KEY": "phc_fleet"}
        with tempfile.TemporaryDirectory() as directory:
            self.settings = self.settings_of(Path(directory))
            found = jobfile.load(jobfile.job_file(Path(directory)), self.settings)
        self.heartbeat = next(spec for spec in found.specs if spec.id == "heartbeat")

    def settings_of(self, directory: Path) -> Settings:
        """The settings of an installation with this config directory."""
        return ConfigSource(directory, environ=self._environ, modules={}).read()

    def context(self, directory: Path, settings: Settings, **more: Any) -> JobContext:
        """What a job is told."""
        now = to_datetime(int(self.clock.now * SECOND))
        told: dict[str, Any] = {"timeout": None, "background": nothing, "later": nothing, **more}
        return JobContext(
            job_id="fleet",
            instant=now,
            started_at=now,
            uptime=timedelta(0),
            settings=settings,
            instance_id=installation.known_id(settings, directory),
            config_dir=directory,
            state_dir=directory,
            clock=self.clock,
            logger=self.logger,
            read_settings=lambda: settings,
            read_consent=lambda: Consent("on", "", ""),
            **told,
        )


class Instance:
    """An installation with one process. What its jobs do, and who it asks for claims, is for a subclass to say.

    It is the scheduler that Lifebeat's engine runs on.
    """

    house: Presence

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.id = instance_id(number)
        self.boots = 0
        self.alarm = NEVER
        self._steps: list[Step] = world.scenario.life(number)
        self._beat: datetime | None = None
        self._actions = 0
        self._is_seeded = False

    def startup(self) -> None:
        """The application started."""
        raise NotImplementedError

    def heartbeat(self) -> None:
        """The application is running."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """The application stops."""
        raise NotImplementedError

    def deliver(self) -> None:
        """The time for the next delivery has come."""
        raise NotImplementedError

    def draw(self) -> float:
        """A number from 0 to 1: the same for the same thing that happens to the same instance, however it is made."""
        if not self._is_seeded:
            self.seed()
        return random.random()

    def seed(self) -> None:
        """Let chance begin anew for what happens now."""
        random.seed(self.number << 16 | self._actions)
        self._is_seeded = True

    def live(self) -> None:
        """Live through the scenario, and beyond its end until nothing waits."""
        self.world.clock.now = BEGINNING
        if not self.world.scenario.is_new(self.number):
            self.begin()
        while (at := min(self._next_step(), self._next_beat(), self.alarm)) < NEVER:
            self.world.clock.now = at
            self._actions += 1
            self._is_seeded = False
            self._act(at)

    def begin(self) -> None:
        """It was there before: it has done what was due, and runs."""
        grid = self._instants()
        self.house.claim("heartbeat", (grid.latest(int(BEGINNING * SECOND)) or 0) / SECOND)
        self._enter(make_up=False)

    def _next_step(self) -> float:
        return self._steps[0][0] if self._steps else NEVER

    def _next_beat(self) -> float:
        return NEVER if self._beat is None else self._beat.timestamp()

    def _act(self, at: float) -> None:
        if at == self._next_step():
            self._step(self._steps.pop(0)[1])
        elif at == self.alarm:
            self.alarm = NEVER
            self.deliver()
        else:
            fired = self._beat
            self._schedule(fired)
            assert fired is not None
            self._job(fired)

    def _step(self, what: str) -> None:
        if what == "start":
            self.startup()
            self._enter(make_up=True)
            return
        if what == "stop":
            self.shutdown()
        else:
            self.boots += 1
        self._beat, self.alarm = None, NEVER

    def _enter(self, *, make_up: bool) -> None:
        engine = LocalEngine(
            self,
            find_house=lambda: self.house,
            clock=self.world.clock,
            say_once=nothing,
            await_opening=nothing,
        )
        engine.add(self.world.heartbeat, self._instants(), _no_jitter, self._run, make_up=make_up)

    def _instants(self) -> Instants:
        found = instants_of(self.world.heartbeat.trigger, job_id="heartbeat", seed=self.id, started_at=0.0)
        assert found is not None
        return found

    def _run(self, _: datetime, claim: Claim) -> None:
        if claim():
            self.heartbeat()

    # -- the scheduler

    def add(
        self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Callable[[datetime], None]
    ) -> None:
        """Run a job at its instants."""
        self._trigger, self._job = InstantTrigger(instants, jitter, coalesce=spec.coalesce), run
        self._schedule(None)

    def add_once(self, job_id: str, delay: timedelta, run: Callable[[datetime], None]) -> None:  # noqa: ARG002
        """Run something now."""
        run(self._now())

    def remove(self, job_id: str) -> None:
        """Nothing is ever removed."""

    def _schedule(self, fired: datetime | None) -> None:
        following = self._trigger.get_next_fire_time(fired, self._now())
        end = BEGINNING + self.world.scenario.end
        self._beat = following if following is not None and following.timestamp() < end else None

    def _now(self) -> datetime:
        return to_datetime(int(self.world.clock.now * SECOND))


def nothing(*_: object) -> None:
    """Do nothing."""


def _no_jitter(_: int) -> int:
    return 0

"""An instance's days on a clock that is set: starts, heartbeats on Lifebeat's own grid, deliveries, stops, cuts."""

from __future__ import annotations

import random
from datetime import timedelta

from fleet_scenario import BEGINNING, DAY, Scenario, Step, instance_id

from lifebeat.schedule.instants import SECOND, Instants
from lifebeat.schedule.triggers import Every, instants_of

NEVER = float("inf")
LATE = 0.001  # a scheduler comes a moment late
HEARTBEAT = Every(timedelta(days=1), "installation")


class Clock:
    """A clock that is set, on a machine that is booted when the scenario says so."""

    def __init__(self) -> None:
        self.now = BEGINNING
        self.boots = 0
        self._booted = BEGINNING - DAY

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now - self._booted

    def boot(self) -> None:
        """Begin to count lengths again, as a machine does that was without power."""
        self.boots += 1
        self._booted = self.now

    def boot_id(self) -> str:
        return f"boot {self.boots}"

    def earliest(self) -> float:
        return BEGINNING


def grid(number: int) -> Instants:
    """Return an instance's instants."""
    found = instants_of(HEARTBEAT, job_id="heartbeat", seed=instance_id(number), started_at=0.0)
    assert found is not None
    return found


class Instance:
    """An installation with one process. What its jobs do is for a subclass to say."""

    def __init__(self, scenario: Scenario, number: int) -> None:
        self.scenario = scenario
        self.number = number
        self.clock = Clock()
        self.alarm = NEVER
        self._steps: list[Step] = scenario.life(number)
        self._grid = grid(number)
        self._claimed = 0
        self._beat = NEVER
        self._actions = 0

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

    def wake(self, delay: float) -> None:
        """Have ``deliver`` called after so many seconds."""
        self.alarm = self.clock.now + delay + LATE

    def live(self) -> None:
        """Live through the scenario, and beyond its end until nothing waits."""
        if not self.scenario.is_new(self.number):
            self.clock.now = BEGINNING - 1
            self._begin()
        while (at := min(self._steps[0][0] if self._steps else NEVER, self._beat, self.alarm)) < NEVER:
            self.clock.now = at
            self._act(at)

    def _act(self, at: float) -> None:
        # The same chance for the same thing that happens to the same instance, however it is made.
        self._actions += 1
        random.seed(self.number << 16 | self._actions)
        if self._steps and at == self._steps[0][0]:
            self._step(self._steps.pop(0)[1])
        elif at == self.alarm:
            self.alarm = NEVER
            self.deliver()
        else:
            self._run()

    def _step(self, what: str) -> None:
        if what == "start":
            self._begin()
            return
        if what == "stop":
            self.shutdown()
        else:
            self.clock.boot()
        self._beat = self.alarm = NEVER

    def _begin(self) -> None:
        self.startup()
        self._claimed = self._claimed or self._latest()
        if self._latest() > self._claimed:  # it was missed meanwhile
            self._run()
        self._wait()

    def _run(self) -> None:
        self._claimed = self._latest()
        self.heartbeat()
        self._wait()

    def _latest(self) -> int:
        return self._grid.latest(int(self.clock.now * SECOND)) or 0

    def _wait(self) -> None:
        following = (self._grid.after(int(self.clock.now * SECOND)) or 0) / SECOND
        self._beat = following if following < BEGINNING + self.scenario.end else NEVER

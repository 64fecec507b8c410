"""A job of the job file, complete; and what was read as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lifebeat.jobfile import targets
from lifebeat.text.durations import LONGEST

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.errors import Problem
    from lifebeat.schedule.triggers import Trigger

MOST_PROBLEMS = 100  # nobody reads more at once, and looking for what was meant takes time
SHUTDOWN_TIMEOUT = timedelta(seconds=10)

Once = Literal["process", "application"]


class Retry(NamedTuple):
    """How a failed run is retried.

    Attributes:
        attempts: How many runs there are at most, the first one included.
        wait: The time before the second; before each further one it is twice as long.
    """

    attempts: int
    wait: timedelta

    @property
    def longest(self) -> timedelta:
        """Return how long all waits take together, at most as long as a duration may be."""
        times = 1
        while times < 2 ** (self.attempts - 1) and self.wait * times < LONGEST:
            times *= 2
        return min(self.wait * (times - 1), LONGEST)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job of the job file, complete: every option has its value.

    Attributes:
        id: Its name in the file.
        run: The function, as ``module:function``.
        trigger: When it runs.
        enabled: Whether it runs at all.
        args: The keyword arguments that the function is called with.
        jitter: The longest random delay on top of each instant.
        coalesce: Whether several missed runs become one.
        misfire_grace: How late a run may start; ``None`` for however late.
        max_instances: How many runs of it may be under way at once in a process.
        timeout: How long a run may take; ``None`` for as long as it likes.
        retry: How a failed run is retried; ``None`` for not at all.
        on_failure: The function, as ``module:function``, that hears when it begins to fail and when it works again.
        once: Whether each process runs it, or one of the application's.
        description: What it is for.
        source: The file and line where it is written.
    """

    id: str
    run: str
    trigger: Trigger
    enabled: bool = True
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    jitter: timedelta = timedelta(0)
    coalesce: bool = True
    misfire_grace: timedelta | None = None
    max_instances: int = 1
    timeout: timedelta | None = None
    retry: Retry | None = None
    on_failure: str | None = None
    once: Once = "process"
    description: str = ""
    source: str = field(default="", compare=False)

    @property
    def is_telemetry(self) -> bool:
        """Return whether it belongs to the telemetry job module that Lifebeat ships, and not to the host."""
        return targets.is_telemetry(self.run)


class JobFile(NamedTuple):
    """What was read.

    Attributes:
        path: The job file.
        specs: The jobs without a fault, in the order of the file.
        problems: Everything that is wrong.
        host_problems: Those of them that are in the host's own jobs, and not in telemetry's.
        warnings: What is strange, and runs all the same.
        opted_out: Where a switch stands in it that says off, though it belongs in a config file; ``None`` for nowhere.
    """

    path: Path
    specs: tuple[JobSpec, ...]
    problems: tuple[Problem, ...]
    host_problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()
    opted_out: str | None = None


class Findings(NamedTuple):
    """What was found in all files that there are.

    Attributes:
        problems: What is wrong.
        warnings: What is strange.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]

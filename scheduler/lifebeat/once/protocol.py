"""One way to be once: every process fires on its own clock, and a claim says whose an instant is.

The processes of one machine claim in the state directory (``once.files``), those of several machines with the engine
they share (``lifebeat.engines``). All pass the same conformance suite, ``tests/once/conformance.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lifebeat.errors import LifebeatError

if TYPE_CHECKING:
    from lifebeat.clock import Moment

RunInstant = Callable[[str, int], BaseException | None]
"""Run a job (its ID) for an instant (microseconds since the epoch), in the calling thread.

Returns what a host's job has raised, which has been said and remembered; ``None`` if it ended well.
Raises ``UnknownJob`` or ``Busy`` where this process does not run it; an engine then tries again, here or elsewhere.
"""

Exchange = Callable[[dict[str, dict[str, Any]]], dict[str, dict[str, Any]]]
"""Take what all machines know of orders, such as a pause, by name; return those that are newer on this one."""


class Unavailable(LifebeatError):
    """The coordinator cannot be reached now; nothing was decided, ask again."""


class CannotCoordinate(LifebeatError):
    """Processes cannot be coordinated here at all, so each reports for itself."""


class UnknownJob(LifebeatError):
    """This process has no such job in its job file; another may have it."""


class Busy(LifebeatError):
    """This process cannot run the job now; later it can, or another."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run of the application that ended without anybody reporting its end.

    Attributes:
        run: The random ID of that run.
        started: When its first process joined.
        left: When its last process left.
    """

    run: str
    started: Moment
    left: Moment


@dataclass(frozen=True, slots=True)
class Joined:
    """What a process learned when it joined.

    Attributes:
        first: No other process is in: the application starts with this process.
        started: When the application's first process joined.
        run: The random ID of this run of the application.
        unfinished: An earlier run whose end is still to be reported, given to one process only; ``None`` for none.
    """

    first: bool
    started: Moment
    run: str
    unfinished: Unfinished | None = None


class Coordinator(Protocol):
    """What the processes of one application agree on. Methods are called from any thread.

    Every method raises ``Unavailable`` where its server or file cannot be used now.
    """

    def start(self, run: RunInstant, exchange: Exchange) -> None:
        """Get ready; returns at once.

        Args:
            run: Runs what an engine's queue brings to this process.
            exchange: Called when this process joins and every few seconds, where there are several machines: what it
                returns is known to all then.
        """
        ...

    def join(self, timeout: float) -> Joined:
        """Join the application within ``timeout`` seconds; a process that is in already gets the same answer."""
        ...

    def agree(self, candidate: str) -> str:
        """Return the value that all processes agree on for the instance ID: the candidate if there was none."""
        ...

    def claim(self, job_id: str, instant: int) -> bool:
        """Claim an instant, and return whether the caller is to run it now.

        False if another process has it, or if the claim has put it into an engine's queue, whose worker runs it.
        """
        ...

    def skip(self, job_id: str, instant: int) -> None:
        """Count an instant as done without a run, where a job is seen for the first time and has no claims yet.

        It is the latest one then. A process that came before that instant, and has it due, may still claim it.
        """
        ...

    def latest(self, job_id: str) -> int | None:
        """Return the latest instant claimed for a job; ``None`` if none ever was."""
        ...

    def drain(self, timeout: float) -> bool:
        """Begin no more runs and wait for those that an engine brought here; return whether all have ended."""
        ...

    def leave(self, timeout: float) -> Moment | None:
        """Leave the application within ``timeout`` seconds; return when, if this was the last process.

        The end of the run is then the caller's to report.
        """
        ...

    def finish(self, timeout: float) -> None:
        """Note that the end has been reported; of a process that died before, the next to join learns of the run."""
        ...

    def close(self) -> None:
        """Give back connections and threads; returns at once."""
        ...

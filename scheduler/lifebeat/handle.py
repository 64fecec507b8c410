"""The handle that ``attach`` returns: what a host asks of Lifebeat while it runs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat.lifecycle import offers

if TYPE_CHECKING:
    from lifebeat.lifecycle import Lifecycle
    from lifebeat.registry import Registry


class Lifebeat:
    """Lifebeat on one scheduler."""

    def __init__(self, life: Lifecycle, registry: Registry) -> None:
        self._life = life
        self._registry = registry

    def status(self) -> dict[str, Any]:
        """Whether telemetry is on and who said so, what waits, and when each job runs next."""
        specs = self._life.load().specs
        told: dict[str, Any] = {}
        for status in offers(_telemetry(specs), "status"):
            told |= status(self._life.context("status"))
        told["jobs"] = {spec.id: self._registry.next_run(spec.id) for spec in specs if spec.enabled}
        return told

    def preview(self, event: str | None = None) -> list[str]:
        """The exact events that would be sent now, or the one of that name; nothing is sent or kept."""
        context = self._life.context("preview")
        found = offers(_telemetry(self._life.load().specs), "preview")
        return [body for preview in found for body in preview(context, event)]

    def flush(self, timeout: float = 10.0) -> int:
        """Deliver what waits, within ``timeout`` seconds; says how many events were delivered."""
        context = self._life.context("flush")
        specs = [spec for spec in self._life.load().specs if spec.enabled]
        return sum(flush(context, timedelta(seconds=timeout)) for flush in offers(_telemetry(specs), "flush"))

    def drain(self, timeout: float) -> bool:
        """Wait until none of the job file's jobs runs, for at most ``timeout`` seconds; says whether none does."""
        return self._registry.drain(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """End Lifebeat's part now, as a stop of the scheduler would, and leave the scheduler to its host.

        Args:
            timeout: Seconds to wait for a stop that is under way elsewhere; ``None`` for as long as it takes.

        Returns:
            Whether it is over.
        """
        self._registry.unlisten()
        self._life.stop()
        return self._life.finished.wait(timeout)


def _telemetry(specs: Any) -> list[Any]:
    return [spec for spec in specs if spec.is_telemetry]

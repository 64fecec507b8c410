"""What a life needs of the scheduler that it lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.schedule.instants import Instants


class Scheduler(Protocol):
    """Where jobs are registered; ``registration.registry`` is one."""

    @property
    def event_loop(self) -> Any: ...
    def add(
        self,
        spec: JobSpec,
        instants: Instants,
        jitter: Callable[[int], int],
        run: Callable[[datetime], BaseException | None],
    ) -> None: ...
    def change(self, spec: JobSpec) -> None: ...
    def add_once(
        self, job_id: str, delay: timedelta, run: Callable[[datetime], BaseException | None], *, is_hosts: bool = False
    ) -> None: ...
    def remove(self, job_id: str) -> None: ...
    def look_again(self, *, set_back: bool) -> None: ...
    def drain(self, timeout: float | None, *, hosts: bool | None = None, but: int | None = None) -> bool: ...

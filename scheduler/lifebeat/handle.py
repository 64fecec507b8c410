"""The handle that ``attach`` returns: what a host asks of Lifebeat while it runs."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat.registration.executor import on_event_loop
from lifebeat.registration.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.life import Lifecycle
    from lifebeat.settings.source import ConfigSource


class Lifebeat:
    """Lifebeat on one scheduler.

    Args:
        scheduler: The scheduler.
        source: Where the settings come from.
        make_life: Makes the life. While telemetry is off and the host has no jobs of its own in the job file there is
            none, and what it would need is not even imported.
    """

    def __init__(self, scheduler: Any, source: ConfigSource, make_life: Callable[[], Lifecycle]) -> None:
        self._source = source
        self._make_life = make_life
        self._made: Lifecycle | None = None
        self._starting: threading.Thread | None = None
        self._is_checked = False
        self._registry = Registry(scheduler, started=self._start, stopped=self._stop, handle=self)

    def attach(self) -> None:
        """Follow the scheduler's life from here on.

        Raises:
            ConfigError: The host's own jobs in the job file have a fault.
        """
        if self._has_own_jobs():
            self._check()
        self._registry.listen()

    def status(self) -> dict[str, Any]:
        """Whether telemetry is on and who said so, what waits, and when each job runs next."""
        told: dict[str, Any] = {}
        for status in self._offered("status"):
            told |= status(self._life.context("status"))
        told["jobs"] = {spec.id: self._registry.next_run(spec.id) for spec in self._life.load().specs if spec.enabled}
        return told

    def preview(self, event: str | None = None) -> list[str]:
        """The exact events that would be sent now, or the one of that name; nothing is sent or kept."""
        context = self._life.context("preview")
        return [body for preview in self._offered("preview") for body in preview(context, event)]

    def flush(self, timeout: float = 10.0) -> int:
        """Deliver what waits, within ``timeout`` seconds; says how many events were delivered."""
        if self.is_idle():
            return 0
        context = self._life.context("flush")
        return sum(flush(context, timedelta(seconds=timeout)) for flush in self._offered("flush", only_enabled=True))

    def drain(self, timeout: float) -> bool:
        """Wait until none of the job file's jobs runs, for at most ``timeout`` seconds; says whether none does."""
        return self._registry.drain(timeout) if self._made is None else self._made.drain(timeout)

    def responds(self, timeout: float) -> bool:
        """Whether the scheduler goes around, seen within ``timeout`` seconds: for health checks.

        Jobs that take long do not make it ill; one that holds up the scheduler's own thread or loop does.
        """
        return self._registry.responds(timeout)

    def reload(self) -> None:
        """Read the config again now, as happens by itself when a file is edited."""
        if self._life.is_alive:
            self._life.reload()
        elif self._registry.is_running:
            self._start()

    def close(self, timeout: float | None = None) -> bool:
        """End Lifebeat's part now, as a stop of the scheduler would, and leave the scheduler to its host.

        Args:
            timeout: Seconds to wait for a stop that is under way elsewhere; ``None`` for as long as it takes.

        Returns:
            Whether it is over.
        """
        self._registry.unlisten()
        self._stop()
        return self._made is None or self._made.finished.wait(timeout)

    def stop_scheduler(self) -> None:
        """Stop the scheduler, and wait until Lifebeat's part in that is over."""
        self._registry.shut_down()
        if self._made is not None:
            self._made.finished.wait(self._source.read().shutdown_timeout.total_seconds() + 1)

    @property
    def _life(self) -> Lifecycle:
        self._await_start(None)
        if self._made is None:
            self._made = self._make_life()
        return self._made

    def _check(self) -> None:
        self._life.check()
        self._is_checked = True

    def _start(self) -> None:
        if self.is_idle():
            return
        if self._is_checked or not on_event_loop():
            self._start_now()
        else:
            # What has to be imported would hold up the loop. Not a daemon: an application may end within that time.
            self._starting = threading.Thread(target=self._start_apart, name="lifebeat-start", daemon=False)
            self._starting.start()

    def _start_now(self) -> None:
        if not self._is_checked:
            self._check()
        self._life.start(self._registry)

    def _start_apart(self) -> None:
        try:
            self._start_now()
        except Exception:  # as the scheduler writes down what its listeners raise
            logging.getLogger("lifebeat").exception("not started")
        if not self._registry.is_running:
            self._stop()

    def _await_start(self, timeout: float | None) -> None:
        starting = self._starting
        if starting is not None and starting is not threading.current_thread():
            starting.join(timeout)

    def _stop(self) -> None:
        self._await_start(self._source.read().shutdown_timeout.total_seconds())
        if self._made is not None:
            self._made.stop()

    def is_idle(self) -> bool:
        """Whether there is nothing to do: telemetry is off, the job file is the shipped one, and nothing waits."""
        settings, source = self._source.read(), self._source
        if not settings.opted_out or self._has_own_jobs():
            return False
        from lifebeat.storage import state_dir as statedir

        found = statedir.state_dir(
            setting=settings.state_dir,
            environ=source.environ,
            config_dir=source.config_dir,
            app_name=settings.app_name,
        )
        return found.path is None or not (found.path / statedir.OUTBOX_FILE).exists()

    def _has_own_jobs(self) -> bool:
        return self._source.job_file.exists() or self._source.overlay is not None

    def _offered(self, name: str, *, only_enabled: bool = False) -> list[Callable[..., Any]]:
        from lifebeat.lifecycle.life import offers

        return offers([spec for spec in self._life.load().specs if _is_meant(spec, only_enabled)], name)


def _is_meant(spec: JobSpec, only_enabled: bool) -> bool:
    return spec.is_telemetry and (spec.enabled or not only_enabled)

"""The standalone scheduler host behind ``lifebeat run``: start, wait for a signal, stop, flush.

Where a service manager has started it, it is told of each step, and gets the scheduler's beat for its watchdog.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from lifebeat.embedding import attach_life
from lifebeat.errors import ConfigError
from lifebeat.host.health import Health
from lifebeat.lifecycle.signals import StopSignals
from lifebeat.lifecycle.watch import Watch
from lifebeat.registration.registry import background_scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.handle import Lifebeat
    from lifebeat.host.systemd import Notifier
    from lifebeat.lifecycle.life import Lifecycle

JOB_GRACE = 10.0
STOP_MARGIN = 5.0


class Host:
    """A scheduler with nothing but the job file on it, run in the main thread.

    Args:
        life: What it runs.
        notifier: The service manager, told of each step; ``None`` for none.
    """

    def __init__(self, life: Lifecycle, notifier: Notifier | None = None) -> None:
        from lifebeat.host.systemd import Notifier

        self.life = life
        self._notifier = notifier or Notifier(None)
        self.signals = StopSignals()
        self._scheduler: Any = background_scheduler()
        self._reload = False

    def run(self, *, ready: Callable[[], None] | None = None) -> None:
        """Run until a stop signal; when this returns all is flushed, and ``signals.raise_again`` is the caller's.

        Args:
            ready: Called when the jobs are registered.

        Raises:
            ConfigError: The settings or the job file have a fault; nothing was started.
        """
        self._check()
        self.signals.install(wakeup=True)
        former = signal.signal(signal.SIGHUP, self._on_hangup) if hasattr(signal, "SIGHUP") else None
        try:
            self._serve(self._notifier, ready)
        finally:
            if former is not None:
                signal.signal(signal.SIGHUP, former)

    def _check(self) -> None:
        settings, found = self.life.source.read(), self.life.load()
        problems = tuple(dict.fromkeys((*settings.problems, *found.problems)))
        if problems:
            raise ConfigError(*problems)

    def _serve(self, notifier: Notifier, ready: Callable[[], None] | None) -> None:
        handle = attach_life(self._scheduler, self.life)

        def edited() -> None:
            handle.reload()
            notifier.status(self._status())

        watch = Watch(self.life.files, edited)
        health = Health(self.life.source.config_dir, handle.responds)
        self._scheduler.start()
        watch.start()
        health.start()
        self.life.logger.info("started; telemetry is %s", self.life.consent())
        if ready is not None:
            ready()
        notifier.ready(self._status())
        self._beat(notifier)
        self._wait(handle, notifier)
        notifier.stopping("stopping", within=self._longest_stop())
        health.stop()
        watch.stop()
        self.life.logger.info("stopping")
        handle.drain(JOB_GRACE)
        self._scheduler.shutdown(wait=False)
        self.life.logger.info("stopped")

    def _beat(self, notifier: Notifier) -> None:
        if notifier.watchdog is None:
            return
        from lifebeat.registration.watchdog import ALIAS, Pulse

        self._scheduler.add_jobstore(Pulse(notifier.watchdog / 2, notifier.beat, self.life.clock), ALIAS)

    def _wait(self, handle: Lifebeat, notifier: Notifier) -> None:
        while not self.signals.wait():
            if self._reload:
                self._reload = False
                notifier.reloading()
                handle.reload()
                notifier.ready(self._status())

    def _status(self) -> str:
        """One line on how it stands, for people."""
        settings, found = self.life.source.read(), self.life.load()
        problems = (*settings.problems, *found.problems)
        if problems:
            return f"the edited config is not used: {problems[0]}"
        number = sum(spec.enabled for spec in found.specs)
        return f"{number} {'job' if number == 1 else 'jobs'}; telemetry is {self.life.consent()}"

    def _longest_stop(self) -> float:
        return JOB_GRACE + self.life.source.read().shutdown_timeout.total_seconds() + STOP_MARGIN

    def _on_hangup(self, *_: object) -> None:
        self._reload = True
        self.signals.wake()

"""The standalone scheduler host behind ``lifebeat run``: start, wait for a signal, stop, flush."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from lifebeat.embedding import attach_life
from lifebeat.errors import ConfigError
from lifebeat.health import Health
from lifebeat.signals import StopSignals
from lifebeat.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.handle import Lifebeat
    from lifebeat.lifecycle import Lifecycle

JOB_GRACE = 10.0


class Host:
    """A scheduler with nothing but the job file on it, run in the main thread."""

    def __init__(self, life: Lifecycle) -> None:
        from apscheduler.schedulers.background import BackgroundScheduler  # noqa: PLC0415 - only to run

        self.life = life
        self.signals = StopSignals()
        self._scheduler: Any = BackgroundScheduler(timezone="UTC")
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
            self._serve(ready)
        finally:
            if former is not None:
                signal.signal(signal.SIGHUP, former)

    def _check(self) -> None:
        settings, found = self.life.source.read(), self.life.load()
        problems = tuple(dict.fromkeys((*settings.problems, *found.problems)))
        if problems:
            raise ConfigError(*problems)

    def _serve(self, ready: Callable[[], None] | None) -> None:
        handle = attach_life(self._scheduler, self.life)
        watch = Watch(self.life.files, handle.reload)
        health = Health(self.life.source.config_dir, handle.responds)
        self._scheduler.start()
        watch.start()
        health.start()
        self.life.logger.info("started; telemetry is %s", self.life.source.read().reason)
        if ready is not None:
            ready()
        self._wait(handle)
        health.stop()
        watch.stop()
        self.life.logger.info("stopping")
        handle.drain(JOB_GRACE)
        self._scheduler.shutdown(wait=False)
        self.life.logger.info("stopped")

    def _wait(self, handle: Lifebeat) -> None:
        while not self.signals.wait():
            if self._reload:
                self._reload = False
                handle.reload()

    def _on_hangup(self, *_: object) -> None:
        self._reload = True
        self.signals.wake()

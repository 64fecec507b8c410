"""The standalone scheduler host behind ``lifebeat run``: start, wait for a signal, stop, flush.

Where a service manager has started it, it is notified of each step, and gets the scheduler's beat for its watchdog.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from lifebeat.embedding import attach_handle
from lifebeat.errors import ConfigError
from lifebeat.host.health import Health
from lifebeat.lifecycle.signals import StopSignals
from lifebeat.lifecycle.watch import Watch
from lifebeat.registration.registry import background_scheduler
from lifebeat.storage import threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from lifebeat.handle import Lifebeat, MakeCoordinator
    from lifebeat.host.systemd import Notifier
    from lifebeat.lifecycle.application import Application

JOB_GRACE = 10.0
STOP_MARGIN = 5.0
SAY = 0.03  # seconds for each line of the stop


class Host:
    """A scheduler with nothing but the job file on it, run in the main thread.

    Args:
        application: What it runs.
        notifier: The service manager, notified of each step; ``None`` for none.
        make_coordinator: Makes what the processes of several machines agree by; ``None`` for those of this machine.
    """

    def __init__(
        self,
        application: Application,
        notifier: Notifier | None = None,
        *,
        make_coordinator: MakeCoordinator | None = None,
    ) -> None:
        from lifebeat.host.systemd import Notifier

        self.application = application
        self._make_coordinator = make_coordinator
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
        settings, found = self.application.source.read(), self.application.load()
        problems = tuple(dict.fromkeys((*settings.problems, *found.problems)))
        if problems:
            raise ConfigError(*problems)

    def _serve(self, notifier: Notifier, ready: Callable[[], None] | None) -> None:
        handle = attach_handle(
            self._scheduler, self.application, make_coordinator=self._make_coordinator, watching=False
        )

        def edited() -> None:
            handle.reload()
            notifier.status(self._status())

        watch = Watch(self.application.watched, self.application.clock)
        health = Health(self.application.source.config_dir, handle.responds)
        self._scheduler.start()
        watch.start(edited, handle.clock_changed)
        health.start()
        self.application.logger.info("started; telemetry is %s", self.application.consent())
        if ready is not None:
            ready()
        notifier.ready(self._status())
        self._beat(notifier)
        self._wait(handle, notifier)
        notifier.stopping("stopping", within=self._longest_stop())
        health.stop()
        watch.stop()
        logger = self.application.logger
        threads.within(SAY, "say", lambda: logger.info("stopping"))  # a log that hangs is not waited for
        handle.drain(JOB_GRACE)
        self._scheduler.shutdown(wait=False)
        threads.within(SAY, "say", lambda: logger.info("stopped"))

    def _beat(self, notifier: Notifier) -> None:
        if notifier.watchdog is None:
            return
        from lifebeat.registration.watchdog import ALIAS, Pulse

        self._scheduler.add_jobstore(Pulse(notifier.watchdog / 2, notifier.beat, self.application.clock), ALIAS)

    def _wait(self, handle: Lifebeat, notifier: Notifier) -> None:
        while not self.signals.wait():
            if self._reload:
                self._reload = False
                notifier.reloading()
                handle.reload()
                notifier.ready(self._status())

    def _status(self) -> str:
        """Return one line on how the host is, for people."""
        settings, found = self.application.source.read(), self.application.load()
        problems = (*settings.problems, *found.problems)
        if problems:
            return f"the edited config is not used: {problems[0]}"
        number = sum(spec.enabled for spec in found.specs)
        return f"{number} {'job' if number == 1 else 'jobs'}; telemetry is {self.application.consent()}"

    def _longest_stop(self) -> float:
        return JOB_GRACE + self.application.source.read().shutdown_timeout.total_seconds() + STOP_MARGIN

    def _on_hangup(self, *_: object) -> None:
        self._reload = True
        self.signals.wake()

"""The handle that ``attach`` returns: what a host asks of Lifebeat while it runs."""

from __future__ import annotations

import atexit
import threading
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat.clock import Deadline, SystemClock
from lifebeat.lifecycle.signals import sigterm_of_host
from lifebeat.log import get_logger
from lifebeat.registration.registry import Registry, handles
from lifebeat.registration.store import running_loop
from lifebeat.storage import forks, safe_file, threads

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.history import Run
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.application import Application
    from lifebeat.lifecycle.life import Life
    from lifebeat.lifecycle.signals import StopSignals
    from lifebeat.once.protocol import Coordinator
    from lifebeat.settings.source import ConfigSource
    from lifebeat.steering import Answer

    MakeCoordinator = Callable[[Application], Coordinator]

_DAY = 86400.0


class Lifebeat:
    """Lifebeat on one scheduler.

    Args:
        scheduler: The scheduler.
        source: Where the settings come from.
        make_application: Makes what is run. While telemetry is off and the host has no jobs of its own in the job file
            nothing is made, and what it would need is not even imported.
        make_coordinator: Makes what the application's processes agree on, over several machines; ``None`` for the
            processes of this machine.
        watching: Whether to look for edited config; a host that looks itself calls ``reload``.
    """

    def __init__(
        self,
        scheduler: Any,
        source: ConfigSource,
        make_application: Callable[[], Application],
        *,
        make_coordinator: MakeCoordinator | None = None,
        watching: bool = True,
    ) -> None:
        self._source = source
        self._make_application = make_application
        self._make_coordinator = make_coordinator
        self._watching = watching
        self._made: Application | None = None
        self._life: Life | None = None
        self._starting: threading.Event | None = None
        self._is_checked = False
        self._signals: StopSignals | None = None
        self.stops_by_signal = False
        self._deadline: Deadline | None = None
        self._registry = Registry(
            scheduler, started=self._start, stopped=self._stop, passed_over=self._passed_over, handle=self
        )
        forks.in_child(self._forget)

    # -- for the host ------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Return whether telemetry is on and why, what is pending, and when each job runs next. Never raises.

        Returns:
            ``telemetry`` (``on``, ``off`` or ``paused``), ``reason`` and ``jobs`` always; what the telemetry job module
            tells besides, such as ``waiting`` and ``instance_id``; ``error`` where something cannot be seen.
        """
        from lifebeat import installation

        found: dict[str, Any] = {"telemetry": "paused", "reason": "", "jobs": {}}
        try:
            specs = self._application.load().specs
            found["jobs"] = {spec.id: self._registry.next_run(spec.id) for spec in specs if spec.enabled}
            ask = next(iter(self._offered("status")), None)
            found |= installation.status(self._application.context("status"), ask)
        except Exception as error:  # noqa: BLE001 - a look at a full disk or a lost directory is no reason to fail
            found["error"] = str(error) or type(error).__name__
        return found

    def setconfig(self, key: str, value: str) -> str:
        """Set one key in the config file, as ``lifebeat setconfig`` does, and return the file.

        Raises:
            LifebeatError: There is no such key, the value is not valid, or the file cannot be written.
        """
        return self._edit(key, value)

    def unsetconfig(self, key: str) -> str:
        """Remove one key from the config file, as ``lifebeat setconfig --unset KEY`` does, and return the file.

        Raises:
            LifebeatError: There is no such key, or the file cannot be written.
        """
        return self._edit(key, None)

    def _edit(self, key: str, value: str | None) -> str:
        from lifebeat import installation

        application = self._application
        state = application.state_dir(create=False)
        path = installation.set_setting(application.source.config_dir, key, value, state_dir=state)
        self.reload()
        return str(path)

    def preview(self, event: str | None = None) -> list[str]:
        """Return the exact events that would be sent now, as JSON; nothing is sent or kept.

        Args:
            event: Only the event of this name; ``None`` for all.
        """
        context = self._application.context("preview")
        return [body for preview in self._offered("preview") for body in preview(context, event)]

    def flush(self, timeout: float = 10.0) -> int:
        """Deliver what is pending, within ``timeout`` seconds, and return how many events were delivered."""
        if self.is_idle():
            return 0
        context = self._application.context("flush")
        length = timedelta(seconds=min(timeout, _DAY))
        return sum(flush(context, length) for flush in self._offered("flush", only_enabled=True))

    def runs(self, job: str | None = None, limit: int = 1000) -> list[Run]:
        """Return the runs that are remembered, the newest first; empty where none is, or none can be read now.

        Args:
            job: The ID of one job; ``None`` for all.
            limit: How many runs at most.
        """
        from lifebeat import history
        from lifebeat.storage.sqlite import DatabaseUnavailable

        if self._life is not None:
            self._life.history.flush(1.0)
        try:
            return history.read(self._application.state_dir(create=False), job=job, limit=limit)
        except DatabaseUnavailable:
            return []

    def start(self, job: str) -> Answer:
        """Order a run of a job now, as ``lifebeat start`` does; its next planned run stays where it is.

        Raises:
            LifebeatError: There is no job of that name.
        """
        from lifebeat import steering

        return self._steer(job, steering.start)

    def pause(self, job: str, until: datetime | None = None, why: str | None = None) -> Answer:
        """Let a job not run for a time, as ``lifebeat pause`` does.

        Args:
            job: The job's ID.
            until: When it runs again; one without a time zone is in that of the machine. ``None`` for until ``resume``.
            why: The reason, for those who look; ``None`` for none.

        Raises:
            LifebeatError: There is no job of that name.
        """
        from lifebeat import steering

        moment = None if until is None else until.timestamp()
        return self._steer(job, partial(steering.pause, until=moment, why=why))

    def resume(self, job: str) -> Answer:
        """Let a job run again, as ``lifebeat resume`` does.

        Raises:
            LifebeatError: There is no job of that name.
        """
        from lifebeat import steering

        return self._steer(job, steering.resume)

    def _steer(self, job: str, order: Callable[[Path | None, JobSpec, Clock], Answer]) -> Answer:
        from lifebeat import steering

        application = self._application
        spec = steering.find(application.load().specs, job)
        answer = order(application.state_dir(create=False), spec, application.clock)
        if self._life is not None:
            self._life.follow_orders()
        return answer

    def drain(self, timeout: float) -> bool:
        """Wait until none of the job file's jobs runs, at most ``timeout`` seconds; return whether none does."""
        return self._registry.drain(timeout)

    def responds(self, timeout: float) -> bool:
        """Return whether the scheduler goes around, seen within ``timeout`` seconds: for health checks.

        Jobs that take long do no harm to that; one that holds up the scheduler's own thread or loop does.
        """
        return self._registry.responds(timeout)

    def reload(self) -> None:
        """Read the config again now, as happens by itself when a file is edited."""
        if self._life is not None and self._life.is_alive:
            self._life.edited()
        elif self._registry.is_running:
            self._start()

    def close(self, timeout: float | None = None) -> bool:
        """End Lifebeat's part now, as a stop of the scheduler would, and leave the scheduler to its host.

        Args:
            timeout: Seconds to wait for a stop that is under way elsewhere; ``None`` for as long as it may take.

        Returns:
            Whether it is over.
        """
        self._stop(on_loop=self._registry.is_loop_bound)  # first: who has stopped registers nothing more
        self._registry.unlisten()
        return self._life is None or self._life.wait(timeout)

    def stop_scheduler(self, deadline: Deadline | None = None) -> None:
        """Stop the scheduler, and wait until Lifebeat's part in that is over.

        Args:
            deadline: Until when it has time; ``None`` for ``telemetryShutdownTimeout`` from now.
        """
        self._deadline = deadline
        self._registry.shut_down()
        if self._life is not None:
            self._life.wait(None)

    def is_idle(self) -> bool:
        """Return whether there is nothing to do: telemetry is off, the job file is ours, and nothing is pending."""
        settings, source = self._source.read(), self._source
        if not settings.opted_out or self._has_own_jobs():
            return False
        from lifebeat import record
        from lifebeat.storage.state_dir import DATABASE_FILE

        state = record.state_dir(source, settings)
        return state is None or not safe_file.exists(state / DATABASE_FILE)

    @property
    def application(self) -> Application:
        """Return what is run, for a page that shows it."""
        return self._application

    # -- for attach --------------------------------------------------------------------------------------------------

    def attach(self, *, signals: bool) -> None:
        """Follow the scheduler's life from here on.

        Args:
            signals: Whether SIGTERM, where the host left it at its default, stops the scheduler.

        Raises:
            ConfigError: The host's own jobs in the job file have a fault.
        """
        if self._has_own_jobs():
            self._check()
        self.stops_by_signal = signals
        if signals and not self.is_idle():
            self._signals = sigterm_of_host()
            if self._signals is not None:
                self._signals.end()
                atexit.register(self._signals.raise_again)  # the main thread may come to its end before the stop does
        self._registry.listen()

    def clock_changed(self, by: float) -> None:
        """Look at the plan again: the wall clock was set by so many seconds, or the machine slept."""
        if self._life is not None:
            self._life.clock_changed(by)

    def _check(self) -> None:
        self._application.check()
        self._is_checked = True

    @property
    def _application(self) -> Application:
        if self._made is None:
            self._made = self._make_application()
        return self._made

    def _has_own_jobs(self) -> bool:
        return safe_file.exists(self._source.job_file) or self._source.overlay is not None

    def _offered(self, name: str, *, only_enabled: bool = False) -> list[Callable[..., Any]]:
        from lifebeat.lifecycle.application import offers

        specs = [one for one in self._application.load().specs if one.is_telemetry]
        return offers([one for one in specs if one.enabled or not only_enabled], name)

    # -- the scheduler's life ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.is_idle() or _in_uwsgi_master():
            return
        if self._is_checked or running_loop() is None:
            self._start_now()
            return
        # What has to be imported would hold up the loop.
        started = self._starting = threading.Event()
        logger = get_logger()

        def start() -> None:
            try:
                self._start_now()
            except Exception:
                logger.exception("Lifebeat did not start")
            finally:
                started.set()
                if not self._registry.is_running:
                    self._stop(on_loop=False)

        if not threads.start("start", start, daemon=False):  # an application may end within that time
            start()

    def _start_now(self) -> None:
        if not self._is_checked:
            self._check()
        with forks.guard:
            from lifebeat.lifecycle.life import Life
            from lifebeat.lifecycle.watch import Watch
        application = self._application
        coordinator = (self._make_coordinator or _on_this_machine)(application)
        watch = Watch(application.watched, application.clock) if self._watching else None
        if watch is not None and self._signals is not None:
            self._signals.begin()
            watch.attend(self._signals.descriptor, self._on_signal)
        self._life = Life(
            application,
            self._registry,
            coordinator,
            shares_id=self._make_coordinator is not None,
            watch=watch,
        )
        self._life.start()
        if self._signals is not None and (watch is None or not watch.is_running):
            self._signals.end()  # nobody would act on a signal
            self._signals.raise_again()

    def _stop(self, on_loop: bool) -> None:
        deadline = self._deadline
        if self._starting is not None:
            deadline = deadline or self._new_deadline()
            self._starting.wait(deadline.left)
        is_over = self._life is None or self._life.stop(on_loop, deadline)
        signals = self._signals
        if signals is None:
            return
        signals.end()
        if signals.received is not None and (is_over or not threads.start("again", self._raise_again)):
            signals.raise_again()

    def _passed_over(self, job_id: str, instant: datetime, late: bool) -> None:
        if self._life is not None:
            self._life.pass_over(job_id, instant, late)

    def _raise_again(self) -> None:
        """Let the signal end the process as soon as a stop is over that goes on elsewhere."""
        if self._life is not None:
            self._life.wait(None)
        if self._signals is not None:
            self._signals.raise_again()

    def _on_signal(self) -> bool:
        """Stop, for a signal that has come, and before it what else of this process the signal would end."""
        signals = self._signals
        if signals is None:
            return False
        signals.drain()
        if signals.received is None:
            return True
        deadline = self._new_deadline()
        others: list[Lifebeat] = [one for one in handles() if one is not self and one.stops_by_signal]
        for one in (*others, self):
            one.stop_scheduler(deadline)
        return False

    def _new_deadline(self) -> Deadline:
        return Deadline(SystemClock(), self._source.read().shutdown_timeout.total_seconds())

    def _forget(self) -> None:
        """Forget the life in a forked child: it is the parent's."""
        self._life = self._starting = self._signals = None


def _on_this_machine(application: Application) -> Coordinator:
    """Return what the processes of this machine agree by; where no directory can be written each is alone."""
    state = application.state_dir(create=False)  # made by the first transaction: off leaves no trace
    if state is None:
        from lifebeat.once.alone import Alone

        return Alone(application.clock)
    from lifebeat.once.files import FileCoordinator

    return FileCoordinator(
        state, clock=application.clock, remembers=lambda: bool(application.source.read().run_history)
    )


def _in_uwsgi_master() -> bool:
    """Return whether this is uWSGI's master, which forks without telling Python and must have no thread of ours."""
    import sys

    uwsgi: Any = sys.modules.get("uwsgi")
    if uwsgi is None or uwsgi.worker_id() != 0 or uwsgi.masterpid() == 0:
        return False
    get_logger().warning(
        "Lifebeat does not run in uWSGI's master: set `lazy-apps = true`, or start the scheduler in a "
        "`@uwsgidecorators.postfork` function"
    )
    return True

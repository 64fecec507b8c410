"""Start, run, stop, flush: the life of an application's jobs in one process."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import inspect
import os
import platform
import threading
import time
import uuid
import weakref
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lifebeat import consent, installation
from lifebeat.context import JobContext
from lifebeat.engines import EngineUnavailable
from lifebeat.engines.apscheduler import LocalEngine
from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.jobfile import reader as jobfile
from lifebeat.jobfile import targets
from lifebeat.lifecycle.watch import Watch
from lifebeat.schedule.instants import (
    SECOND,
    AtShutdown,
    AtStart,
    Every,
    Instants,
    instants_of,
    jitter_of,
    to_datetime,
    to_instant,
)
from lifebeat.settings.source import fingerprint
from lifebeat.storage import state_dir as statedir
from lifebeat.storage.forks import guard

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path
    from types import ModuleType

    from lifebeat.clock import Clock
    from lifebeat.context import Consent
    from lifebeat.engines import Claim, Engine
    from lifebeat.jobfile.spec import JobFile, JobSpec
    from lifebeat.once.files import Presence, Unfinished
    from lifebeat.registration.alarm import Leave
    from lifebeat.settings.source import ConfigSource

EVERYBODY = ("process", "application")
AT_ONCE = timedelta(0)
# Who gives up counts as an application of its own; sixty processes that start at once take seconds to come in.
JOIN_TIMEOUT = 15.0
LEAVE_TIMEOUT = 1.0
EXIT_TIMEOUT = 1.0
MARGIN = 0.25
OPENING_TIMEOUT = 5.0
POLL = 0.01
LOOK = 0.05
ARRIVAL = ":arrival"  # no job of a file is called so
ASK_AGAIN = timedelta(seconds=2)


class Scheduler(Protocol):
    """What a life needs of the scheduler that it lives on."""

    @property
    def event_loop(self) -> Any: ...
    def add(
        self, spec: JobSpec, instants: Instants, jitter: Callable[[int], int], run: Callable[[datetime], None]
    ) -> None: ...
    def add_once(self, job_id: str, delay: timedelta, run: Callable[[datetime], None]) -> None: ...
    def remove(self, job_id: str) -> None: ...
    def drain(self, timeout: float) -> bool: ...
    def attend(self, descriptor: int, told: Callable[[], None]) -> Leave | None: ...


class Lifecycle:
    """One process's part in an application's life, from the scheduler's start to its stop; may live again.

    Args:
        source: Where the settings come from.
        allow: The modules that the job file may name, besides ``lifebeat_jobs``.
        clock: Where the time comes from.
        logger: Where to say what must be said.
        watching: Whether to look for edited config in a thread; a host that looks itself calls ``reload``.
        make_engine: Makes what runs the jobs that the application shares; ``None`` for the processes of this machine
            among themselves.
    """

    def __init__(
        self,
        source: ConfigSource,
        *,
        allow: Sequence[str],
        clock: Clock,
        logger: logging.Logger,
        watching: bool = True,
        make_engine: Callable[[Lifecycle], Engine] | None = None,
    ) -> None:
        self.source = source
        self.allow = tuple(allow)
        self.clock = clock
        self.logger = logger
        self._watching = watching
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._is_opened = False
        self._loaded: tuple[object, JobFile] | None = None
        self._lock = threading.RLock()
        self._arriving = threading.Lock()
        self._ending = threading.Lock()
        self._scheduler: Scheduler | None = None
        self._stage: Literal["idle", "alive", "stopping"] = "idle"
        self._started_at = 0.0
        self._plan: dict[str, JobSpec] = {}
        self._seed = ""
        self._begun: set[str] = set()
        self._opening: set[str] = set()
        self._awaits_id = False
        self._id_until = 0.0
        self._presence: Presence | None = None
        self._arrival: tuple[bool, float] | None = None
        self._watch: Watch | None = None
        self._threads: dict[str, threading.Thread] = {}
        self._said: set[str] = set()
        self.finished = threading.Event()
        self.finished.set()
        if hasattr(os, "register_at_fork"):
            # A method that does not keep this object alive, since the hook itself can never be removed.
            os.register_at_fork(after_in_child=partial(_forget_in_child, weakref.ref(self)))

    @property
    def is_alive(self) -> bool:
        """Whether the scheduler has started and not stopped."""
        return self._stage == "alive"

    def forget(self) -> None:
        """In a forked child: this life is the parent's; the child has none until its own scheduler starts."""
        self._lock = threading.RLock()
        self._arriving = threading.Lock()
        self._ending = threading.Lock()
        self._stage = "idle"
        self._threads = {}
        self._watch = None
        self._engine = None
        atexit.unregister(self.stop)

    # -- what there is to run ------------------------------------------------------------------------------------

    def load(self, *, import_disabled: bool = False) -> JobFile:
        """The job file as it is now, with the overlay and the settings on it."""
        settings = self.source.read()
        state = ([fingerprint(path) for path in self.files()], settings, import_disabled)
        if self._loaded is None or self._loaded[0] != state:
            found = jobfile.load(
                jobfile.job_file(self.source.config_dir),
                settings,
                overlay=self.source.overlay,
                allow=self.allow,
                import_disabled=import_disabled,
            )
            self._loaded = (state, found)
        return self._loaded[1]

    def files(self) -> list[Path]:
        """The files that the plan is made from."""
        return [*self.source.files(), self.source.job_file]

    def check(self) -> JobFile:
        """The job file for a host: a fault in telemetry's jobs is said and lives on, one in the host's own raises.

        Raises:
            ConfigError: The host's own jobs have a fault.
        """
        found = self.load()
        if found.host_problems:
            raise ConfigError(*found.host_problems)
        for problem in dict.fromkeys((*self.source.read().problems, *found.problems)):
            self.say_once(f"problem:{problem}", f"telemetry is held: {problem}")
        return found

    # -- start ---------------------------------------------------------------------------------------------------

    def start(self, scheduler: Scheduler) -> None:
        """The scheduler has started: register what the job file says."""
        with self._lock:
            if self._stage != "idle":
                return
            self._scheduler, self._stage = scheduler, "alive"
            self._started_at = self.clock.time()
            self._plan, self._begun, self._arrival, self._presence = {}, set(), None, None
            self._engine = self._make_engine(self) if self._make_engine else self._local_engine(scheduler)
            self._is_opened = False
            self.finished.clear()
            found = self.load()
            starting = [one for one in found.specs if one.enabled and isinstance(one.trigger, AtStart)]
            self._opening = {spec.id for spec in starting if spec.is_telemetry}
            self._awaits_id = bool(self._opening) and self.source.read().enabled
            self._id_until = time.monotonic() + OPENING_TIMEOUT
            self._apply(found, first=EVERYBODY)
            atexit.register(self.stop)

    def _local_engine(self, scheduler: Scheduler) -> Engine:
        return LocalEngine(
            scheduler,
            find_house=self._house,
            clock=self.clock,
            say_once=self.say_once,
            await_opening=self._await_opening,
        )

    def _share(self) -> None:
        """The engine is ready: register the jobs that the application shares."""
        with self._lock:
            if self._stage == "alive":
                self._apply(self.load(), first=("application",))

    def _apply(self, found: JobFile, *, first: Collection[str] = ()) -> None:
        """Register what is new or changed, remove what is gone, leave the rest alone.

        Args:
            found: What the job file says.
            first: For which kinds of ``once`` this is the start of the process.
        """
        assert self._scheduler is not None and self._engine is not None  # noqa: PT018 - only called while alive
        ready = self._engine.is_ready
        plan = {spec.id: spec for spec in found.specs if spec.enabled and (ready or spec.once == "process")}
        seed = self.find_seed()
        self._awaits_id = self._awaits_id and seed == self._machine
        for spec in self._plan.values():
            if plan.get(spec.id, spec).once != spec.once or not _has_instants(plan.get(spec.id)):
                self._place(spec).remove(spec.id)
        for spec in sorted(plan.values(), key=_is_later):
            moved = seed != self._seed and _depends_on_seed(spec)
            if self._plan.get(spec.id) != spec or moved:
                self._register(spec, seed, first=spec.once in first)
        self._withdraw([spec for spec in found.specs if not spec.enabled and (first or spec.id in self._plan)])
        if self._stage != "alive":  # it was stopped meanwhile
            return
        self._plan, self._seed = plan, seed
        if self._arrival is None and _nobody_brings_it_in(plan.values()):
            self._scheduler.add_once(ARRIVAL, AT_ONCE, self._come_in)
        if not self._is_opened and any(spec.enabled and spec.once == "application" for spec in found.specs):
            self._is_opened = True
            self._engine.open(self._share)
        if self._watching and self._watch is None and (plan or not self.source.read().opted_out):
            self._watch = Watch(self.files, self.reload, self._scheduler.attend)
            self._watch.start()

    def _place(self, spec: JobSpec) -> Scheduler | Engine:
        assert self._scheduler is not None and self._engine is not None  # noqa: PT018 - only called while alive
        return self._engine if spec.once == "application" else self._scheduler

    def _register(self, spec: JobSpec, seed: str, *, first: bool) -> None:
        assert self._scheduler is not None and self._engine is not None  # noqa: PT018 - only called while alive
        if isinstance(spec.trigger, AtStart):
            if first:
                self._scheduler.add_once(spec.id, AT_ONCE, partial(self._begin, spec))
            return
        instants = instants_of(spec.trigger, job_id=spec.id, seed=seed, started_at=self._started_at)
        if instants is None:
            return
        jitter = partial(_jitter, spec, seed) if spec.jitter else _no_jitter
        run = partial(self._run, spec, self._awaits_id and _depends_on_seed(spec))
        if spec.once == "application":
            self._engine.add(spec, instants, jitter, run, make_up=first)
        else:
            self._scheduler.add(spec, instants, jitter, run)

    def _withdraw(self, specs: list[JobSpec]) -> None:
        """Tell the modules of jobs that were turned off, so that nothing of theirs goes on."""
        if not self.source.read().opted_out:
            return
        for module in _modules(spec for spec in specs if spec.is_telemetry):
            try:
                module.withdrawn(self.context(module.__name__))
            except LifebeatError as error:
                self.say_once(f"withdrawn:{error}", str(error))

    def find_seed(self) -> str:
        """What the installation's phase is made from: its ID, or where there is none yet something that stays here."""
        if self._engine is not None and self._engine.is_ready:
            self._agree()
        settings = self.source.read()
        found = settings.instance_id or self._seed_of_engine()
        if found is None and (state := self.state_dir(create=False)) is not None:
            found = statedir.read_id(state / statedir.ID_FILE)
        return self._machine if found is None else found

    @cached_property
    def _machine(self) -> str:
        """What stands for the installation as long as it has no ID."""
        return hashlib.sha256(f"{platform.node()}:{self.source.config_dir.resolve()}".encode()).hexdigest()

    def _seed_of_engine(self) -> str | None:
        if self._engine is None or not self._engine.is_ready:
            return None
        try:
            return self._engine.seed()
        except EngineUnavailable:
            return self._seed or None

    def _agree(self) -> None:
        """Where telemetry is on and config gives no instance ID: the one that all processes have agreed on."""
        settings = self.source.read()
        if settings.enabled and settings.instance_id is None:
            with contextlib.suppress(EngineUnavailable):
                self.agree_on_id()

    def agree_on_id(self) -> str | None:
        """The instance ID that all processes agree on, made if there is none; ``None`` leaves it to config and state.

        Raises:
            EngineUnavailable: It cannot be told now.
        """
        if self._engine is None:
            return None
        state = self.state_dir(create=False)
        known = None if state is None else statedir.read_id(state / statedir.ID_FILE)
        found = self._engine.agree_on_id(known or str(uuid.uuid4()))
        if found is not None:
            self.source.agree({"telemetryInstanceId": found})
        return found

    # -- run -----------------------------------------------------------------------------------------------------

    def _begin(self, spec: JobSpec, moment: datetime) -> None:
        """A ``when: start`` job: once in this life, and only by the first process in if the application shares it."""
        with self._lock:
            if spec.id in self._begun:
                return
            self._begun.add(spec.id)
        first = False
        try:
            first = spec.once == "process" or self._arrive()[0]
            if first:
                self._call(spec, moment)
            self._follow_seed()
        except EngineUnavailable:
            with self._lock:
                self._begun.discard(spec.id)
                self._again(spec.id, partial(self._begin, spec))
        finally:
            self._opening.discard(spec.id)
            if first and not self._opening:
                self._awaits_id = False  # if it could be made, it is

    def _come_in(self, _: datetime) -> None:
        """For an application whose processes no start job brings in, so that its last one out is known."""
        try:
            self._arrive()
        except EngineUnavailable:
            self._again(ARRIVAL, self._come_in)

    def _again(self, name: str, run: Callable[[datetime], None]) -> None:
        with self._lock:
            if self._scheduler is not None and self._stage == "alive":
                self._scheduler.add_once(name, ASK_AGAIN, run)

    def _follow_seed(self) -> None:
        """The first start has made the instance ID: from here on it gives the phase."""
        with self._lock:
            if self._stage == "alive" and self.find_seed() != self._seed:
                self._apply(self.load())

    def _run(self, spec: JobSpec, before_id: bool, instant: datetime, claim: Claim | None = None) -> None:
        self._await_opening(spec)
        # The interpreter may be ending, and the host's scheduler not know yet.
        if self._stage != "alive" or (before_id and self._comes_again(spec, to_instant(instant))):
            return
        if claim is None or claim():
            self._call(spec, instant)

    def _await_opening(self, spec: JobSpec) -> None:
        """Telemetry's start jobs come first: a heartbeat before the startup would be news from nobody.

        And at a first start this process or another makes the ID just now, which gives other instants.
        """
        deadline = self.clock.monotonic() + OPENING_TIMEOUT
        while self._stage == "alive" and spec.is_telemetry and self._opening and self.clock.monotonic() < deadline:
            time.sleep(POLL)
        if self._awaits_id and _depends_on_seed(spec):
            self._await_id()

    def _await_id(self) -> None:
        self._follow_seed()
        while self._awaits_id and self._stage == "alive" and time.monotonic() < self._id_until:
            time.sleep(LOOK)
            self._follow_seed()
        self._awaits_id = False

    def _comes_again(self, spec: JobSpec, instant: int) -> bool:
        """Whether the ID, made since the job was registered, has moved it: to other instants, or to later ones."""
        if self._seed == self._machine:
            return False
        return _is_spread(spec) or to_datetime(instant + _jitter(spec, self._seed, instant)) > self._now()

    def _call(
        self,
        spec: JobSpec,
        instant: datetime,
        *,
        timeout: timedelta | None = None,
        started_at: float | None = None,
    ) -> None:
        if started_at is None and spec.once == "application":
            started_at = self._arrive()[1]
        target, timeout = _find(spec.run), timeout or spec.timeout
        args = spec.args
        if targets.takes_context(target):
            context = self.context(spec.id, instant=instant, started_at=started_at, timeout=timeout)
            args = {**spec.args, "context": context}
        try:
            if spec.timeout is None or inspect.iscoroutinefunction(target) or spec.is_telemetry:
                self._await(target(**args), timeout)
            else:
                self._within(spec, partial(target, **args))
        except EngineUnavailable:  # it is asked again
            raise
        except Exception as error:
            if not spec.is_telemetry:
                raise
            self.say_once(f"{spec.id}:{error}", f"{spec.id}: {error}")
            self.logger.debug("job %s failed", spec.id, exc_info=True)

    def _within(self, spec: JobSpec, work: Callable[[], Any]) -> None:
        """Run a function that cannot be cancelled, and leave it behind when its time is up."""
        failed: list[Exception] = []

        def keep() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised again where it is waited for
                failed.append(error)

        thread = threading.Thread(target=keep, name=f"lifebeat-{spec.id}", daemon=True)
        thread.start()
        thread.join(None if spec.timeout is None else spec.timeout.total_seconds())
        if thread.is_alive():
            self.logger.warning("job %s did not end within its timeout and was left behind", spec.id)
        if failed:
            raise failed[0]

    def _await(self, result: Any, timeout: timedelta | None) -> None:
        """Let an async function's work be done: on the scheduler's loop if it has one, else here."""
        if not hasattr(result, "__await__"):
            return
        import asyncio

        from lifebeat.lifecycle import coroutines

        seconds = None if timeout is None else timeout.total_seconds()
        loop = self._scheduler.event_loop if self._scheduler else None

        async def bounded() -> None:
            await asyncio.wait_for(result, seconds)

        if loop is not None and loop.is_running():
            asyncio.run_coroutine_threadsafe(bounded(), loop).result()
        else:
            coroutines.complete(bounded())

    def context(
        self,
        job_id: str,
        *,
        instant: datetime | None = None,
        started_at: float | None = None,
        timeout: timedelta | None = None,
    ) -> JobContext:
        """What a job is told; without a running scheduler too, for commands that only look."""
        now = self.clock.time()
        started_at = started_at or self._started_at or now
        settings, state = self.source.read(), self.state_dir(create=False)
        return JobContext(
            job_id=job_id,
            instant=instant or self._now(),
            started_at=to_datetime(int(started_at * SECOND)),
            uptime=timedelta(seconds=max(now - started_at, 0.0)),
            settings=settings,
            instance_id=installation.known_id(settings, state),
            config_dir=self.source.config_dir,
            state_dir=state,
            clock=self.clock,
            logger=self.logger,
            timeout=timeout,
            read_settings=self.source.read,
            read_consent=self.consent,
            background=self._background,
            later=self._later,
        )

    def consent(self) -> Consent:
        """Return whether telemetry may record and send now."""
        return consent.decide(self.source.read(), self.load())

    def state_dir(self, *, create: bool) -> Path | None:
        """Where state is kept; ``None`` where no directory can be written."""
        settings = self.source.read()
        found = statedir.state_dir(
            setting=settings.state_dir,
            environ=self.source.environ,
            config_dir=self.source.config_dir,
            app_name=settings.app_name,
            create=create,
        )
        if found.path is None:
            self.say_once("state_dir", f"no directory for state: {found.reason}")
        return found.path

    def _background(self, name: str, work: Callable[[], None]) -> None:
        with self._lock:
            if name in self._threads and self._threads[name].is_alive():
                return
            self._threads[name] = thread = threading.Thread(target=work, name=f"lifebeat-{name}", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter is ending; what waits is on disk
                thread.start()

    def _later(self, name: str, delay: timedelta, work: Callable[[], None]) -> None:
        with self._lock:
            if self._scheduler is not None and self._stage == "alive":
                self._scheduler.add_once(name, delay, lambda _: work())

    def say_once(self, key: str, message: str) -> None:
        """One warning in the log for each ``key`` in a process's life."""
        if key not in self._said:
            self._said.add(key)
            self.logger.warning("%s", message)

    # -- once per application ------------------------------------------------------------------------------------

    def _house(self) -> Presence | None:
        """The application's register of processes; ``None`` where it cannot be kept and the process stands alone."""
        with self._lock:
            if self._presence is None and (state := self.state_dir(create=True)) is not None:
                from lifebeat.once.files import Presence

                self._presence = Presence(state, clock=self.clock)
            return self._presence

    def _arrive(self, timeout: float = JOIN_TIMEOUT) -> tuple[bool, float]:
        """Whether this process is the first in, and when the application started; within so many seconds."""
        until = time.monotonic() + timeout
        alone = (True, self._started_at or self.clock.time())
        if not self._arriving.acquire(timeout=timeout):
            return alone
        try:
            if self._arrival is None:
                if self._stage == "idle" or self._engine is None:
                    return alone
                arrival = self._engine.join(max(until - time.monotonic(), 0.0))
                self._arrival = (arrival.first, arrival.started_at) if arrival else alone
                if arrival and arrival.unfinished:
                    self._tell_end(arrival.unfinished)
            return self._arrival
        finally:
            self._arriving.release()

    def _tell_end(self, run: Unfinished) -> None:
        """Run the shutdown jobs of a run whose last process left for others to go on, who never came."""
        instant = to_datetime(int(run.left_at * SECOND))
        for spec in list(self._plan.values()):
            if isinstance(spec.trigger, AtShutdown) and spec.once == "application":
                self._call(spec, instant, started_at=run.started_at)

    # -- change --------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Config was edited: apply what changed; what is wrong is said, and the old plan goes on."""
        with self._lock:
            if self._stage != "alive":
                return
            settings, found = self.source.read(), self.load()
            problems = dict.fromkeys((*settings.problems, *found.problems))
            for problem in problems:
                self.logger.error("%s; what ran before goes on", problem)
            if not problems or settings.opted_out:
                self._apply(found)

    # -- stop ----------------------------------------------------------------------------------------------------

    def drain(self, timeout: float) -> bool:
        """Wait until none of the jobs runs, for at most ``timeout`` seconds; says whether none does."""
        until = self.clock.monotonic() + timeout
        drained = self._engine is None or self._engine.drain(timeout)
        left = max(until - self.clock.monotonic(), 0.0)
        return (self._scheduler is None or self._scheduler.drain(left)) and drained

    def stop(self) -> None:
        """The scheduler has stopped, or the interpreter ends: run the ``when: shutdown`` jobs, within their time."""
        timeout = self.source.read().shutdown_timeout.total_seconds()
        deadline = self.clock.monotonic() + timeout
        # An engine's server may be asked under the lock just now, and not answer.
        locked = self._lock.acquire(timeout=timeout / 4)
        with self._ending:
            stage, plan = self._stage, self._plan
            if stage == "alive":
                self._stage, self._plan = "stopping", {}
        if locked:
            self._lock.release()
        if stage != "alive":
            # Another thread is at it; whoever comes second, such as the interpreter's exit, waits for it.
            self.finished.wait(timeout + EXIT_TIMEOUT)
            return
        atexit.unregister(self.stop)
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        try:
            self._finish(plan, deadline)
        finally:
            if self._engine is not None:
                self._engine.close()
            self._stage = "idle"
            self.finished.set()

    def _finish(self, plan: dict[str, JobSpec], deadline: float) -> None:
        seconds = max(deadline - self.clock.monotonic(), 0.0)
        self.drain(seconds / 2)
        for spec in plan.values():
            if isinstance(spec.trigger, AtStart) and spec.id not in self._begun:
                # A life that was too short, or paused all along, has its start jobs now.
                self._bounded(spec, deadline, partial(self._begin, spec, self._now()))
        shared = any(spec.once == "application" for spec in plan.values())
        last = not shared or self._leave(min(LEAVE_TIMEOUT, seconds / 2))
        for spec in plan.values():
            if isinstance(spec.trigger, AtShutdown) and (spec.once == "process" or last):
                self._bounded(spec, deadline, partial(self._closing, spec, deadline))
            elif isinstance(spec.trigger, AtShutdown) and spec.is_telemetry and self._make_engine:
                self._bounded(spec, deadline, partial(self._leaving, spec, deadline))

    def _closing(self, spec: JobSpec, deadline: float) -> None:
        self._call(spec, self._now(), timeout=_left(spec, deadline, self.clock))

    def _leaving(self, spec: JobSpec, deadline: float) -> None:
        """Others go on, on other machines, which may not have what waits on this one's disk."""
        for leaving in offers([spec], "leaving"):
            leaving(self.context(spec.id, timeout=_left(spec, deadline, self.clock)))

    def _bounded(self, spec: JobSpec, deadline: float, work: Callable[[], None]) -> None:
        """Do it in a daemon thread and wait no longer than it may take: nothing that hangs keeps a process alive."""
        limit = None if spec.timeout is None else spec.timeout.total_seconds() + MARGIN
        if spec.is_telemetry:
            limit = max(deadline - self.clock.monotonic(), 0.05)

        def quietly() -> None:
            try:
                work()
            except Exception:
                self.logger.exception("job %s failed", spec.id)

        thread = threading.Thread(target=quietly, name=f"lifebeat-{spec.id}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is too far gone for threads
            quietly()
            return
        thread.join(limit)

    def _now(self) -> datetime:
        return to_datetime(int(self.clock.time() * SECOND))

    def _leave(self, timeout: float) -> bool:
        assert self._engine is not None
        until = time.monotonic() + timeout
        try:
            self._arrive(timeout)
            return self._engine.leave(max(until - time.monotonic(), 0.0))
        except EngineUnavailable:
            return False


def _left(spec: JobSpec, deadline: float, clock: Clock) -> timedelta | None:
    """How long a job may take at the stop: telemetry's no longer than there is time."""
    if not spec.is_telemetry:
        return spec.timeout
    left = timedelta(seconds=max(deadline - clock.monotonic(), 0.05))
    return min(spec.timeout or left, left)


def _find(run: str) -> targets.Target:
    """The function. A child that is forked while another thread imports would wait for that thread for ever."""
    with guard:
        return targets.find(run)


def offers(specs: Sequence[JobSpec], name: str) -> list[Callable[..., Any]]:
    """The functions called ``name`` that the modules of jobs offer beside the jobs, such as ``status``."""
    return [getattr(module, name) for module in _modules(specs) if hasattr(module, name)]


def _modules(specs: Any) -> list[ModuleType]:
    import importlib

    names = dict.fromkeys(spec.run.partition(":")[0] for spec in specs)
    return [importlib.import_module(name) for name in names]


def _has_instants(spec: JobSpec | None) -> bool:
    return spec is not None and not isinstance(spec.trigger, (AtStart, AtShutdown))


def _is_later(spec: JobSpec) -> bool:
    return not isinstance(spec.trigger, AtStart)


def _nobody_brings_it_in(plan: Collection[JobSpec]) -> bool:
    shared = [spec for spec in plan if spec.once == "application"]
    return bool(shared) and all(map(_is_later, shared))


def _depends_on_seed(spec: JobSpec) -> bool:
    return bool(spec.jitter) or _is_spread(spec)


def _is_spread(spec: JobSpec) -> bool:
    return isinstance(spec.trigger, Every) and spec.trigger.phase == "installation"


def _no_jitter(_instant: int) -> int:
    return 0


def _jitter(spec: JobSpec, seed: str, instant: int) -> int:
    return jitter_of(spec.id, seed, instant, spec.jitter)


def _forget_in_child(one: weakref.ref[Lifecycle]) -> None:
    life = one()
    if life is not None:
        life.forget()

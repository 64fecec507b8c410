"""Jobs started, paused and resumed without an edit: orders in the installation's record, which every process follows.

They stand in ``host.json``, a small file that is replaced whole, so that they survive restarts, that a process which
looks at config sees a change at once, and that a pause is asked about right before each run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from lifebeat import record
from lifebeat.errors import LONGEST_REASON, LifebeatError, blanked
from lifebeat.schedule.instants import SECOND
from lifebeat.storage import safe_file
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.jobfile.spec import JobSpec

Orders = dict[str, dict[str, Any]]
OPT_OUT = ""  # no job is called so
START_WITHIN = 600.0  # seconds; an order that no process has followed by then is void
_KEY = "steering"
_NEVER: dict[str, Any] = {"at": 0.0}


@dataclass(frozen=True, slots=True)
class Steering:
    """What was ordered for one job. Times are in seconds since the Unix epoch.

    Attributes:
        paused: Since when it is or was paused; ``None`` for never.
        until: When the pause ends or ended; ``None`` for until it is resumed.
        why: The reason that was given; ``None`` for none.
        start: When a run was last ordered, in microseconds since the epoch: its instant; ``None`` for never.
        at: When the job was last paused or resumed.
    """

    paused: float | None = None
    until: float | None = None
    why: str | None = None
    start: int | None = None
    at: float = 0.0

    def is_paused(self, moment: float) -> bool:
        """Return whether a moment lies in the pause."""
        return self.paused is not None and self.paused <= moment and (self.until is None or moment < self.until)

    def in_words(self) -> str:
        """Return the pause for people."""
        until = (
            "" if self.until is None else f" until {datetime.fromtimestamp(self.until, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
        return f"paused{until}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order.

    Attributes:
        done: Whether it stands.
        words: What happens now, or why nothing does.
    """

    done: bool
    words: str


def read(state_dir: Path | None) -> dict[str, Steering]:
    """Return what was ordered, by job; empty where nothing was, or it cannot be read."""
    return {job: _parse(one) for job, one in _written(record.content(state_dir)).items()}


def find(specs: Iterable[JobSpec], job: str) -> JobSpec:
    """Return the job of that name.

    Raises:
        LifebeatError: There is none; which one may be meant.
    """
    known = {spec.id: spec for spec in specs}
    if job not in known:
        raise unknown(job, known)
    return known[job]


def unknown(job: str, known: Collection[str]) -> LifebeatError:
    """Return the error for a name that no job has; which one may be meant."""
    hint = did_you_mean(job, known) or f" (there are: {', '.join(known) or 'none'})"
    return LifebeatError(f"there is no job {job!r}{hint}")


def start(state_dir: Path | None, spec: JobSpec, clock: Clock) -> Answer:
    """Order a run of a job now, paused or not; of one that the application shares, one process runs it."""
    if spec.is_telemetry:
        return Answer(False, f"{spec.id}: telemetry reports what happens, and is not started by hand")
    if not spec.enabled:
        return Answer(False, f"{spec.id}: is off; set `enabled: true` in the job file")
    instant = int(clock.time() * SECOND)
    words = f"{spec.id}: ordered; a running process starts it within 2 s (see: lifebeat runs {spec.id})"
    return _order(state_dir, spec.id, lambda before: replace(before, start=instant), words)


def pause(state_dir: Path | None, spec: JobSpec, clock: Clock, *, until: float | None, why: str | None) -> Answer:
    """Let a job not run until then, in seconds since the epoch, or until it is resumed; a run under way goes on."""
    now = clock.time()
    if until is not None and until <= now:
        return Answer(False, f"{spec.id}: the end of the pause is past")
    shown = blanked(why or "")[:LONGEST_REASON].strip() or None
    paused = Steering(now, until, shown)
    words = f"{spec.id}: {paused.in_words()}"
    return _order(state_dir, spec.id, lambda before: replace(paused, start=before.start, at=_at(before, now)), words)


def resume(state_dir: Path | None, spec: JobSpec, clock: Clock) -> Answer:
    """Let a job run again; what came in its pause is not made up for."""
    now, before = clock.time(), read(state_dir).get(spec.id, Steering())
    if before.paused is None or (before.until is not None and before.until <= now):
        return Answer(True, f"{spec.id}: is not paused")
    words = f"{spec.id}: resumed"
    return _order(state_dir, spec.id, lambda before: replace(before, until=now, at=_at(before, now)), words)


def exchange(state_dir: Path | None, heard: Orders, jobs: Collection[str], machine: str) -> Orders:
    """Take the orders of other machines that are newer than those here, and return those that are newer here.

    Of each job, and of the opt-out, the latest order counts on all machines. A run is ordered on one only: all of them
    share it already.

    Args:
        state_dir: The state directory.
        heard: What the machines know: by job its pause, and under ``OPT_OUT`` the opt-out.
        jobs: The jobs of the job file here.
        machine: This machine's name.
    """
    content = record.content(state_dir)
    known: Orders = {job: one for job, one in _written(content).items() if one.get("at")}
    if opt_out := content.get(record.OPT_OUT):
        known[OPT_OUT] = {**opt_out, "file": None, "machine": opt_out.get("machine") or machine}
    newer = {name: one for name, one in heard.items() if one["at"] > known.get(name, _NEVER)["at"]}
    newer = {name: one for name, one in newer.items() if name == OPT_OUT or name in jobs}
    if state_dir is not None and newer:
        record.update(state_dir, partial(_take, newer))
    return {name: one for name, one in known.items() if one["at"] > heard.get(name, _NEVER)["at"]}


def _take(newer: Orders, content: dict[str, Any]) -> dict[str, Any]:
    steering = _written(content)
    for job in newer.keys() - {OPT_OUT}:
        steering = steering | {job: newer[job] | {"start": _parse(steering.get(job)).start}}
    opt_out = {record.OPT_OUT: newer[OPT_OUT]} if OPT_OUT in newer else {}
    return content | {_KEY: steering} | opt_out


def forget(state_dir: Path | None, known: Collection[str]) -> None:
    """Forget what was ordered for jobs that the job file does not have any more."""
    orders = read(state_dir)
    if state_dir is not None and not orders.keys() <= set(known):
        _update(state_dir, lambda written: {job: one for job, one in written.items() if job in known})


def _at(before: Steering, now: float) -> float:
    return max(now, before.at + record.MOMENT)  # later than the last order, whatever this machine's clock shows


def _order(state_dir: Path | None, job: str, change: Callable[[Steering], Steering], words: str) -> Answer:
    if state_dir is None:
        return Answer(False, f"{job}: no directory for state can be written; set telemetryStateDir to one that can be")
    try:
        safe_file.make_directory(state_dir)
    except OSError as error:
        return Answer(False, f"{job}: {safe_file.printable(state_dir)}: cannot be made: {error.strerror}")

    if _update(state_dir, lambda written: written | {job: asdict(change(_parse(written.get(job))))}):
        return Answer(True, words)
    return Answer(False, f"{job}: {safe_file.printable(state_dir / record.FILE_NAME)}: cannot be written")


def _update(state_dir: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    return record.update(state_dir, lambda before: before | {_KEY: change(_written(before))})


def _written(content: dict[str, Any]) -> dict[str, Any]:
    found = content.get(_KEY)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def _parse(written: Any) -> Steering:
    """Return what stands in the file; what cannot be read counts as not ordered."""
    try:
        paused, until, why, start, at = (written[name] for name in ("paused", "until", "why", "start", "at"))
        return Steering(
            None if paused is None else float(paused),
            None if until is None else float(until),
            None if why is None else str(why),
            None if start is None else int(start),
            float(at),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return Steering()

"""One answer to "may I": on, off or paused, made from settings, job file and what was said before.

Off is sticky. An opt-out that was seen becomes a layer of its own, which stays when the place that said it is gone,
empty, half-written or cannot be read any more, and which all processes of the installation have. It ends by a yes that
is newer, or by the file that said it, when that is there, whole, and says nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lifebeat import record
from lifebeat.context import Consent
from lifebeat.settings.layers import Layer
from lifebeat.settings.switch import ENABLED
from lifebeat.storage import safe_file

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.clock import Clock
    from lifebeat.jobfile.spec import JobFile
    from lifebeat.record import OptOut
    from lifebeat.settings.source import ConfigSource
    from lifebeat.settings.table import Settings

_SETTLED = 1.0  # seconds that a file has not changed for: half-written it may be whole, and say nothing yet
# What says off for one process only, and not in anybody's name.
_PASSING = ("CI environment", "test run")
_HOST = "host argument"


def decide(settings: Settings, found: JobFile) -> Consent:
    """Return whether telemetry may record and send.

    Args:
        settings: The merged settings.
        found: The job file with its problems.
    """
    switch = settings.sources[ENABLED]
    if settings.opted_out:
        return Consent("off", switch, switch)
    if found.opted_out:
        return Consent("off", found.opted_out, found.opted_out)
    problems = (*settings.problems, *found.problems)
    if problems:
        return Consent("paused", f"until this is fixed: {problems[0]}", problems[0].source)
    if not any(spec.is_telemetry and spec.enabled for spec in found.specs):
        return Consent("off", f"{found.path} has no telemetry job that is enabled", str(found.path))
    return Consent("on", f"{ENABLED}: {switch}", switch)


class EarlierOptOut:
    """The layer of an opt-out that was seen before; ``ConfigSource`` asks for it whenever settings are read.

    Args:
        source: Where the settings come from.
        clock: Where the time comes from.
        remember: Whether to put down what is seen, as an application does; commands that look do not.
        began: When the process began whose environment and arguments count; ``None`` for now.
    """

    def __init__(self, source: ConfigSource, clock: Clock, *, remember: bool, began: float | None = None) -> None:
        self._source = source
        self._clock = clock
        self._remember = remember
        self._began = clock.time() if began is None else began
        self._seen: OptOut | None = None
        self._is_on_record = False

    def __call__(self, settings: Settings) -> Layer | None:
        """Return the layer that says off; ``None`` where no layer has said so, or it was taken back."""
        state = record.state_dir(self._source, settings)
        if settings.opted_out:
            self._see(settings, state)
            return None
        known = [one for one in (record.read_opt_out(state), self._seen) if one is not None]
        opt_out = max(known, key=lambda one: one.at, default=None)  # another machine may have taken it back
        if opt_out is None or opt_out.is_over:
            return None
        if self._is_over(opt_out, settings):
            self._seen = None
            if self._remember:
                record.end_opt_out(state, self._clock.time())
            return None
        self._seen = opt_out
        when = f"{datetime.fromtimestamp(opt_out.at, tz=UTC):%Y-%m-%d %H:%M} UTC"
        place = f"{opt_out.machine}: {opt_out.source}" if opt_out.machine else opt_out.source
        return Layer(f"opt-out of {when} ({place})", {ENABLED: False})

    def _see(self, settings: Settings, state: Path | None) -> None:
        switch = settings.sources[ENABLED]
        if switch.startswith(_PASSING):
            return
        if self._seen is None or self._seen.source != switch:
            file = next((path for path in self._source.files() if switch.startswith(str(path))), None)
            self._seen = record.OptOut(switch, None if file is None else safe_file.absolute(file), self._clock.time())
            self._is_on_record = False
        if self._remember and not self._is_on_record:
            self._is_on_record = record.write_opt_out(state, self._seen)

    def _is_over(self, opt_out: OptOut, settings: Settings) -> bool:
        files = {str(path): path for path in self._source.files()}
        for one in settings.layer_values[ENABLED]:
            if one.value is not True or one.layer == "default":
                continue
            if one.layer.startswith(_HOST) and not opt_out.source.startswith(_HOST):
                continue  # it cannot turn on what another layer has turned off
            file = files.get(one.layer)
            said_at = self._began if file is None else _changed(file)
            if (file is not None and safe_file.absolute(file) == opt_out.file) or said_at > opt_out.at:
                return True
        return any(
            safe_file.absolute(path) == opt_out.file and self._says_nothing(path, settings) for path in files.values()
        )

    def _says_nothing(self, file: Path, settings: Settings) -> bool:
        """Return whether a file is there, whole, and has been so for a moment."""
        name = safe_file.printable(file)
        is_wrong = any(problem.source == name for problem in settings.problems)
        whole = settings.files.get(name) == "complete" and not is_wrong
        return whole and safe_file.exists(file) and abs(self._clock.time() - _changed(file)) > _SETTLED


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

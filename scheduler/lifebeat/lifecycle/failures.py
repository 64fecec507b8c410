"""Which jobs fail in this process: the log and ``on_failure:`` hear of the beginning and the end, not of each run."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from lifebeat.errors import in_words
from lifebeat.jobfile.targets import is_ctrl_c

if TYPE_CHECKING:
    from datetime import datetime

    from lifebeat.clock import Moment
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.lifecycle.runner import Runner
    from lifebeat.log import Logger


class Failures:
    """The jobs that fail at present.

    Args:
        runner: What calls the function of ``on_failure:``.
        logger: Where to say it.
    """

    def __init__(self, runner: Runner, logger: Logger) -> None:
        self._runner = runner
        self._logger = logger
        self._lock = threading.Lock()
        self._failing: set[str] = set()

    def note(self, spec: JobSpec, instant: datetime, started: Moment, error: BaseException | None) -> None:
        """Note how a run has ended, and tell if that is another end than that of the run before.

        Args:
            spec: The job.
            instant: The instant of the run.
            started: What the job's context says of the start.
            error: What the run raised; ``None`` if it ended well.
        """
        with self._lock:
            changes = (error is not None) != (spec.id in self._failing)
            self._failing ^= {spec.id} if changes else set()
        if not changes:
            return
        if error is None:
            self._logger.info("job %s works again", spec.id)
        else:
            self._logger.error(
                "job %s failed; until it works again, further failures are only in `lifebeat runs`",
                spec.id,
                exc_info=error,
            )
        if spec.on_failure is None:
            return
        text = None if error is None else in_words(error)
        call = replace(spec, run=spec.on_failure, args={"job": spec.id, "error": text})
        try:
            self._runner.call_unnoted(call, instant, started)
        except BaseException as failed:
            if is_ctrl_c(failed):
                raise
            self._logger.exception("on_failure of job %s failed", spec.id)

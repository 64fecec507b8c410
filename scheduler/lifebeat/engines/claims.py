"""The instants that one process runs: they stay its own while it lives, and what has ended is noted in the end.

A claim in Redis is not for ever, so that a process that died keeps nobody from running again what it was in the middle
of. A run with a timeout has a claim that lasts longer than it may; any other is renewed while it runs. And where Redis
is away when a run ends, this process remembers that until it can be noted.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from lifebeat.engines import EngineUnavailable
from lifebeat.engines.redis import Claim, identity

if TYPE_CHECKING:
    from datetime import timedelta

    from lifebeat.engines.redis import Shared
    from lifebeat.engines.timetable import Due

LEASE = 60.0
RENEW_EVERY = 20.0
RETRY_EVERY = 2.0
MOST_UNNOTED = 10_000


class Claims:
    """One process's; any thread may call any method.

    Args:
        shared: What is in Redis.
        patience: Seconds that a run may take beyond its job's timeout before another process may have it.
        renew_every: Seconds between two renewals.
    """

    def __init__(self, shared: Shared, patience: float, *, renew_every: float = RENEW_EVERY) -> None:
        self._shared = shared
        self._patience = patience
        self._renew_every = renew_every
        self._me = identity()
        self._held: dict[Due, timedelta | None] = {}
        self._unnoted: dict[Due, float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_kept = False

    def take(self, due: Due, timeout: timedelta | None) -> Claim:
        """Take an instant for a run that may last so long; ``release`` it if it is ours.

        Raises:
            EngineUnavailable: Redis cannot be reached; it is nobody's, or not for long.
        """
        with self._lock:
            if due in self._unnoted:
                return Claim.ENDED
            if due in self._held:  # a broker that lost sight of this worker sends the same task again
                return Claim.TAKEN
            self._held[due] = timeout
        found = Claim.TAKEN
        try:
            found = self._shared.claim(due, self._me, self._lease(timeout))
        finally:
            if found is not Claim.OURS:
                self.release(due)
        if timeout is None:
            self._keep()
        return found

    def release(self, due: Due) -> None:
        """It runs no more; if it was not ended it may be run again when its time is over."""
        with self._lock:
            self._held.pop(due, None)

    def end(self, due: Due, *, kept: float) -> None:
        """It has run, and for ``kept`` seconds nobody can take it any more.

        Raises:
            EngineUnavailable: Redis cannot be reached; it is noted when it can.
        """
        try:
            self._shared.end(due, kept=kept)
        except EngineUnavailable:
            with self._lock:
                self._unnoted[due] = kept
                while len(self._unnoted) > MOST_UNNOTED:
                    del self._unnoted[next(iter(self._unnoted))]
            self._keep()
            self._wake.set()
            raise

    def _lease(self, timeout: timedelta | None) -> float:
        return max(LEASE, self._patience) if timeout is None else timeout.total_seconds() + self._patience

    # -- the thread, while there is something for it to do ---------------------------------------------------------

    def _keep(self) -> None:
        with self._lock:
            if self._is_kept:
                return
            self._is_kept = True
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            threading.Thread(target=self._keep_up, name="lifebeat-claims", daemon=True).start()

    def _keep_up(self) -> None:
        pause = self._renew_every
        while self._has_work():
            self._wake.wait(pause)
            self._wake.clear()
            try:
                self._renew()
                self._note()
                pause = self._renew_every
            except EngineUnavailable:
                pause = min(RETRY_EVERY, self._renew_every)

    def _has_work(self) -> bool:
        with self._lock:
            self._is_kept = bool(self._unnoted) or None in self._held.values()
            return self._is_kept

    def _renew(self) -> None:
        with self._lock:
            running = [due for due, timeout in self._held.items() if timeout is None]
        for due in running:
            self._shared.renew(due, self._me, self._lease(None))

    def _note(self) -> None:
        with self._lock:
            unnoted = list(self._unnoted.items())
        for due, kept in unnoted:
            self._shared.end(due, kept=kept)
            with self._lock:
                self._unnoted.pop(due, None)

"""Signals to a graceful stop: handlers only set a flag, and the signal is raised again when all is done."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)
PATIENCE = 0.5  # a supervisor may send several signals at once; one that comes later means: at once


class StopSignals:
    """Handlers that note the first stop signal; a second one, half a second later, ends the process at once.

    A byte in a pipe wakes the thread that waits: taking a lock in a handler could wait for the very code that it
    interrupted.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = STOP) -> None:
        self._signals = signals
        self._former: dict[signal.Signals, Any] = {}
        self.descriptor, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._received_at = 0.0
        self._process = os.getpid()
        self._over = False
        self._has_wakeup = False
        self.received: signal.Signals | None = None

    def install(self, *, wakeup: bool = False) -> None:
        """Install the handlers; only the main thread can.

        Args:
            wakeup: Whether the main thread itself is going to ``wait``. A signal in the moment before it sleeps would
                not wake it: Python runs handlers between two steps of the main thread. So the byte is then written as
                soon as the signal comes, which a process has one place for.

        Raises:
            ValueError: This is not the main thread.
        """
        for number in self._signals:
            self._former[number] = signal.signal(number, self._handle)
        if wakeup:
            signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            self._has_wakeup = True

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a stop signal, or for ``wake``, at most ``timeout`` seconds; return whether there was a signal."""
        if select.select([self.descriptor], [], [], timeout)[0]:
            self.drain()
        return self.received is not None

    def drain(self) -> None:
        """Read what the handlers have written."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 64)

    def wake(self) -> None:
        """End a ``wait``."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b".")

    def restore(self) -> None:
        """Put back the handlers that were there; only the main thread can."""
        for number, former in self._former.items():
            if signal.getsignal(number) == self._handle:  # a host's own, set since, stays
                signal.signal(number, former)
        self._former.clear()
        if self._has_wakeup:
            signal.set_wakeup_fd(-1)
            self._has_wakeup = False

    def raise_again(self) -> None:
        """Let the signal do what it would have done without us, so that the parent sees the true cause."""
        if self.received is None or self._process != os.getpid():
            return
        self._over = True
        if threading.current_thread() is threading.main_thread():
            self._leave_to_the_system(self.received)
        _end_by(self.received)

    def end(self) -> None:
        """Let go: the next signal does what it would have done without us."""
        self._over = True

    def begin(self) -> None:
        """Handle signals from here on."""
        self._over = False

    def _leave_to_the_system(self, number: int) -> None:
        """Put the handlers back, but let this signal end the process: Python's own for SIGINT would print where."""
        former = self._former.get(signal.Signals(number))
        self.restore()
        if former is signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._process != os.getpid():  # a forked child has no life of ours
            self._over = True
        again = self.received is not None and time.monotonic() - self._received_at >= PATIENCE
        if self._over or again:
            self._leave_to_the_system(number)
            _end_by(number)
        elif self.received is None:
            self.received, self._received_at = signal.Signals(number), time.monotonic()
            self.wake()


def _end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    if os.getpid() == 1:  # the kernel spares the first process of a container; this is what its parent would have seen
        os._exit(128 + number)


def sigterm_of_host() -> StopSignals | None:
    """Return handlers for SIGTERM where the host has left it at its default; else, or off the main thread, ``None``."""
    if threading.current_thread() is not threading.main_thread():
        return None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return None
    signals = StopSignals((signal.SIGTERM,))
    signals.install()
    return signals

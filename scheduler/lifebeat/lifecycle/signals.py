"""Signals to an orderly stop: handlers only set a flag, and the signal is raised again when all is done."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Handlers that note the first stop signal; a second one ends the process at once.

    A byte in a pipe wakes whoever waits: taking a lock in a handler could wait for the very code that it interrupted.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = STOP) -> None:
        self._signals = signals
        self._former: dict[signal.Signals, Any] = {}
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self.received: signal.Signals | None = None
        self._over = False
        self._has_wakeup = False

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
        """Wait for a stop signal, or for ``wake``, for at most ``timeout`` seconds; says whether there was one."""
        import select

        if select.select([self._read], [], [], timeout)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read, 64)
        return self.received is not None

    def wake(self) -> None:
        """End a ``wait``."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b".")

    def restore(self) -> None:
        """Put back the handlers that were there; only the main thread can."""
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()
        if self._has_wakeup:
            signal.set_wakeup_fd(-1)
            self._has_wakeup = False

    def raise_again(self) -> None:
        """Let the signal do what it would have done without us, so that the parent sees the true cause."""
        if self.received is None:
            return
        self._over = True
        if threading.current_thread() is threading.main_thread():
            self._leave_to_the_system(self.received)
        _end_by(self.received)

    def _leave_to_the_system(self, number: int) -> None:
        """Put the handlers back, but let this signal end the process: Python's own for SIGINT would print where."""
        former = self._former.get(signal.Signals(number))
        self.restore()
        if former is signal.default_int_handler:
            signal.signal(number, signal.SIG_DFL)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._over or self.received is not None:
            self._leave_to_the_system(number)
            _end_by(number)
            return
        self.received = signal.Signals(number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b".")


def _end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    if os.getpid() == 1:  # the kernel spares the first process of a container; this is what its parent would have seen
        os._exit(128 + number)


def stop_on_sigterm(stop: Callable[[], None]) -> bool:
    """Where the host has left SIGTERM at its default, stop in good order first; says whether that was so.

    A daemon thread waits for the flag; the stop itself runs in a thread that the interpreter waits for.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        return False
    signals = StopSignals((signal.SIGTERM,))
    signals.install()

    def finish() -> None:
        try:
            stop()
        finally:
            signals.raise_again()

    def wait() -> None:
        while not signals.wait():
            pass
        threading.Thread(target=finish, name="lifebeat-stop", daemon=False).start()

    threading.Thread(target=wait, name="lifebeat-signals", daemon=True).start()
    return True

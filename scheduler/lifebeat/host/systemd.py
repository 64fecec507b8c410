"""The protocol of ``sd_notify``, by which a service manager follows this process, without a library."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Self

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_TIMEOUT = 1.0
_STATUS_LENGTH = 900  # systemd ignores a message of more than 4,096 bytes, and a character may take four


class Notifier:
    """Tells the service manager, if there is one; a manager that does not listen is no reason to fail.

    Attributes:
        watchdog: After how many seconds without ``beat`` the manager ends this process; ``None`` if it does not.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog if address else None

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Self:
        """Return the one that the environment names, and take it out there: it is not for children."""
        address, microseconds, process = (environ.pop(name, "") for name in VARIABLES)
        is_meant = microseconds.isdecimal() and process in {"", str(os.getpid())}
        return cls(address or None, (int(microseconds) / 1e6 or None) if is_meant else None)

    def ready(self, status: str) -> None:
        """Say that the jobs are registered; also after a reload."""
        self._send(READY=1, STATUS=status)

    def status(self, status: str) -> None:
        """Show a line to people."""
        self._send(STATUS=status)

    def reloading(self) -> None:
        """Say that config is being read again; ``ready`` ends that."""
        self._send(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def stopping(self, status: str, *, within: float) -> None:
        """Say that the stop has begun, and ask for up to ``within`` seconds."""
        self._send(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=int(within * 1e6))

    def failed(self, status: str, *, errno: int) -> None:
        """Say that the start has failed."""
        self._send(STATUS=status, ERRNO=errno)

    def beat(self) -> None:
        """Reset the watchdog."""
        self._send(WATCHDOG=1)

    def _send(self, **fields: object) -> None:
        if not self._address or self._address[0] not in "/@":
            return
        import socket

        address = f"\0{self._address[1:]}" if self._address[0] == "@" else self._address
        lines = (f"{name}={' '.join(str(value).split())[:_STATUS_LENGTH]}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_TIMEOUT)
                sender.sendto("\n".join(lines).encode(errors="replace"), os.fsencode(address))
        except (OSError, ValueError):
            return

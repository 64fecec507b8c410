"""A TCP proxy before a server, which cuts its connections, stops reading, or keeps the old ones without a word."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 65536


class Proxy:
    """A proxy on a port of loopback, as there are between an application and its server.

    Args:
        connect: Connects to the server.

    Attributes:
        port: Where it listens.
        is_deaf: Whether it reads nothing, on no connection, and closes none.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.is_deaf = False
        self._open: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Pass on nothing more on the connections that there are, and close none; new ones work."""
        self._forgotten |= self._open

    def close(self) -> None:
        """Cut all, and listen no more."""
        self._listening.close()
        self._forgotten.clear()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = self._connect()
                except OSError:
                    client.close()
                    continue
                self._open |= {client, server}
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                while self.is_deaf or source in self._forgotten:
                    time.sleep(0.05)
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()

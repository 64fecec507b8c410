"""Connections that another thread can end at any moment of their life: after a cut only a look-up goes on.

A timeout of requests is one per read, and there is none for the look-up, for each address of a name, or for a server
that drips. So whoever waits for an answer waits as long as it likes and then cuts.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class CutError(OSError):
    """The connection was ended from this side."""


class Connections:
    """The sockets of one request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles: list[socket.socket] = []
        self._is_cut = False

    def cut(self) -> None:
        """End every connection, also one that another thread reads from or is still making, and let none be made."""
        with self._lock:
            self._is_cut = True
            for handle in self._handles:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the handles back."""
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def connect(self, host: str, port: int, *, timeout: float, options: Iterable[Any]) -> socket.socket:
        """A connection to the first of the host's addresses that answers; each has its share of the time.

        Raises:
            OSError: None answers within ``timeout`` seconds (the look-up not counted), or it was cut.
        """
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        deadline = time.monotonic() + timeout
        failure = OSError("the host has no address")
        for number, (family, kind, protocol, _, address) in enumerate(found):
            share = max(deadline - time.monotonic(), 0.01) / (len(found) - number)
            try:
                made = socket.socket(family, kind, protocol)
            except OSError as error:  # an address family that this machine does without
                failure = error
                continue
            try:
                return self._connected(made, address, share, timeout, options)
            except CutError:
                made.close()
                raise
            except OSError as error:
                made.close()
                failure = error
        raise failure

    def _connected(
        self, made: socket.socket, address: Any, share: float, timeout: float, options: Iterable[Any]
    ) -> socket.socket:
        for option in options:
            made.setsockopt(*option)
        self.keep(made)
        made.settimeout(share)
        made.connect(address)
        made.settimeout(timeout)
        return made

    def keep(self, made: socket.socket) -> socket.socket:
        """Remember a socket, by a handle that stays when TLS takes the socket over.

        Raises:
            CutError: It comes too late.
        """
        with self._lock:
            if self._is_cut:
                raise CutError("the time was up")
            self._handles.append(made.dup())
        return made


class Adapter(HTTPAdapter):
    """Makes all its connections, those through proxies too, by way of ``connections``; tries nothing twice."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """The pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._teach(self.poolmanager, _connecting)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """The pools of connections through a proxy."""
        manager: Any = super().proxy_manager_for(proxy, **kwargs)
        self._teach(manager, _keeping if proxy.lower().startswith("socks") else _connecting)
        return manager

    def _teach(self, manager: Any, taught: Callable[[Any, Connections], Any]) -> None:
        manager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": taught(pool.ConnectionCls, self._connections)})
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }


def _connecting(plain: Any, connections: Connections) -> Any:
    class Connection(plain):  # type: ignore[misc]  # the class is known at run time only
        def _new_conn(self) -> socket.socket:
            options = self.socket_options or ()
            return connections.connect(self._dns_host, self.port, timeout=self.timeout, options=options)

    return Connection


def _keeping(plain: Any, connections: Connections) -> Any:
    """For a SOCKS proxy, which is spoken to while the connection is made."""

    class Connection(plain):  # type: ignore[misc]  # the class is known at run time only
        def _new_conn(self) -> socket.socket:
            above: Any = super()
            return connections.keep(above._new_conn())  # noqa: SLF001 - the one place where urllib3 can be told

    return Connection

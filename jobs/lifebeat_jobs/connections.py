"""Connections with a gate before each byte, which another thread can cut at any moment: then only a look-up goes on.

A timeout of requests is one per read, and there is none for the look-up, for each address of a name, or for a server
that drips. So the waiter waits as long as it likes and then cuts.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_RESET = struct.pack("ii", 1, 0)  # linger for no time: what the kernel still holds is thrown away, not sent


class CutError(OSError):
    """The connection was ended from this side."""


class Connections:
    """The sockets of one request.

    Args:
        may_leave: Returns whether anything may leave now; asked right before the request's head and body.
    """

    def __init__(self, may_leave: Callable[[], bool]) -> None:
        self._may_leave = may_leave
        self._lock = threading.Lock()
        self._handles: list[socket.socket] = []
        self._is_cut = False

    def pass_gate(self) -> None:
        """Return if something may leave now.

        Raises:
            CutError: Nothing may.
        """
        if self._is_cut or not self._may_leave() or self._is_cut:
            self.cut()
            raise CutError("cut off from this side")

    def cut(self) -> None:
        """End every connection, also one that another thread reads from or is still making, and let none be made."""
        with self._lock:
            self._is_cut = True
            for handle in self._handles:
                with contextlib.suppress(OSError):
                    handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the handles back."""
        with self._lock:
            for handle in self._handles:
                handle.close()
            self._handles.clear()

    def connect(self, host: str, port: int, *, timeout: float, options: Iterable[Any]) -> socket.socket:
        """Return a connection to the first of the host's addresses that answers; each has its share of the time.

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
                raise CutError("cut off from this side")
            self._handles.append(made.dup())
        return made


class Adapter(HTTPAdapter):
    """Makes all its connections, those through proxies too, by way of ``connections``; tries nothing twice."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._gate(self.poolmanager, _own)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager: Any = super().proxy_manager_for(proxy, **kwargs)
        self._gate(manager, _socks if proxy.lower().startswith("socks") else _own)
        return manager

    def _gate(self, manager: Any, gated: Callable[[Any, Connections], Any]) -> None:
        manager.pool_classes_by_scheme = {
            scheme: type(pool.__name__, (pool,), {"ConnectionCls": gated(pool.ConnectionCls, self._connections)})
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }


def _gated(plain: Any, connections: Connections) -> Any:
    class Connection(plain):  # type: ignore[misc]  # the class is known at run time only
        def send(self, data: Any) -> None:
            """Send the head or the body. Connected and shaken hands before, so that the look is the last thing."""
            if self.sock is None:
                self.connect()
            connections.pass_gate()
            above: Any = super()
            above.send(data)

    return Connection


def _own(plain: Any, connections: Connections) -> Any:
    class Connection(_gated(plain, connections)):  # type: ignore[misc]  # the class is known at run time only
        def _new_conn(self) -> socket.socket:
            options = self.socket_options or ()
            return connections.connect(self._dns_host, self.port, timeout=self.timeout, options=options)

    return Connection


def _socks(plain: Any, connections: Connections) -> Any:
    """Return the class for a SOCKS proxy, which is spoken to while the connection is made."""

    class Connection(_gated(plain, connections)):  # type: ignore[misc]  # the class is known at run time only
        def _new_conn(self) -> socket.socket:
            above: Any = super()
            return connections.keep(above._new_conn())  # noqa: SLF001 - the one place where urllib3 lets a connection be replaced

    return Connection

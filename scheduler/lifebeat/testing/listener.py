"""The port, and the connections to it."""

from __future__ import annotations

import contextlib
import gzip
import select
import socket
import sys
import threading
import time
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from lifebeat.testing.messages import Request

if TYPE_CHECKING:
    from collections.abc import Callable

_POLL = 0.02


class Conversation(BaseHTTPRequestHandler):
    """One connection, with as many requests as the client sends over it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(
        self,
        admit: Callable[[], bool],
        reply: Callable[[Request, BaseHTTPRequestHandler], None],
        *connection: Any,
    ) -> None:
        self._admit = admit
        self._reply = reply
        super().__init__(*connection)

    def handle(self) -> None:
        if self._admit():
            super().handle()

    def converse(self) -> None:
        request = self._read()
        if request is None:
            self.close_connection = True
        else:
            self._reply(request, self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = converse  # noqa: N815  the names that the base class calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Log nothing."""

    def _read(self) -> Request | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
            return None
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            return None
        # Not self.path: http.server has taken repeated slashes out of that.
        path = self.requestline.split()[1]
        zipped = self.headers.get("Content-Encoding", "").lower() == "gzip"
        body = _unzipped(raw) if zipped else raw
        return Request(self.command, path, tuple(self.headers.items()), raw, body, time.time())


class Listener(ThreadingHTTPServer):
    """The port, bound when made, and the connections to it, each with a thread."""

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        conversation: Callable[..., Conversation],
        lock: threading.Condition,
        accepted: Callable[[], None],
    ) -> None:
        super().__init__(address, conversation, bind_and_activate=False)
        self._lock = lock
        self._accepted = accepted
        self._conversations: dict[threading.Thread, socket.socket] = {}
        self._serving: threading.Thread | None = None
        try:
            self.server_bind()
        except OSError:
            self.server_close()
            raise

    def server_bind(self) -> None:
        """Bind without asking the DNS for a name, as the base class would."""
        TCPServer.server_bind(self)
        self.server_port = self.socket.getsockname()[1]

    def serve(self) -> None:
        if self._serving is None:
            self.server_activate()
            self._serving = threading.Thread(target=self.serve_forever, args=(_POLL,), name="posthog", daemon=True)
            self._serving.start()

    def waiting(self) -> bool:
        """Return whether a connection waits to be accepted."""
        return self._serving is not None and bool(select.select([self], [], [], 0)[0])

    def stop_serving(self) -> None:
        if self._serving is not None:
            self.shutdown()
            self._serving.join()
            self._serving = None
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)  # a forked child has a copy, which close() leaves listening
        self.server_close()

    def hang_up(self, timeout: float) -> None:
        """Cut every connection, and wait for their threads, ``timeout`` seconds in all."""
        deadline = time.monotonic() + timeout
        for connection in self._conversations.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._conversations:
            thread.join(max(0.0, deadline - time.monotonic()))

    def get_request(self) -> tuple[socket.socket, Any]:
        with self._lock:
            request = super().get_request()
            self._accepted()
        return request

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread of a connection, and keep both so that they can be ended."""
        self._conversations = {thread: kept for thread, kept in self._conversations.items() if thread.is_alive()}
        arguments = (request, client_address)
        thread = threading.Thread(target=self.process_request_thread, args=arguments, name="posthog", daemon=True)
        self._conversations[thread] = request
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _unzipped(raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error):
        return b""

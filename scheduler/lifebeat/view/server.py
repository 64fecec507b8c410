"""The page on loopback, for those who have its address."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from lifebeat.view.web import View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lifebeat.view.web import Act, Look

LOOPBACK = "127.0.0.1"
_UNREADABLE = "the request cannot be read"


class _Handler(WSGIRequestHandler):
    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - the library's signature
        """Answer what is no request in one line of ours."""
        assert isinstance(self.server, Server)
        self.server.refused(f"refused: {_UNREADABLE}")
        content = f"HTTP/1.0 {code} Refused\r\nContent-Type: text/plain\r\n\r\n{_UNREADABLE}\n"
        self.wfile.write(content.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Write nothing: what a request holds is another's, and its address has the token."""


class Server(ThreadingMixIn, WSGIServer):
    """The server.

    Args:
        look: Returns what there is to see.
        actions: What can be done.
        port: Its port; 0 for one of the kernel's choice.
        refused: Called with the reason why a request was not answered.

    Attributes:
        longest: Seconds that a connection may last: a client that sends a byte now and then holds no thread for ever.
        most: How many connections there may be at once.
        url: The page's address, which is all that is needed to see and do everything.

    Raises:
        OSError: The port is not free.
    """

    daemon_threads = True
    request_queue_size = 16
    longest = 30.0
    most = 64

    def __init__(
        self, look: Look, actions: Mapping[str, Act], *, port: int = 0, refused: Callable[[str], object]
    ) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.refused = refused
        self._since: dict[Any, float] = {}
        token = secrets.token_urlsafe(24)
        hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        self.url = f"http://{LOOPBACK}:{self.server_port}/{token}/"
        self.set_app(View(look, actions, token=token, hosts=hosts, refused=refused))

    def server_bind(self) -> None:
        """Take the port; the library's own way asks a name server for this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.socket.getsockname()[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, unless too many are at work."""
        if len(self._since) >= self.most:
            self.shutdown_request(request)
            return
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Close a connection."""
        self._since.pop(request, None)
        super().close_request(request)

    def service_actions(self) -> None:
        """End what has lasted too long; asked twice a second."""
        for request, since in tuple(self._since.items()):
            if time.monotonic() - since > self.longest:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave a client alone that went away in the middle of its request."""

"""The page on loopback, for whoever has its address."""

from __future__ import annotations

import secrets
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from lifebeat.view.web import View

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lifebeat.view.web import Act, Look

LOOPBACK = "127.0.0.1"
_IDLE = 10.0  # seconds for a request to come


class _Handler(WSGIRequestHandler):
    timeout = _IDLE

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Write nothing: what a request holds is another's, and its address has the token."""


class Server(ThreadingMixIn, WSGIServer):
    """The server.

    Args:
        look: Returns what there is to see.
        actions: What can be done.
        port: Its port; 0 for one of the kernel's choice.
        refused: Told why a request was not answered.

    Attributes:
        url: The page's address; whoever has it may see and do everything.

    Raises:
        OSError: The port is not free.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self, look: Look, actions: Mapping[str, Act], *, port: int = 0, refused: Callable[[str], object]
    ) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        token = secrets.token_urlsafe(24)
        hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}
        self.url = f"http://{LOOPBACK}:{self.server_port}/{token}/"
        self.set_app(View(look, actions, token=token, hosts=hosts, refused=refused))

    def server_bind(self) -> None:
        """Take the port; the library's own way asks a name server for this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, int(self.socket.getsockname()[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave a client alone that went away in the middle of its request."""

"""The fakes we ship: a PostHog server on loopback, a clock, an environment in which a test may send.

For Lifebeat's own tests, for ``lifebeat demo`` and for the tests of applications that embed Lifebeat::

    with PostHogServer() as server:
        start_my_application(host=server.url, environ=telemetry_allowed())
        server.wait_for(1)
        assert server.names() == ["startup"]
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import json
import os
import select
import socket
import sys
import threading
import time
import zlib
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Self, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lifebeat.testing.project import Project

Event: TypeAlias = dict[str, Any]

_LOOPBACK = "127.0.0.1"
_POLL = 0.02
_STOP_TIMEOUT = 1.0
_OF_THE_CALLER = (
    "DO_NOT_TRACK",
    "LIFEBEAT_CONFIG_DIR",
    "LIFEBEAT_DEPLOYMENT",
    "STATE_DIRECTORY",
    "CONFIGURATION_DIRECTORY",
    "APP_NAME",
    "APP_VERSION",
    "RELEASE_VERSION",
)


class FakeClock:
    """A clock that stands still until it is told to move.

    Args:
        epoch: The wall-clock time at the start, in seconds since the Unix epoch; by default 2026-01-01T00:00:00Z.
    """

    def __init__(self, epoch: float = 1_767_225_600.0) -> None:
        self._time = epoch
        self._monotonic = 1000.0

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self._time

    def monotonic(self) -> float:
        """Seconds since some start."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks.

        Raises:
            ValueError: ``seconds`` is negative; only ``jump`` goes back.
        """
        if seconds < 0:
            raise ValueError(f"FakeClock.advance: seconds is {seconds!r}, must be 0 or more; jump() sets it back")
        self._time += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or, with a negative number, back; the monotonic clock goes on as it was."""
        self._time += seconds


def telemetry_allowed(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A copy of the environment in which Lifebeat may send to a loopback address, also under CI and under pytest.

    What the caller's own environment says about telemetry, configuration and state is left out of it.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _OF_THE_CALLER and not name.startswith("TELEMETRY_")
    }
    return kept | {"LIFEBEAT_TEST_MODE": "loopback"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request that arrived whole.

    Attributes:
        method: Such as ``POST``.
        path: The target as it was received, with its query.
        headers: Pairs of name and value, in the order and the case in which they were received.
        raw: The body as it was received.
        body: The body unzipped, where the request says that it is gzip; empty where that cannot be done.
        received_at: Seconds since the Unix epoch.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    raw: bytes
    body: bytes
    received_at: float

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: It is not JSON.
        """
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The first header of that name, in any case; ``None`` where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its status, its body, and the headers it has beside Content-Type and Content-Length."""

    status: int = 200
    body: bytes = b'{"status":"Ok"}'
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def give(self, conversation: BaseHTTPRequestHandler) -> None:
        """Send it."""
        conversation.send_response(self.status)
        always = {"Content-Type": "application/json", "Content-Length": str(len(self.body))}
        for name, value in (always | dict(self.headers)).items():
            conversation.send_header(name, value)
        conversation.end_headers()
        conversation.wfile.write(self.body)


@dataclass(frozen=True, slots=True)
class _Orders:
    answer: Answer | None = None
    stall: Callable[[BaseHTTPRequestHandler, threading.Event], None] | None = None
    times: int | None = None
    mute: bool = False
    poison: Callable[[Event], bool] | None = None
    limit: int | None = None


class PostHogServer:
    """A PostHog that takes events on loopback, remembers what arrived, and misbehaves when told to.

    A context manager; or call ``start()`` and ``stop()``. What it is told takes the place of what it was told before
    and holds for the requests that come after; ``reject_events`` and ``limit_bytes`` add to it. A request that is held
    up by ``hang``, ``hang_at_connect`` or ``drip`` never counts as answered: ``resume`` closes its connection.

    Args:
        port: The port on 127.0.0.1; 0 takes a free one, known in ``port`` and ``url`` once it has started.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        # One entry per endpoint. A path that ends in "/" covers all below it; any other, itself with or without "/".
        self._endpoints: dict[tuple[str, str], Callable[[Request], Answer]] = {("POST", "/batch"): self._batch}
        self._project: Project | None = None
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._events: list[Event] = []
        self._connections = 0
        self._listener: _Listener | None = None
        self._orders: _Orders = _Orders()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Open the port and answer.

        Raises:
            OSError: The port is taken.
            RuntimeError: It has been started already.
        """
        if self._listener is not None:
            raise RuntimeError(f"PostHogServer.start: already started at {self.url!r}; stop() it first")
        self._bind()
        self.accept_again()
        return self

    def stop(self) -> None:
        """Close the port and every connection, within a second or so; what arrived can still be read."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._close(listener)

    def refuse(self) -> None:
        """Close the port and every connection: from now on connections are refused."""
        self._close(self._running())
        # Bound but not listening, the port refuses connections and nobody else is given it.
        self._bind()

    def accept_again(self) -> None:
        """Open the same port after ``refuse``."""
        self._running().serve()

    @property
    def url(self) -> str:
        """Where it is, such as ``http://127.0.0.1:43121``."""
        return f"http://{_LOOPBACK}:{self.port}"

    @property
    def requests(self) -> list[Request]:
        """Every request that arrived whole, on any path, whatever the answer was."""
        with self._changed:
            return list(self._requests)

    @property
    def events(self) -> list[Event]:
        """Every event of a batch that was answered with 200, in order, repeats included."""
        with self._changed:
            return list(self._events)

    @property
    def connections(self) -> int:
        """How many connections were made, also if nothing was ever sent over them."""
        with self._changed:
            # A connection that the kernel has and we have not yet is one too: "none" must be none.
            self._changed.wait_for(lambda: self._listener is None or not self._listener.waiting(), _STOP_TIMEOUT)
            return self._connections

    def names(self) -> list[str]:
        """The names of ``events``."""
        return [str(event.get("event")) for event in self.events]

    def distinct(self) -> set[tuple[str, str, str, str]]:
        """What is left of ``events`` once repeats are removed: (uuid, timestamp, event, distinct_id).

        Stricter than PostHog, which compares only the date of the timestamp.
        """
        return {_identity(event) for event in self.events}

    def wait_for(self, condition: int | Callable[[PostHogServer], bool], timeout: float = 10.0) -> None:
        """Wait until so many events have arrived, or until ``condition(server)`` is true.

        Args:
            condition: A number of events, or a predicate.
            timeout: Seconds to wait at most.

        Raises:
            AssertionError: It did not come true; says what did arrive.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (len(self._events) >= condition if isinstance(condition, int) else condition(self)):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise AssertionError(f"PostHogServer: {_wanted(condition)} after {timeout:g} s; {self._arrived()}")
                # In short steps: the predicate may look at more than what arrives here.
                self._changed.wait(min(remaining, _POLL))

    def project(self, number: int = 1, *, personal_api_key: str = "phx_test") -> Project:
        """The API behind the app: one project with its dashboards, as a maintainer's scripts see it.

        Args:
            number: The project's ID.
            personal_api_key: The key that its callers have to give.
        """
        if self._project is None:
            from lifebeat.testing.project import Project  # noqa: PLC0415 - only for scripts of maintainers

            self._project = made = Project(number, personal_api_key)
            for method in ("GET", "POST", "PATCH"):
                self._endpoints[method, f"/api/projects/{number}/"] = lambda request: Answer(*made.answer(request))
        return self._project

    def answer(
        self,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        times: int | None = None,
    ) -> None:
        """Answer so whatever is asked; with 200, the events in a valid batch still count as accepted.

        Args:
            status: The HTTP status.
            headers: Headers to add; ``None`` for none.
            body: The body; ``None`` for JSON that fits the status.
            times: For how many requests, then as if nothing had been told; ``None`` until told otherwise.

        Raises:
            ValueError: ``times`` is less than 1.
        """
        if times is not None and times < 1:
            raise ValueError(f"PostHogServer.answer: times is {times!r}, must be at least 1, or None for no limit")
        usual = Answer() if status == HTTPStatus.OK else _refusal(status, "as told")
        self._tell(answer=Answer(status, usual.body if body is None else body, headers or {}), times=times)

    def hang(self) -> None:
        """Read requests and never answer."""
        self._tell(stall=_stay_silent)

    def hang_at_connect(self) -> None:
        """Accept connections and neither read nor write; a request on a connection made before is not answered."""
        self._tell(stall=_stay_silent, mute=True)

    def drip(self, interval: float = 1.0) -> None:
        """Answer with the status line, then with one byte of a header that never ends every ``interval`` seconds."""
        self._tell(stall=functools.partial(_drip, interval))

    def reject_events(self, predicate: Callable[[Event], bool]) -> None:
        """Answer 400 to a batch that has an event for which the predicate is true."""
        with self._changed:
            self._orders = replace(self._orders, poison=predicate)

    def limit_bytes(self, limit: int) -> None:
        """Answer 413 to a batch whose body, unzipped, has more than ``limit`` bytes."""
        with self._changed:
            self._orders = replace(self._orders, limit=limit)

    def resume(self) -> None:
        """Forget all that was told and close the connections that were held up."""
        with self._changed:
            self._orders = _Orders()
            self._released.set()
            self._released = threading.Event()

    def _tell(self, **orders: Any) -> None:
        with self._changed:
            kept = _Orders(poison=self._orders.poison, limit=self._orders.limit)
            self._orders = replace(kept, **orders)

    def _admit(self) -> bool:
        with self._changed:
            mute, released = self._orders.mute, self._released
        if mute:
            released.wait()
        return not mute

    def _reply(self, request: Request, conversation: BaseHTTPRequestHandler) -> None:
        with self._changed:
            self._requests.append(request)
            orders, released = self._next_orders(), self._released
            answer = orders.answer
            if orders.stall is None and (answer is None or answer.status == HTTPStatus.OK):
                usual = self._route(request)
                answer = answer or usual
            self._changed.notify_all()
        if orders.stall is not None:
            orders.stall(conversation, released)
        elif answer is not None:
            answer.give(conversation)

    def _next_orders(self) -> _Orders:
        orders = self._orders
        if orders.times == 1:
            self._orders = replace(orders, answer=None, times=None)
        elif orders.times is not None:
            self._orders = replace(orders, times=orders.times - 1)
        return orders

    def _route(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        for (method, prefix), endpoint in self._endpoints.items():
            below = prefix.endswith("/") and path.startswith(prefix)
            if method == request.method and (below or path in {prefix, f"{prefix}/"}):
                return endpoint(request)
        return _refusal(404, f"no {request.method} {path} here")

    def _batch(self, request: Request) -> Answer:
        orders = self._orders
        if orders.limit is not None and len(request.body) > orders.limit:
            return _refusal(413, f"more than {orders.limit} bytes")
        events = _events_in(request)
        if events is None:
            return _refusal(400, 'not a JSON object with "api_key" and a "batch" of objects')
        if orders.poison is not None and any(map(orders.poison, events)):
            return _refusal(400, "an event in the batch is rejected")
        self._events.extend(events)
        return Answer()

    def _accepted(self) -> None:
        self._connections += 1
        self._changed.notify_all()

    def _running(self) -> _Listener:
        if self._listener is None:
            raise RuntimeError("PostHogServer: not started; start() it, or use it in a with statement")
        return self._listener

    def _bind(self) -> None:
        self._released = threading.Event()
        conversation = functools.partial(_Conversation, self._admit, self._reply)
        self._listener = _Listener(self.port, conversation, self._changed, self._accepted)
        self.port = self._listener.server_port

    def _close(self, listener: _Listener) -> None:
        listener.stop_serving()
        self._released.set()
        listener.hang_up(_STOP_TIMEOUT)

    def _arrived(self) -> str:
        requests = [f"{request.method} {request.path} ({len(request.raw)} bytes)" for request in self._requests]
        return f"events: {self.names()}; requests: {requests}; connections: {self._connections}"


class _Conversation(BaseHTTPRequestHandler):
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
        """Nothing is logged."""

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


class _Listener(ThreadingHTTPServer):
    """The port, bound when made, and the connections to it, each with a thread."""

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 128

    def __init__(
        self,
        port: int,
        conversation: Callable[..., _Conversation],
        lock: threading.Condition,
        accepted: Callable[[], None],
    ) -> None:
        super().__init__((_LOOPBACK, port), conversation, bind_and_activate=False)
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
        """Whether a connection waits to be accepted."""
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
        """A client that has gone is no error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _events_in(request: Request) -> list[Event] | None:
    try:
        document = request.json()
    except ValueError:
        return None
    match document:
        case {"api_key": str(key), "batch": [*events]} if key and all(isinstance(event, dict) for event in events):
            return events
        case _:
            return None


def _stay_silent(conversation: BaseHTTPRequestHandler, released: threading.Event) -> None:
    released.wait()
    conversation.close_connection = True


def _drip(interval: float, conversation: BaseHTTPRequestHandler, released: threading.Event) -> None:
    conversation.close_connection = True
    conversation.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for byte in itertools.chain(b"X-Drip: ", itertools.repeat(ord("."))):
        if released.wait(interval):
            break
        conversation.wfile.write(bytes([byte]))


def _identity(event: Event) -> tuple[str, str, str, str]:
    return str(event.get("uuid")), str(event.get("timestamp")), str(event.get("event")), str(event.get("distinct_id"))


def _refusal(status: int, detail: str) -> Answer:
    return Answer(status, json.dumps({"status": status, "detail": detail}).encode())


def _unzipped(raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error):
        return b""


def _wanted(condition: int | Callable[[PostHogServer], bool]) -> str:
    return f"fewer than {condition} events" if isinstance(condition, int) else f"{condition!r} is still not true"

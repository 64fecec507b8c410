"""A PostHog on loopback."""

from __future__ import annotations

import functools
import threading
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

from lifebeat.testing.arrivals import Arrivals
from lifebeat.testing.listener import Conversation, Listener
from lifebeat.testing.messages import Answer, Event, Request, events_in, refusal
from lifebeat.testing.orders import Orders, drip, stay_silent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from http.server import BaseHTTPRequestHandler

_LOOPBACK = "127.0.0.1"
_STOP_TIMEOUT = 1.0


class PostHogServer(Arrivals):
    """A PostHog that takes events on loopback, remembers what arrived, and fails as a test wants it to.

    A context manager; or call ``start()`` and ``stop()``. A way of answering replaces the one that was set before,
    and holds for the requests that come after; ``reject_events`` and ``limit_bytes`` add to it. A request that is held
    up by ``hang``, ``hang_at_connect`` or ``drip`` never counts as answered: ``resume`` closes its connection.

    Args:
        port: The port; 0 takes a free one, known in ``port`` and ``url`` once it has started.
        address: Where it listens: loopback, unless neighbours such as other containers are to reach it.
    """

    def __init__(self, port: int = 0, *, address: str = _LOOPBACK) -> None:
        super().__init__()
        self.port = port
        self._address = address
        # One entry per endpoint. A path that ends in "/" covers all below it; any other, itself with or without "/".
        self._endpoints: dict[tuple[str, str], Callable[[Request], Answer]] = {("POST", "/batch"): self._batch}
        self._listener: Listener | None = None
        self._orders: Orders = Orders()
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
        """Return where it is, such as ``http://127.0.0.1:43121``."""
        return f"http://{self._address}:{self.port}"

    @property
    def connections(self) -> int:
        """Return how many connections were made, also if nothing was ever sent over them."""
        with self._changed:
            # A connection that the kernel has and we have not yet is one too: "none" must be none.
            self._changed.wait_for(lambda: self._listener is None or not self._listener.waiting(), _STOP_TIMEOUT)
            return self._connections

    def serve(self, method: str, path: str, reply: Callable[[Request], Answer]) -> None:
        """Answer requests for another path too.

        Args:
            method: Such as ``GET``.
            path: The path; one that ends in ``/`` covers all below it.
            reply: Makes the answer.
        """
        self._endpoints[method, path] = reply

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
            times: For how many requests, then as by default; ``None`` until it is set again.

        Raises:
            ValueError: ``times`` is less than 1.
        """
        if times is not None and times < 1:
            raise ValueError(f"PostHogServer.answer: times is {times!r}, must be at least 1, or None for no limit")
        usual = Answer() if status == HTTPStatus.OK else refusal(status, "as told")
        self._tell(answer=Answer(status, usual.body if body is None else body, headers or {}), times=times)

    def hang(self) -> None:
        """Read requests and never answer."""
        self._tell(stall=stay_silent)

    def hang_at_connect(self) -> None:
        """Accept connections and neither read nor write; a request on a connection made before is not answered."""
        self._tell(stall=stay_silent, mute=True)

    def drip(self, interval: float = 1.0) -> None:
        """Answer with the status line, then with one byte of a header that never ends every ``interval`` seconds."""
        self._tell(stall=functools.partial(drip, interval))

    def reject_events(self, predicate: Callable[[Event], bool]) -> None:
        """Answer 400 to a batch that has an event for which the predicate is true."""
        with self._changed:
            self._orders = replace(self._orders, poison=predicate)

    def limit_bytes(self, limit: int) -> None:
        """Answer 413 to a batch whose body, unzipped, has more than ``limit`` bytes."""
        with self._changed:
            self._orders = replace(self._orders, limit=limit)

    def resume(self) -> None:
        """Answer as by default again, and close the connections that were held up."""
        with self._changed:
            self._orders = Orders()
            self._released.set()
            self._released = threading.Event()

    def _tell(self, **orders: Any) -> None:
        with self._changed:
            kept = Orders(poison=self._orders.poison, limit=self._orders.limit)
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

    def _next_orders(self) -> Orders:
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
        return refusal(404, f"no {request.method} {path} here")

    def _batch(self, request: Request) -> Answer:
        orders = self._orders
        if orders.limit is not None and len(request.body) > orders.limit:
            return refusal(413, f"more than {orders.limit} bytes")
        events = events_in(request)
        if events is None:
            return refusal(400, 'not a JSON object with "api_key" and a "batch" of objects')
        if orders.poison is not None and any(map(orders.poison, events)):
            return refusal(400, "an event in the batch is rejected")
        self._events.extend(events)
        return Answer()

    def _accepted(self) -> None:
        self._connections += 1
        self._changed.notify_all()

    def _running(self) -> Listener:
        if self._listener is None:
            raise RuntimeError("PostHogServer: not started; start() it, or use it in a with statement")
        return self._listener

    def _bind(self) -> None:
        self._released = threading.Event()
        conversation = functools.partial(Conversation, self._admit, self._reply)
        self._listener = Listener((self._address, self.port), conversation, self._changed, self._accepted)
        self.port = self._listener.server_port

    def _close(self, listener: Listener) -> None:
        listener.stop_serving()
        self._released.set()
        listener.hang_up(_STOP_TIMEOUT)

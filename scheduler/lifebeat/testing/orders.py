"""What the server is to do instead of answering as PostHog would."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from http.server import BaseHTTPRequestHandler

    from lifebeat.testing.messages import Answer, Event


@dataclass(frozen=True, slots=True)
class Orders:
    """How to answer the requests that come from now on."""

    answer: Answer | None = None
    stall: Callable[[BaseHTTPRequestHandler, threading.Event], None] | None = None
    times: int | None = None
    mute: bool = False
    poison: Callable[[Event], bool] | None = None
    limit: int | None = None


def stay_silent(conversation: BaseHTTPRequestHandler, released: threading.Event) -> None:
    """Answer nothing until released."""
    released.wait()
    conversation.close_connection = True


def drip(interval: float, conversation: BaseHTTPRequestHandler, released: threading.Event) -> None:
    """Answer with a header that never ends, a byte every ``interval`` seconds, until released."""
    conversation.close_connection = True
    conversation.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for byte in itertools.chain(b"X-Drip: ", itertools.repeat(ord("."))):
        if released.wait(interval):
            break
        conversation.wfile.write(bytes([byte]))

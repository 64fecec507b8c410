"""What goes over a connection: requests, the events in them, and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http.server import BaseHTTPRequestHandler

Event: TypeAlias = dict[str, Any]


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
        """Return the body as JSON.

        Raises:
            ValueError: It is not JSON.
        """
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case; ``None`` where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: The HTTP status.
        body: The body, of JSON.
        headers: The headers that it has besides Content-Type and Content-Length.
    """

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


def refusal(status: int, detail: str) -> Answer:
    """Return a refusal whose JSON says why."""
    return Answer(status, json.dumps({"status": status, "detail": detail}).encode())


def events_in(request: Request) -> list[Event] | None:
    """Return the events of a batch; ``None`` where the body is none."""
    try:
        document = request.json()
    except ValueError:
        return None
    match document:
        case {"api_key": str(key), "batch": [*events]} if key and all(isinstance(event, dict) for event in events):
            return events
        case _:
            return None


def identity(event: Event) -> tuple[str, str, str, str]:
    """Return what makes two events the same one: (uuid, timestamp, event, distinct_id)."""
    return str(event.get("uuid")), str(event.get("timestamp")), str(event.get("event")), str(event.get("distinct_id"))

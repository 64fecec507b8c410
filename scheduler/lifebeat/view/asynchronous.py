"""The page as an ASGI application: the WSGI one, called in a thread."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from lifebeat.view.web import View

    Message = MutableMapping[str, Any]

_LONGEST_BODY = 8192  # more than a form may have; the rest is not kept


class AsyncView:
    """The application.

    Args:
        view: The WSGI application.
    """

    def __init__(self, view: View) -> None:
        self._view = view

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Answer a request; of all else that a server may ask there is nothing here."""
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            body = (body + message.get("body", b""))[:_LONGEST_BODY]
            more = message.get("more_body", False)
        status, headers, content = await asyncio.to_thread(self._answer, _environ(scope, body))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        got: list[Any] = []
        content = b"".join(self._view(environ, lambda *answer: got.extend(answer)))
        headers = [(name.lower().encode(), value.encode()) for name, value in got[1]]
        return int(got[0].partition(" ")[0]), headers, content


def _environ(scope: Message, body: bytes) -> dict[str, Any]:
    """Return the parts of a request that the page looks at; a server may name its prefix in the path or not."""
    named = {name.decode("latin-1").upper().replace("-", "_"): value for name, value in scope["headers"]}
    return {
        "REQUEST_METHOD": scope["method"],
        "PATH_INFO": scope["path"].removeprefix(scope.get("root_path", "")),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        **{f"HTTP_{name}": value.decode("latin-1") for name, value in named.items()},
    }

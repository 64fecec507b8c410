"""Requests to a WSGI application, without a server."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode
from wsgiref.validate import validator

if TYPE_CHECKING:
    from collections.abc import Mapping


class Answer(NamedTuple):
    """What a request got."""

    status: str
    headers: dict[str, str]
    text: str


def ask(
    app: Any, method: str, path: str, form: Mapping[str, str] | None = None, query: str = "", **more: str
) -> Answer:
    """Ask a WSGI application, which is held against the specification meanwhile."""
    body, got = urlencode(form or {}).encode(), list[Any]()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "x",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": str(len(body)), "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False, **more,
    }  # fmt: skip

    def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> Any:
        got.extend((status, dict(headers)))
        return list[bytes]().append

    answer = validator(app)(environ, start_response)
    try:
        return Answer(got[0], got[1], b"".join(answer).decode())
    finally:
        answer.close()  # type: ignore[attr-defined]

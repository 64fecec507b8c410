"""The page as a WSGI application: one address, which is looked at with GET and acts with POST."""

from __future__ import annotations

import hmac
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from lifebeat.errors import LifebeatError
from lifebeat.view.page import MOST_SHOWN, SHOWN, Page
from lifebeat.view.style import POLICY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from lifebeat.view.page import Document

    Look = Callable[[int], Document]
    Act = Callable[[Mapping[str, str]], object]
    Answer = tuple[HTTPStatus, str, dict[str, str]]

HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",  # with no-referrer a browser keeps the form's origin back too
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST_FORM = 4096
_MOST_DIGITS = 20


class Refused(Exception):
    """A request is not answered; its text says why, in words of ours."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class View:
    """The application.

    Args:
        look: Returns what there is to see, with at most so many events and runs.
        actions: What can be done, by its name in ``page.DONE``; each is given the form's fields.
        token: What the address has to begin with and each form has to carry; ``None`` where a host lets in only whom
            it knows.
        hosts: The names that this server has; ``None`` where a host looks at that itself.
        refused: Called with the reason why a request was not answered.
    """

    def __init__(
        self,
        look: Look,
        actions: Mapping[str, Act],
        *,
        token: str | None = None,
        hosts: Collection[str] | None = None,
        refused: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._look = look
        self._buttons = actions
        self._token = token
        self._hosts = hosts
        self._refused = refused

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""
        kind = "text/html; charset=utf-8"
        try:
            status, text, more = self._answered(environ)
        except Refused as refused:
            self._refused(f"refused: {refused}")
            status, text, more, kind = refused.status, f"{refused}\n", {}, "text/plain; charset=utf-8"
        content = text.encode()
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS, **more}
        start_response(f"{status.value} {status.phrase}", list(headers.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    def _answered(self, environ: dict[str, Any]) -> Answer:
        if self._hosts is not None and environ.get("HTTP_HOST") not in self._hosts:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "this server has another name")
        path = environ.get("PATH_INFO", "").strip("/")
        if not hmac.compare_digest(path.encode(errors="replace"), (self._token or "").encode()):
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        if environ["REQUEST_METHOD"] in {"GET", "HEAD"}:
            return self._seen(environ)
        if environ["REQUEST_METHOD"] != "POST" or not self._buttons:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "this page can only be looked at")
        _check_origin(environ)
        form = self._form(environ)
        return self._acted(form.pop("act", ""), form)

    def _seen(self, environ: dict[str, Any]) -> Answer:
        query = parse_qs(environ.get("QUERY_STRING", ""))
        asked = query.get("shown", [""])[-1]
        shown = min(_number(asked) or SHOWN, MOST_SHOWN)
        return HTTPStatus.OK, self._page(shown).html(done=query.get("done", [None])[-1]), {}

    def _acted(self, name: str, form: dict[str, str]) -> Answer:
        if name not in self._buttons:
            raise Refused(HTTPStatus.BAD_REQUEST, "there is no such action")
        try:
            self._buttons[name](form)
        except LifebeatError as error:
            return HTTPStatus.CONFLICT, self._page(SHOWN).html(error=str(error)), {}
        # So that a page that is loaded again does not act again.
        return HTTPStatus.SEE_OTHER, "", {"Location": f"?done={name}"}

    def _page(self, shown: int) -> Page:
        return Page(self._look(shown), actions=self._buttons, token=self._token, shown=shown)

    def _form(self, environ: dict[str, Any]) -> dict[str, str]:
        length = _number(environ.get("CONTENT_LENGTH") or "0")
        if length is None or length > _LONGEST_FORM:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the form is too long")
        content: bytes = environ["wsgi.input"].read(length)
        fields = parse_qs(content.decode(errors="replace"), keep_blank_values=True)
        form = {name: values[-1] for name, values in fields.items()}
        if self._token and not hmac.compare_digest(form.pop("token", "").encode(), self._token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "the form is not from this page")
        return form


def _number(text: str) -> int | None:
    """Return a whole number from 0 up; ``None`` for what is none, or absurdly long."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def _check_origin(environ: dict[str, Any]) -> None:
    """Let forms pass that a page of the same origin has sent.

    A browser says so itself, also where a proxy changes the host's name on the way; an older one names the origin only.
    """
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), str(environ.get("HTTP_ORIGIN", ""))
    if site is None:
        try:
            site = "same-origin" if urlsplit(origin).netloc == environ.get("HTTP_HOST", "") != "" else "cross-site"
        except ValueError:
            site = "cross-site"
    if site != "same-origin":
        raise Refused(HTTPStatus.FORBIDDEN, "the form is of another origin")

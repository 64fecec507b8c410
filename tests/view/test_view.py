"""The page and its buttons: what is seen, what is done, and what other people's requests get."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from hosts import DEADLINE, eventually
from lifebeat.errors import LifebeatError
from lifebeat.view.page import Page
from lifebeat.view.server import Server
from lifebeat.view.style import STYLE
from lifebeat.view.web import View
from requests_to_view import Answer, ask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lifebeat.view.page import Document

TOKEN, HOST = "a-token", "127.0.0.1:8000"
SCRIPT, ESCAPES = "<script>alert(1)</script>", "\x1b]0;gone\x07\x1b[31m\u202e\udc80"
SAME = {"HTTP_HOST": HOST, "HTTP_ORIGIN": f"http://{HOST}"}


def document(text: str = "report", *, number: int = 1) -> Document:
    """A document in which all that others write is ``text``."""
    run: dict[str, Any] = {
        "job": text, "instant": "2027-03-01T03:00:00+00:00", "begun": "2027-03-01T03:00:00+00:00",
        "ended": "2027-03-01T03:00:01+00:00", "seconds": 1.0, "outcome": "failed", "reason": text, "attempts": 1,
        "by_hand": False, "process": 7,
    }  # fmt: skip
    event: dict[str, Any] = {
        "uuid": "0195", "event": text, "recorded_at": "2027-03-01T03:00:00+00:00", "state": "delivered", "attempts": 1,
        "next_attempt": None, "status": 200, "answer": text, "finished_at": "2027-03-01T03:00:02+00:00",
        "body": json.dumps({"event": text}),
    }  # fmt: skip
    job: dict[str, Any] = {
        "job": text, "run": text, "when": text, "enabled": True, "once": "process", "jitter": "0s", "paused": None,
        "next": [{"starts": "2027-03-02T03:00:00+00:00"}],
    }  # fmt: skip
    status: dict[str, Any] = {
        "telemetry": "on", "source": text, "reason": text, "host": text, "waiting": 1, "waiting_since": None,
        "next_attempt": None, "next_heartbeat": "2027-03-02T03:00:00+00:00", "unaccepted": [text],
    }  # fmt: skip
    layer = {"layer": text, "value": text, "valid": True, "counts": True}
    return {
        "now": "2027-03-01T09:30:00+00:00", "application": text, "summary": text, "status": status,
        "settings": [{"key": "appName", "value": text, "source": text, "layers": [layer]}],
        "plan": [job], "runs": [run] * number, "more_runs": number > 1, "last": {text: run}, "failed": [run],
        "events": [event] * number, "more_events": number > 1, "preview": [json.dumps({"event": text})],
        "timeline": {text: {"past": [(1, 0)], "ahead": [1]}}, "problems": [text],
    }  # fmt: skip


class Site:
    """A page whose actions only note that they were asked for."""

    def __init__(self, look: Document | None = None) -> None:
        self.done: list[tuple[str, Mapping[str, str]]] = []
        self.said: list[str] = []
        self.shown: list[int] = []
        names = ("off", "accept", "start", "pause", "resume")
        self.view = View(
            self._look(look or document()), {name: self._act(name) for name in names}, token=TOKEN, hosts={HOST},
            refused=self.said.append,
        )  # fmt: skip

    def _look(self, found: Document) -> Any:
        def look(shown: int) -> Document:
            self.shown.append(shown)
            return found

        return look

    def _act(self, name: str) -> Any:
        def act(form: Mapping[str, str]) -> None:
            self.done.append((name, form))

        return act

    def ask(self, method: str = "GET", path: str = f"/{TOKEN}/", form: Mapping[str, str] | None = None, query: str = "",
            **headers: str) -> Answer:  # fmt: skip
        """Ask for a page as a server would."""
        return ask(self.view, method, path, form, query, **({"HTTP_HOST": HOST} | headers))


def press(site: Site, act: str, **fields: str) -> Answer:
    """Press a button of the page."""
    return site.ask("POST", form={"act": act, "token": TOKEN, **fields}, **SAME)


# -- what is seen ----------------------------------------------------------------------------------------------------


def test_the_page_answers_on_its_first_screen() -> None:
    """The sentence, who decided, what was sent last, what comes, what failed and what is new come before all tables."""
    found = Site().ask()
    first = re.sub(r"<[^>]+>", "", found.text[: found.text.index("<h2")])
    assert found.status == "200 OK"
    for words in ("Telemetry", "on, by report", "Last delivered", "2027-03-01 03:00:02", "Pending", "Next heartbeat"):
        assert words in first
    assert "report failed 2027-03-01 03:00:00: report" in first
    assert "An update would add" in first


def test_a_page_is_bounded_and_says_that_there_is_more() -> None:
    """At most so many rows are asked for as the address says, never more than 5,000, and 200 by default."""
    site = Site(document(number=200))
    found = site.ask()
    assert 'href="?shown=1000#runs"' in found.text
    for query, shown in {"shown=1000": 1000, "shown=10000000000": 5000, "shown=0": 200, "shown=-1": 200}.items():
        site.ask(query=query)
        assert site.shown[-1] == shown, query


def test_a_file_has_no_button_and_no_link_that_needs_a_server() -> None:
    """What ``--export`` writes can be read for ever, and does nothing."""
    page = Page(document(number=2)).html()
    assert "<form" not in page
    assert "?shown" not in page
    assert "lifebeat runs --count N" in page


class Landmarks(HTMLParser):
    """What a screen reader finds, and whether each element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "input", "link", "br"}:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """See that the element that ends is the one that began last."""
        assert self.opened.pop() == tag


def test_the_page_is_well_formed_and_has_landmarks() -> None:
    """Every element is closed; IDs are unique; there is one of each landmark, and each link within leads somewhere."""
    seen = Landmarks()
    seen.feed(Site().ask().text)
    assert seen.opened == []
    names = [tag for tag, _ in seen.tags]
    assert [names.count(one) for one in ("main", "header", "nav", "footer", "h1")] == [1] * 5
    ids = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(attributes["href"]) for tag, attributes in seen.tags if tag == "a"]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert {
        tag for tag, attributes in seen.tags if "style" in attributes or any(k.startswith("on") for k in attributes)
    } == set()
    assert not {"script", "img", "iframe", "object"} & set(names)


# -- what is done ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", ["off", "accept", "start", "pause", "resume"])
def test_a_button_acts_once_and_leads_back(act: str) -> None:
    """A button does its action, and what is loaded again is the page."""
    site = Site()
    found = press(site, act, job="report")
    assert (found.status, found.headers["Location"]) == ("303 See Other", f"?done={act}")
    assert site.done == [(act, {"job": "report"})]
    again = site.ask(query=f"done={act}")
    assert 'role="status"' in again.text
    assert len(site.done) == 1


def test_what_cannot_be_done_is_said() -> None:
    """An action that fails says why on the page, and is not a success."""

    def fail(_: Mapping[str, str]) -> None:
        raise LifebeatError("the config file cannot be written")

    view = View(lambda _: document(), {"off": fail})
    found = ask(view, "POST", "/", {"act": "off"}, **SAME)
    assert found.status == "409 Conflict"
    assert "the config file cannot be written" in found.text


# -- attacks ---------------------------------------------------------------------------------------------------------

ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "another origin": ("403", {"HTTP_ORIGIN": "https://example.org"}),
    "an origin that ends like ours": ("403", {"HTTP_ORIGIN": f"http://x{HOST}"}),
    "an origin with our address as its user": ("403", {"HTTP_ORIGIN": f"http://{HOST}@example.org"}),
    "an origin that is none": ("403", {"HTTP_ORIGIN": "http://[::1"}),
    "no origin": ("403", {"HTTP_ORIGIN": ""}),
    "a page without an origin": ("403", {"HTTP_ORIGIN": "null"}),
    "another site, as the browser says": ("403", {"HTTP_SEC_FETCH_SITE": "cross-site"}),
    "another port, as the browser says": ("403", {"HTTP_SEC_FETCH_SITE": "same-site"}),
    "a name that was bound to this address": ("421", {"HTTP_HOST": "evil.example:8000"}),
    "no name": ("421", {"HTTP_HOST": ""}),
    "no token in the address": ("404", {"path": "/"}),
    "a wrong token in the address": ("404", {"path": "/b-token/"}),
    "a token with letters of any kind": ("404", {"path": "/\xff\u20ac/"}),
    "more behind the token": ("404", {"path": f"/{TOKEN}/../x"}),
    "no token in the form": ("403", {"form": {"act": "off"}}),
    "a wrong token in the form": ("403", {"form": {"act": "off", "token": "b-token"}}),
    "a form that is too long": ("413", {"CONTENT_LENGTH": "5000"}),
    "a length that is none": ("413", {"CONTENT_LENGTH": "\u0665"}),
    "an action that there is not": ("400", {"form": {"act": "__class__", "token": TOKEN}}),
    "another method": ("405", {"method": "DELETE"}),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_sees_nothing_and_changes_nothing(attack: str) -> None:
    """It gets one line, in words of ours; nothing is looked up for it, and one line says so here."""
    status, changes = ATTACKS[attack]
    site = Site()
    asked: dict[str, Any] = {"method": "POST", "form": {"act": "off", "token": TOKEN}, **SAME}
    if not attack.startswith("a token with letters"):
        found = site.ask(**asked | changes)
    else:
        found = site.ask(**asked | {"path": changes["path"].encode().decode("latin-1")})
    assert found.status.startswith(status)
    assert (site.done, site.shown) == ([], [])
    assert found.text.count("\n") == 1
    assert "report" not in found.text
    assert site.said == [f"refused: {found.text.strip()}"]


def test_an_action_asked_for_with_get_only_shows_the_page() -> None:
    """A link can act on nothing."""
    site = Site()
    found = site.ask(query=f"act=off&token={TOKEN}")
    assert (found.status, site.done) == ("200 OK", [])


@pytest.mark.parametrize("text", [SCRIPT, ESCAPES, "\"'><img src=x onerror=alert(1)>", "&lt;script&gt;"])
def test_what_others_write_is_shown_and_not_obeyed(text: str) -> None:
    """In a job's name, a reason, an answer, a setting: the browser gets text, and a terminal no escape code."""
    page = Site(document(text)).ask().text
    seen = Landmarks()
    seen.feed(page)
    assert not {"script", "img"} & {tag for tag, _ in seen.tags}
    assert not [one for one in page if not one.isprintable() and one != "\n"]
    if text is ESCAPES:
        assert "\\x1b[31m\\x202e\\xdc80" in page


def test_headers_let_a_browser_do_nothing_else() -> None:
    """Nothing is stored, loaded, framed or run; the style is named by its hash, and there is no cookie."""
    headers = Site().ask().headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert policy.endswith("form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
    assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
    assert headers["Referrer-Policy"] == "same-origin"
    assert "Set-Cookie" not in headers
    assert "url(" not in STYLE


# -- the server ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    """The page on loopback."""
    made = Server(lambda _: document(), {"off": lambda _: None}, refused=lambda _: None)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_who_has_the_address_sees_the_page(server: Server) -> None:
    """Loopback only, with a token that is new each time; without it there is no such page."""
    with urllib.request.urlopen(server.url) as answer:
        assert b"report" in answer.read()
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(server.url.rsplit("/", 2)[0] + "/")
    with Server(lambda _: document(), {}, refused=lambda _: None) as other:
        assert other.url.rsplit("/", 2)[1] != server.url.rsplit("/", 2)[1]


def test_a_name_bound_to_loopback_is_refused(server: Server) -> None:
    """A page of another origin that lets its own name lead here gets nothing, with the right token too."""
    request = urllib.request.Request(server.url, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(request)


@pytest.mark.parametrize(
    "request_line", ["\x16\x03\x01", "GET / HTTP/9.9", f"GET /{'a' * 70_000} HTTP/1.1", "<script>"]
)
def test_what_is_no_request_gets_one_line(server: Server, request_line: str) -> None:
    """Neither the library's page nor its version is shown to what cannot be read."""
    said: list[str] = []
    server.refused = said.append
    assert raw(server, f"{request_line}\r\nHost: evil.example\r\n\r\n").endswith("\r\n\r\nthe request cannot be read\n")
    assert said == ["refused: the request cannot be read"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: evil.example", "421"),
        ("GET {path} HTTP/1.1\r\nHost: evil.example\r\nHost: {host}", "421"),
        ("GET {path} HTTP/1.1\r\nHost: localhost.:{port}", "421"),
        ("GET {path} HTTP/1.1\r\nHost: [::ffff:127.0.0.1]:{port}", "421"),
        ("GET {path} HTTP/1.1\r\nHost: 127.0.0.1", "421"),
        ("GET {path} HTTP/1.1\r\nHost: evil.example\r\n {host}", "421"),
        ("GET {path} HTTP/1.0", "421"),
        ("GET http://evil.example{path} HTTP/1.1\r\nHost: {host}", "404"),
        ("GET /x/..{path} HTTP/1.1\r\nHost: {host}", "404"),
        ("GET {path}%00 HTTP/1.1\r\nHost: {host}", "404"),
        ("OPTIONS {path} HTTP/1.1\r\nHost: {host}", "405"),
        ("PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0", "405"),
        ("POST / HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: 0", "404"),
        ("POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nTransfer-Encoding: chunked", "403"),
        ("HEAD {path} HTTP/1.1\r\nHost: {host}", "200"),
    ],
)
def test_a_request_written_by_hand(server: Server, head: str, status: str) -> None:
    """Names, addresses and methods that a browser would not send so open nothing; HEAD has no page in it."""
    port, path = server.server_port, "/" + server.url.split("/", 3)[3]
    found = raw(server, head.format(path=path, host=f"127.0.0.1:{port}", port=port) + "\r\n\r\n")
    assert found.startswith(f"HTTP/1.0 {status} ")
    assert "report" not in found


def test_who_sends_a_byte_now_and_then_holds_no_thread(server: Server) -> None:
    """A connection lasts so long and no longer, and there are so many at once and no more."""
    server.longest, server.most = 0.2, 3
    slow = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(5)]
    try:
        for one in slow:
            one.sendall(b"GET / HT")
        for one in slow:
            one.settimeout(DEADLINE)
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(1) == b""
        server.longest = DEADLINE  # a busy machine may take longer for a page than these had
        eventually(lambda: is_answered(server))
    finally:
        for one in slow:
            one.close()


def is_answered(server: Server) -> bool:
    """Whether the page is there; a connection that is one too many is closed."""
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(server.url).status == 200)
    return False


def raw(server: Server, request: str) -> str:
    """What is answered to bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.settimeout(DEADLINE)
        connection.sendall(request.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

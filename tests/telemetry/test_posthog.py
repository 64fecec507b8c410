"""One batch to PostHog and back, over real sockets, whatever is at the other end."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import ssl
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hosts import eventually
from lifebeat.testing import PostHogServer
from lifebeat_jobs import answers, events, posthog
from lifebeat_jobs.connections import Connections, CutError
from lifebeat_jobs.posthog import Post
from tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifebeat_jobs.answers import Answer

BODIES = [json.dumps({"event": "startup", "properties": {"n": number}}) for number in range(3)]
TIMEOUT = 0.6
TOLERANCE = 0.25


def yes() -> bool:
    """Return that telemetry is on."""
    return True


def post(host: str, timeout: float = 10.0, bodies: list[str] = BODIES, may_leave: Callable[[], bool] = yes) -> Post:
    """Return a request under way."""
    return Post(bodies, api_key="phc_test", host=host, may_leave=may_leave, timeout=timeout)


def is_timeout(words: str) -> bool:
    """Whether a request was cut off: by who waited for it, or at the same moment by its own time for a read."""
    return words == f"no answer within {TIMEOUT} s" or words.startswith("no answer in time")


def ask(host: str, timeout: float = 10.0) -> Answer:
    """What came of a request; the wait is held to its time."""
    start = time.monotonic()
    answer = post(host, timeout).wait()
    assert time.monotonic() - start < timeout + TOLERANCE
    return answer


def threads() -> list[threading.Thread]:
    """The threads of requests that are under way."""
    return [thread for thread in threading.enumerate() if thread.name == "lifebeat-post"]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    """Seconds after the answer or the cut, nothing of a request is left."""
    yield
    eventually(lambda: not threads(), timeout=5.0)


class Raw:
    """A server that does with a connection what it is told."""

    def __init__(self, conversation: Callable[[socket.socket], None]) -> None:
        self._conversation = conversation
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._conversation(connection)

    def close(self) -> None:
        """Take no more."""
        self.over.set()
        self._listener.close()


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[socket.socket], None]], Raw]]:
    """Makes servers."""
    made: list[Raw] = []

    def make(conversation: Callable[[socket.socket], None]) -> Raw:
        made.append(Raw(conversation))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read_request(connection: socket.socket) -> None:
    """Read all of it: a connection that is closed with something unread in it is reset."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < int(length.partition(b":")[2]):
        body += connection.recv(65536)


def test_events_arrive_as_they_are(receiver: PostHogServer) -> None:
    """All of a batch arrives, unchanged and in order, and the answer says delivered."""
    answer = ask(receiver.url)
    assert (answer.delivered, answer.status, answer.words) == (True, 200, "delivered")
    assert receiver.events == [json.loads(body) for body in BODIES]


def test_a_server_below_a_path(receiver: PostHogServer) -> None:
    """``telemetryHost`` may have a path, as behind a reverse proxy."""
    ask(f"{receiver.url}/ingest")
    assert [request.path for request in receiver.requests] == ["/ingest/batch/"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "HTTP 400"),
        (401, "HTTP 401; is telemetryApiKey right?"),
        (403, "HTTP 403; is telemetryApiKey right?"),
        (404, "HTTP 404; is telemetryHost right?"),
        (408, "HTTP 408"),
        (413, "HTTP 413"),
        (429, "HTTP 429"),
        (500, "HTTP 500"),
        (503, "HTTP 503"),
        (204, "HTTP 204"),
    ],
)
def test_anything_but_200_is_no_delivery(receiver: PostHogServer, status: int, words: str) -> None:
    """Anything but 200 is no delivery, and the words say what to look at."""
    receiver.answer(status, body=b"" if status == 204 else None)
    answer = ask(receiver.url)
    assert (answer.delivered, answer.status, answer.words, answer.retry_after) == (False, status, words, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to the hotel's network</html>",
        b"OK",
        b"\xff\xfe",
        b'{"status"',
        b'{"captive": true}',
        b"null",
        b'"login"',
        b"1",
        b'["status"]',
        b"[" * 20_000,
    ],
)
def test_an_answer_that_is_not_posthogs(receiver: PostHogServer, body: bytes) -> None:
    """200 without an object that has a status, as from a hotel's portal, does not count as delivered."""
    receiver.answer(200, headers={"Content-Type": "text/html"}, body=body)
    answer = ask(receiver.url)
    assert (answer.delivered, answer.status) == (False, 200)
    assert "the answer is not PostHog's; is telemetryHost right" in answer.words


@pytest.mark.parametrize("body", [b'{"status":"Ok"}', b'{"status": 1}', b'{"status":1,"quota_limited":["events"]}'])
def test_answers_of_all_posthogs(receiver: PostHogServer, body: bytes) -> None:
    """An object with a status is an answer, zipped or not: what it says has changed over the years."""
    receiver.answer(200, body=body)
    assert ask(receiver.url).delivered
    receiver.answer(200, headers={"Content-Encoding": "gzip"}, body=gzip.compress(body))
    assert ask(receiver.url).delivered


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(receiver: PostHogServer, status: int) -> None:
    """Nothing is sent to where a redirect points, and the words say what to set instead."""
    with PostHogServer() as elsewhere:
        receiver.answer(status, headers={"Location": f"{elsewhere.url}/batch/"})
        answer = ask(receiver.url)
        assert (answer.delivered, answer.status, elsewhere.connections) == (False, status, 0)
        assert answer.words == (
            f"HTTP {status}, redirected to {elsewhere.url}, which is not followed; set telemetryHost to that"
        )


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://eu.i.posthog.com/batch/?token=x#y", "https://eu.i.posthog.com"),
        ("https://user:secret@ph.example.org:8443/ingest/batch", "https://ph.example.org:8443"),
        ("/login", "{url}"),
        ("ftp://ph.example.org/", "nowhere"),
        ("https://\x1b]0;title\x07ph.example.org/", "nowhere"),
        ("https://ph.example.org\x1b[31m/", "nowhere"),
        ("http://[", "nowhere"),
        ("https://ph.example.org:port/", "nowhere"),
    ],
)
def test_where_a_redirect_leads(receiver: PostHogServer, location: str, target: str) -> None:
    """Only scheme and host are shown, and only what can be printed: a server can write there what it likes."""
    receiver.answer(302, headers={"Location": location})
    assert f"redirected to {target.format(url=receiver.url)}, which" in ask(receiver.url).words


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("60", 60.0),
        ("1.5", 1.5),
        ("0", 0.0),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("9999999999", answers.LONGEST_PAUSE),
        ("9" * 90, answers.LONGEST_PAUSE),
        ("soon", None),
        ("", None),
        ("Fri, 99 Foo 2026 25:61:61 GMT", None),
    ],
)
def test_retry_after_in_seconds(receiver: PostHogServer, header: str, seconds: float | None) -> None:
    """A number of seconds is read; what is none is as if the server had not said anything."""
    receiver.answer(429, headers={"Retry-After": header})
    assert ask(receiver.url).retry_after == seconds


def test_retry_after_as_a_date(receiver: PostHogServer) -> None:
    """A date is read by the server's own clock, so that ours may be wrong; one that is past means now."""
    receiver.answer(503, headers={"Retry-After": formatdate(time.time() + 100, usegmt=True)})
    answer = ask(receiver.url)
    assert answer.retry_after is not None
    assert 95 < answer.retry_after < 105
    receiver.answer(429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert ask(receiver.url).retry_after == 0.0


def test_refused_connection_is_an_answer_at_once(receiver: PostHogServer) -> None:
    """A connection that is refused is an answer at once."""
    receiver.refuse()
    assert ask(receiver.url).words == "the connection was refused"


def test_unknown_host_fails_in_time() -> None:
    """A name that cannot be looked up is a failure within its time, and not a traceback."""
    answer = ask("http://posthog.invalid", timeout=5.0)
    assert (answer.delivered, answer.status) == (False, None)
    assert answer.words == "the host name cannot be looked up"


def test_a_name_that_is_none() -> None:
    """Whatever the layers below raise, it is an answer."""
    assert ask(f"http://{'a' * 70}.example").status is None


def hang(server: PostHogServer) -> str:
    """Read and never answer."""
    server.hang()
    return server.url


def hang_at_connect(server: PostHogServer) -> str:
    """Accept and never read."""
    server.hang_at_connect()
    return server.url


def tls_that_hangs(server: PostHogServer) -> str:
    """Accept and never shake hands."""
    server.hang_at_connect()
    return server.url.replace("http://", "https://")


def drip(server: PostHogServer) -> str:
    """A byte of a header now and then."""
    server.drip(0.1)
    return server.url


@pytest.mark.parametrize("misbehaviour", [hang, hang_at_connect, tls_that_hangs, drip])
def test_no_wait_is_longer_than_its_time(receiver: PostHogServer, misbehaviour: Callable[[PostHogServer], str]) -> None:
    """A server that never comes to an end is cut off in time."""
    assert is_timeout(ask(misbehaviour(receiver), TIMEOUT).words)
    assert receiver.events == []


def test_a_body_that_drips(raw: Callable[..., Raw]) -> None:
    """So is one that answers 200 at once and then sends a byte of the body now and then."""

    def drip_body(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not server.over.wait(0.1):
            connection.sendall(b" ")

    server = raw(drip_body)
    assert ask(f"http://127.0.0.1:{server.port}", TIMEOUT).words == "no answer within 0.6 s"


def test_connecting_that_hangs() -> None:
    """So is a connection whose first packet is never answered: a queue that is full drops it."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        words = ask(f"http://127.0.0.1:{listener.getsockname()[1]}", TIMEOUT).words
        assert is_timeout(words)


def test_a_thread_that_is_late_takes_from_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is gone the start of a thread takes its time, and the wait for an answer what is left."""
    begin = threading.Event()

    def late(_: threading.Thread) -> None:
        begin.wait(10)

    monkeypatch.setattr(threading.Thread, "start", late)
    assert ask("http://127.0.0.1:9", TIMEOUT).words == "no thread could be started"
    begin.set()


def test_a_server_that_does_not_read(raw: Callable[..., Raw]) -> None:
    """So is a large body that nobody takes."""
    import random

    incompressible = json.dumps({"noise": random.Random(1).randbytes(4_000_000).hex()})

    def stare(_: socket.socket) -> None:
        server.over.wait()

    server = raw(stare)
    under_way = post(f"http://127.0.0.1:{server.port}", TIMEOUT, [incompressible])
    start = time.monotonic()
    assert not under_way.wait().delivered
    assert time.monotonic() - start < TIMEOUT + 4 * TOLERANCE  # eight megabytes are packed beside it


def test_an_endless_body_is_not_read(raw: Callable[..., Raw]) -> None:
    """A server that sends without end gets no memory of ours: reading stops after some kilobytes."""
    sent = itertools.count()

    def pour(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)
            next(sent)

    answer = ask(f"http://127.0.0.1:{raw(pour).port}")
    assert "the answer is not PostHog's" in answer.words
    assert next(sent) < 500


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 100, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_a_server_that_speaks_something_else(raw: Callable[..., Raw], garbage: bytes) -> None:
    """What is not HTTP is a failure, and one that says so on a line."""

    def babble(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(garbage)

    for scheme, seconds in (("http", 3.0), ("https", TIMEOUT)):
        answer = ask(f"{scheme}://127.0.0.1:{raw(babble).port}", seconds)
        assert (answer.delivered, answer.status) == (False, None)
        assert "\n" not in answer.words
        assert "object at 0x" not in answer.words


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed, and its key, in one file."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


def tls_server(raw: Callable[..., Raw], certificate: Path) -> Raw:
    """A PostHog behind TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def converse(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            read_request(secured)
            secured.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"Ok"}')

    return raw(converse)


def test_a_certificate_that_nobody_signed(raw: Callable[..., Raw], certificate: Path) -> None:
    """A certificate error is a failure whose words say what is wrong with the certificate."""
    answer = ask(f"https://127.0.0.1:{tls_server(raw, certificate).port}")
    assert answer.words == "the TLS handshake failed: the certificate was not accepted, it is self-signed"


def test_a_certificate_of_another_host(
    raw: Callable[..., Raw], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is trusted, but made out to somebody else, too."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    answer = ask(f"https://localhost:{tls_server(raw, certificate).port}")
    assert answer.words == "the TLS handshake failed: the certificate was not accepted, it is another host's"


def test_a_trusted_certificate(raw: Callable[..., Raw], certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS the events are delivered, with an authority of one's own as requests knows it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert ask(f"https://127.0.0.1:{tls_server(raw, certificate).port}").delivered


def test_proxy_of_the_environment_is_used(receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is used; the receiver is the proxy here."""
    monkeypatch.setenv("http_proxy", receiver.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask("http://posthog.invalid").status == 404
    assert receiver.requests[0].path == "http://posthog.invalid/batch/"


def test_a_proxy_that_hangs(receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection through a proxy is cut off in time too, be it for TLS or not."""
    receiver.hang_at_connect()
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", receiver.url)
        words = ask(f"{scheme}://posthog.invalid", TIMEOUT).words
        assert is_timeout(words)


def test_after_a_cut_nothing_is_connected(receiver: PostHogServer) -> None:
    """A look-up that ends after the time was up leads to no connection."""
    connections = Connections(yes)
    connections.cut()
    with pytest.raises(CutError, match="cut off from this side"):
        connections.connect("127.0.0.1", receiver.port, timeout=1.0, options=())
    assert receiver.connections == 0


def test_a_second_address_is_tried(receiver: PostHogServer) -> None:
    """Where the first address of a name does not answer, the next one does."""
    connections = Connections(yes)
    with connections.connect("localhost", receiver.port, timeout=2.0, options=()) as made:
        assert made.getpeername() == ("127.0.0.1", receiver.port)
    connections.close()


def test_what_the_sdk_changes_is_not_sent(receiver: PostHogServer) -> None:
    """If the bytes are not the recorded events, or have more or less around them, they do not leave."""
    batch: list[Any] = [{"event": "startup"}]
    fine: dict[str, Any] = {"api_key": "phc_test", "batch": batch, "sent_at": "2026-11-23T12:30:15.123+00:00"}
    altered: list[dict[str, Any]] = [
        {**fine, "batch": [{"event": "startup", "email": "x"}]},
        {**fine, "historical_migration": True},
        {**fine, "batch": []},
        {"api_key": "phc_test", "batch": batch},
    ]
    for document in altered:
        session = posthog.Session(batch, Connections(yes))
        zipped = gzip.compress(json.dumps(document).encode())
        with pytest.raises(posthog.Refused):
            session.post(f"{receiver.url}/batch/", data=zipped, headers={"Content-Encoding": "gzip"})
        session.close()
    assert receiver.connections == 0


def test_headers_are_the_declared_ones(receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers are constant, whatever the SDK says it is, and no cookie of an earlier answer goes along."""
    monkeypatch.setattr(posthog.sdk, "USER_AGENT", "canary/atlas")
    receiver.answer(200, headers={"Set-Cookie": "id=1; Path=/"})
    for _ in range(2):
        assert ask(receiver.url).delivered
    for request in receiver.requests:
        host = receiver.url.removeprefix("http://")
        assert dict(request.headers) == {"Host": host, **events.HEADERS, "Content-Length": str(len(request.raw))}


def test_an_sdk_that_takes_no_session_sends_the_same(receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the SDK cannot be given a session, the request is the same."""
    ask(receiver.url)
    monkeypatch.setattr(posthog.sdk, "post", yes)
    ask(receiver.url)
    first, second = receiver.requests
    assert [{**one.json(), "sent_at": ""} for one in (first, second)] == [{**first.json(), "sent_at": ""}] * 2
    assert list(first.json()) == list(second.json())
    lengths = {"Content-Length": ""}
    assert {**dict(first.headers), **lengths} == {**dict(second.headers), **lengths}


# -- the gate at the exit ----------------------------------------------------------------------------------------------


class Switch:
    """Consent that a test turns off, and the moment at which it did."""

    def __init__(self) -> None:
        self.is_on = True
        self.at = 0.0

    def __call__(self) -> bool:
        return self.is_on

    def turn_off(self) -> None:
        """Turn it off."""
        self.at, self.is_on = time.monotonic(), False


def test_nothing_leaves_when_it_is_off_before(receiver: PostHogServer) -> None:
    """A request that finds telemetry off sends no byte."""
    answer = post(receiver.url, may_leave=lambda: False).wait()
    assert (answer.withheld, answer.delivered, receiver.requests) == (True, False, [])


def test_the_look_comes_after_the_connection(raw: Callable[..., Raw]) -> None:
    """Turned off while the connection is made, not one byte of the request leaves."""
    switch, heard = Switch(), list[bytes]()

    def listen(connection: socket.socket) -> None:
        heard.append(connection.recv(65536))

    looks = itertools.count()

    def off_at_the_look() -> bool:
        next(looks)
        switch.turn_off()
        return switch()

    answer = post(f"http://127.0.0.1:{raw(listen).port}", may_leave=off_at_the_look).wait()
    assert answer.withheld
    assert next(looks) == 1
    eventually(lambda: heard == [b""], timeout=5)


def test_the_body_is_looked_at_apart(raw: Callable[..., Raw]) -> None:
    """Turned off between head and body, the body stays here."""
    heard: list[bytes] = []

    def listen(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            heard.append(data)

    looks = itertools.count()
    answer = post(f"http://127.0.0.1:{raw(listen).port}", may_leave=lambda: next(looks) == 0).wait()
    assert answer.withheld
    assert b"".join(heard) == b"" or b"".join(heard).endswith(b"\r\n\r\n")


def test_off_cuts_a_look_up_that_takes_long(receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up for longer than the switch is on leads to no connection."""
    looked_up, switch, find = threading.Event(), Switch(), socket.getaddrinfo

    def slowly(*args: Any, **kwargs: Any) -> Any:
        looked_up.wait(10)
        return find(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    under_way = post(receiver.url, may_leave=switch)
    switch.turn_off()
    assert under_way.wait().withheld
    assert time.monotonic() - switch.at < 2
    looked_up.set()
    eventually(lambda: not threads(), timeout=5)
    assert receiver.connections == 0


@pytest.mark.parametrize("misbehaviour", [hang, hang_at_connect, tls_that_hangs, drip])
def test_off_cuts_what_is_open(receiver: PostHogServer, misbehaviour: Callable[[PostHogServer], str]) -> None:
    """Within two seconds after the switch nothing is open, whatever the server is at."""
    switch = Switch()
    under_way = post(misbehaviour(receiver), may_leave=switch)
    receiver.wait_for(lambda server: server.connections > 0)
    switch.turn_off()
    assert under_way.wait().withheld
    assert time.monotonic() - switch.at < 2
    eventually(lambda: not threads(), timeout=2)


def test_off_cuts_a_body_that_is_on_its_way(raw: Callable[..., Raw]) -> None:
    """What a slow server has not taken yet is thrown away, also where the kernel had it already."""
    import random

    incompressible = json.dumps({"noise": random.Random(1).randbytes(4_000_000).hex()})
    switch, begun, taken = Switch(), threading.Event(), list[float]()

    def sip(connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                taken.append(time.monotonic())
                begun.set()
                server.over.wait(0.02)

    server = raw(sip)
    under_way = post(f"http://127.0.0.1:{server.port}", 30, [incompressible], switch)
    assert begun.wait(20)
    switch.turn_off()
    assert under_way.wait().withheld
    eventually(lambda: not threads(), timeout=2)
    eventually(lambda: time.monotonic() - taken[-1] > 1, timeout=10)
    assert taken[-1] - switch.at < 2


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy"])
@pytest.mark.parametrize(
    "proxy", ["socks://ada:pa#ss@127.0.0.1:9", "http://ada:p%23a@127.0.0.1:9", "http://[", "ada:pa@x:y"]
)
def test_reasons_hold_nothing_foreign(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str) -> None:
    """Whatever is wrong with a proxy, its address and password are in no reason."""
    monkeypatch.setenv(variable, proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    words = ask(f"{variable.partition('_')[0]}://posthog.invalid", 5.0).words
    assert not any(part in words for part in ("ada", "pa#ss", "p%23a", "127.0.0.1", "object at", "socks://"))
    assert words.isprintable()


def test_a_reason_phrase_is_not_repeated(raw: Callable[..., Raw]) -> None:
    """What a server says beside the number of the status stays there."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 503 \x1b[31mcanary\r\nContent-Length: 0\r\n\r\n")

    assert ask(f"http://127.0.0.1:{raw(answer).port}").words == "HTTP 503"


def test_many_requests_leave_nothing_behind(receiver: PostHogServer) -> None:
    """Threads and descriptors of fifty requests are all given back."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc, to count descriptors")
    ask(receiver.url)
    eventually(lambda: not threads(), timeout=1.0)
    before = len(list(descriptors.iterdir()))
    for _ in range(50):
        assert ask(receiver.url).delivered
    eventually(lambda: len(list(descriptors.iterdir())) <= before + 2, timeout=2.0)

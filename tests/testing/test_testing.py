"""The fakes that Lifebeat ships behave as they say: the PostHog server, the clock, the environment."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import requests

from lifebeat.testing import FakeClock, PostHogServer, telemetry_allowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifebeat.clock import Clock


@pytest.fixture
def server() -> Iterator[PostHogServer]:
    with PostHogServer() as started:
        yield started


def event(name: str = "startup", uuid: str = "u1", **more: Any) -> dict[str, Any]:
    return {"event": name, "uuid": uuid, "timestamp": "2026-01-01T00:00:00Z", "distinct_id": "me", **more}


def body(*events: dict[str, Any]) -> bytes:
    return json.dumps({"api_key": "phc_test", "batch": events or [event()]}).encode()


def direct_session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy of the machine's
    return session


def post(
    server: PostHogServer,
    data: bytes | None = None,
    path: str = "/batch/",
    timeout: float = 10.0,
    **headers: str,
) -> requests.Response:
    with direct_session() as session:
        url = server.url + path
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return session.post(
            url, body() if data is None else data, headers=names, timeout=timeout, allow_redirects=False
        )


def connect(server: PostHogServer, timeout: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=timeout)


def ask(client: socket.socket) -> None:
    data = body()
    client.sendall(b"POST /batch/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:  # what comes of closing a connection with bytes still unread
        return True


# What arrives


def test_a_batch_is_accepted_and_its_events_are_kept_in_order(server: PostHogServer) -> None:
    """A batch gets 200 and PostHog's body, and its events can be read back in order."""
    answer = post(server, body(event("startup"), event("heartbeat", "u2")))
    post(server, body(event("shutdown", "u3")), path="/batch")
    assert (answer.status_code, answer.json()) == (200, {"status": "Ok"})
    assert server.names() == ["startup", "heartbeat", "shutdown"]
    assert server.events[0] == event("startup")


def test_a_request_is_kept_as_it_was_received(server: PostHogServer) -> None:
    """Method, target with query and repeated slashes, headers in their own case and raw bytes are kept."""
    before = time.time()
    with connect(server) as client:
        client.sendall(
            b"PUT //odd?x=1&y HTTP/1.1\r\nhOST: x\r\nX-Twice: a\r\nx-twice: b\r\nContent-Length: 3\r\n\r\n\x00{}"
        )
        client.recv(100)
    (request,) = server.requests
    assert (request.method, request.path, request.raw, request.body) == ("PUT", "//odd?x=1&y", b"\x00{}", b"\x00{}")
    assert request.headers == (("hOST", "x"), ("X-Twice", "a"), ("x-twice", "b"), ("Content-Length", "3"))
    assert (request.header("HOST"), request.header("Authorization")) == ("x", None)
    assert before <= request.received_at <= time.time()


def test_a_gzip_body_is_unzipped_and_kept_raw_too(server: PostHogServer) -> None:
    """With Content-Encoding gzip the events are read from the unzipped body; ``raw`` stays zipped."""
    zipped = gzip.compress(body())
    assert post(server, zipped, Content_Encoding="gzip").status_code == 200
    (request,) = server.requests
    assert (request.raw, request.body, request.json()["api_key"]) == (zipped, body(), "phc_test")


@pytest.mark.parametrize(
    "cut",
    [b"not gzip at all", gzip.compress(body())[:-10], gzip.compress(body())[:12] + b"\xff" * 20],
    ids=["no gzip", "cut short", "spoiled"],  # gzip notes the time, and two test processes must agree on names
)
def test_a_body_that_cannot_be_unzipped_is_400(server: PostHogServer, cut: bytes) -> None:
    """A body that claims to be gzip and is not, or is cut or broken, is answered 400 and kept raw."""
    assert post(server, cut, Content_Encoding="gzip").status_code == 400
    assert (server.requests[0].raw, server.requests[0].body, server.events) == (cut, b"", [])


def test_a_zipped_body_that_does_not_say_so_is_400(server: PostHogServer) -> None:
    """Without its Content-Encoding a gzip body is not JSON."""
    assert post(server, gzip.compress(body())).status_code == 400


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{",
        b"\xff\xfe\xff",
        b"[]",
        b"null",
        b'{"batch": []}',
        b'{"api_key": "", "batch": []}',
        b'{"api_key": 1, "batch": []}',
        b'{"api_key": "k"}',
        b'{"api_key": "k", "batch": {}}',
        b'{"api_key": "k", "batch": ["e"]}',
    ],
)
def test_what_is_no_batch_is_400(server: PostHogServer, wrong: bytes) -> None:
    """A body that is no JSON object with an api_key and a batch of objects is answered 400."""
    answer = post(server, wrong)
    assert (answer.status_code, "api_key" in answer.json()["detail"]) == (400, True)
    assert server.events == []


@pytest.mark.parametrize("path", ["/", "/batch/batch/", "/batches", "//batch/", "/prefix/batch/", "/i/v1/batch"])
def test_other_paths_are_404(server: PostHogServer, path: str) -> None:
    """Only /batch and /batch/ take events, whatever else they look like."""
    with connect(server) as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: {len(body())}\r\n\r\n".encode() + body())
        assert client.recv(100).startswith(b"HTTP/1.1 404 ")
    assert server.events == []


def test_the_query_does_not_matter_but_the_method_does(server: PostHogServer) -> None:
    """A query after the path is allowed; a GET of it is not."""
    assert post(server, path="/batch/?ip=0").status_code == 200
    with direct_session() as session:
        assert session.get(f"{server.url}/batch/", timeout=10).status_code == 404


def test_repeats_are_one_in_distinct(server: PostHogServer) -> None:
    """``distinct`` has an event that was sent twice once, ``events`` twice."""
    post(server)
    post(server, body(event(), event("heartbeat", "u2")))
    assert server.names() == ["startup", "startup", "heartbeat"]
    when = "2026-01-01T00:00:00Z"
    assert server.distinct() == {("u1", when, "startup", "me"), ("u2", when, "heartbeat", "me")}


@pytest.mark.parametrize("changed", [{"timestamp": "2026-01-02T00:00:00Z"}, {"distinct_id": "you"}])
def test_a_repeat_that_differs_is_distinct(server: PostHogServer, changed: dict[str, str]) -> None:
    """Each part of the key counts."""
    post(server, body(event(), event() | changed))
    assert len(server.distinct()) == 2


def test_one_connection_takes_many_requests(server: PostHogServer) -> None:
    """Connections are kept alive, as a session expects."""
    with direct_session() as session:
        for _ in range(3):
            session.post(f"{server.url}/batch/", body(), timeout=10)
    assert (len(server.requests), server.connections) == (3, 1)


def test_a_connection_counts_also_if_nothing_is_sent(server: PostHogServer) -> None:
    """``connections`` counts at once what connects, even what hangs up without a word."""
    assert server.connections == 0
    for expected in range(1, 30):
        connect(server).close()
        assert server.connections == expected
    assert server.requests == []


@pytest.mark.parametrize("header", ["Transfer-Encoding: chunked", "Content-Length: many", "Content-Length: -1"])
def test_a_body_without_a_length_is_411(server: PostHogServer, header: str) -> None:
    """A body whose length is not said beforehand is refused, not read as something else."""
    with connect(server) as client:
        client.sendall(f"POST /batch/ HTTP/1.1\r\n{header}\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 411 ")
    assert server.requests == []


def test_a_request_that_breaks_off_never_arrived(server: PostHogServer) -> None:
    """A client that leaves in the middle of its body leaves no request behind."""
    with connect(server) as client:
        client.sendall(b"POST /batch/ HTTP/1.1\r\nContent-Length: 1000\r\n\r\n" + body())
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert (server.requests, server.events) == ([], [])


# Waiting


def test_wait_for_returns_as_soon_as_enough_has_arrived(server: PostHogServer) -> None:
    """A number waits for so many events, a predicate until it is true of the server."""
    sender = threading.Timer(0.1, post, [server])
    sender.start()
    server.wait_for(1)
    assert server.names() == ["startup"]
    server.wait_for(lambda it: it.connections == 1 and len(it.requests) == 1)
    sender.join()


def test_wait_for_says_what_did_arrive(server: PostHogServer) -> None:
    """When it gives up, the error has what was wanted and what came."""
    post(server)
    post(server, b"?", path="/elsewhere")
    with pytest.raises(AssertionError) as caught:
        server.wait_for(2, timeout=0.05)
    for part in ("2 events", "0.05 s", "['startup']", "POST /elsewhere (1 bytes)", "connections: 2"):
        assert part in str(caught.value)
    with pytest.raises(AssertionError, match="still not true"):
        server.wait_for(lambda _: False, timeout=0.05)


# Misbehaviour


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 429, 500, 503])
def test_it_answers_as_told_until_it_resumes(server: PostHogServer, status: int) -> None:
    """A told status holds for every request, its events are not accepted, and resume ends it."""
    server.answer(status)
    assert [post(server).status_code, post(server).status_code] == [status, status]
    assert (server.events, len(server.requests)) == ([], 2)
    server.resume()
    assert post(server).status_code == 200


def test_told_headers_and_body_are_sent(server: PostHogServer) -> None:
    """Retry-After, Location and a body of one's own go out as told."""
    server.answer(429, {"Retry-After": "7", "Content-Type": "text/plain"}, b"slow down")
    answer = post(server)
    assert (answer.headers["Retry-After"], answer.headers["Content-Type"]) == ("7", "text/plain")
    assert answer.content == b"slow down"
    server.answer(307, {"Location": "http://127.0.0.1:9/batch/"})
    assert (post(server).status_code, post(server).headers["Location"]) == (307, "http://127.0.0.1:9/batch/")


def test_a_told_answer_can_end_by_itself(server: PostHogServer) -> None:
    """With ``times`` it goes back to normal after so many requests."""
    server.answer(503, times=2)
    assert [post(server).status_code for _ in range(4)] == [503, 503, 200, 200]
    with pytest.raises(ValueError, match="times is 0, must be at least 1"):
        server.answer(503, times=0)


def test_a_told_200_still_takes_the_events(server: PostHogServer) -> None:
    """With a told 200 only the words differ: a valid batch is accepted."""
    server.answer(200, body=b"<html>")
    assert (post(server).content, server.names()) == (b"<html>", ["startup"])


def test_a_poison_event_rejects_its_whole_batch(server: PostHogServer) -> None:
    """A batch with a rejected event gets 400 and none of it is accepted; one without gets 200."""
    server.reject_events(lambda it: it["event"] == "bad")
    assert post(server, body(event(), event("bad"))).status_code == 400
    assert post(server, body(event("good"))).status_code == 200
    assert server.names() == ["good"]


def test_a_limit_is_on_the_unzipped_body(server: PostHogServer) -> None:
    """More bytes than the limit, unzipped, get 413; as many as the limit are accepted."""
    large = body(event(padding="x" * 1000))
    server.limit_bytes(len(large))
    assert post(server, large).status_code == 200
    server.limit_bytes(len(large) - 1)
    zipped = gzip.compress(large)
    assert len(zipped) < len(large) - 1
    assert post(server, zipped, Content_Encoding="gzip").status_code == 413


def test_a_told_answer_comes_before_the_rules_and_leaves_them(server: PostHogServer) -> None:
    """An answer told for one request does not undo a rule about events, nor a rule the answer."""
    server.answer(503, times=1)
    server.reject_events(lambda _: True)
    assert [post(server).status_code, post(server).status_code] == [503, 400]
    server.answer(503, times=1)
    assert [post(server).status_code, post(server).status_code] == [503, 400]


def test_hang_reads_and_never_answers(server: PostHogServer) -> None:
    """A hung request has arrived, gets no byte, and is closed unanswered by resume."""
    server.hang()
    with connect(server) as client:
        ask(client)
        server.wait_for(lambda it: len(it.requests) == 1)
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(10)
        server.resume()
        assert is_cut(client)
    assert server.events == []
    assert post(server).status_code == 200


def test_hang_at_connect_does_not_even_read(server: PostHogServer) -> None:
    """A connection is taken and counted, and what is sent over it is not read until resume closes it."""
    server.hang_at_connect()
    with connect(server) as client:
        ask(client)
        assert server.connections == 1
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert server.requests == []
        client.settimeout(10)
        server.resume()
        assert is_cut(client)
    assert (server.requests, server.events) == ([], [])


def test_hang_at_connect_holds_for_an_open_connection(server: PostHogServer) -> None:
    """A kept-alive connection is not a way round it."""
    with direct_session() as session:
        session.post(f"{server.url}/batch/", body(), timeout=10)
        server.hang_at_connect()
        with pytest.raises(requests.ReadTimeout):
            session.post(f"{server.url}/batch/", body(), timeout=0.1)


def test_drip_holds_a_client_past_its_read_timeout(server: PostHogServer) -> None:
    """A byte comes often enough for a timeout per read, and the answer never ends."""
    server.drip(0.01)
    received = b""
    with connect(server, timeout=5.0) as client:
        ask(client)
        while len(received) < 60:
            received += client.recv(1)
        server.resume()
        while chunk := client.recv(100):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200 OK\r\nX-Drip: ....")
    assert b"\n" not in received[17:]
    assert server.events == []


def test_drip_starts_with_the_status_line_alone(server: PostHogServer) -> None:
    """Nothing follows the status line before the interval is over."""
    server.drip(30.0)
    with connect(server) as client:
        ask(client)
        assert client.recv(100) == b"HTTP/1.1 200 OK\r\n"
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_refuse_closes_the_port_and_open_connections(server: PostHogServer) -> None:
    """Connections are refused, what was open is cut, and the same port opens again with the record kept."""
    post(server)
    with connect(server) as client:
        assert server.connections == 2
        server.refuse()
        assert is_cut(client)
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connect(server)
    url = server.url
    server.accept_again()
    assert (post(server).status_code, server.url, len(server.events), server.connections) == (200, url, 2, 3)


def test_refuse_holds_though_a_forked_child_has_the_socket() -> None:
    """A child that was forked while the server listened does not keep the port open."""
    script = """if True:
        import os, socket
        from lifebeat.testing import PostHogServer
        with PostHogServer() as server:
            end, other = os.pipe()
            if os.fork() == 0:
                os.close(other)
                os.read(end, 1)
                os._exit(0)
            server.refuse()
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=5)
            except ConnectionRefusedError:
                print("refused")
            server.accept_again()
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
            print(server.connections)
    """
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout.split(), done.stderr) == (["refused", "1"], "")


def test_what_was_told_outlives_refuse(server: PostHogServer) -> None:
    """A server that hangs still hangs after it refused and accepted again; accepting twice changes nothing."""
    server.hang()
    server.refuse()
    server.accept_again()
    threads = threading.active_count()
    server.accept_again()
    assert threading.active_count() == threads
    with pytest.raises(requests.ReadTimeout):
        post(server, timeout=0.1)


@pytest.mark.parametrize("how", ["hang", "hang_at_connect", "drip", "idle", "refused"])
def test_stop_is_quick_and_leaves_no_thread(how: str) -> None:
    """Whatever hangs on it, stop is over in about a second, the client is cut off and its threads are gone."""
    before = set(threading.enumerate())
    server = PostHogServer().start()
    {"hang": server.hang, "hang_at_connect": server.hang_at_connect, "drip": server.drip}.get(how, server.resume)()
    with connect(server) as client, connect(server) as other:
        if how != "idle":
            ask(client)
            ask(other)
        assert server.connections == 2
        if how == "refused":
            server.refuse()
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 2.0
        assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        connect(server)


def test_clients_that_leave_are_silent(server: PostHogServer, capfd: pytest.CaptureFixture[str]) -> None:
    """A client that resets its connection while it is answered leaves no output and no failing thread."""
    server.answer(200, body=b"x" * 5_000_000)
    for _ in range(5):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            ask(client)
    server.wait_for(lambda it: it.connections == 5)
    server.stop()
    assert capfd.readouterr() == ("", "")


def test_start_and_stop_may_be_repeated_in_order() -> None:
    """A stopped server starts again on its port; starting twice is an error, stopping twice is not."""
    server = PostHogServer()
    with pytest.raises(RuntimeError, match="not started"):
        server.refuse()
    with server:
        with pytest.raises(RuntimeError, match="already started at 'http://127"):
            server.start()
        url = server.url
        post(server)
    server.stop()
    with server:
        assert (post(server).status_code, server.url) == (200, url)
    assert server.names() == ["startup", "startup"]


def test_the_port_can_be_chosen(server: PostHogServer) -> None:
    """``port`` is where it listens, and a port that is taken is an error."""
    with pytest.raises(OSError, match="in use"):
        PostHogServer(server.port).start()
    port = server.port
    server.stop()
    with PostHogServer(port) as other:
        assert (other.port, http.client.HTTPConnection("127.0.0.1", port).port) == (port, port)


def test_the_receiver_as_a_command() -> None:
    """It says where it listens, prints each event as a line, and ends at SIGTERM with 0."""
    command = [sys.executable, "-m", "lifebeat.testing"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        assert started.stdout is not None
        port = int(started.stdout.readline().removeprefix("listens on http://127.0.0.1:"))
        taken = subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, check=False, timeout=20)
        with direct_session() as session:
            session.post(f"http://127.0.0.1:{port}/batch/", body(event(uuid="u7")), timeout=10)
        assert json.loads(started.stdout.readline()) == event(uuid="u7")
        started.terminate()
        assert (started.wait(10), started.stdout.read()) == (0, "")
    assert (taken.returncode, "give another --port" in taken.stderr) == (3, True)


# Clock and environment


def test_the_clock_moves_only_when_told() -> None:
    """It starts at the given epoch, ``advance`` moves both clocks, ``jump`` the wall clock alone."""
    clock = FakeClock()
    checked: Clock = clock
    assert checked.time() == 1767225600.0 == FakeClock(5.0).time() + 1767225595.0
    start = clock.monotonic()
    clock.advance(1.5)
    clock.jump(-3600)
    assert (clock.time(), clock.monotonic()) == (1767222001.5, start + 1.5)


def test_the_clock_does_not_advance_backwards() -> None:
    """Going back is for ``jump``, since a monotonic clock cannot."""
    with pytest.raises(ValueError, match=r"seconds is -1, must be 0 or more; jump\(\)"):
        FakeClock().advance(-1)


def test_telemetry_allowed_leaves_out_what_the_caller_has_set() -> None:
    """Of the caller's environment everything stays but what would steer Lifebeat, and the test mode is set."""
    telemetry = "DO_NOT_TRACK TELEMETRY_ENABLED TELEMETRY_HOST LIFEBEAT_CONFIG_DIR LIFEBEAT_DEPLOYMENT"
    service = "STATE_DIRECTORY CONFIGURATION_DIRECTORY APP_NAME APP_VERSION RELEASE_VERSION"
    steering = dict.fromkeys(f"{telemetry} {service}".split(), "1")
    kept = {"PATH": "/bin", "CI": "true", "MY_TELEMETRY_THING": "x", "APP_NAMES": "y"}
    given = steering | kept
    assert telemetry_allowed(given) == kept | {"LIFEBEAT_TEST_MODE": "loopback"}
    assert given == steering | kept


def test_telemetry_allowed_starts_from_the_process_environment() -> None:
    """Without an argument it copies ``os.environ`` and leaves that alone."""
    before = dict(os.environ)
    assert telemetry_allowed()["PATH"] == os.environ["PATH"]
    assert dict(os.environ) == before

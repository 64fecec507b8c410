"""One batch to PostHog and back, over a session of our own.

An SDK ``Client`` would add properties, take the host's context along, read ``~/.netrc`` and wait without a bound.
Importing this module imports the SDK; it is imported when there is something to send.
"""

from __future__ import annotations

import gzip
import http.client
import inspect
import io
import json
import os
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any

import requests
import urllib3.exceptions as below
from posthog import request
from requests.structures import CaseInsensitiveDict

from lifebeat.storage import threads
from lifebeat_jobs import answers, events
from lifebeat_jobs.answers import Answer
from lifebeat_jobs.connections import Adapter, Connections, CutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

sdk: Any = request  # what it holds has changed over the versions, and so have its types
CONNECT_TIMEOUT = 10.0
LOOK = 0.5
_MOST_READ = 1 << 16
_ENVELOPE = {"api_key", "batch", "sent_at"}
_WITHHELD = Answer(None, "cut off: telemetry was turned off meanwhile", withheld=True)
_CERTIFICATE_FAULTS = {  # by OpenSSL's number; its text holds the host's name
    10: "it has expired",
    18: "it is self-signed",
    19: "it is self-signed",
    20: "its issuer is not known here",
    62: "it is another host's",
    64: "it is another host's",
}
# Of the innermost error the first kind that it is; no text of an error is repeated: it can hold a proxy's password.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLError, "the TLS handshake failed"),
    (socket.gaierror, "the host name cannot be looked up"),
    (ConnectionRefusedError, "the connection was refused"),
    (ConnectionError, "the connection was reset"),
    (TimeoutError, "no answer in time"),
    (below.TimeoutError, "no answer in time"),
    (requests.exceptions.InvalidSchema, "a proxy of this kind cannot be used; look at http_proxy and https_proxy"),
    (requests.exceptions.InvalidURL, "telemetryHost or a proxy's URL is malformed"),
    (below.LocationValueError, "telemetryHost or a proxy's URL is malformed"),
    (UnicodeError, "telemetryHost or a proxy's URL is malformed"),
    (MemoryError, "there is no memory left"),
    (below.HTTPError, "the answer is not HTTP"),
    (http.client.HTTPException, "the answer is not HTTP"),
    (OSError, "the connection failed"),
)


class Refused(requests.RequestException):
    """The request is not the declared one; it did not leave."""


class Session(requests.Session):
    """Sends what it is given and nothing else: no credentials of ``~/.netrc``, no cookies, no redirects.

    Args:
        batch: The recorded events.
        connections: Where its connections are made.
    """

    def __init__(self, batch: list[Any], connections: Connections) -> None:
        super().__init__()
        self.answer: Answer | None = None
        self.auth = lambda request: request  # an own auth keeps requests from looking into ~/.netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._batch = batch
        self.mount("https://", Adapter(connections))
        self.mount("http://", Adapter(connections))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request with the declared headers, if its body is the declared one."""
        data: Any = request.body
        if not self._is_declared(data, zipped=request.headers.get("Content-Encoding") == "gzip"):
            raise Refused
        request.headers = CaseInsensitiveDict({**events.HEADERS, "Content-Length": str(len(data))})
        kwargs["stream"] = True
        response = super().send(request, **kwargs)
        with response:
            body = _beginning(response) if response.status_code == answers.OK else b""
        self.answer = answers.read(response.status_code, response.headers, body, response.url)
        given = requests.Response()  # what the SDK is given has nothing more to be read from the network
        given.status_code, given.raw = response.status_code, io.BytesIO(body)
        return given

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - its signature
        """Return nowhere: a redirect would repeat the body to whatever host it names."""
        return None

    def _is_declared(self, data: Any, *, zipped: bool) -> bool:
        sent = json.loads(gzip.decompress(data)) if zipped else None
        return sent is not None and sent.keys() == _ENVELOPE and sent["batch"] == self._batch


class Post:
    """One request under way in a daemon thread, which can be left behind when its time is up.

    Args:
        bodies: The events, as they were recorded.
        api_key: The project key.
        host: The PostHog.
        may_leave: Returns whether telemetry may send now: asked before the bytes leave, and while an answer is awaited.
        timeout: Within how many seconds from now there is an answer, the start of the thread included.
    """

    def __init__(
        self, bodies: Sequence[str], *, api_key: str, host: str, may_leave: Callable[[], bool], timeout: float
    ) -> None:
        self._until, self._timeout = time.monotonic() + timeout, timeout
        self._answer = Answer(None, "the request broke off")
        self._done = threading.Event()
        self._may_leave = may_leave
        self._connections = Connections(may_leave)
        batch = [json.loads(body) for body in bodies]
        self._session = Session(batch, self._connections)
        post = _sdk_post if "session" in inspect.signature(sdk.post).parameters else _post
        self._call = partial(post, self._session, batch, api_key, host, (min(timeout, CONNECT_TIMEOUT), timeout))
        # None at the interpreter's end, or where memory is gone: what waits is on disk.
        if not threads.start("post", self._run, timeout=min(max(timeout, 0) / 2, 1.0)):
            self._answer = Answer(None, "no thread could be started")
            self._done.set()

    def wait(self) -> Answer:
        """Return the answer; cut the connection when there is none in time, or when nothing may be sent any more."""
        while not self._done.wait(max(min(self._until - time.monotonic(), LOOK), 0)):
            if not self._may_leave():
                self._connections.cut()
                return _WITHHELD
            if time.monotonic() >= self._until:
                self._connections.cut()
                return Answer(None, f"no answer within {max(self._timeout, 0):.1f} s")
        return self._answer

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001 - whatever is raised is an answer, never the host's concern
            self._answer = self._session.answer or _answer_to(error)
        else:
            self._answer = self._session.answer or Answer(None, "the PostHog SDK sent nothing")
        finally:
            self._session.close()
            self._connections.close()
            self._done.set()


def _sdk_post(session: Session, batch: list[Any], api_key: str, host: str, timeout: Any) -> None:
    sdk.batch_post(api_key, host, gzip=True, timeout=timeout, batch=batch, session=session)


def _post(session: Session, batch: list[Any], api_key: str, host: str, timeout: Any) -> None:
    """Do what the SDK does, where the SDK cannot be given a session."""
    data = gzip.compress(events.envelope(batch, api_key, datetime.now(UTC)).encode())
    session.post(host.rstrip("/") + events.PATH, data=data, headers={"Content-Encoding": "gzip"}, timeout=timeout)


def _beginning(response: requests.Response) -> bytes:
    """Return as much of the body as an answer of PostHog's may have, however much more there is."""
    read = b""
    for part in response.iter_content(_MOST_READ):
        read += part
        if len(read) > _MOST_READ:
            break
    return read


def _answer_to(error: BaseException) -> Answer:
    chain = [error]
    while (deeper := _deeper(chain[-1])) is not None and deeper not in chain:
        chain.append(deeper)
    if any(isinstance(one, CutError) for one in chain):
        return _WITHHELD
    if isinstance(error, Refused):
        return Answer(None, "not sent: the PostHog SDK changed the events")
    reasons = (words for one in reversed(chain) for kind, words in _REASONS if isinstance(one, kind))
    return Answer(None, next(reasons, "the request failed") + _details(chain))


def _details(chain: list[BaseException]) -> str:
    """Return what is known besides, by numbers: the operating system's word, the certificate's fault, a proxy."""
    inner = chain[-1]
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f": the certificate was not accepted, {_CERTIFICATE_FAULTS.get(inner.verify_code, 'it is not valid')}"
    through = " (through a proxy)" if any(isinstance(one, requests.exceptions.ProxyError) for one in chain) else ""
    number = inner.errno if type(inner) is OSError else None
    return (f": {os.strerror(number)}" if number else "") + through


def _deeper(error: BaseException) -> BaseException | None:
    candidates = (getattr(error, "reason", None), error.__cause__, *error.args)
    return next((one for one in candidates if isinstance(one, BaseException)), None)

"""One batch to PostHog and back: the SDK's own wire call, over a session of our own.

An SDK ``Client`` would add properties, take the host's context along, read ``~/.netrc`` and wait without a bound.
Importing this module imports the SDK; it is imported when there is something to send.
"""

from __future__ import annotations

import inspect
import json
import re
import threading
import time
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from types import FunctionType
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from posthog import request

from lifebeat_jobs.connections import Adapter, Connections
from lifebeat_jobs.delivery import OK, Answer
from lifebeat_jobs.privacy import Machine, leak_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

sdk: Any = request  # what it holds has changed over the versions, and so have its types
CONNECT_TIMEOUT = 10.0
REDIRECTED = range(300, 400)
_PATH = "/batch/"
_MOST_READ = 1 << 16
_ENVELOPE = frozenset({"api_key", "batch", "sent_at", "sentAt"})
_HEADERS = frozenset(
    {"user-agent", "accept", "accept-encoding", "connection", "content-type", "content-encoding", "content-length"}
)
_WHAT_TO_DO = {
    401: "; is telemetryApiKey right?",
    403: "; is telemetryApiKey right?",
    404: "; is telemetryHost right?",
}


class Refused(requests.RequestException):
    """The request holds what must not leave; it did not."""


class Session(requests.Session):
    """Sends what it is given and nothing else: no credentials of ``~/.netrc``, no cookies, no redirects.

    Args:
        batch: The recorded events, as the text of a JSON array.
        connections: Where its connections are made.
    """

    def __init__(self, batch: str, connections: Connections) -> None:
        super().__init__()
        self.answer: Answer | None = None
        self.auth = lambda request: request  # an own auth keeps requests from looking into ~/.netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._batch = batch
        self.mount("https://", Adapter(connections))
        self.mount("http://", Adapter(connections))

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        self._look_at(request)
        for name in [name for name in request.headers if name.lower() not in _HEADERS]:
            del request.headers[name]
        kwargs["stream"] = True
        response = super().send(request, **kwargs)
        with response:
            body = _beginning(response) if response.status_code == OK else b""
        self.answer = _answer(response, body)
        return _told(response, body)

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - its signature
        """Nowhere: a redirect would repeat the body to whatever host it names."""
        return None

    def _look_at(self, request: requests.PreparedRequest) -> None:
        import gzip

        data: Any = request.body
        text = (gzip.decompress(data) if request.headers.get("Content-Encoding") == "gzip" else data).decode()
        envelope = text.replace(f'"batch": {self._batch}', '"batch": null', 1)
        sent = json.loads(envelope)
        is_as_recorded = envelope != text or sent["batch"] == json.loads(self._batch)
        if set(sent) - _ENVELOPE or not is_as_recorded:
            raise Refused("the PostHog SDK changed the events")


class Post:
    """One request under way in a daemon thread, so that no wait is longer than whoever waits wants it to be."""

    def __init__(self, events: Sequence[str], *, api_key: str, host: str, machine: Machine, timeout: float) -> None:
        self._answer = Answer(None, "the request broke off")
        self._done = threading.Event()
        self._connections = Connections()
        self._batch = f"[{', '.join(events)}]"
        self._machine = machine
        self._session = Session(self._batch, self._connections)
        timeouts = (min(timeout, CONNECT_TIMEOUT), timeout)
        call = partial(_wire_call(self._session), api_key, host, gzip=True, timeout=timeouts)
        thread = threading.Thread(target=self._run, args=(call,), name="lifebeat-post", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, and whoever does it waits no longer than it wants to
            self._run(call)

    def wait(self, timeout: float) -> Answer:
        """The answer, or after ``timeout`` seconds that there was none, and the connection is cut."""
        if self._done.wait(max(timeout, 0)):
            return self._answer
        self._connections.cut()
        return Answer(None, f"no answer within {max(timeout, 0):.1f} s")

    def _run(self, call: Callable[..., Any]) -> None:
        try:
            self._answer = self._look_and_ask(call)
        finally:
            self._session.close()
            self._connections.close()
            self._done.set()

    def _look_and_ask(self, call: Callable[..., Any]) -> Answer:
        """Look at the events once more, and send them; the session sees to it that just these leave."""
        try:
            events = json.loads(self._batch)
        except ValueError:
            return Answer(None, "not sent: it is damaged", refused=True)
        leak = leak_in(events, self._machine)
        if leak is not None:
            return Answer(None, f"not sent: {leak}", refused=True)
        return _ask(partial(call, batch=events), self._session)


def _ask(call: Callable[[], Any], session: Session) -> Answer:
    try:
        call()
    except Refused as refused:
        return Answer(None, f"not sent: {refused}")
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is an answer, never the host's concern
        return session.answer or Answer(None, _reason(error))
    return session.answer or Answer(None, "the PostHog SDK sent nothing")


def _answer(response: requests.Response, body: bytes) -> Answer:
    status = response.status_code
    words = f"HTTP {status}"
    if status == OK:
        if _is_json(body):
            return Answer(status, "delivered", delivered=True)
        return Answer(status, f"{words}, but the answer is not PostHog's; is telemetryHost right, and is this online?")
    if status in REDIRECTED:
        words += f", redirected to {_target(response)}, which is not followed; set telemetryHost to that"
    return Answer(status, words + _WHAT_TO_DO.get(status, ""), retry_after=_seconds(response.headers))


def _beginning(response: requests.Response) -> bytes:
    """As much of the body as an answer of PostHog's may have, however much more there is."""
    read = b""
    for part in response.iter_content(_MOST_READ):
        read += part
        if len(read) > _MOST_READ:
            break
    return read


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def _told(response: requests.Response, body: bytes) -> requests.Response:
    """What the SDK is given of an answer, with nothing more to be read from the network."""
    import io

    told = requests.Response()
    told.status_code, told.headers, told.raw = response.status_code, response.headers, io.BytesIO(body)
    return told


def _target(response: requests.Response) -> str:
    """Where a redirect leads, as ``telemetryHost`` would say it."""
    try:
        parts = urlsplit(urljoin(response.url, response.headers.get("Location", "")))
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return "nowhere"
    target = f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/').removesuffix(_PATH.rstrip('/'))}"
    return target if re.fullmatch(r"[\x21-\x7e]{1,200}", target) else "nowhere"


def _seconds(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds from now: it is a number, or a date by the server's clock."""
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d*)?", asked):
        return float(asked)
    until = _moment(asked)
    if until is None:
        return None
    now = _moment(headers.get("Date", ""))
    return max(until - (time.time() if now is None else now), 0.0)


def _moment(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _reason(error: BaseException) -> str:
    """The innermost reason in a few words, without addresses of objects and without a traceback."""
    chain = [error]
    while (deeper := _deeper(chain[-1])) is not None and deeper not in chain:
        chain.append(deeper)
    inner: Any = chain[-1]
    told = getattr(inner, "verify_message", None)
    words = f"the certificate was not accepted: {told}" if told else getattr(inner, "strerror", None)
    if words is None and not isinstance(inner, (TimeoutError, requests.RequestException)):
        words = " ".join(str(inner).split())[:200]
    return ": ".join(dict.fromkeys([type(error).__name__, words or type(inner).__name__]))


def _deeper(error: BaseException) -> BaseException | None:
    candidates = (getattr(error, "reason", None), error.__cause__, *error.args)
    return next((one for one in candidates if isinstance(one, BaseException)), None)


def _wire_call(session: requests.Session) -> Callable[..., Any]:
    """The SDK's ``batch_post`` over our session."""
    if "session" in inspect.signature(sdk.post).parameters:
        return partial(sdk.batch_post, session=session)
    # SDKs before 7.14 reach for their module's session. Copies of the two functions that see ours in its place leave
    # the module, which the host may be using too, as it is.
    names: dict[str, Any] = {**vars(sdk), "_session": session}
    names["post"] = FunctionType(sdk.post.__code__, names, "post", sdk.post.__defaults__)
    return FunctionType(sdk.batch_post.__code__, names, "batch_post", sdk.batch_post.__defaults__)

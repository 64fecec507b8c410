"""One batch to PostHog and back: the SDK's own wire call, over a session of our own.

An SDK ``Client`` would add properties, take the host's context along, read ``~/.netrc`` and wait without a bound.
Importing this module imports the SDK; it is imported when there is something to send.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import socket
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from types import FunctionType
from typing import TYPE_CHECKING, Any

import posthog.request
import requests
from requests.adapters import HTTPAdapter

from lifebeat_jobs.privacy import Machine, leak_in_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

sdk: Any = posthog.request  # its types differ from release to release
OK = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a batch.

    Attributes:
        status: The HTTP status; ``None`` where there was no answer.
        words: What happened, for people.
        retry_after: How many seconds the server asks to wait; ``None`` if it does not.
        refused: Why the batch was not let out at all; ``None`` if it was.
    """

    status: int | None
    words: str
    retry_after: float | None = None
    refused: str | None = None

    @property
    def delivered(self) -> bool:
        """Whether PostHog has the events."""
        return self.status == OK


class Leak(requests.RequestException):
    """The request holds what must not leave; it did not."""


class _Session(requests.Session):
    """Sends what it is given and nothing else: no credentials of ``~/.netrc``, no cookies, no redirects."""

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self.retry_after: float | None = None
        self.auth = lambda request: request  # an own auth keeps requests from looking into ~/.netrc
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self._machine = machine
        self._sockets: list[socket.socket] = []
        adapter = _Adapter(self._sockets)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        import gzip  # noqa: PLC0415 - only for this look

        data: Any = request.body
        body = gzip.decompress(data) if request.headers.get("Content-Encoding") == "gzip" else data
        text = body if isinstance(body, str) else bytes(body).decode()
        sent = json.loads(text)
        leak = leak_in_text(json.dumps(sent["batch"]), self._machine)
        if leak is not None:
            raise Leak(leak)
        kwargs["allow_redirects"] = False  # a redirect would repeat the body to whatever host it names
        response = super().send(request, **kwargs)
        self.retry_after = _seconds(response.headers.get("Retry-After"))
        return response

    def cut(self) -> None:
        """End every connection, also one that another thread is reading from."""
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        for one in self._sockets:
            one.close()
        self._sockets.clear()


class _Adapter(HTTPAdapter):
    """Keeps a second handle on each socket, by which a hanging connection can be ended from outside."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _remembering(pool.ConnectionCls, self._sockets)
        return pool


def _remembering(connection: Any, sockets: list[socket.socket]) -> Any:
    class Remembering(connection):  # type: ignore[misc]  # the class is known at run time only
        def _new_conn(self) -> socket.socket:
            parent: Any = super()
            made: socket.socket = parent._new_conn()  # noqa: SLF001 - the one place where the socket is made
            sockets.append(made.dup())
            return made

    return Remembering


class Post:
    """One request under way in a daemon thread, so that no wait is longer than whoever waits wants it to be."""

    def __init__(self, events: Sequence[str], *, api_key: str, host: str, machine: Machine, timeout: float) -> None:
        self._session = _Session(machine)
        self._answer: Answer | None = None
        self._done = threading.Event()
        batch = [json.loads(event) for event in events]
        call = partial(_wire_call(self._session), api_key, host, gzip=True, timeout=timeout, batch=batch)
        threading.Thread(target=self._run, args=(call,), name="lifebeat-post", daemon=True).start()

    def wait(self, timeout: float) -> Answer:
        """The answer, or after ``timeout`` seconds that there was none, and the connection is cut."""
        if not self._done.wait(max(timeout, 0)):
            self._session.cut()
            return Answer(None, f"no answer within {timeout:.1f} s")
        assert self._answer is not None  # noqa: S101 - set before it is done
        return self._answer

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._answer = _ask(call, self._session)
        finally:
            self._session.close()
            self._done.set()


def _ask(call: Callable[[], Any], session: _Session) -> Answer:
    try:
        call()
    except Leak as leak:
        return Answer(None, f"not sent: {leak}", refused=str(leak))
    except sdk.APIError as error:
        return Answer(int(error.status), f"HTTP {error.status}", session.retry_after)
    except requests.RequestException as error:
        return Answer(None, _reason(error))
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is an answer, never the host's concern
        return Answer(None, f"{type(error).__name__}: {error}")
    return Answer(OK, "delivered")


def _seconds(retry_after: str | None) -> float | None:
    """The header in seconds from now: it is a number, or a date."""
    if not retry_after:
        return None
    try:
        return max(float(retry_after), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _reason(error: BaseException) -> str:
    """The innermost reason in a few words, without addresses of objects and without a traceback."""
    inner = error
    while (deeper := getattr(inner, "reason", None) or inner.__cause__ or _first_exception(inner)) is not None:
        inner = deeper
    words = getattr(inner, "strerror", None) or type(inner).__name__
    return f"{type(error).__name__}: {words}"


def _first_exception(error: BaseException) -> BaseException | None:
    return next((one for one in error.args if isinstance(one, BaseException)), None)


def _wire_call(session: requests.Session) -> Callable[..., Any]:
    """The SDK's ``batch_post`` over our session."""
    if "session" in inspect.signature(sdk.post).parameters:
        return partial(sdk.batch_post, session=session)
    # SDKs before 7.14 reach for their module's session. Copies of the two functions that see ours in its place leave
    # the module, which the host may be using too, as it is.
    names: dict[str, Any] = {**vars(sdk), "_session": session}
    names["post"] = FunctionType(sdk.post.__code__, names, "post", sdk.post.__defaults__)
    return FunctionType(sdk.batch_post.__code__, names, "batch_post", sdk.batch_post.__defaults__)

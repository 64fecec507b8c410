"""Children that are forked in the first second after ``scheduler.start()``, and servers that fork: nobody hangs."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE, end, eventually
from test_examples import free_port
from test_hosts import HEAD, RUN_UWSGI, asked

if TYPE_CHECKING:
    import subprocess

    from hosts import Installation
    from lifebeat.testing import PostHogServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

FORKS = """
import random, signal

signal.signal(signal.SIGTERM, lambda *_: None)  # the children's own, not Lifebeat's
scheduler = attached(BackgroundScheduler())
begin = time.monotonic()
scheduler.start()
ahead = [random.uniform(0, 1) for _ in range({forks})]
children = []
for number, moment in enumerate(sorted(ahead)):
    time.sleep(max(begin + moment - time.monotonic(), 0))
    child = os.fork()
    if not child:
        signal.alarm(60)  # who hangs is ended by it, and seen
        import requests
        if number % 2:
            own = attached(BackgroundScheduler())
            own.start()
            time.sleep(0.2)
            own.shutdown()
        os._exit(0)
    children.append(child)
print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
scheduler.shutdown()
"""
APP = """
scheduler = attached(BackgroundScheduler())
scheduler.start()

def wsgi(environ, start_response):
    import requests
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""
GUNICORN = "-m gunicorn app:wsgi -w 8 --preload -b 127.0.0.1:{} --no-control-socket"
UWSGI = "--http-socket=127.0.0.1:{} --wsgi=app:wsgi --master --die-on-term --enable-threads --processes=4"
REQUESTS = 40


def exit_codes(installation: Installation, forks: int) -> list[int]:
    """How the children of one host ended."""
    process = installation.script(HEAD + FORKS.format(forks=forks))
    out, err = process.communicate(timeout=4 * DEADLINE)
    assert "Traceback" not in err
    return [int(code) for code in out.split()]


def test_children_forked_in_the_first_second_go_on(installation: Installation) -> None:
    """They import what our threads import just then, and every second one has a life of its own."""
    assert exit_codes(installation, 20) == [0] * 20


@pytest.mark.soak
@pytest.mark.parametrize("number", range(10))
def test_two_hundred_children_go_on(installation: Installation, number: int) -> None:
    """The same, ten times: a fork meets each import only now and then."""
    codes = exit_codes(installation, 20)
    print(f"host {number}: {codes.count(0)} of {len(codes)} children ended by themselves")
    assert codes == [0] * 20


def served(port: int) -> int:
    """How many of many requests, eight at a time, are answered in ten seconds each."""

    def ask(_: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            return connection.getresponse().status == 200
        return False

    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(ask, range(REQUESTS)))


def run(installation: Installation, receiver: PostHogServer, *command: str, is_told: bool = True) -> tuple[int, float]:
    """Start a server, ask it, stop it; how many requests were served and how long the stop took, in seconds."""
    (installation.directory / "app.py").write_text(HEAD + APP)
    port = free_port()
    whole = ("setsid", sys.executable, *(part.format(port) for part in command))
    process: subprocess.Popen[str] = installation.start(*whole, PYTHONPATH=str(installation.directory))
    try:
        eventually(lambda: asked(port) or process.poll() is not None)
        answers = served(port)
        if is_told:
            receiver.wait_for(lambda server: "startup" in server.names(), timeout=20)
        begin = time.monotonic()
        _, out, err = end(process)
        taken = time.monotonic() - begin
        assert "Traceback" not in out + err
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if is_told:
        assert receiver.names() == ["startup", "shutdown"]
    else:
        assert "set `lazy-apps = true`" in out + err
    return answers, taken


@pytest.mark.soak
@pytest.mark.parametrize("number", range(20))
def test_gunicorn_with_preload_serves_all(installation: Installation, receiver: PostHogServer, number: int) -> None:
    """Eight workers are forked while the master's scheduler starts, and each of them imports in its handler."""
    answers, taken = run(installation, receiver, *GUNICORN.split())
    print(f"start {number}: {answers} of {REQUESTS} served, stopped in {taken:.2f} s")
    assert answers == REQUESTS


@pytest.mark.soak
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("lazy", [False, True])
def test_uwsgi_serves_all(installation: Installation, receiver: PostHogServer, number: int, *, lazy: bool) -> None:
    """Without ``lazy-apps`` the application is imported in the master, where nothing of ours runs; that is said."""
    if importlib.util.find_spec("pyuwsgi") is None:
        pytest.skip("pyuwsgi has no wheel for this Python")
    options = [*UWSGI.split(), *["--lazy-apps"] * lazy]
    answers, taken = run(installation, receiver, "-c", RUN_UWSGI, *options, is_told=lazy)
    print(f"{'lazy-apps' if lazy else 'in the master'}, start {number}: {answers} served, stopped in {taken:.2f} s")
    assert answers == REQUESTS

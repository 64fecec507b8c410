"""Server, worker class, way of starting: with a plain ``scheduler.shutdown()`` where the framework has a place for it.

Where it has none the application does nothing at all. SIGTERM goes to the process that was started, and then there is
one startup, one heartbeat for each instant and one shutdown. Nothing of it is waited for beyond the end of that
process: an event that is only recorded by then is delivered at the next start, which the table says.

``pytest -m soak -s`` prints the table of docs/hosts/README.md.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from hosts import end, eventually
from lifebeat.schedule.instants import SECOND, spread
from test_examples import free_port
from test_workers import INSTANCE_ID, INTERVAL, off_the_grid, told

if TYPE_CHECKING:
    import subprocess

    from hosts import Installation
    from lifebeat.testing import PostHogServer

HEAD = """
import asyncio, contextlib, multiprocessing, os, sys, threading, time
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.blocking import BlockingScheduler
import lifebeat

def attached(scheduler):
    lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
    return scheduler

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"notes"]
"""
ASGI = """
@contextlib.asynccontextmanager
async def lifespan(_):
    {start}
    yield
    {stop}

from fastapi import FastAPI
asgi = FastAPI(lifespan=lifespan)

@asgi.get("/")
def index():
    return "notes"
"""
ON_LOOP = "scheduler = attached(AsyncIOScheduler())\n" + ASGI.format(
    start="scheduler.start()", stop="scheduler.shutdown()"
)
IN_LIFESPAN = "scheduler = attached(BackgroundScheduler())\n" + ASGI.format(
    start="scheduler.start()", stop="scheduler.shutdown()"
)
AT_IMPORT = "scheduler = attached(BackgroundScheduler())\nscheduler.start()\n" + ASGI.format(start="", stop="")
WSGI = "scheduler = attached(BackgroundScheduler())\nscheduler.start()\n"
NEXT_LIFE = WSGI + "scheduler.shutdown()"
CHILD = """
def work():
    scheduler = attached(BackgroundScheduler())
    scheduler.start()
    {ends}

if __name__ == "__main__":
    import signal
    child = multiprocessing.get_context("{method}").Process(target=work)
    child.start()
    signal.signal(signal.SIGTERM, lambda *_: (open("stop", "w").close(), {then}))
    child.join()
"""
ENDS_BY_ITSELF = {"ends": 'while not os.path.exists("stop"): time.sleep(0.02)', "then": "None"}
TERMINATED = {"ends": "time.sleep(60)", "then": "child.terminate()"}
CELERY = """
from celery import Celery
from celery.signals import {start}, {stop}
app = Celery("notes", broker="memory://")
scheduler = attached(BackgroundScheduler())

@{start}.connect
def start(**_):
    scheduler.start()

@{stop}.connect
def stop(**_):
    scheduler.shutdown()
"""
WORKER = "celery -A app worker -c 2"
WAYS = {
    "AsyncIOScheduler, lifespan": ON_LOOP,
    "BackgroundScheduler, lifespan": IN_LIFESPAN,
    "BackgroundScheduler, at import": AT_IMPORT,
}


@dataclass(frozen=True, slots=True)
class Host:
    """One cell of the table.

    Attributes:
        name: The server and its worker class, and how the scheduler is started.
        code: What the application is, after ``HEAD``.
        command: What starts it; with ``{port}`` where it serves.
        needs: The module that it is skipped without.
    """

    name: str
    code: str
    command: str
    needs: str = ""


ASGI_SERVERS = {
    "uvicorn": ("uvicorn app:asgi --port={port}", "uvicorn"),
    "uvicorn --workers 2": ("uvicorn app:asgi --port={port} --workers 2", "uvicorn"),
    "hypercorn": ("hypercorn app:asgi --bind=127.0.0.1:{port}", "hypercorn"),
    "hypercorn --workers 2": ("hypercorn app:asgi --bind=127.0.0.1:{port} --workers 2", "hypercorn"),
    "granian": ("granian app:asgi --interface asgi --port={port}", "granian"),
    "granian --workers 2": ("granian app:asgi --interface asgi --port={port} --workers 2", "granian"),
    "gunicorn, UvicornWorker": (
        "gunicorn app:asgi -b 127.0.0.1:{port} -w 2 -k uvicorn_worker.UvicornWorker --no-control-socket",
        "uvicorn_worker",
    ),
}
# It imports the application when its own signal handlers are in place, and is ended by the signal after its lifespan.
NO_PLACE = {("uvicorn", AT_IMPORT), ("uvicorn --workers 2", AT_IMPORT)}
UWSGI = "pyuwsgi --http-socket=127.0.0.1:{port} --wsgi=app:wsgi --master --die-on-term --enable-threads --processes=4"
GUNICORN = "gunicorn app:wsgi -b 127.0.0.1:{port} --no-control-socket"
WSGI_SERVERS = {
    "gunicorn, sync": (f"{GUNICORN} -w 2", "gunicorn"),
    "gunicorn, sync, --preload": (f"{GUNICORN} -w 2 --preload", "gunicorn"),
    "gunicorn, gthread": (f"{GUNICORN} -w 2 -k gthread --threads 2", "gunicorn"),
    "gunicorn, gthread, --preload": (f"{GUNICORN} -w 2 -k gthread --threads 2 --preload", "gunicorn"),
    "granian, WSGI": ("granian app:wsgi --interface wsgi --port={port}", "granian"),
    "granian, WSGI, --workers 2": ("granian app:wsgi --interface wsgi --port={port} --workers 2", "granian"),
    "waitress": ("waitress --listen=127.0.0.1:{port} app:wsgi", "waitress"),
    "uWSGI, lazy-apps": (f"{UWSGI} --lazy-apps", "pyuwsgi"),
}
SCRIPTS = {
    "plain script, BackgroundScheduler": WSGI + "time.sleep(60)",
    "plain script, BlockingScheduler": "attached(BlockingScheduler()).start()",
    "asyncio script, no handler": """
async def main():
    attached(AsyncIOScheduler()).start()
    await asyncio.sleep(60)
asyncio.run(main())
""",
}
HOSTS = [
    *(
        Host(f"{server}; {way}", code, command, needs)
        for server, (command, needs) in ASGI_SERVERS.items()
        for way, code in WAYS.items()
        if (server, code) not in NO_PLACE
    ),
    *(Host(f"{server}; at import", WSGI, command, needs) for server, (command, needs) in WSGI_SERVERS.items()),
    *(Host(name, code, "python app.py") for name, code in SCRIPTS.items()),
    *(
        Host(f"multiprocessing, {method}; child {what}", CHILD.format(method=method, **how), "python app.py")
        for method in ("fork", "spawn", "forkserver")
        for what, how in {"ends by itself": ENDS_BY_ITSELF, "is terminated": TERMINATED}.items()
    ),
    *(
        Host(f"Celery, {pool}; {start}", CELERY.format(start=start, stop=stop), f"{WORKER} -P {pool}", "celery")
        for pool, start, stop in [
            ("prefork", "worker_process_init", "worker_process_shutdown"),
            ("prefork", "worker_ready", "worker_shutdown"),
            ("threads", "worker_ready", "worker_shutdown"),
        ]
    ),
]
PHASE = spread(f"phase:{INSTANCE_ID}:heartbeat", int(INTERVAL * SECOND)) / SECOND
QUICK = {
    "uvicorn; AsyncIOScheduler, lifespan",
    "gunicorn, UvicornWorker; BackgroundScheduler, at import",
    "multiprocessing, spawn; child ends by itself",
}


def asked(port: int) -> bool:
    """Whether the host has answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    return False


def started(installation: Installation, host: Host) -> subprocess.Popen[str]:
    """The host, running, and asked once where it serves."""
    installation.write(telemetryHeartbeatInterval=f"{INTERVAL:.0f}s", telemetryInstanceId=INSTANCE_ID)
    (installation.directory / "app.py").write_text(HEAD + textwrap.dedent(host.code))
    port = free_port()
    program, *arguments = host.command.format(port=port).split()
    module = [] if program == "python" else ["-m", program] if program != "pyuwsgi" else ["-c", RUN_UWSGI]
    whole = ("setsid", sys.executable, *module, *arguments)  # a group of its own, so that all of it can be ended
    process = installation.start(*whole, PYTHONPATH=str(installation.directory))
    if "{port}" in host.command:
        eventually(lambda: asked(port) or process.poll() is not None)
    return process


RUN_UWSGI = "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])"


@pytest.mark.parametrize(
    "host",
    [pytest.param(one, id=one.name, marks=[] if one.name in QUICK else pytest.mark.soak) for one in HOSTS],
)
def test_a_sigterm_of_any_host_is_told(installation: Installation, receiver: PostHogServer, host: Host) -> None:
    """One startup, a heartbeat for each instant and one shutdown, at the receiver or, where it was late, on record."""
    if host.needs and importlib.util.find_spec(host.needs) is None:
        pytest.skip(f"{host.needs} is not there for this Python")
    process = started(installation, host)
    try:
        receiver.wait_for(lambda server: server.names().count("heartbeat") >= 2, timeout=20)
        code, out, err = end(process)
        print(code, out, err)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    installation.run("flush", "--config", "config")
    when = "at once"
    if "shutdown" not in receiver.names():
        when = "at the next start"
        next_life = installation.script(
            HEAD + "scheduler = attached(BackgroundScheduler())\nscheduler.start()\nscheduler.shutdown()"
        )
        assert next_life.wait(30) == 0
    names = Counter(event for _, event in told(receiver))
    print(f"\nROW| {host.name} | {dict(names)} | {when} |")
    assert (names["startup"], names["shutdown"]) == ((1, 1) if when == "at once" else (2, 2)), (out, err)
    assert off_the_grid(receiver, PHASE) == []
    assert "Traceback" not in (out + err).replace("signal wakeup fd:\nTraceback", "")

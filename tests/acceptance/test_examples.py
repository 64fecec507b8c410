"""Each example under ``examples/``: copied, started as its page says, driven, and stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import generate
from hosts import end, eventually
from lifebeat.cli import init
from redisserver import RedisServer
from test_workers import INSTANCE_ID, INTERVAL, check, told

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from hosts import Installation
    from lifebeat.testing import PostHogServer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True, slots=True)
class Example:
    """How an example is run, as its page says.

    Attributes:
        command: What starts it.
        log: What the server itself writes to standard error, line by line; nothing where it is not a server.
        before: Commands that are run first.
        serves: Whether it answers on a port, which ``--port`` or ``--bind`` at the end of the command tells it.
        code: The exit status after SIGTERM.
        beats: How many heartbeats to wait for; two can share an instant, and after three each job every second has run.
        prints: What its standard output holds.
        needs_redis: Whether it takes a Redis, which ``CELERY_BROKER_URL`` tells it.
    """

    command: str
    log: str = r"(?!)"
    before: tuple[str, ...] = ()
    serves: str = ""
    code: int = 0
    beats: int = 2
    prints: tuple[str, ...] = ()
    needs_redis: bool = False


UVICORN = r"INFO: .*"
# What it says of root, and Kombu of a task that comes while it stops.
CELERY = r".*(?:SecurityWarning|security_error|Requeuing undeliverable).*|Please.*|User information.*|absolutely.*|"
NOTICE = r"(?:[-\d]+ [:,\d]+ INFO lifebeat: |\[.*/MainProcess\] )?notes sends anonymous telemetry .*"
CASES = {
    "fastapi_lifespan": Example("uvicorn app:app", UVICORN, serves="--port={}", code=-signal.SIGTERM),
    "flask_apscheduler": Example(
        "flask run",
        r".*WARNING: This is a development server.*| \* .*|.*Press CTRL\+C to quit.*|127\.0\.0\.1 - - .*",
        serves="--port={}",
        code=-signal.SIGTERM,
    ),
    "django_apscheduler": Example(
        "python manage.py runapscheduler", before=("python manage.py migrate",), code=-signal.SIGTERM
    ),
    "asyncio_script": Example("python main.py"),
    "gunicorn": Example("gunicorn", r"\[.*\] \[INFO\] .*", serves="--bind=127.0.0.1:{}"),
    "uvicorn_workers": Example("uvicorn app:app --workers 2", UVICORN, serves="--port={}"),
    "celery_worker": Example("celery -A notes worker", CELERY, needs_redis=True),
    "standalone": Example(
        "python main.py run", r"[-\d]+ [:,\d]+ INFO lifebeat: (?:started;.*|stopping|stopped)", code=-signal.SIGTERM
    ),
    "own_scheduler": Example("python scheduler.py", code=-signal.SIGTERM, beats=3, prints=("emptied the bin", "saved")),
}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis."""
    made = RedisServer()
    yield made
    made.close()


def copied(installation: Installation, name: str) -> None:
    """Put a copy of an example where the installation is, with the config that the example ships."""
    shutil.copytree(
        EXAMPLES / name, installation.directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )


def environ(receiver: PostHogServer) -> dict[str, str]:
    """What stands in for an operator's config: a receiver, a short interval, an ID whose phase is known."""
    return {
        "TELEMETRY_HOST": receiver.url,
        "TELEMETRY_API_KEY": "phc_test",
        "TELEMETRY_HEARTBEAT_INTERVAL": f"{INTERVAL:.0f}s",
        "TELEMETRY_INSTANCE_ID": INSTANCE_ID,
        "TELEMETRY_SHUTDOWN_TIMEOUT": "20s",
    }


def command(line: str) -> list[str]:
    """A command line, with every program from the environment that the tests run in."""
    program, *arguments = line.split()
    return [sys.executable, *([] if program == "python" else ["-m", program]), *arguments]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answer(port: int) -> str | None:
    """What the example serves at ``/``; ``None`` if it does not yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    return None


def started(installation: Installation, example: Example, variables: dict[str, str]) -> subprocess.Popen[str]:
    """The example, running, and asked once where it is a server."""
    for line in example.before:
        done = installation.start(*command(line), **variables)
        out, err = done.communicate(timeout=30)
        assert (done.returncode, err) == (0, ""), out
    port = free_port()
    options = [example.serves.format(port)] if example.serves else []
    process = installation.start(*command(example.command), *options, **variables)
    if example.serves:
        assert json.loads(eventually(lambda: answer(port) or process.poll() is not None)) == {"notes": "none yet"}
    return process


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) if one.needs_redis else name for name, one in CASES.items()]
)
def test_example_reports_start_heartbeats_and_stop(
    installation: Installation, receiver: PostHogServer, name: str, request: pytest.FixtureRequest
) -> None:
    """One startup, a heartbeat for each instant, one shutdown, its exit status, and nothing unexpected on stderr."""
    copied(installation, name)
    example, variables = CASES[name], environ(receiver)
    if example.needs_redis:
        variables["CELERY_BROKER_URL"] = request.getfixturevalue("redis").url
    process = started(installation, example, variables)
    receiver.wait_for(lambda server: server.names().count("heartbeat") >= example.beats, timeout=20)
    code, out, err = end(process)
    check(Counter(event for _, event in told(receiver)), receiver)
    assert code == example.code, (out, err)
    said = [line for line in err.splitlines() if not re.fullmatch(example.log, line)]
    assert [re.fullmatch(NOTICE, line) is not None for line in said] == [True], said
    assert [text for text in example.prints if text not in out] == []


def test_every_example_is_run() -> None:
    """An example without a test, or a test without an example, is noticed."""
    assert sorted(CASES) == sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())


def test_each_example_that_init_prints_is_started_as_it_says() -> None:
    """The command before the code that ``lifebeat init --host`` prints is the one that the example is run by here."""
    examples = {host: Path(path).parts[1] for host, path in generate.HOST_CODE.items()}
    assert {host: code.run for host, code in init.HOSTS.items()} == {
        host: CASES[name].command for host, name in examples.items()
    }


def test_the_job_file_of_own_jobs_is_checked_as_its_page_says(installation: Installation) -> None:
    """The check of the job file finds the host's own modules from the directory that holds them."""
    copied(installation, "own_scheduler")
    code, out, err = installation.run("check", "--allow", "jobs.tidy")
    assert (code, err) == (0, ""), out

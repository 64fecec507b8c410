"""What the commands say of each host of ``examples/`` with every argument in code: what it does, and what arrives."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hosts import end, eventually
from redisserver import RedisServer
from test_examples import CASES, copied, started

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from hosts import Installation
    from lifebeat.testing import PostHogServer

pytestmark = pytest.mark.soak

KEY = 'api_key="phc_your_project_key"'


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A Redis."""
    made = RedisServer()
    yield made
    made.close()


def answer_of(installation: Installation, *words: str) -> Any:
    """What a command says, for programs."""
    code, out, err = installation.run(*words, "--json", "--config", "config")
    assert code == 0, (out, err)
    return json.loads(out)


def in_code(installation: Installation, arguments: str) -> None:
    """Put arguments into the example's code, in the place of its key."""
    found = [path for path in installation.directory.rglob("*.py") if KEY in path.read_text()]
    assert len(found) == 1
    found[0].write_text(found[0].read_text().replace(KEY, arguments))


def kill(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started by SIGKILL."""
    doomed = [process.pid]
    for pid in doomed:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                number, _, rest = stat.read_text().partition(" (")
                if int(rest.rpartition(") ")[2].split()[1]) == pid:
                    doomed.append(int(number))
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("name", CASES)
def test_the_commands_say_what_the_host_does(
    installation: Installation, receiver: PostHogServer, name: str, request: pytest.FixtureRequest
) -> None:
    """Running, killed, and off by argument: status, config, preview, flush and log agree with the bytes received."""
    copied(installation, name)
    (installation.config / "config.json").unlink()
    example, variables = CASES[name], dict[str, str]()
    if example.needs_redis:
        variables["CELERY_BROKER_URL"] = request.getfixturevalue("redis").url
    in_code(installation, f'api_key="phc_in_code", host="{receiver.url}", release_version="v9.9.9"')
    process = started(installation, example, variables)
    receiver.wait_for(1, timeout=30)
    eventually(lambda: answer_of(installation, "log")[0]["state"] == "delivered")

    (event,), (sent,) = receiver.events, receiver.requests
    status = answer_of(installation, "status")
    assert (status["telemetry"], status["host"], status["waiting"]) == ("on", receiver.url, 0)
    assert (status["instance_id"], status["error"]) == (event["distinct_id"], None)
    assert "notes 1.4.2, process " in status["application"]
    assert status["summary"].startswith(f"On. notes 1.4.2 sends to {receiver.url} every 24h; last delivered just now")
    layers = {one["key"]: one for one in answer_of(installation, "config", "--layers")}
    for key, value in {"telemetryHost": receiver.url, "appName": "notes", "releaseVersion": "v9.9.9"}.items():
        assert (layers[key]["value"], layers[key]["source"].partition(" (")[0]) == (value, "host argument")
    assert layers["telemetryApiKey"]["source"].startswith("host argument (notes 1.4.2, process ")
    (shown,) = answer_of(installation, "preview", "startup", "--request")
    assert shown["request"] == f"POST {sent.path} HTTP/1.1"
    assert shown["headers"].keys() == {key for key, _ in sent.headers}
    changing = {"Content-Length"}
    assert {key: value for key, value in sent.headers if key not in changing} == {
        key: value for key, value in shown["headers"].items() if key not in changing
    }
    body = sent.json()
    assert shown["body"] | dict.fromkeys(("batch", "sent_at")) == body | dict.fromkeys(("batch", "sent_at"))
    assert shown["body"]["api_key"] == "phc_in_code"
    (previewed,) = shown["body"]["batch"]
    moving = dict.fromkeys(("uuid", "timestamp"))
    assert previewed | moving == event | moving
    assert answer_of(installation, "flush") == {"delivered": 0, "waiting": 0, "reason": None}
    assert [one["body"] for one in answer_of(installation, "log")] == [event]

    kill(process)
    assert "notes 1.4.2, last seen " in answer_of(installation, "status")["application"]

    (file,) = [path for path in installation.directory.rglob("*.py") if "phc_in_code" in path.read_text()]
    file.write_text(file.read_text().replace('api_key="phc_in_code"', 'api_key="phc_in_code", enabled=False'))
    before = len(receiver.requests)
    off = started(installation, example, variables)
    eventually(lambda: answer_of(installation, "status")["telemetry"] == "off")
    assert "host argument" in answer_of(installation, "status")["reason"]
    assert answer_of(installation, "flush")["reason"].startswith("telemetry is off")
    end(off)
    assert len(receiver.requests) == before

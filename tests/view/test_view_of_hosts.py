"""The page in a host's own admin area, as WSGI and as ASGI."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

import lifebeat
from lifebeat import steering, view
from lifebeat.testing import telemetry_allowed
from requests_to_view import ask

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.view.asynchronous import AsyncView

FORM = {"act": "off"}
SAME = {"HTTP_HOST": "notes.example", "HTTP_ORIGIN": "https://notes.example"}


@pytest.fixture
def handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> lifebeat.Lifebeat:
    """A host that is attached and does not run, with a config directory of its own."""
    for name, value in telemetry_allowed().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "config.json").write_text('{"telemetryHost": "http://127.0.0.1:9", "telemetryApiKey": "phc_test"}')
    return lifebeat.attach(
        BackgroundScheduler(),
        app_name="notes",
        app_version="1.4.2",
        config_dir=tmp_path,
        signals=False,
        allow="json",
    )


def enabled(directory: Path) -> Any:
    """What the config file says of the switch."""
    return json.loads((directory / "config.json").read_text()).get("telemetryEnabled")


def test_a_host_shows_what_the_command_shows(handle: lifebeat.Lifebeat) -> None:
    """The page knows what the host was given in code, has no button, and takes no form."""
    found = ask(view.wsgi(handle), "GET", "/")
    assert found.status == "200 OK"
    assert "notes 1.4.2" in found.text
    assert "<form" not in found.text
    assert ask(view.wsgi(handle), "POST", "/", FORM, **SAME).status == "405 Method Not Allowed"


def test_a_host_may_give_it_buttons(handle: lifebeat.Lifebeat, tmp_path: Path) -> None:
    """With them the switch can be turned, by a page of the same origin only."""
    app = view.wsgi(handle, buttons=True)
    assert ask(app, "POST", "/", FORM, **SAME | {"HTTP_ORIGIN": "https://evil.example"}).status == "403 Forbidden"
    assert enabled(tmp_path) is None
    assert ask(app, "POST", "/", FORM, **SAME).status == "303 See Other"
    assert enabled(tmp_path) is False
    assert handle.status()["telemetry"] == "off"


def test_its_buttons_steer_jobs_as_commands_do(handle: lifebeat.Lifebeat, tmp_path: Path) -> None:
    """Pause, resume and start reach the same orders as the commands; what cannot be ordered is said, not done."""
    (tmp_path / "jobs.yaml").write_text(
        "jobs:\n  report: {run: 'json:dumps', args: {obj: 1}, cron: '0 3 * * *'}\n"
        "  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start}\n"
    )
    app = view.wsgi(handle, buttons=True)

    def press(act: str, **fields: str) -> str:
        return ask(app, "POST", "/", {"act": act, **fields}, **SAME).status[:3]

    assert press("pause", job="report", until="2100-01-01T06:00:00+00:00", why="<b>moving</b>") == "303"
    text = ask(app, "GET", "/").text
    assert "2100-01-01 06:00:00" in text
    assert "&lt;b&gt;moving&lt;/b&gt;" in text
    assert press("start", job="report") == "303"
    assert {name: one.start is not None for name, one in steering.read(tmp_path / "lifebeat").items()} == {
        "report": True
    }
    assert press("resume", job="report") == "303"
    assert "paused until" not in ask(app, "GET", "/").text
    refused = [
        ("pause", "report", "soon"),
        ("pause", "report", "2001-01-01"),
        ("start", "startup", ""),
        ("resume", "x", ""),
    ]
    assert [press(act, job=job, until=until) for act, job, until in refused] == ["409"] * 4


def call(app: AsyncView, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], str]:
    """Ask an ASGI application that is mounted below /telemetry."""
    sent: list[Any] = []
    pending = [
        {"type": "http.request", "body": body[:5], "more_body": True},
        {"type": "http.request", "body": body[5:]},
    ]

    async def receive() -> Any:
        return pending.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": method, "path": path, "root_path": "/telemetry", "query_string": b"",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    start, content = sent
    return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content["body"].decode()


def test_the_same_as_asgi(handle: lifebeat.Lifebeat, tmp_path: Path) -> None:
    """It shows the page and takes the form, wherever it is mounted."""
    app, body = view.asgi(handle, buttons=True), urlencode(FORM).encode()
    for path in ("/telemetry", "/telemetry/", "/"):
        status, headers, text = call(app, "GET", path)
        assert (status, "notes 1.4.2" in text) == (200, True), path
        assert headers["cache-control"] == "no-store"
    assert call(app, "GET", "/telemetry/other")[0] == 404
    assert call(app, "POST", "/telemetry/", body, host="notes.example", sec_fetch_site="cross-site")[0] == 403
    assert call(app, "POST", "/telemetry/", b"x" * 9000, host="notes.example", sec_fetch_site="same-origin")[0] == 413
    assert enabled(tmp_path) is None
    status, headers, _ = call(app, "POST", "/telemetry/", body, host="notes.example", sec_fetch_site="same-origin")
    assert (status, headers["location"]) == (303, "?done=off")
    assert enabled(tmp_path) is False

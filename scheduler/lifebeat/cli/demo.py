"""``lifebeat demo``: the whole life of an application on this machine, against a PostHog receiver of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.clock import SystemClock
from lifebeat.host.host import Host
from lifebeat.lifecycle.application import Application
from lifebeat.log import get_logger
from lifebeat.settings.source import ConfigSource
from lifebeat.testing import PostHogServer, telemetry_allowed

if TYPE_CHECKING:
    from collections.abc import Generator

CONFIG = {
    "appName": "lifebeat-demo",
    "appVersion": "1.4.2",
    "telemetryApiKey": "phc_demo",
    "telemetryHeartbeatInterval": "2s",
    "telemetryShutdownTimeout": "10s",
}


def show(*, seconds: float, as_json: bool = False) -> int:
    """Run the demo with a host that lives for ``seconds``, and return the exit code."""
    if as_json:
        return _show_json(seconds)
    _log()
    with _installation() as (config_dir, receiver):
        console.say(f"A PostHog receiver listens on {receiver.url}. Nothing leaves this machine.")
        console.say("A scheduler host starts, with a heartbeat every 2 seconds:\n")
        console.flush()
        number = _live(config_dir, receiver, seconds)
        console.say(f"\nThe host was stopped by a real {number}, and flushed. What the receiver got over HTTP:\n")
        return _report(receiver)


def _show_json(seconds: float) -> int:
    """Show what the receiver got, and nothing else, for programs."""
    with _installation() as (config_dir, receiver):
        _live(config_dir, receiver, seconds)
        console.say_json(receiver.events)
        return DONE if receiver.names() else PROBLEM


@contextlib.contextmanager
def _installation() -> Generator[tuple[Path, PostHogServer]]:
    with tempfile.TemporaryDirectory(prefix="lifebeat-demo-") as scratch, PostHogServer() as receiver:
        config_dir = Path(scratch) / "config"
        config_dir.mkdir()
        (config_dir / "config.json").write_text(json.dumps({**CONFIG, "telemetryHost": receiver.url}, indent=2))
        yield config_dir, receiver


def _live(config_dir: Path, receiver: PostHogServer, seconds: float) -> str:
    # It sends to itself only, so that neither CI nor DO_NOT_TRACK is concerned.
    source = ConfigSource(config_dir, environ=telemetry_allowed(os.environ), modules=sys.modules)
    host = Host(Application(source, allow=(), clock=SystemClock(), logger=get_logger()))
    timer = threading.Timer(seconds, _end, (receiver, time.monotonic() + 4 * seconds))
    timer.daemon = True
    host.run(ready=timer.start)
    host.signals.restore()
    return "signal" if host.signals.received is None else host.signals.received.name


def _end(receiver: PostHogServer, latest: float) -> None:
    """End this process's host once a heartbeat has arrived, which takes longer on a busy machine."""
    while "heartbeat" not in receiver.names() and time.monotonic() < latest:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def _report(receiver: PostHogServer) -> int:
    rows = [(one["event"], one["timestamp"], _properties(one["properties"])) for one in receiver.events]
    console.say(console.table(("event", "timestamp", "properties"), rows))
    names = receiver.names()
    if not {"startup", "heartbeat", "shutdown"} <= set(names):
        console.complain("\nThat is not the whole life: an event is missing.")
        return PROBLEM
    requests = console.counted(len(receiver.requests), "request")
    console.say(f"\n{console.counted(len(names), 'event')} in {requests}. Each body, whole: lifebeat preview")
    console.say("Next: `lifebeat run --config DIR` is the real thing; README.md shows how to embed it in six lines.")
    return DONE


def _properties(properties: dict[str, object]) -> str:
    return " ".join(f"{name}={value}" for name, value in properties.items() if not name.startswith("$"))


def _log() -> None:
    started = time.monotonic()

    class Elapsed(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"  {time.monotonic() - started:5.1f} s  {record.getMessage()}"

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Elapsed())
    logger = logging.getLogger("lifebeat")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False

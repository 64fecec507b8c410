"""``lifebeat demo``: the whole life of an application on this machine, against a PostHog receiver of its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from lifebeat.cli import console
from lifebeat.clock import SystemClock
from lifebeat.host.host import Host
from lifebeat.lifecycle.life import Lifecycle
from lifebeat.settings.layers import ConfigSource
from lifebeat.testing import PostHogServer, telemetry_allowed

CONFIG = {
    "appName": "lifebeat-demo",
    "appVersion": "1.4.2",
    "telemetryApiKey": "phc_demo",
    "telemetryHeartbeatInterval": "2s",
}


def show(*, seconds: float) -> int:
    """Run the demo with a host that lives for ``seconds``; returns the exit code."""
    _log()
    with tempfile.TemporaryDirectory(prefix="lifebeat-demo-") as scratch, PostHogServer() as receiver:
        config_dir = Path(scratch) / "config"
        config_dir.mkdir()
        (config_dir / "config.json").write_text(json.dumps({**CONFIG, "telemetryHost": receiver.url}, indent=2))
        print(f"A PostHog receiver listens on {receiver.url}. Nothing leaves this machine.")
        print("A scheduler host starts, with a heartbeat every 2 seconds:\n", flush=True)
        number = _live(config_dir, seconds)
        print(f"\nThe host was stopped by a real {number}, and flushed. What the receiver got over HTTP:\n")
        return _report(receiver)


def _live(config_dir: Path, seconds: float) -> str:
    # It sends to itself only, so that neither CI nor DO_NOT_TRACK is concerned.
    source = ConfigSource(config_dir, environ=telemetry_allowed(os.environ), modules=sys.modules)
    host = Host(Lifecycle(source, allow=(), clock=SystemClock(), watching=False, logger=logging.getLogger("lifebeat")))
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    host.run(ready=timer.start)
    host.signals.restore()
    return "signal" if host.signals.received is None else host.signals.received.name


def _report(receiver: PostHogServer) -> int:
    rows = [(one["event"], one["timestamp"], _properties(one["properties"])) for one in receiver.events]
    print(console.table(("event", "timestamp", "properties"), rows))
    names = receiver.names()
    if not {"startup", "heartbeat", "shutdown"} <= set(names):
        print("\nThat is not the whole life: an event is missing.", file=sys.stderr)
        return 1
    print(f"\n{len(names)} events in {len(receiver.requests)} requests. Each body, whole: lifebeat preview")
    print("Next: `lifebeat run --config DIR` is the real thing; README.md shows how to embed it in six lines.")
    return 0


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

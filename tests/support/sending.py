"""One installation's sending side in this process: what a job is told, without a scheduler."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from lifebeat import installation
from lifebeat.context import Consent, JobContext
from lifebeat.log import get_logger
from lifebeat.settings.source import ConfigSource
from lifebeat.testing import FakeClock
from lifebeat_jobs import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lifebeat.settings.table import Settings
    from lifebeat_jobs.outbox import Entry, Outbox

INSTANCE_ID = "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52"
LOOPBACK = {"LIFEBEAT_TEST_MODE": "loopback", "HOME": os.environ.get("HOME", "/")}


@dataclass
class Application:
    """An installation of which the tests are the scheduler.

    Attributes:
        directory: The config directory.
        environ: The environment that its settings are read from.
        clock: Its clock.
        state_dir: Where its outbox is; ``None`` where nothing can be written.
        scheduled: What it asked to be run later: the delay and the work.
    """

    directory: Path
    environ: Mapping[str, str] = field(default_factory=LOOPBACK.copy)
    clock: FakeClock = field(default_factory=FakeClock)
    state_dir: Path | None = None
    scheduled: dict[str, tuple[timedelta, Callable[[], None]]] = field(default_factory=dict[str, Any])

    def write(self, **settings: Any) -> None:
        """Put settings into config.json, keeping those that are there."""
        path = self.directory / "config.json"
        there: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        whole = path.with_suffix(".new")  # half a file is a mistake, which pauses
        whole.write_text(json.dumps({**there, **settings}))
        whole.replace(path)

    def settings(self) -> Settings:
        """The settings as they are now."""
        return ConfigSource(self.directory, environ=self.environ, modules={}).read()

    def consent(self) -> Consent:
        """Return what the settings alone say."""
        settings = self.settings()
        state = "on" if settings.enabled else "off" if settings.opted_out else "paused"
        source = settings.sources["telemetryEnabled"]
        return Consent(state, source, source)

    def context(self, *, timeout: float | None = None) -> JobContext:
        """What a job is told; its work in the background is done at once."""
        now = datetime.fromtimestamp(self.clock.time(), tz=UTC)
        return JobContext(
            job_id="test",
            instant=now,
            started_at=now,
            uptime=timedelta(0),
            settings=self.settings(),
            instance_id=installation.known_id(self.settings(), self.state_dir),
            config_dir=self.directory,
            state_dir=self.state_dir,
            clock=self.clock,
            logger=get_logger(),
            timeout=None if timeout is None else timedelta(seconds=timeout),
            read_settings=self.settings,
            read_consent=self.consent,
            background=lambda _, work: work(),
            later=lambda name, delay, work: self.scheduled.update({name: (delay, work)}),
        )

    @property
    def outbox(self) -> Outbox:
        """Its outbox."""
        return telemetry.open_outbox(self.context())

    def ledger(self) -> dict[str, Entry]:
        """Every event and what became of it, by UUID, in the order in which they were recorded."""
        return {entry.uuid: entry for entry in reversed(self.outbox.entries(limit=10_000))}

    def record(self, number: int) -> list[str]:
        """Record so many startups, and deliver none; their UUIDs."""
        from lifebeat_jobs import events

        shared = events.surroundings(self.settings(), INSTANCE_ID)
        now = self.context().instant
        made = [events.serialize(events.Startup(**shared), now, events.uuid7(now)) for _ in range(number)]
        for body in made:
            self.outbox.record(body["uuid"], "startup", json.dumps(body))
        return [body["uuid"] for body in made]

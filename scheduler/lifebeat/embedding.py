"""``attach``: one call that puts Lifebeat on a host's scheduler."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

from lifebeat import layers
from lifebeat.clock import SystemClock
from lifebeat.handle import Lifebeat
from lifebeat.lifecycle import Lifecycle
from lifebeat.registry import Registry
from lifebeat.signals import stop_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Sequence

_attached: weakref.WeakKeyDictionary[Any, Lifebeat] = weakref.WeakKeyDictionary()


def attach(
    scheduler: Any,
    *,
    app_name: str,
    app_version: str,
    release_version: str | None = None,
    api_key: str | None = None,
    host: str | None = None,
    enabled: bool | None = None,
    config_dir: str | os.PathLike[str] | None = None,
    allow: Sequence[str] = (),
    signals: bool = False,
) -> Lifebeat:
    """Put Lifebeat on a scheduler, before or after it is started.

    Telemetry never makes this raise, never blocks it, and touches nothing that is the host's. For every argument
    ``None`` leaves the setting to the other layers of config.

    Args:
        scheduler: An APScheduler 3 scheduler.
        app_name: The application's name; for log lines, never sent.
        app_version: The application's version.
        release_version: The release that is running; the version where not given.
        api_key: The PostHog project key.
        host: The URL of the PostHog to send to.
        enabled: False turns telemetry off; true cannot turn it on against another layer.
        config_dir: The config directory; ``None`` for ``LIFEBEAT_CONFIG_DIR``, systemd's, or ``./config``.
        allow: The modules that the job file may name, besides ``lifebeat_jobs``.
        signals: Whether SIGTERM, where the host left it at its default, stops the scheduler in good order.

    Returns:
        The handle.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    arguments = {
        "appName": app_name,
        "appVersion": app_version,
        "releaseVersion": release_version,
        "telemetryApiKey": api_key,
        "telemetryHost": host,
        "telemetryEnabled": enabled,
    }
    source = layers.ConfigSource(
        layers.config_dir(config_dir, os.environ), arguments=arguments, environ=os.environ, modules=sys.modules
    )
    life = Lifecycle(source, allow=allow, clock=SystemClock(), logger=logging.getLogger("lifebeat"))
    return attach_life(scheduler, life, signals=signals)


def attach_life(scheduler: Any, life: Lifecycle, *, signals: bool = False) -> Lifebeat:
    """Put a life on a scheduler.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    if (attached := _attached.get(scheduler)) is not None:
        life.logger.warning("attach() was called a second time for a scheduler; what the first call did holds")
        return attached
    life.check()
    registry = Registry(scheduler, started=lambda: life.start(registry), stopped=life.stop)
    registry.listen()
    if signals:
        stop_on_sigterm(lambda: _stop(registry, life))
    _attached[scheduler] = handle = Lifebeat(life, registry)
    return handle


def _stop(registry: Registry, life: Lifecycle) -> None:
    registry.shut_down()
    life.finished.wait(life.source.read().shutdown_timeout.total_seconds() + 1)

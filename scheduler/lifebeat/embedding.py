"""``attach``: one call that puts Lifebeat on a host's scheduler."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from lifebeat.clock import SystemClock
from lifebeat.handle import Lifebeat
from lifebeat.registration.registry import handle_of
from lifebeat.settings.source import ConfigSource
from lifebeat.settings.source import config_dir as find_config_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lifebeat.engines import Engine
    from lifebeat.lifecycle.life import Lifecycle


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
    return attach_on(scheduler, arguments, config_dir=config_dir, allow=allow, signals=signals)


def attach_on(
    scheduler: Any,
    arguments: Mapping[str, Any],
    *,
    config_dir: str | os.PathLike[str] | None,
    allow: Sequence[str],
    signals: bool = False,
    make_engine: Callable[[Lifecycle], Engine] | None = None,
) -> Lifebeat:
    """Put Lifebeat on a scheduler, with the host's arguments by their names in files.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    source = ConfigSource(
        find_config_dir(config_dir, os.environ), arguments=arguments, environ=os.environ, modules=sys.modules
    )

    def make_life() -> Lifecycle:
        from lifebeat.lifecycle.life import Lifecycle

        logger = logging.getLogger("lifebeat")
        return Lifecycle(source, allow=allow, clock=SystemClock(), logger=logger, make_engine=make_engine)

    return _attach(scheduler, Lifebeat(scheduler, source, make_life), signals=signals)


def attach_life(scheduler: Any, life: Lifecycle) -> Lifebeat:
    """Put a life on a scheduler.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    return _attach(scheduler, Lifebeat(scheduler, life.source, lambda: life), signals=False)


def _attach(scheduler: Any, handle: Lifebeat, *, signals: bool) -> Lifebeat:
    attached: Lifebeat | None = handle_of(scheduler)
    if attached is not None:
        logging.getLogger("lifebeat").warning("attach() was called twice for a scheduler; the first call holds")
        return attached
    handle.attach()
    if signals:
        from lifebeat.lifecycle.signals import stop_on_sigterm

        stop_on_sigterm(handle.stop_scheduler)
    return handle

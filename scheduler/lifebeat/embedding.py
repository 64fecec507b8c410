"""``attach``: one call that puts Lifebeat on a host's scheduler."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict, Unpack

from lifebeat.clock import SystemClock
from lifebeat.consent import EarlierOptOut
from lifebeat.handle import Lifebeat
from lifebeat.log import get_logger
from lifebeat.registration.registry import handle_of
from lifebeat.settings.source import ConfigSource, variable
from lifebeat.settings.source import config_dir as find_config_dir
from lifebeat.storage.safe_file import absolute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lifebeat.handle import MakeCoordinator
    from lifebeat.lifecycle.application import Application


class HostArguments(TypedDict, total=False):
    """What a host says of itself in each of the ``attach`` functions; ``None`` leaves a setting to the other layers.

    Attributes:
        app_name: The application's name; for log lines, never sent.
        app_version: The application's version.
        release_version: The release that is running; ``None`` for the version.
        api_key: The PostHog project key; ``None``, and none in another layer, sends nothing.
        host: The URL of the PostHog to send to; ``None`` for PostHog's cloud in the US.
        enabled: False turns telemetry off; true, and ``None``, cannot turn it on against another layer.
        config_dir: The config directory; ``None`` for ``LIFEBEAT_CONFIG_DIR``, systemd's, or ``./config``.
        allow: The modules that the job file may name, besides ``lifebeat_jobs``; one name, or several.
    """

    app_name: Required[str]
    app_version: Required[str]
    release_version: str | None
    api_key: str | None
    host: str | None
    enabled: bool | None
    config_dir: str | os.PathLike[str] | None
    allow: str | Sequence[str]


KEYS = {
    "app_name": "appName",
    "app_version": "appVersion",
    "release_version": "releaseVersion",
    "api_key": "telemetryApiKey",
    "host": "telemetryHost",
    "enabled": "telemetryEnabled",
}


def attach(
    scheduler: Any,
    *,
    signals: bool = True,
    engine: str | None = None,
    database: str | None = None,
    **arguments: Unpack[HostArguments],
) -> Lifebeat:
    """Put Lifebeat on a scheduler, before or after it is started.

    Telemetry never makes this raise, never blocks it, and touches nothing that is the host's.

    Args:
        scheduler: An APScheduler 3 scheduler.
        signals: Whether SIGTERM, where the host left it at its default, stops the scheduler.
        engine: What coordinates the processes of several machines: ``procrastinate`` or ``celery``; ``None`` for
            ``LIFEBEAT_ENGINE``, or the processes of this machine among themselves.
        database: The engine's server, as a URL; ``None`` for ``LIFEBEAT_DATABASE``.
        arguments: ``app_name`` and ``app_version``, and the others of ``HostArguments``.

    Returns:
        The handle.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    make_coordinator = _coordinator_of(engine, database)
    return attach_application(scheduler, arguments, make_coordinator=make_coordinator, signals=signals)


def attach_application(
    scheduler: Any,
    arguments: HostArguments,
    *,
    make_coordinator: MakeCoordinator | None = None,
    signals: bool = False,
) -> Lifebeat:
    """Put Lifebeat on a scheduler, with what the host says of itself.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    check_arguments(arguments)
    source = source_of(arguments)
    handle = Lifebeat(scheduler, source, lambda: application_of(source, arguments), make_coordinator=make_coordinator)
    return _attach(scheduler, handle, signals=signals)


def attach_handle(scheduler: Any, application: Application, **options: Any) -> Lifebeat:
    """Put an application that is known already on a scheduler, for hosts of our own.

    Raises:
        ConfigError: The host's own jobs in the job file have a fault.
    """
    handle = Lifebeat(scheduler, application.source, lambda: application, **options)
    return _attach(scheduler, handle, signals=False)


def check_arguments(arguments: HostArguments) -> None:
    """Refuse what is no argument of a host, and what is missing, as a call with plain parameters does.

    Raises:
        TypeError: An unknown argument, or one that is required is missing.
    """
    unknown = sorted(set(arguments) - set(HostArguments.__annotations__))
    if unknown:
        raise TypeError(f"attach() got an unexpected keyword argument {unknown[0]!r}")
    missing = [name for name in ("app_name", "app_version") if name not in arguments]
    if missing:
        raise TypeError(f"attach() is missing a keyword argument: {missing[0]!r}")


def source_of(arguments: HostArguments) -> ConfigSource:
    """Return where the settings of a host with these arguments come from."""
    values = {key: arguments.get(name) for name, key in KEYS.items()}
    # Absolute, as a host may change its working directory later.
    directory = Path(absolute(find_config_dir(arguments.get("config_dir"), os.environ)))
    source = ConfigSource(directory, arguments=values, environ=os.environ, modules=sys.modules)
    source.earlier_opt_out = EarlierOptOut(source, SystemClock(), remember=True)
    return source


def application_of(source: ConfigSource, arguments: HostArguments) -> Application:
    """Return what a host with these arguments runs."""
    from lifebeat.lifecycle.application import Application

    allow = arguments.get("allow", ())
    modules = (allow,) if isinstance(allow, str) else tuple(allow)
    return Application(source, allow=modules, clock=SystemClock(), logger=get_logger())


def _attach(scheduler: Any, handle: Lifebeat, *, signals: bool) -> Lifebeat:
    attached: Lifebeat | None = handle_of(scheduler)
    if attached is not None:
        get_logger().warning("attach() was called twice for a scheduler; the first call holds")
        return attached
    handle.attach(signals=signals)
    return handle


def _coordinator_of(engine: str | None, database: str | None) -> MakeCoordinator | None:
    """Return what makes the engine's coordinator; ``None`` for the processes of this machine."""
    where = "attach(engine=…)" if engine else "environment (LIFEBEAT_ENGINE)"
    name = engine or variable(os.environ, "LIFEBEAT_ENGINE")
    if not name or name == "apscheduler":
        return None
    import importlib

    # By its name: engines stand above this room, as they have an attach function of their own.
    engines = importlib.import_module("lifebeat.engines")
    url = database or variable(os.environ, "LIFEBEAT_DATABASE") or None
    made: MakeCoordinator = engines.choose(name, url, where=where)
    return made

"""What a command line asks for: the life that it speaks of, the settings that it sets; and what it answers."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from lifebeat.clock import SystemClock
from lifebeat.errors import LifebeatError
from lifebeat.settings import layers
from lifebeat.settings.table import BY_NAME

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from lifebeat.engines import Engine
    from lifebeat.lifecycle.life import Lifecycle

DONE, PROBLEM, USAGE, NO_START = 0, 1, 2, 3
EXIT_CODES = {
    DONE: "done",
    PROBLEM: "a problem was found, and said; for plan --diff: the two differ",
    USAGE: "the command was not understood",
    NO_START: "it could not start; for plan --diff: one of the two has a problem, which is said",
}


def life_of(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Lifecycle:
    """The life that the shared options describe; nothing of it has started."""
    from lifebeat.lifecycle.life import Lifecycle

    source = layers.ConfigSource(
        layers.config_dir(args.config, environ),
        command_line=_assignments(args.set),
        environ=environ,
        modules=sys.modules,
        deployment=args.deployment,
    )
    logger = logging.getLogger("lifebeat")
    make_engine = _engine_of(args, environ)
    return Lifecycle(
        source, allow=args.allow, clock=SystemClock(), watching=False, logger=logger, make_engine=make_engine
    )


def _engine_of(args: argparse.Namespace, environ: Mapping[str, str]) -> Callable[[Lifecycle], Engine] | None:
    """What the command line or the environment says of the engine; only commands that have the option ask."""
    if not hasattr(args, "engine"):
        return None
    from lifebeat import engines

    where = "command line (--engine)" if args.engine else "environment (LIFEBEAT_ENGINE)"
    name = args.engine or environ.get("LIFEBEAT_ENGINE", "").strip() or "apscheduler"
    return engines.choose(name, args.database or environ.get("LIFEBEAT_DATABASE", "").strip() or None, where=where)


def take_agreed_id(life: Lifecycle) -> None:
    """The instance ID that the machines have agreed on, where they share a database."""
    from lifebeat import engines

    installation = engines.installation(life.source.environ)
    if installation is None:
        return
    try:
        if (known := installation.known_id()) is not None:
            life.source.agree({"telemetryInstanceId": known})
    except engines.EngineUnavailable as error:
        sys.stderr.write(f"lifebeat: the instance ID is not known here: {error}\n")


def _assignments(written: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in written:
        key, equals, value = one.partition("=")
        check_known(key)
        if not equals:
            raise LifebeatError(f"--set {one!r}: it takes KEY=VALUE, such as telemetryHeartbeatInterval=6h")
        values[key] = value
    return values


def check_known(key: str) -> None:
    """Let the names of settings pass.

    Raises:
        LifebeatError: There is no setting of that name; which one may be meant.
    """
    import difflib

    if key not in BY_NAME:
        near = difflib.get_close_matches(key, list(BY_NAME), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(BY_NAME)}"
        raise LifebeatError(f"there is no setting {key!r} ({hint})")

"""The commands that telemetry's job module answers; this module alone may import ``lifebeat_jobs``, and late."""

# ruff: noqa: T201 - commands print

from __future__ import annotations

import os
import sys
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.invocation import DONE, PROBLEM, check_known, life_of, take_agreed_id
from lifebeat.errors import LifebeatError
from lifebeat.settings import layers
from lifebeat.settings.table import BY_NAME

if TYPE_CHECKING:
    import argparse

    from lifebeat.engines.postgres import Installation
    from lifebeat.lifecycle.life import Lifecycle


def setconfig(args: argparse.Namespace) -> int:
    """Set one key in the config file; every running process follows within seconds."""
    from lifebeat.cli import provenance
    from lifebeat.settings import edit as configfile

    check_known(args.key)
    key = BY_NAME[args.key]
    try:
        key.kind.parse(args.value)
    except ValueError as error:
        raise LifebeatError(f"{args.key}: {args.value!r} {error}") from None
    life = life_of(args)
    directory = life.source.config_dir
    path = configfile.config_file(directory) or directory / layers.CONFIG_FILES[0]
    configfile.set_key(path, args.key, _typed(key, args.value))
    print(f"{path}: {args.key} is {args.value if not key.secret else 'set'}")
    settings = life.source.read()
    if args.key == layers.ENABLED:
        _obey(life)
    decided = settings.decided_by[args.key]
    if decided != str(path):
        print(
            f"but {decided} says otherwise, and wins: {args.key} is {provenance.written(key, settings.value(args.key))}"
        )
    return DONE


def _typed(key: Any, value: str) -> Any:
    parsed = key.kind.parse(value)
    return parsed if isinstance(parsed, bool | int) else value


def _obey(life: Lifecycle) -> None:
    """What waits is not sent any more, whether a process of the application is running or not."""
    from lifebeat_jobs import telemetry

    telemetry.withdrawn(life.context("setconfig"))


def status(args: argparse.Namespace) -> int:
    """Say whether telemetry is on, who said so, and what waits."""
    if args.healthy:
        return _say_health(args)
    from lifebeat_jobs import telemetry

    life = life_of(args)
    take_agreed_id(life)
    told = telemetry.status(life.context("status"))
    if args.json:
        print(console.as_json(told))
    else:
        for name in ("waiting_since", "next_attempt"):
            told[name] = console.moment(told[name])
        print(console.pairs(told))
    return PROBLEM if life.source.read().problems else DONE


def _say_health(args: argparse.Namespace) -> int:
    from lifebeat.host.health import ask

    well, words = ask(layers.config_dir(args.config, os.environ))
    print(console.as_json({"healthy": well, "reason": words}) if args.json else words)
    return DONE if well else PROBLEM


def preview(args: argparse.Namespace) -> int:
    """Show the exact bytes that would be sent, without sending anything; also when telemetry is off."""
    from lifebeat_jobs import telemetry

    life = life_of(args)
    take_agreed_id(life)
    bodies = telemetry.preview(life.context("preview"), args.event)
    for body in bodies:
        print(body if args.json else _pretty(body))
    return DONE


def _pretty(body: str) -> str:
    import json

    return json.dumps(json.loads(body), indent=2)


def log(args: argparse.Namespace) -> int:
    """Show each recorded event and what became of it."""
    import json

    from lifebeat_jobs import telemetry

    outbox = telemetry.open_outbox(life_of(args).context("log"))
    entries = outbox.entries(limit=args.count)
    if args.json:
        print(
            console.as_json(
                [{name: getattr(one, name) for name in _COLUMNS} | {"body": json.loads(one.body)} for one in entries]
            )
        )
        return DONE
    rows = [
        (
            console.moment(one.recorded_at),
            one.event,
            one.state,
            console.moment(one.finished_at),
            one.attempts,
            one.status,
            one.answer,
        )
        for one in entries
    ]
    print(
        console.table(("recorded (UTC)", "event", "state", "since (UTC)", "attempts", "status", "answer"), rows)
        if rows
        else "nothing was recorded"
    )
    return DONE


_COLUMNS = ("uuid", "event", "recorded_at", "state", "attempts", "next_attempt", "status", "answer", "finished_at")


def flush(args: argparse.Namespace) -> int:
    """Deliver what waits now, also what waits for its next attempt."""
    from lifebeat_jobs import telemetry

    context = life_of(args).context("flush")
    if not context.settings.enabled:
        print(f"telemetry is {context.settings.reason}; nothing is sent")
        return DONE
    shown = _progress if sys.stderr.isatty() else None
    delivered = telemetry.flush(context, timedelta(seconds=args.timeout), shown)
    waiting = telemetry.open_outbox(context).waiting().count
    print(f"{delivered} delivered, {waiting} waiting")
    return PROBLEM if waiting else DONE


def _progress(delivered: int) -> None:
    sys.stderr.write(f"\r{delivered} delivered")
    sys.stderr.flush()


def _rotate_shared(args: argparse.Namespace, installation: Installation) -> int:
    new, settings = str(uuid.uuid4()), life_of(args).source.read()
    if settings.instance_id is not None:
        print(f"{settings.decided_by['telemetryInstanceId']} sets telemetryInstanceId, and wins: change it there")
        return PROBLEM
    old = installation.rotate(new)
    print(f"the instance ID was {old or 'not made yet'}; it is now {new}, for each process from its next start on")
    return DONE


def rotate_id(args: argparse.Namespace) -> int:
    """Give this installation a new random instance ID; the old one is forgotten."""
    from lifebeat import engines, installation

    if (shared := engines.installation(os.environ)) is not None:
        return _rotate_shared(args, shared)
    context = life_of(args).context("rotate-id")
    old = context.instance_id
    new, settings = installation.rotate_id(context.config_dir), context.read_settings()
    print(f"the instance ID was {old or 'not made yet'}; it is now {new}")
    if settings.instance_id != new:
        print(f"but {settings.decided_by[installation.KEY]} sets telemetryInstanceId, and wins: change it there")
        return PROBLEM
    return DONE

"""The commands that telemetry's job module answers: what was recorded, what would be sent, what is pending."""

from __future__ import annotations

import json
import os
import uuid
from datetime import timedelta
from typing import TYPE_CHECKING

from lifebeat.cli import console, options
from lifebeat.cli.console import DONE, PROBLEM

if TYPE_CHECKING:
    import argparse

    from lifebeat.cli.options import CommandLine
    from lifebeat.engines.postgres import Installation
    from lifebeat.settings.table import Settings


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    line.add("status", status).add_argument(
        "--healthy",
        action="store_true",
        help="only ask the lifebeat run with this config directory on this machine whether it is healthy",
    )
    line.add("preview", preview).add_argument(
        "event", nargs="?", choices=["startup", "heartbeat", "shutdown"], help="only this event"
    )
    line.add("log", log).add_argument(
        "--count", type=options.count, metavar="N", default=50, help="how many events, newest first (default 50)"
    )
    line.add("flush", flush).add_argument(
        "--timeout", type=options.seconds, metavar="SECONDS", default=30.0, help="how long it may take (default 30)"
    )
    line.add("rotate-id", rotate_id)


def status(args: argparse.Namespace) -> int:
    """Say whether telemetry is on, who said so, and what is pending."""
    from lifebeat.cli.application import Application, take_agreed_id

    if args.healthy:
        return _say_health(args)
    application = Application(args)
    take_agreed_id(application)
    found = application.telemetry.status(application.context("status"))
    found |= {"telemetry": application.consent.state, "reason": application.consent.reason}
    show = console.iso if args.json else console.spoken
    for name in ("waiting_since", "next_attempt"):
        found[name] = show(found[name])
    if args.json:
        console.say_json(found)
    else:
        console.say(console.pairs(found))
    return PROBLEM if application.consent.state == "paused" else DONE


def _say_health(args: argparse.Namespace) -> int:
    from lifebeat.cli.application import source_of
    from lifebeat.host.health import ask

    healthy, reason = ask(source_of(args).config_dir)
    if args.json:
        console.say_json({"healthy": healthy, "reason": reason})
    else:
        console.say(reason)
    return DONE if healthy else PROBLEM


def preview(args: argparse.Namespace) -> int:
    """Show the exact bytes that would be sent, without sending anything; also when telemetry is off."""
    from lifebeat.cli.application import Application, take_agreed_id

    application = Application(args)
    take_agreed_id(application)
    for body in application.telemetry.preview(application.context("preview"), args.event):
        console.say(body if args.json else json.dumps(json.loads(body), indent=2))
    return DONE


_COLUMNS = ("uuid", "event", "recorded_at", "state", "attempts", "next_attempt", "status", "answer", "finished_at")
_TIMES = ("recorded_at", "next_attempt", "finished_at")


def log(args: argparse.Namespace) -> int:
    """Show each recorded event and what became of it."""
    from lifebeat.cli.application import Application

    application = Application(args)
    entries = application.telemetry.entries(application.context("log"), args.count)
    if args.json:
        console.say_json(
            [
                {name: console.iso(one[name]) if name in _TIMES else one[name] for name in _COLUMNS}
                | {"body": json.loads(one["body"])}
                for one in entries
            ]
        )
        return DONE
    rows = [
        (
            console.spoken(one["recorded_at"]),
            one["event"],
            one["state"],
            console.spoken(one["finished_at"]),
            one["attempts"],
            one["status"],
            one["answer"],
        )
        for one in entries
    ]
    headings = ("recorded (UTC)", "event", "state", "since (UTC)", "attempts", "status", "answer")
    console.say(console.table(headings, rows) if rows else "nothing was recorded")
    return DONE


def flush(args: argparse.Namespace) -> int:
    """Deliver what is pending now, also what waits for its next attempt."""
    from lifebeat.cli.application import Application

    application = Application(args)
    context, telemetry = application.context("flush"), application.telemetry
    if not application.consent.is_on:
        reason = f"telemetry is {application.consent}; nothing is sent"
        if args.json:
            console.say_json({"delivered": 0, "reason": reason})
        else:
            console.say(reason)
        return DONE
    delivered = telemetry.flush(context, timedelta(seconds=args.timeout))
    waiting: int = telemetry.status(context)["waiting"]
    if args.json:
        console.say_json({"delivered": delivered, "waiting": waiting})
    else:
        console.say(f"{delivered} delivered, {waiting} waiting")
    return PROBLEM if waiting else DONE


def rotate_id(args: argparse.Namespace) -> int:
    """Give this installation a new random instance ID; the old one is forgotten."""
    from lifebeat import engines, installation
    from lifebeat.cli.application import Application

    application = Application(args)
    if (shared := engines.installation(os.environ)) is not None:
        return _rotate_shared(application.settings, shared)
    old = application.instance_id
    new, settings = installation.rotate_id(application.config_dir), application.source.read()
    if args.json:
        console.say_json({"old": old, "new": new})
    else:
        console.say(f"the instance ID was {old or 'not made yet'}; it is now {new}")
    if settings.instance_id != new:
        console.complain(
            f"but {settings.sources[installation.KEY]} sets telemetryInstanceId, and wins: change it there"
        )
        return PROBLEM
    return DONE


def _rotate_shared(settings: Settings, shared: Installation) -> int:
    new = str(uuid.uuid4())
    if settings.instance_id is not None:
        console.complain(
            f"{settings.sources['telemetryInstanceId']} sets telemetryInstanceId, and wins: change it there"
        )
        return PROBLEM
    old = shared.rotate(new)
    console.say(
        f"the instance ID was {old or 'not made yet'}; it is now {new}, for each process from its next start on"
    )
    return DONE

"""The commands that telemetry's job module answers: what was recorded, what would be sent, what is pending."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console, options
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.errors import LifebeatError
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    import argparse

    from lifebeat.cli.application import Application
    from lifebeat.cli.options import CommandLine


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    previewing = line.add("preview", preview)
    previewing.add_argument("event", metavar="EVENT", nargs="?", help="only this event, such as heartbeat")
    previewing.add_argument("--request", action="store_true", help="the whole request, with its headers")
    line.add("log", log).add_argument(
        "--count", type=options.count, metavar="N", default=50, help="how many events, newest first (default 50)"
    )
    line.add("flush", flush).add_argument(
        "--timeout", type=options.seconds, metavar="SECONDS", default=30.0, help="how long it may take (default 30)"
    )
    line.add("rotate-id", rotate_id)
    line.add("accept", accept)
    line.add("describe", describe).add_argument(
        "--lock",
        metavar="FILE",
        help="write what can be sent to this file, for a test of the application to compare with",
    )


def preview(args: argparse.Namespace) -> int:
    """Show the exact bytes that would be sent, without sending anything; also when telemetry is off."""
    from lifebeat.cli.application import Application

    application = Application(args)
    context, telemetry = application.context("preview"), application.telemetry
    bodies = {json.loads(body)["event"]: body for body in telemetry.preview(context)}
    if args.event is not None and args.event not in bodies:
        hint = did_you_mean(args.event, bodies) or f" (there are: {', '.join(bodies)})"
        raise LifebeatError(f"there is no event {args.event!r}{hint}")
    if args.request:
        shown = telemetry.request_preview(context, args.event)
        console.say_json(_requests_as_list(shown)) if args.json else console.say(shown)
    elif not args.json:
        chosen = [body for name, body in bodies.items() if args.event in (None, name)]
        console.say("\n".join(json.dumps(json.loads(body), indent=2) for body in chosen))
    else:  # the exact bytes, also within a list
        console.say(bodies[args.event] if args.event else f"[{_LINE.join(bodies.values())}]")
    return DONE


def _requests_as_list(shown: str) -> list[dict[str, Any]]:
    """Return requests for programs: the line, the headers, and the body before it is zipped."""
    parts = shown.split("\n\n")
    found = list[dict[str, Any]]()
    for head, body in zip(parts[::2], parts[1::2], strict=True):
        line, *headers = head.split("\n")
        found.append(
            {"request": line, "headers": dict(one.split(": ", 1) for one in headers), "body": json.loads(body)}
        )
    return found


_LINE = ",\n"
_COLUMNS = ("uuid", "event", "recorded_at", "state", "attempts", "next_attempt", "status", "answer", "finished_at")
_TIMES = ("recorded_at", "next_attempt", "finished_at")
_HEADINGS = ("recorded (UTC)", "event", "state", "since (UTC)", "attempts", "status", "answer")


def log(args: argparse.Namespace) -> int:
    """Show each recorded event and what became of it."""
    from lifebeat.cli.application import Application

    application = Application(args)
    if application.unseen:
        raise LifebeatError(f"what was recorded cannot be seen: {application.unseen}")
    entries = application.telemetry.entries(application.context("log"), args.count)
    if args.json:
        console.say_json([as_dict(one) for one in entries])
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
    console.say(console.table(_HEADINGS, rows) if rows else "nothing was recorded")
    return DONE


def as_dict(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded event for programs."""
    found = {name: console.iso(entry[name]) if name in _TIMES else entry[name] for name in _COLUMNS}
    return found | {"body": json.loads(entry["body"])}


def flush(args: argparse.Namespace) -> int:
    """Deliver what is pending now, also what waits for its next attempt; exit code 1 if something could not be sent."""
    from lifebeat.cli.application import Application

    application = Application(args)
    timeout = timedelta(seconds=args.timeout)
    context, telemetry = application.context("flush", timeout=timeout), application.telemetry
    delivered, waiting, reason, consent = 0, 0, None, application.consent()
    if consent.is_on and application.settings.api_key is not None:
        delivered = telemetry.flush(context, timeout)
    elif not consent.is_on:
        reason = f"telemetry is {consent}"
    elif application.is_unknown:
        reason = "no application has run here yet, and what it passes in code is not known"
    else:
        reason = "there is no API key here: set telemetryApiKey"
    if application.unseen:
        raise LifebeatError(f"what is pending cannot be seen: {application.unseen}")
    waiting = telemetry.status(context)["waiting"]
    if waiting and reason is None:
        entries = telemetry.entries(context, 1000)
        answers = (one["answer"] for one in entries if one["state"] == "waiting" and one["answer"])
        reason = next(answers, "the time was over, or another process is delivering")
    if args.json:
        console.say_json({"delivered": delivered, "waiting": waiting, "reason": reason})
    else:
        console.say(f"{delivered} delivered, {waiting} waiting{f': {reason}' if reason else ''}")
    return PROBLEM if waiting or consent.state == "paused" else DONE


def accept(args: argparse.Namespace) -> int:
    """Agree to what this version wants to send besides what was agreed to."""
    from lifebeat.cli.application import Application

    accepted = agree(Application(args))
    if args.json:
        console.say_json({"accepted": accepted})
    elif accepted:
        console.say(f"accepted, and sent from now on: {', '.join(accepted)}")
    else:
        console.say("nothing new: what this version sends was agreed to")
    return DONE


def agree(application: Application) -> list[str]:
    """Agree to what is new, and return it."""
    context, telemetry = application.context("accept"), application.telemetry
    return telemetry.accept(context) if telemetry.status(context).get("unaccepted") else []


def describe(args: argparse.Namespace) -> int:
    """Print TELEMETRY.md, the page for the application's own users: what is sent, where, how often, how to stop it."""
    from lifebeat.cli.application import Application

    application = Application(args)
    context, telemetry = application.context("describe"), application.telemetry
    if args.lock is not None:
        advice = "keep it with the application's tests"
        return console.save(args.lock, telemetry.contract(context), advice, mode=0o644, as_json=args.json)
    if args.json:
        console.say_json(json.loads(telemetry.contract(context)))
    else:
        console.say(telemetry.describe(context), end="")
    return DONE


def rotate_id(args: argparse.Namespace) -> int:
    """Give this installation a new random instance ID; the old one is forgotten."""
    from lifebeat import installation
    from lifebeat.cli.application import Application

    application = Application(args)
    old = application.instance_id()
    new, settings = installation.rotate_id(application.config_dir), application.source.read()
    if args.json:
        console.say_json({"old": old, "new": new})
    else:
        console.say(f"the instance ID was {old or 'not made yet'}; it is now {new}")
    if settings.instance_id != new:
        source = settings.sources[installation.KEY]
        console.complain(f"but {source} sets telemetryInstanceId, and wins: change it there")
        return PROBLEM
    return DONE

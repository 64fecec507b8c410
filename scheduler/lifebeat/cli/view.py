"""``lifebeat view``: the page of what the other commands show, with buttons that do what they do."""

from __future__ import annotations

import math
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console, options
from lifebeat.cli.console import DONE
from lifebeat.errors import LifebeatError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lifebeat.cli.application import Application
    from lifebeat.cli.options import CommandLine
    from lifebeat.cli.plan import Plan
    from lifebeat.steering import Answer
    from lifebeat.view.page import Document

_DAY = 86400.0
_DRAWN = 50  # jobs on the timeline


def add_commands(line: CommandLine) -> None:
    """Add the command."""
    viewing = line.add("view", view)
    viewing.add_argument("--export", metavar="FILE", help="write the page to this file, without buttons; - to print it")
    viewing.add_argument(
        "--port", type=options.port, default=0, metavar="PORT", help="a port of your choice (default: a free one)"
    )


def view(args: argparse.Namespace) -> int:
    """Serve a page on this machine: whether it is on, who decided, what ran and runs next, what was sent; until Ctrl-C.

    Its address holds a secret: anyone who has it can see all of it, turn telemetry off and steer jobs.
    """
    from lifebeat.cli.application import Application

    if args.export is not None:
        return _export(Application(args), args.export, as_json=args.json)
    from lifebeat.view.server import LOOPBACK, Server

    try:
        server = Server(
            lambda shown: gather(Application(args), shown),
            buttons(lambda: Application(args, remember=True)),
            port=args.port,
            refused=console.complain,
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LifebeatError(f"{LOOPBACK}:{args.port}: cannot be used: {reason}; --port 0 takes a free one") from None
    with server:
        if args.json:
            console.say_json({"url": server.url})
        else:
            console.say(f"{server.url}\nCtrl-C ends it. Nobody else on this machine can see it without this address.")
        console.flush()
        server.serve_forever()
    return DONE


def _export(application: Application, file: str, *, as_json: bool) -> int:
    from lifebeat.view.page import SHOWN, Page

    page = Page(gather(application, SHOWN)).html()
    if file == "-":
        console.say(page, end="")
        return DONE
    return console.save(file, page, "open it in a browser", mode=0o600, as_json=as_json)


def buttons(find: Callable[[], Application]) -> dict[str, Callable[[Mapping[str, str]], object]]:
    """Return what the page's buttons do: the same as the commands.

    Args:
        find: Returns the application as it is now.
    """
    from lifebeat import steering
    from lifebeat.cli import config, runs, telemetry

    def steer(form: Mapping[str, str], order: Callable[..., Answer]) -> None:
        answer = runs.steer(find(), form.get("job", ""), order)
        if not answer.done:
            raise LifebeatError(answer.words)

    def pause(form: Mapping[str, str]) -> None:
        steer(form, partial(steering.pause, until=_until(form.get("until", "")), why=form.get("why")))

    return {
        "off": lambda _: config.set_value(find(), "telemetryEnabled", "false"),
        "accept": lambda _: telemetry.agree(find()),
        "start": lambda form: steer(form, steering.start),
        "pause": pause,
        "resume": lambda form: steer(form, steering.resume),
    }


def _until(written: str) -> float | None:
    try:
        return datetime.fromisoformat(written).timestamp() if written else None
    except (ValueError, OverflowError):
        raise LifebeatError("the end of the pause is no time, such as 2027-03-01T09:30+00:00") from None


def gather(application: Application, shown: int) -> Document:
    """Return what the page shows, with at most ``shown`` events and runs; what cannot be seen is said."""
    from lifebeat import history
    from lifebeat.cli import layers, runs, status, telemetry
    from lifebeat.cli import plan as plans

    now, found, context = application.clock.time(), status.look(application), application.context("view")
    plan, state, settings = plans.read(application), application.state_dir(create=False), application.settings
    unseen = [str(found["error"])] if found["error"] else []

    def seen(make: Callable[[], Any], otherwise: Any) -> Any:
        if not unseen:  # what cannot be read now is not waited for again and again
            try:
                return make()
            except LifebeatError as error:
                unseen.append(str(error))
        return otherwise

    entries = seen(lambda: application.telemetry.entries(context, shown + 1), [])
    ran = seen(lambda: history.read(state, limit=shown + 1), [])
    latest = seen(lambda: history.latest(state), {})
    failed = seen(lambda: history.read(state, since=now - _DAY, failed=True), [])
    drawn = seen(lambda: _timeline(plan, now, state), {})
    preview = seen(lambda: application.telemetry.preview(context), [])
    problems = [*map(str, application.problems), *unseen, *filter(None, [found["warning"]])]
    return {
        "now": str(console.iso(now)),
        "application": settings.app_name or "This application",
        "summary": status.summary(application, found),
        "status": status.as_dict(found),
        "settings": layers.as_list(settings, with_layers=True),
        "plan": plans.as_list(plan, now, 1),
        "runs": [runs.as_dict(one) for one in ran[:shown]],
        "more_runs": len(ran) > shown,
        "last": {job: runs.as_dict(one) for job, one in latest.items()},
        "failed": [runs.as_dict(one) for one in failed],
        "events": [telemetry.as_dict(one) | {"body": one["body"]} for one in entries[:shown]],
        "more_events": len(entries) > shown,
        "preview": preview,
        "timeline": drawn,
        "problems": list(dict.fromkeys(problems)),
    }


def _timeline(plan: Plan, now: float, state: Path | None) -> dict[str, dict[str, Any]]:
    """Return the half hours of a day back and a day ahead, for each job."""
    from lifebeat import history
    from lifebeat.cli.timeline import CELL, COLUMNS, within
    from lifebeat.cli.upcoming import instants_to_come
    from lifebeat.schedule.instants import SECOND

    hour = int(now) // 3600 * 3600
    past = history.tally(state, since=hour - _DAY, step=_DAY / COLUMNS, steps=COLUMNS + 2)
    drawn: dict[str, dict[str, Any]] = {}
    for spec in plan.specs[:_DRAWN]:
        instants, ahead = instants_to_come(spec, plan.seed, now), list[int]()
        pause, begin = plan.paused(spec, now), now
        if pause is not None:
            begin = math.inf if pause.until is None else pause.until
        if instants is not None:
            halves = [within(instants, hour * SECOND + column * CELL) for column in range(COLUMNS)]
            ahead = [sum(one > begin * SECOND for one in half) for half in halves]
        drawn[spec.id] = {"past": past.get(spec.id, []), "ahead": ahead}
    return drawn

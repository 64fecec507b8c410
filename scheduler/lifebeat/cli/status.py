"""``lifebeat status``: whether telemetry is on, which layer decided, and its state; in one sentence first."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.errors import LifebeatError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from lifebeat.cli.application import Application
    from lifebeat.cli.options import CommandLine
    from lifebeat.jobfile.spec import JobSpec

HEARTBEAT = "heartbeat"
_TIMES = ("waiting_since", "next_attempt", "last_delivered", "next_heartbeat")
_ALWAYS = ("instance_id", "waiting")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_NO_PHASE = timedelta(0)


def add_commands(line: CommandLine) -> None:
    """Add the command."""
    line.add("status", status).add_argument(
        "--healthy",
        action="store_true",
        help="only ask the lifebeat run with this config directory on this machine whether it is healthy",
    )


def status(args: argparse.Namespace) -> int:
    """Show whether telemetry is on, which layer decided, and what is pending."""
    from lifebeat.cli.application import Application

    if args.healthy:
        return _say_health(args)
    application = Application(args)
    found = look(application)
    problem = found["telemetry"] == "paused" or found["error"] is not None
    said = summary(application, found)
    if args.json:
        console.say_json({"summary": said} | as_dict(found))
    else:
        console.say(said)
        del found["failing"]  # it stands in the first sentence
        shown = {name: console.spoken(value) if name in _TIMES else value for name, value in found.items()}
        shown["engine"] = _in_words(found["engine"])
        known = {name: value for name, value in shown.items() if name in _ALWAYS or value not in (None, [])}
        console.say(console.pairs(known))
    return PROBLEM if problem else DONE


def as_dict(found: dict[str, Any]) -> dict[str, Any]:
    """Return how telemetry stands for programs."""
    return {name: console.iso(value) if name in _TIMES else value for name, value in found.items()}


def look(application: Application) -> dict[str, Any]:
    """Return how telemetry stands, and whose installation it is."""
    from lifebeat import engines, installation

    context, telemetry = application.context("status"), application.telemetry
    found = installation.status(context, telemetry.status)
    whose = application.source.arguments_label.removeprefix("host argument").strip(" ()")
    found |= {"api_key": _key(application), "application": whose or "this command's own"}
    found |= {"error": application.unseen or found["error"], "last_delivered": None}
    if found["error"] is None:
        entries = telemetry.entries(context, 100)
        delivered = [one["finished_at"] for one in entries if one["state"] == "delivered"]
        found["last_delivered"] = max(delivered, default=None)
    found["warning"] = application.dies_with_container
    known = {spec.id for spec in application.load().specs if spec.enabled}
    failed = failing(application) if found["error"] is None else []
    found["failing"] = [run for run in failed if run["job"] in known]
    found["next_heartbeat"] = _next_heartbeat(application) if found["telemetry"] == "on" else None
    found["engine"] = engines.look(application.source.environ, application.settings.app_name)
    if application.record is not None and application.record.others:
        found["also_used_by"] = ", ".join(application.record.others)
    return found


def failing(application: Application) -> list[dict[str, Any]]:
    """Return the jobs that fail at present, each with its last run, for programs; none where that cannot be seen."""
    from lifebeat import history
    from lifebeat.cli.runs import as_dict

    try:
        found = history.failing(application.state_dir(create=False))
    except LifebeatError:
        return []
    return list(map(as_dict, found.values()))


def _failing_in_words(runs: list[dict[str, Any]]) -> str:
    """Return the jobs that fail, with the reason where it is one; empty for none."""
    if not runs:
        return ""
    reason = f" ({runs[0]['reason'] or runs[0]['outcome']})" if len(runs) == 1 else ""
    return f"failing: {', '.join(run['job'] for run in runs)}{reason}"


def _in_words(engine: dict[str, Any] | None) -> str | None:
    """Return how an engine stands, in a line."""
    if engine is None:
        return None
    if not engine["reachable"]:
        return f"{engine['engine']}: not reachable: {engine['reason']}"
    last, members = engine["last_run"], ", ".join(engine["members"]) or "nobody"
    handed_over = f"{last['job_id']} for {console.spoken(last['instant'] / 1e6)}" if last else "nothing yet"
    return f"{engine['engine']}: reachable; in: {members}; waiting: {engine['waiting']}; last run: {handed_over}"


def _key(application: Application) -> str:
    key = application.settings.api_key
    return console.masked(key) if key else "none: nothing is sent, events stay in the local ledger"


def _next_heartbeat(application: Application) -> float | None:
    from lifebeat.cli.upcoming import upcoming

    now = application.clock.time()
    runs = [
        run.starts.timestamp()
        for spec in application.load().specs
        if spec.is_telemetry and spec.run.endswith(f":{HEARTBEAT}")
        for run in upcoming(spec, application.seed(), now, 1)
    ]
    return min(runs, default=None)


def summary(application: Application, found: dict[str, Any]) -> str:
    """Return how it stands in one sentence, and what fails at present."""
    said, failing = _telemetry_in_words(application, found), _failing_in_words(found["failing"])
    if not failing:
        return said
    first, dot, rest = said.partition(". ") if said.startswith("Off") else (said.removesuffix("."), ".", "")
    return f"{first}; {failing}{dot}{rest}"


def _telemetry_in_words(application: Application, found: dict[str, Any]) -> str:
    if found["telemetry"] == "off":
        return f"Off: {found['reason']}. Nothing is recorded or sent."
    if found["telemetry"] == "paused":
        return f"Paused {found['reason']}"
    settings = application.settings
    name = " ".join(filter(None, (settings.app_name, settings.app_version))) or "this application"
    if application.is_unknown:
        return "On, by what is written here; no application has run here yet, and what it passes in code is not known."
    if settings.api_key is None:
        return f"On, but {name} has no API key here, so nothing is sent; events stay in the local ledger."
    now, last, following = application.clock.time(), found["last_delivered"], found["next_heartbeat"]
    if found["error"] is not None:
        delivered = "what was delivered cannot be seen"
    else:
        nothing = "nothing delivered yet" if application.record else "no application has run here yet"
        delivered = nothing if last is None else f"last delivered {_ago(now - last)}"
    upcoming = "" if following is None else f", next {_clock(following, now)}"
    where = f"{found['host'] or settings.host}{how_often(application.load().specs)}"
    return f"On. {name} sends to {where}; {delivered}{upcoming}."


def how_often(specs: Iterable[JobSpec]) -> str:
    """Return how often it sends by the job file, with a blank before it; empty where there is no heartbeat."""
    from lifebeat.jobfile.targets import SHIPPED
    from lifebeat.schedule.triggers import Every, in_words

    beats = (spec.trigger for spec in specs if spec.enabled and spec.run == SHIPPED[1])
    return ", ".join(f" {in_words(one._replace(phase=_NO_PHASE) if isinstance(one, Every) else one)}" for one in beats)


def _ago(seconds: float) -> str:
    for length, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def _clock(moment: float, now: float) -> str:
    shown = console.spoken(moment) or ""
    return f"{shown[11:16]} UTC" if moment - now < _DAY else f"{shown[:16]} UTC"


def _say_health(args: argparse.Namespace) -> int:
    from lifebeat.cli.application import Application, source_of
    from lifebeat.host.health import ask

    healthy, reason = ask(source_of(args).config_dir)
    fails = failing(Application(args)) if healthy else []  # without the job file: a probe imports nobody's modules
    if args.json:
        console.say_json({"healthy": healthy, "reason": reason, "failing": [run["job"] for run in fails]})
    else:
        console.say("; ".join(filter(None, (reason, _failing_in_words(fails)))))
    return DONE if healthy else PROBLEM

"""The commands that look at the job file: ``check`` and ``plan``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console, options
from lifebeat.cli.application import Application
from lifebeat.cli.console import DONE, NO_START, PROBLEM

if TYPE_CHECKING:
    import argparse

    from lifebeat.cli.options import CommandLine


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    line.add("check", check).add_argument("--strict", action="store_true", help="exit 1 for warnings too")
    planning = line.add("plan", plan)
    planning.add_argument(
        "--count", type=options.count, metavar="N", default=3, help="how many runs of each job (default 3)"
    )
    planning.add_argument(
        "--diff",
        nargs=2,
        metavar="NAME",
        help="what differs between two deployments: --diff staging production; - or default for none",
    )
    planning.add_argument("--timeline", action="store_true", help="with a picture of the next day, as on a terminal")


def check(args: argparse.Namespace) -> int:
    """Check the settings and the job file with all deployments, or the one that is named; each mistake has its place.

    What is only strange is a warning, which counts with --strict.
    """
    from lifebeat.cli.application import Application
    from lifebeat.jobfile import reader

    application = Application(args)
    found = reader.check(application.source, allow=application.allow)
    lost = application.dies_with_container if application.record else None  # not in a pipeline, before any host has run
    further = [lost] if lost else []
    if not found.problems:
        further += application.telemetry.warnings(application.context("check"))
    strange = [*map(str, found.warnings), *further]
    if args.json:
        places = [_as_dict(one) for one in found.warnings]
        places += [{"source": None, "line": None, "column": None, "message": one} for one in further]
        problems = [{"level": "problem", **_as_dict(one)} for one in found.problems]
        console.say_json([*problems, *({"level": "warning", **one} for one in places)])
    else:
        console.show_problems(found.problems)
        for warning in strange:
            console.complain(f"warning: {warning}")
        if not found.problems:
            jobs = application.load()
            warnings = f", {console.counted(len(strange), 'warning')}" if strange else ""
            console.say(f"{jobs.path}: {console.counted(len(jobs.specs), 'job')}, no problem{warnings}")
    return PROBLEM if found.problems or (args.strict and strange) else DONE


def _as_dict(problem: Any) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("source", "line", "column", "message")}


def plan(args: argparse.Namespace) -> int:
    """Show when each job runs next, or with --diff what differs between two deployments."""
    from lifebeat.cli import plan as plans

    if args.diff:
        return _differ(args)
    application = Application(args)
    now, found = application.clock.time(), plans.read(application)
    console.show_problems(found.problems)
    if args.json:
        console.say_json(plans.as_list(found, now, args.count))
    else:
        console.say(plans.as_table(found, now, args.count))
        if args.timeline or sys.stdout.isatty():
            from lifebeat.cli.timeline import timeline

            console.say(f"\n{timeline(found.specs, found.seed, now, sys.stdout.encoding)}")
    return PROBLEM if found.problems else DONE


def _differ(args: argparse.Namespace) -> int:
    from lifebeat.cli import difference
    from lifebeat.cli import plan as plans

    here, there = (_deployed(args, name) for name in args.diff)
    first, second = plans.read(here), plans.read(there)
    problems = dict.fromkeys((*first.problems, *second.problems))
    if problems:  # a job with a fault would look like one that was removed
        console.show_problems(problems)
        return NO_START
    found = difference.compare(first, second, here.clock.time(), args.count)
    if args.json:
        console.say_json(difference.as_dict(found))
    else:
        console.say(difference.as_text(found))
    return PROBLEM if found else DONE


def _deployed(args: argparse.Namespace, deployment: str) -> Application:
    from lifebeat.cli.application import Application

    environ = {name: value for name, value in os.environ.items() if name != "LIFEBEAT_DEPLOYMENT"}
    args.deployment = None if deployment in {"-", "default"} else deployment
    return Application(args, environ)

"""The commands that look at config and run hosts."""

# ruff: noqa: T201 - commands print

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.invocation import DONE, NO_START, PROBLEM, life_of, take_agreed_id
from lifebeat.clock import SystemClock
from lifebeat.errors import ConfigError
from lifebeat.settings import layers

if TYPE_CHECKING:
    import argparse

    from lifebeat.lifecycle.life import Lifecycle


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    for name in ("procrastinate", "psycopg.pool"):  # we say ourselves what they would say again and again
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run(args: argparse.Namespace) -> int:
    """Run the jobs of the job file until SIGTERM or SIGINT; SIGHUP reads the config again."""
    import errno

    from lifebeat.host.host import Host
    from lifebeat.host.systemd import Notifier

    _log_to_stderr()
    notifier = Notifier.from_environ(os.environ)  # before a job's module is there, which may start children
    try:
        host = Host(life_of(args), notifier)
        host.run()
    except ConfigError as error:
        notifier.failed(str(error.problems[0]), errno=errno.EINVAL)
        raise
    logging.shutdown()
    host.signals.raise_again()
    return DONE


def check(args: argparse.Namespace) -> int:
    """Check the settings and the job file; every problem is named with its place."""
    life = life_of(args)
    settings, found = life.source.read(), life.load(import_disabled=True)
    problems = list(dict.fromkeys((*settings.problems, *found.problems)))
    if args.json:
        print(console.as_json([_problem(problem) for problem in problems]))
    else:
        console.show_problems(problems)
        if not problems:
            print(f"{found.path}: {len(found.specs)} jobs, no problem")
    return PROBLEM if problems else DONE


def _problem(problem: Any) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("source", "line", "column", "message")}


def plan(args: argparse.Namespace) -> int:
    """Show when each job runs next, or with --diff what differs between two deployments."""
    from lifebeat.cli import plan as plans

    if args.diff:
        return _differ(args)
    life = life_of(args)
    take_agreed_id(life)
    now, one = life.clock.time(), plans.read(life, args.on or "apscheduler")
    console.show_problems(one.problems)
    if args.json:
        print(console.as_json(plans.told(one, now, args.count)))
    else:
        print(plans.shown(one, now, args.count))
        if args.timeline or sys.stdout.isatty():
            from lifebeat.cli.timeline import timeline

            print(f"\n{timeline(one.specs, one.seed, now, sys.stdout.encoding)}")
    return PROBLEM if one.problems else DONE


def _differ(args: argparse.Namespace) -> int:
    from lifebeat.cli import difference, plan

    first, second = (plan.read(_deployed(args, name)) for name in args.diff)
    problems = dict.fromkeys((*first.problems, *second.problems))
    if problems:  # a job with a fault would be told as removed
        console.show_problems(problems)
        return NO_START
    found = difference.compare(first, second, SystemClock().time(), args.count)
    print(console.as_json(difference.told(found)) if args.json else difference.shown(found))
    return PROBLEM if found else DONE


def _deployed(args: argparse.Namespace, deployment: str) -> Lifecycle:
    environ = {name: value for name, value in os.environ.items() if name != "LIFEBEAT_DEPLOYMENT"}
    args.deployment = None if deployment in {"-", "default"} else deployment
    return life_of(args, environ=environ)


def config(args: argparse.Namespace) -> int:
    """Show the merged settings, and which layer set each; keys are masked."""
    from lifebeat.cli import provenance

    source = life_of(args).source
    settings = source.read()
    if args.json:
        print(console.as_json(provenance.told(settings, with_layers=args.layers)))
    elif args.layers:
        print(provenance.layers_shown(settings, [layer.label for layer in source.layers()]))
    else:
        print(provenance.shown(settings))
    console.show_problems(settings.problems)
    return PROBLEM if settings.problems else DONE


def prove_off(args: argparse.Namespace) -> int:
    """Run the whole life with telemetry off, and show what it attempted: connections, look-ups, files, threads."""
    from lifebeat.cli.proof import LIFE_SECONDS, prove

    attempts = prove(layers.config_dir(args.config, os.environ), os.environ)
    if attempts:
        print(console.table(("attempted", "what"), [(one.kind, one.what) for one in attempts]))
        return PROBLEM
    print(f"Telemetry was off for a whole life of {LIFE_SECONDS:.0f} s: start, heartbeats, flush, stop.")
    print("Attempted: no connection, no look-up, no file, no database, no process, no thread.")
    return DONE


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a file, by which editors complete and check: jobs, config or overlay."""
    from lifebeat.jobfile.reader import packaged

    path = packaged().parent / "schema" / f"{args.file}.schema.json"
    print(path.read_text(encoding="utf-8"), end="")
    return DONE


def demo(args: argparse.Namespace) -> int:
    """Show a whole life in ten seconds: a host, its jobs and a PostHog receiver, all on this machine."""
    from lifebeat.cli.demo import show

    return show(seconds=args.seconds)

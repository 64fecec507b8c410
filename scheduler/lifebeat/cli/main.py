"""The command line: every command with its options, and the exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.commands import check, config, demo, plan, prove_off, run, schema
from lifebeat.cli.invocation import DONE, EXIT_CODES, NO_START, PROBLEM, USAGE
from lifebeat.cli.telemetrycommands import flush, log, preview, rotate_id, setconfig, status
from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DONE", "EXIT_CODES", "NO_START", "PROBLEM", "USAGE", "main", "parser"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    args = parser().parse_args(argv)
    try:
        code: int = args.command(args)
    except ConfigError as error:
        console.show_problems(error.problems)
        return NO_START if args.command is run else PROBLEM
    except LifebeatError as error:
        print(f"lifebeat: {error}", file=sys.stderr)
        return PROBLEM
    except BrokenPipeError:  # `lifebeat log | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    return code


def parser() -> argparse.ArgumentParser:
    """The command line; the reference in the documents is made from it."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", metavar="DIR", help="the config directory (default: LIFEBEAT_CONFIG_DIR, ./config)")
    shared.add_argument("--deployment", metavar="NAME", help="the overlay to use (default: LIFEBEAT_DEPLOYMENT)")
    shared.add_argument(
        "--allow", metavar="MODULE", action="append", default=[], help="a module that jobs may run; may be repeated"
    )
    shared.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a setting for this command; may be repeated"
    )
    codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
    top = argparse.ArgumentParser(
        prog="lifebeat",
        description="Anonymous lifecycle telemetry as scheduler jobs that are edited in config.",
        epilog=f"Exit codes: {codes}.",
    )
    top.add_argument("--version", action="version", version=f"lifebeat {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command, options in _COMMANDS.items():
        text = (command.__doc__ or "").strip()
        name = command.__name__.rstrip("_").replace("_", "-")
        one = commands.add_parser(name, parents=[shared], help=text.partition("\n")[0], description=text)
        for flags, extra in options:
            one.add_argument(*flags, **extra)
        one.set_defaults(command=command)
    return top


_JSON: tuple[tuple[str, ...], dict[str, Any]] = (("--json",), {"action": "store_true", "help": "JSON, for programs"})
_COUNT: tuple[tuple[str, ...], dict[str, Any]] = (("--count",), {"type": int, "metavar": "N"})
_COMMANDS: dict[Callable[[argparse.Namespace], int], list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    run: [
        (
            ("--engine",),
            {
                "metavar": "NAME",
                "help": "what runs the jobs that the application shares: apscheduler, for one machine, or "
                "procrastinate (default: LIFEBEAT_ENGINE, apscheduler)",
            },
        ),
        (
            ("--database",),
            {
                "metavar": "URL",
                "help": "the PostgreSQL of the engine; better as LIFEBEAT_DATABASE, which no list of processes shows",
            },
        ),
    ],
    check: [_JSON],
    plan: [
        _JSON,
        (_COUNT[0], {**_COUNT[1], "default": 3, "help": "how many runs of each job (default 3)"}),
        (
            ("--diff",),
            {
                "nargs": 2,
                "metavar": "NAME",
                "help": "what differs between two deployments: --diff staging production; - or default for none",
            },
        ),
        (
            ("--engine",),
            {
                "dest": "on",
                "choices": ["apscheduler", "procrastinate", "celery"],
                "metavar": "NAME",
                "help": "as that engine would run it: apscheduler (the default), procrastinate or celery",
            },
        ),
        (("--timeline",), {"action": "store_true", "help": "with a picture of the next day, as on a terminal"}),
    ],
    config: [_JSON, (("--layers",), {"action": "store_true", "help": "with what each layer said"})],
    setconfig: [
        (("key",), {"metavar": "KEY", "help": "such as telemetryEnabled"}),
        (("value",), {"metavar": "VALUE", "help": "such as false"}),
    ],
    status: [
        _JSON,
        (
            ("--healthy",),
            {
                "action": "store_true",
                "help": "only ask the lifebeat run with this config directory on this machine whether it is well",
            },
        ),
    ],
    preview: [
        (("event",), {"nargs": "?", "choices": ["startup", "heartbeat", "shutdown"], "help": "only this event"}),
        _JSON,
    ],
    log: [_JSON, (_COUNT[0], {**_COUNT[1], "default": 50, "help": "how many events, newest first (default 50)"})],
    flush: [
        (
            ("--timeout",),
            {"type": float, "default": 30.0, "metavar": "SECONDS", "help": "how long it may take (default 30)"},
        )
    ],
    rotate_id: [],
    prove_off: [],
    schema: [(("file",), {"choices": ["jobs", "config", "overlay"], "help": "the kind of file"})],
    demo: [(("--seconds",), {"type": float, "default": 7.0, "help": "how long the host runs (default 7)"})],
}

if __name__ == "__main__":
    sys.exit(main())

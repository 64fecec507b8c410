"""The commands that run hosts: ``run`` and ``demo``."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lifebeat.cli import options
from lifebeat.cli.console import DONE
from lifebeat.settings.source import variable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from lifebeat.cli.options import CommandLine
    from lifebeat.handle import MakeCoordinator
    from lifebeat.lifecycle.application import Application


def add_commands(line: CommandLine) -> None:
    """Add the commands of this family."""
    running = line.add("run", run)
    running.add_argument(
        "--engine",
        metavar="NAME",
        help="what runs the jobs that the application shares: apscheduler, for one machine, or procrastinate "
        "(default: LIFEBEAT_ENGINE, apscheduler)",
    )
    running.add_argument(
        "--database",
        metavar="URL",
        help="the PostgreSQL of the engine; better as LIFEBEAT_DATABASE, which no list of processes shows",
    )
    showing = line.add("demo", demo)
    showing.add_argument(
        "--seconds", type=options.seconds, default=7.0, help="how long the host runs (default 7)", metavar="SECONDS"
    )


def run(args: argparse.Namespace) -> int:
    """Run the jobs of the job file until SIGTERM or SIGINT; SIGHUP reads the config again."""
    import errno

    from lifebeat.errors import ConfigError
    from lifebeat.host.host import SAY, Host
    from lifebeat.host.systemd import Notifier
    from lifebeat.storage import threads

    _log_to_stderr(as_json=args.json)
    notifier = Notifier.from_environ(os.environ)  # before a job's module is there, which may start children
    try:
        host = Host(_application(args, os.environ), notifier, make_coordinator=_engine(args, os.environ))
        host.run()
    except ConfigError as error:
        notifier.failed(str(error.problems[0]), errno=errno.EINVAL)
        raise
    threads.within(SAY, "say", logging.shutdown)
    host.signals.raise_again()
    return DONE


def _application(args: argparse.Namespace, environ: Mapping[str, str]) -> Application:
    from lifebeat.cli.application import allowed, source_of
    from lifebeat.clock import SystemClock
    from lifebeat.consent import EarlierOptOut
    from lifebeat.lifecycle.application import Application
    from lifebeat.log import get_logger

    source, clock = source_of(args, environ), SystemClock()
    source.arguments_label = "host argument"
    source.earlier_opt_out = EarlierOptOut(source, clock, remember=True)
    return Application(source, allow=(*allowed(args), *args.allow), clock=clock, logger=get_logger())


def _engine(args: argparse.Namespace, environ: Mapping[str, str]) -> MakeCoordinator | None:
    from lifebeat import engines

    where = "command line (--engine)" if args.engine else "environment (LIFEBEAT_ENGINE)"
    name = args.engine or variable(environ, "LIFEBEAT_ENGINE") or "apscheduler"
    url = args.database or variable(environ, "LIFEBEAT_DATABASE") or None
    return engines.choose(name, url, where=where)


def demo(args: argparse.Namespace) -> int:
    """Show a whole life in ten seconds: a host, its jobs and a PostHog receiver, all on this machine."""
    from lifebeat.cli.demo import show

    return show(seconds=args.seconds, as_json=args.json)


class _JsonLines(logging.Formatter):
    """One object a line, for programs that read logs."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _log_to_stderr(*, as_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonLines() if as_json else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    for name in ("procrastinate", "psycopg.pool"):  # we say ourselves what they would say again and again
        logging.getLogger(name).setLevel(logging.CRITICAL)

"""The commands. Everything is put together here; this module alone may import ``lifebeat_jobs``, and late."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat import console, layers
from lifebeat.clock import SystemClock
from lifebeat.errors import ConfigError, LifebeatError
from lifebeat.settings import BY_NAME, KEYS
from lifebeat.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lifebeat.jobfile import JobSpec
    from lifebeat.lifecycle import Lifecycle

DONE, PROBLEM, USAGE, NO_START = 0, 1, 2, 3
EXIT_CODES = {
    DONE: "done",
    PROBLEM: "a problem was found, and said",
    USAGE: "the command was not understood",
    NO_START: "it could not start",
}


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


def _life(args: argparse.Namespace, **more: Any) -> Lifecycle:
    from lifebeat.lifecycle import Lifecycle  # noqa: PLC0415

    source = layers.ConfigSource(
        layers.config_dir(args.config, os.environ),
        command_line=_assignments(args.set),
        environ=os.environ,
        modules=sys.modules,
        deployment=args.deployment,
        **more,
    )
    logger = logging.getLogger("lifebeat")
    return Lifecycle(source, allow=args.allow, clock=SystemClock(), watching=False, logger=logger)


def _assignments(written: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in written:
        key, equals, value = one.partition("=")
        _known(key)
        if not equals:
            raise LifebeatError(f"--set {one!r}: it takes KEY=VALUE, such as telemetryHeartbeatInterval=6h")
        values[key] = value
    return values


def _known(key: str) -> None:
    import difflib  # noqa: PLC0415

    if key not in BY_NAME:
        near = difflib.get_close_matches(key, list(BY_NAME), 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(BY_NAME)}"
        raise LifebeatError(f"there is no setting {key!r} ({hint})")


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)


def run(args: argparse.Namespace) -> int:
    """Run the jobs of the job file until SIGTERM or SIGINT; SIGHUP reads the config again."""
    from lifebeat.host import Host  # noqa: PLC0415

    _log_to_stderr()
    host = Host(_life(args))
    host.run()
    logging.shutdown()
    host.signals.raise_again()
    return DONE


def check(args: argparse.Namespace) -> int:
    """Check the settings and the job file; every problem is named with its place."""
    life = _life(args)
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
    """Show when each job runs next."""
    from lifebeat.upcoming import upcoming  # noqa: PLC0415

    life = _life(args)
    settings, found = life.source.read(), life.load()
    console.show_problems(dict.fromkeys((*settings.problems, *found.problems)))
    rows = [(spec, *_next_runs(spec, life, args.count)) for spec in found.specs]
    if args.json:
        told = [{"job": spec.id, "run": spec.run, "when": when, "next": runs} for spec, when, runs in rows]
        print(console.as_json(told))
    else:
        shown = [(spec.id, when, spec.once, ", ".join(runs) or "-", spec.run) for spec, when, runs in rows]
        print(console.table(("job", "when", "once per", "next runs (UTC)", "runs"), shown))
    _ = upcoming
    return PROBLEM if found.problems or settings.problems else DONE


def _next_runs(spec: JobSpec, life: Lifecycle, count: int) -> tuple[str, list[str]]:
    from lifebeat.upcoming import in_words, upcoming  # noqa: PLC0415

    if not spec.enabled:
        return f"{in_words(spec)} (off)", []
    return in_words(spec), [console.moment(at) or "" for at in upcoming(spec, life, count)]


def config(args: argparse.Namespace) -> int:
    """Show the merged settings, and which layer set each."""
    settings = _life(args).source.read()
    rows: list[tuple[str, Any, str | None]] = []
    for key in KEYS:
        value = settings.value(key.name)
        rows.append((key.name, _shown(key, value), settings.decided_by[key.name] if value is not None else None))
    if args.json:
        print(console.as_json([dict(zip(("key", "value", "source"), row, strict=True)) for row in rows]))
    else:
        print(
            console.table(
                ("key", "value", "set by"), [(key, "-" if value is None else value, by) for key, value, by in rows]
            )
        )
    console.show_problems(settings.problems)
    return PROBLEM if settings.problems else DONE


def _shown(key: Any, value: Any) -> Any:
    from lifebeat.durations import format_duration  # noqa: PLC0415

    if value is None or isinstance(value, bool | int):
        return value
    if key.secret:
        return f"{str(value)[:4]}… ({len(str(value))} characters)"
    return format_duration(value) if isinstance(value, timedelta) else str(value)


def setconfig(args: argparse.Namespace) -> int:
    """Set one key in the config file; every running process follows within seconds."""
    from lifebeat import configfile  # noqa: PLC0415

    _known(args.key)
    key = BY_NAME[args.key]
    try:
        key.kind.parse(args.value)
    except ValueError as error:
        raise LifebeatError(f"{args.key}: {args.value!r} {error}") from None
    life = _life(args)
    directory = life.source.config_dir
    path = configfile.config_file(directory) or directory / layers.CONFIG_FILES[0]
    configfile.set_key(path, args.key, _typed(key, args.value))
    print(f"{path}: {args.key} is {args.value if not key.secret else 'set'}")
    settings = life.source.read()
    if args.key == layers.ENABLED:
        _obey(life)
    decided = settings.decided_by[args.key]
    if decided != str(path):
        print(f"but {decided} says otherwise, and wins: {args.key} is {_shown(key, settings.value(args.key))}")
    return DONE


def _typed(key: Any, value: str) -> Any:
    parsed = key.kind.parse(value)
    return parsed if isinstance(parsed, bool | int) else value


def _obey(life: Lifecycle) -> None:
    """What waits is not sent any more, whether a process of the application is running or not."""
    from lifebeat_jobs import telemetry  # noqa: PLC0415

    telemetry.withdrawn(life.context("setconfig"))


def status(args: argparse.Namespace) -> int:
    """Say whether telemetry is on, who said so, and what waits."""
    from lifebeat_jobs import telemetry  # noqa: PLC0415

    life = _life(args)
    told = telemetry.status(life.context("status"))
    if args.json:
        print(console.as_json(told))
    else:
        for name in ("waiting_since", "next_attempt"):
            told[name] = console.moment(told[name])
        print(console.pairs(told))
    return PROBLEM if life.source.read().problems else DONE


def preview(args: argparse.Namespace) -> int:
    """Show the exact bytes that would be sent, without sending anything; also when telemetry is off."""
    from lifebeat_jobs import telemetry  # noqa: PLC0415

    bodies = telemetry.preview(_life(args).context("preview"), args.event)
    for body in bodies:
        print(body if args.json else _pretty(body))
    return DONE


def _pretty(body: str) -> str:
    import json  # noqa: PLC0415

    return json.dumps(json.loads(body), indent=2)


def log(args: argparse.Namespace) -> int:
    """Show each recorded event and what became of it."""
    import json  # noqa: PLC0415

    from lifebeat_jobs import telemetry  # noqa: PLC0415

    outbox = telemetry.open_outbox(_life(args).context("log"))
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
    from lifebeat_jobs import telemetry  # noqa: PLC0415

    context = _life(args).context("flush")
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


def rotate_id(args: argparse.Namespace) -> int:
    """Give this installation a new random instance ID; the old one is forgotten."""
    from lifebeat_jobs import identity  # noqa: PLC0415

    context = _life(args).context("rotate-id")
    old = identity.known_id(context)
    new, decided = identity.rotate(context)
    print(f"the instance ID was {old or 'not made yet'}; it is now {new}")
    if decided is not None:
        print(f"but {decided} sets telemetryInstanceId, and wins: change it there")
        return PROBLEM
    return DONE


def prove_off(args: argparse.Namespace) -> int:
    """Run the whole life with telemetry off, and show what it attempted: connections, look-ups, files, threads."""
    from lifebeat.proof import LIFE_SECONDS, prove  # noqa: PLC0415

    attempts = prove(layers.config_dir(args.config, os.environ), os.environ)
    if attempts:
        print(console.table(("attempted", "what"), [(one.kind, one.what) for one in attempts]))
        return PROBLEM
    print(f"Telemetry was off for a whole life of {LIFE_SECONDS:.0f} s: start, heartbeats, flush, stop.")
    print("Attempted: no connection, no look-up, no file, no database, no process, no thread.")
    return DONE


def schema(args: argparse.Namespace) -> int:
    """Print the JSON Schema of a file, by which editors complete and check: jobs, config or overlay."""
    from lifebeat.jobfile import packaged  # noqa: PLC0415

    path = packaged().parent / "schema" / f"{args.file}.schema.json"
    print(path.read_text(encoding="utf-8"), end="")
    return DONE


def demo(args: argparse.Namespace) -> int:
    """Show a whole life in ten seconds: a host, its jobs and a PostHog receiver, all on this machine."""
    from lifebeat.demo import show  # noqa: PLC0415

    return show(seconds=args.seconds)


_JSON: tuple[tuple[str, ...], dict[str, Any]] = (("--json",), {"action": "store_true", "help": "JSON, for programs"})
_COUNT: tuple[tuple[str, ...], dict[str, Any]] = (("--count",), {"type": int, "metavar": "N"})
_COMMANDS: dict[Callable[[argparse.Namespace], int], list[tuple[tuple[str, ...], dict[str, Any]]]] = {
    run: [],
    check: [_JSON],
    plan: [_JSON, (_COUNT[0], {**_COUNT[1], "default": 3, "help": "how many runs of each job (default 3)"})],
    config: [_JSON],
    setconfig: [
        (("key",), {"metavar": "KEY", "help": "such as telemetryEnabled"}),
        (("value",), {"metavar": "VALUE", "help": "such as false"}),
    ],
    status: [_JSON],
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

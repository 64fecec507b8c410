"""The command line: every family of commands, and the one end of every command."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.cli.console import DONE, EXIT_CODES, INTERRUPTED, NO_START, PROBLEM, USAGE
from lifebeat.errors import ConfigError, LifebeatError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lifebeat.cli.options import CommandLine

__all__ = ["DONE", "EXIT_CODES", "INTERRUPTED", "NO_START", "PROBLEM", "USAGE", "command_line", "main"]

DEBUG = "LIFEBEAT_DEBUG"


def main(argv: Sequence[str] | None = None, *, prog: str = "lifebeat", **arguments: Any) -> int:
    """Run a command and return its exit code.

    An application gives its own users the same commands under a name of its own::

        sys.exit(lifebeat.main(prog="notes telemetry", app_name="notes", app_version="1.4.2", api_key="phc_..."))

    Args:
        argv: The words of the command line; ``None`` for those of the process.
        prog: What the command line is called.
        arguments: What the application gives to ``attach``, so that the commands know it too.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without a letter shows its number
            stream.reconfigure(errors="backslashreplace")
    return _ended(lambda: _run(words, prog, arguments))


def command_line(prog: str = "lifebeat") -> CommandLine:
    """Return the command line; the reference in the documents is made from it."""
    from lifebeat.cli import config, init, jobs, proof, run, runs, status, telemetry, view
    from lifebeat.cli.options import CommandLine

    made = CommandLine(prog)
    for family in (init, run, jobs, runs, config, status, telemetry, view, proof):
        family.add_commands(made)
    return made


def _run(words: list[str], prog: str, arguments: dict[str, Any]) -> int:
    try:
        args = command_line(prog).parse(words)
    except SystemExit as asked:  # argparse has written its help, or why it does not understand
        return asked.code if isinstance(asked.code, int) else USAGE
    args.arguments, args.prog = arguments, prog
    if args.allow:  # who names modules means those that lie here; what is installed goes first
        with contextlib.suppress(FileNotFoundError):
            sys.path.append(str(Path.cwd()))
    try:
        code: int = args.run(args)
    except ConfigError as error:
        console.show_problems(error.problems)
        return NO_START if args.command == "run" else PROBLEM
    return code


def _ended(command: Callable[[], int]) -> int:
    """Return the exit code of a command, however it ends, and say why in a line where it did not end well."""
    code = PROBLEM
    try:
        code = command()
        console.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # `lifebeat log | head`
        code = DONE
    except LifebeatError as error:
        code = USAGE if isinstance(error, console.UsageError) else PROBLEM
        console.complain(f"lifebeat: {error}")
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        words = " ".join(f"{type(error).__name__}: {error}".split())
        console.complain(f"lifebeat: not foreseen: {words}. Please report it, with the traceback that {DEBUG}=1 shows")
    return _without_output(code)


def _without_output(code: int) -> int:
    """Keep the interpreter's exit from failing at a buffer that has no reader."""
    try:
        console.flush()
    except (BrokenPipeError, LifebeatError):
        with contextlib.suppress(OSError, ValueError):  # a standard output that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code

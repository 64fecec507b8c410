"""The parser of the command line: options that all commands share, before or after the command."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

from lifebeat.cli import console
from lifebeat.cli.console import EXIT_CODES
from lifebeat.text.hints import did_you_mean
from lifebeat.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Command = Callable[[argparse.Namespace], int]


DAY = 86400


class Parser(argparse.ArgumentParser):
    """A parser that takes no option by its beginning, and writes on ASCII terminals too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def print_help(self, file: Any = None) -> None:
        """Print the help as every other output: argparse says nothing where it cannot be written."""
        if file is None:
            console.say(self.format_help(), end="")
        else:
            super().print_help(file)


class CommandLine:
    """All commands with their options; a family of commands adds its own with ``add``.

    Args:
        prog: What the command line is called.
    """

    def __init__(self, prog: str) -> None:
        codes = "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())
        self.shared = Parser(prog=prog, add_help=False)
        _add_shared(self.shared)
        self.top = Parser(
            prog=prog,
            description="Anonymous lifecycle telemetry as scheduler jobs that are edited in config.",
            epilog=f"Exit codes: {codes}.",
        )
        self.top.add_argument("--version", action="version", version=f"lifebeat {__version__}")
        self._commands = self.top.add_subparsers(
            title="commands", metavar="COMMAND", required=True, parser_class=Parser
        )
        self.commands: dict[str, argparse.ArgumentParser] = {}

    def add(self, name: str, run: Command) -> argparse.ArgumentParser:
        """Add a command; its docstring is its help."""
        text = (run.__doc__ or "").strip()
        made = self._commands.add_parser(name, help=text.partition("\n")[0], description=text)
        made.set_defaults(command=name, run=run)
        # For the help; they are taken out of the arguments before, wherever they stand.
        _add_shared(made, default=argparse.SUPPRESS)
        self.commands[name] = made
        return made

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Read a command line.

        Raises:
            SystemExit: Help was asked for, or it is not understood.
        """
        ours, behind = _split(words)
        args, rest = self.shared.parse_known_args(ours)
        if rest and not rest[0].startswith("-") and rest[0] not in self.commands:
            hint = did_you_mean(rest[0], self.commands) or f" (there are: {', '.join(self.commands)})"
            self._refuse(self.top, f"there is no command {rest[0]!r}{hint}")
        args, unknown = self.top.parse_known_args([*rest, *behind], args)
        if unknown:
            parser = self.commands[args.command]
            options = [word for action in parser._actions for word in action.option_strings]  # noqa: SLF001 - no other way to list them
            hint = did_you_mean(unknown[0].partition("=")[0], options)
            self._refuse(parser, f"unrecognized argument {unknown[0]!r}{hint}")
        return args

    def _refuse(self, parser: argparse.ArgumentParser, message: str) -> NoReturn:
        parser.error(message)


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what stands before a ``--`` and the rest with it: behind it nothing is an option."""
    words = list(words)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at:]


def _add_shared(parser: argparse.ArgumentParser, **default: Any) -> None:
    repeated: dict[str, Any] = {"action": "append", "default": [], **default}
    parser.add_argument(
        "--config", metavar="DIR", help="the config directory (default: LIFEBEAT_CONFIG_DIR, ./config)", **default
    )
    parser.add_argument(
        "--deployment", metavar="NAME", help="the overlay to use (default: LIFEBEAT_DEPLOYMENT)", **default
    )
    parser.add_argument("--allow", metavar="MODULE", help="a module that jobs may run; may be repeated", **repeated)
    parser.add_argument("--set", metavar="KEY=VALUE", help="a setting for this command; may be repeated", **repeated)
    parser.add_argument("--json", action="store_true", help="JSON for programs, times in ISO 8601 in UTC", **default)


def seconds(text: str) -> float:
    """Read a number of seconds: greater than zero, and an end in sight."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) <= DAY:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds greater than zero, at most {DAY}")


def count(text: str) -> int:
    """Read how many of something, from 1 up."""
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 up")


def port(text: str) -> int:
    """Read a port, with 0 for a free one."""
    with contextlib.suppress(ValueError):
        if 0 <= (value := int(text)) < 2**16:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected 0 to {2**16 - 1}")

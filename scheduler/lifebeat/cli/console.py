"""What people and programs see: exit codes, tables, JSON, times, problems with a caret."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

from lifebeat.errors import LifebeatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lifebeat.errors import Problem

DONE, PROBLEM, USAGE, NO_START, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "done",
    PROBLEM: "a problem was found and printed; for plan --diff: the two differ",
    USAGE: "the command was not understood",
    NO_START: "it could not start; for plan --diff: one of the two has a problem, which is printed",
    INTERRUPTED: "interrupted with Ctrl-C",
}
_SHORT = 8  # of a secret as short as this, even its beginning tells too much


class UsageError(LifebeatError):
    """The words of a command do not fit together."""


class OutputLost(LifebeatError):
    """What was to be shown could not be written: a full device, a quota."""


def say(text: str, *, end: str = "\n") -> None:
    """Write to standard output.

    Raises:
        OutputLost: It cannot be written there.
        BrokenPipeError: The reader has gone.
    """
    _write(sys.stdout, text + end)


def save(file: str, text: str, advice: str, *, mode: int, as_json: bool) -> int:
    """Write a file that was asked for by name, and say where it is.

    Args:
        file: Its name; a device or a pipe is written into.
        text: What it holds.
        advice: What to do with it.
        mode: The mode of a new one.
        as_json: Whether to say it to a program.

    Returns:
        The exit code.

    Raises:
        LifebeatError: It cannot be written.
    """
    from pathlib import Path

    from lifebeat.storage import safe_file

    try:
        safe_file.write(Path(file), text.encode(), mode=mode)
    except OSError as error:
        raise LifebeatError(f"{file}: cannot be written: {error.strerror}") from None
    path = safe_file.absolute(file)
    say_json({"file": path}) if as_json else say(f"{path}: written; {advice}")
    return DONE


def say_json(value: Any) -> None:
    """Write JSON for programs to standard output."""
    say(json.dumps(value, indent=2, default=str))


def complain(text: str) -> None:
    """Write a line to standard error, which may be closed or full as well."""
    try:
        _write(sys.stderr, f"{text}\n")
    except (OutputLost, BrokenPipeError):
        return


def flush() -> None:
    """Write out what is in the buffer of standard output.

    Raises:
        OutputLost: It cannot be written there.
        BrokenPipeError: The reader has gone.
    """
    _write(sys.stdout, "", flush=True)


def _write(stream: TextIO | None, text: str, *, flush: bool = False) -> None:
    if stream is None:  # closed before the command started
        return
    try:
        stream.write(text)
        if flush:
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputLost(f"the output cannot be written: {error.strerror}") from None


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return columns as wide as what they hold."""
    lines = [tuple(map(str, headings)), *(tuple("" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def pairs(values: dict[str, Any]) -> str:
    """Return names and values, one a line."""
    width = max((len(name) for name in values), default=0)
    return "\n".join(
        f"{name.replace('_', ' ').ljust(width)}  {'-' if value is None else value}" for name, value in values.items()
    )


def masked(secret: str) -> str:
    """Return as much of a secret as tells two apart; of a short one nothing but its length."""
    return f"{secret[:4] if len(secret) > _SHORT else ''}... ({len(secret)} characters)"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 job`` or ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def iso(moment: datetime | float | None) -> str | None:
    """Return a moment (seconds since the epoch, or a datetime) in ISO 8601 in UTC, to the second, for programs."""
    return None if moment is None else _utc(moment).isoformat(timespec="seconds")


def spoken(moment: datetime | float | None) -> str | None:
    """Return a moment in UTC, to the second, for people."""
    return None if moment is None else f"{_utc(moment):%Y-%m-%d %H:%M:%S}"


def _utc(moment: datetime | float) -> datetime:
    return moment.astimezone(UTC) if isinstance(moment, datetime) else datetime.fromtimestamp(moment, tz=UTC)


def show_problems(problems: Iterable[Problem]) -> None:
    """Write each problem on a line of standard error; on a terminal with the line that has it and a caret."""
    terminal = sys.stderr is not None and sys.stderr.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    for problem in problems:
        complain(str(problem))
        if terminal and problem.text is not None and problem.column is not None:
            shown = problem.text.replace("\t", " ")
            complain(f"    {shown}\n    {' ' * (problem.column - 1)}^")

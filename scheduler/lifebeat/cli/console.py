"""What people see: tables, problems with a caret, times; and JSON for programs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lifebeat.errors import Problem


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns as wide as what they hold."""
    lines = [tuple(map(str, headings)), *(tuple("" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def pairs(told: dict[str, Any]) -> str:
    """Names and values, one a line."""
    width = max((len(name) for name in told), default=0)
    return "\n".join(
        f"{name.replace('_', ' ').ljust(width)}  {'-' if value is None else value}" for name, value in told.items()
    )


def as_json(told: Any) -> str:
    """JSON for programs."""
    return json.dumps(told, indent=2, default=str)


def masked(secret: str) -> str:
    """As much of a secret as tells two apart; of a short one nothing but its length."""
    return f"{secret[:4] if len(secret) > 8 else ''}… ({len(secret)} characters)"  # noqa: PLR2004


def moment(seconds: float | None) -> str | None:
    """A time in UTC, to the second."""
    return None if seconds is None else datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")


def show_problems(problems: Iterable[Problem], file: TextIO | None = None) -> None:
    """Each problem on a line; on a terminal with the line that has it and a caret."""
    out: TextIO = file or sys.stderr
    for problem in problems:
        out.write(f"{problem}\n")
        if out.isatty() and problem.text is not None and problem.column is not None:
            shown = problem.text.replace("\t", " ")
            out.write(f"    {shown}\n    {' ' * (problem.column - 1)}^\n")

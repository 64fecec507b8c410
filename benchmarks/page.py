"""Words and tables of the page."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Goal:
    """A line of the table at the top.

    Attributes:
        what: What was measured.
        goal: What it should be at most, or at least.
        figure: What it is.
        beside: The same of what it is compared with; empty where it stands alone.
        met: Whether it is as it should be.
        limit: Where it is not: what keeps it from being so.
    """

    what: str
    goal: str
    figure: str
    beside: str
    met: bool
    limit: str = ""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def goals_table(goals: Sequence[Goal]) -> str:
    """The table at the top."""
    return table(
        ["what", "goal", "figure", "against", ""],
        [[one.what, one.goal, one.figure, one.beside, "met" if one.met else "**not met**"] for one in goals],
    )


def missed(goals: Sequence[Goal]) -> str:
    """What keeps the goals from being met that are not, each reason once."""
    reasons: dict[str, list[str]] = {}
    for one in goals:
        if not one.met:
            reasons.setdefault(one.limit or "not looked into yet.", []).append(one.what)
    if not reasons:
        return ""
    points = [
        textwrap.fill(f"- **{'; '.join(whats)}**: {reason}", 119, subsequent_indent="  ")
        for reason, whats in reasons.items()
    ]
    return "## Where a goal is missed\n\n" + "\n".join(points) + "\n"


def times(ratio: float) -> str:
    """A ratio as the page writes it."""
    return f"{ratio:.2f} ×"


def span(seconds: float) -> str:
    """A length of time, in three digits or fewer."""
    milliseconds = seconds * 1000
    if abs(seconds) < 1:
        return f"{milliseconds:.{_decimals(milliseconds)}f} ms"
    return f"{seconds:.{_decimals(seconds)}f} s"


def _decimals(value: float) -> int:
    return next(decimals for decimals, least in ((0, 100), (1, 10), (2, 0)) if abs(value) >= least)

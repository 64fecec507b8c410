"""A day back and a day ahead, as a drawing: a row for each job, a place for each half hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lifebeat.view.elements import Markup, element

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CELLS = 48  # to each side
_LABEL, _CELL, _ROW, _TOP = 190, 8, 24, 22
_SHORT = 26


def timeline(jobs: Mapping[str, Mapping[str, Any]], hours: Iterable[str], now: float) -> Markup:
    """Return the drawing.

    Args:
        jobs: Of each job ``past`` and ``ahead``: of each half hour how many runs failed and how many did not, and how
            many are to come.
        hours: What is written at each sixth hour, beginning a day ago.
        now: Where the present is, in half hours from the beginning of ``ahead``.
    """
    width, height = _LABEL + 2 * CELLS * _CELL, _TOP + _ROW * len(jobs) + 4
    axis = [
        element("text", text, x=_LABEL + number * 12 * _CELL, y=14, class_="axis") for number, text in enumerate(hours)
    ]
    rows = [_row(number, name, job) for number, (name, job) in enumerate(jobs.items())]
    at = _LABEL + (CELLS + now) * _CELL
    present = element("line", x1=at, x2=at, y1=_TOP - 4, y2=height, class_="now")
    label = "Runs of the last 24 hours and of the next 24; the tables below have the same in words"
    drawn = element("svg", *axis, *rows, present, viewBox=f"0 0 {width} {height}", role="img", aria_label=label)
    return element("div", drawn, class_="wide", tabindex=0, role="region", aria_label="Timeline")


def _row(number: int, name: str, job: Mapping[str, Any]) -> Markup:
    top = _TOP + number * _ROW
    middle = top + _ROW / 2
    label = name if len(name) <= _SHORT else f"{name[: _SHORT - 1]}…"
    marks = [element("text", label, x=0, y=middle + 4)]
    marks.append(element("line", x1=_LABEL, x2=_LABEL + 2 * CELLS * _CELL, y1=middle, y2=middle))
    for cell, (failed, well) in enumerate(job["past"]):
        if failed or well:
            marks.append(_ran(_LABEL + cell * _CELL + _CELL / 2, middle, failed, well))
    for cell, coming in enumerate(job["ahead"]):
        if coming:
            x = _LABEL + (CELLS + cell) * _CELL + _CELL / 2
            title = element("title", f"{coming} to come")
            marks.append(element("circle", title, cx=x, cy=middle, r=min(2 + coming, 4), class_="ahead"))
    return element("g", *marks)


def _ran(x: float, y: float, failed: int, well: int) -> Markup:
    """Return the mark of what ran in a half hour: a dot, or a cross where something failed, whatever its colour."""
    title = element("title", f"{well} ended well, {failed} failed")
    if failed:
        cross = f"M{x - 4} {y - 4}l8 8m0 -8l-8 8"
        return element("path", title, d=cross, class_="failed")
    return element("circle", title, cx=x, cy=y, r=4, class_="ran")

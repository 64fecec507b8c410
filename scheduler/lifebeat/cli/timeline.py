"""A picture of the next day: a row for each job, a column for each half hour."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from lifebeat.cli.upcoming import instants_to_come
from lifebeat.schedule.instants import MICROSECOND, SECOND, to_datetime
from lifebeat.schedule.triggers import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.schedule.instants import Instants

COLUMNS = 48
LABEL = 30
CELL = 1800 * SECOND  # half an hour
_MANY = 10  # runs in half an hour; more are not told apart
BLOCKS, ASCII = ".░▂▄▆█", ".~:+*#"
_LEVELS = (0, 1, 2, 5, _MANY)


def timeline(specs: Iterable[JobSpec], seed: str, now: float, encoding: str = "utf-8") -> str:
    """Return the 24 hours from the beginning of this hour, in UTC, 79 characters wide.

    Args:
        specs: The jobs.
        seed: What their phases are made from.
        now: The time, in seconds since the epoch.
        encoding: What the terminal can show; plain ASCII where it has no blocks.
    """
    signs = _signs(encoding)
    start = int(now) // 3600 * 3600 * SECOND
    first = to_datetime(start)
    axis = "".join(f"{first + timedelta(hours=hours):%H}".ljust(6) for hours in range(0, 24, 3))
    head = f"from {first:%Y-%m-%d %H:%M} UTC"
    rows = [_row(spec, instants_to_come(spec, seed, now), start, signs) for spec in specs]
    none, late, one, some, more, many = list(signs)
    key = f"{one} one run in half an hour, {some} 2 to 4, {more} 5 to 9, {many} 10 and more, {late} jitter, {none} none"
    return "\n".join([f"{head:<{LABEL}} {axis.rstrip()}", *rows, key])


def _signs(encoding: str) -> str:
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def _row(spec: JobSpec, instants: Instants | None, start: int, signs: str) -> str:
    label = spec.id if len(spec.id) <= LABEL else f"{spec.id[: LABEL - 2]}.."
    if instants is None:
        return f"{label:<{LABEL}} {in_words(spec.trigger) if spec.enabled else 'off'}"[: LABEL + 1 + COLUMNS]
    cells = _cells(instants, start, spec.jitter // MICROSECOND)
    return f"{label:<{LABEL}} {''.join(signs[level] for level in cells)}"


def _cells(instants: Instants, start: int, jitter: int) -> list[int]:
    """Return how much each half hour has: 0 nothing, 1 the end of a jitter window, from 2 up one run and more."""
    cells = [0] * COLUMNS
    for column in range(COLUMNS):
        found = within(instants, start + column * CELL)
        if found:
            cells[column] = 1 + sum(len(found) >= level for level in _LEVELS[1:])
            for late in range(column + 1, min((found[-1] + jitter - start) // CELL + 1, COLUMNS)):
                cells[late] = 1
    return cells


def within(instants: Instants, start: int) -> list[int]:
    """Return the instants of the half hour from ``start``, at most as many as the drawing distinguishes."""
    found: list[int] = []
    at = instants.after(start - 1)
    while at is not None and at < start + CELL and len(found) < _MANY:
        found.append(at)
        at = instants.after(at)
    return found

"""Pictures as SVG, written by hand: the same figures give the same bytes, and nothing has to be installed for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WIDTH = 760
LABEL, ROW, GAP, TOP = 190, 18, 10, 44
COLOURS = {"lifebeat": "#1f77b4", "lifebeat off": "#7fb2d9"}
OTHERS = ("#c9803b", "#8a8f98", "#b0b4bb", "#d0d3d8")
STYLE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}}</style>"
)


def bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], said: Callable[[float], str]) -> str:
    """Horizontal bars.

    Args:
        title: What is shown, with its unit.
        groups: Rows by the name of their group, each with its name and value; a group without a name has no heading.
        said: How a value is written.
    """
    most = max(value for _, rows in groups for _, value in rows)
    parts, y, colours = list[str](), TOP, _colours(groups)
    for heading, rows in groups:
        if heading:
            parts.append(_text(0, y + 12, heading))
            y += ROW + 2
        for name, value in rows:
            parts += [
                _text(12 if heading else 0, y + 12, name, small=bool(heading)),
                _box(LABEL, y, _length(value, most), ROW - 4, f'fill="{colours[name]}"'),
                _text(LABEL + _length(value, most) + 6, y + 12, said(value), small=True),
            ]
            y += ROW
        y += GAP
    return _picture(title, y, parts)


def line(
    title: str, values: Sequence[float], marks: Sequence[tuple[float, float, str]], *, top: float, every: int
) -> str:
    """A series over time as an area.

    Args:
        title: What is shown, with its unit.
        values: One for each step.
        marks: From which step to which something lasted, and what.
        top: Where the picture ends; what is more is cut off.
        every: Steps in an hour; there is a label for each six.
    """
    height, left, bottom = 260, 44, TOP + 240
    top, step = _round_up(top), (WIDTH - left) / len(values)
    parts = list[str]()
    for begin, end, what in marks:
        x, width = left + begin * step, max((end - begin) * step, 1.0)
        parts.append(_box(x, TOP, width, bottom - TOP, 'fill="#f2c14e" fill-opacity="0.35"'))
        parts.append(_text(x, TOP - 4, what, small=True))
    for share in (0.0, 0.5, 1.0):
        y = bottom - (bottom - TOP) * share
        parts.append(f'<path d="M{left} {y:.1f}H{WIDTH}" stroke="#8a8f98" stroke-opacity="0.4"/>')
        parts.append(_text(0, y + 4, f"{top * share:g}", small=True))
    points = "".join(
        f"L{left + number * step:.1f} {bottom - (bottom - TOP) * min(value / top, 1):.1f}"
        for number, value in enumerate(values)
    )
    parts.append(f'<path d="M{left} {bottom}{points}V{bottom}Z" fill="{COLOURS["lifebeat"]}"/>')
    parts += [
        _text(left + number * step, bottom + 16, f"{number // every} h", small=True)
        for number in range(0, len(values), 6 * every)
    ]
    return _picture(title, height + TOP + 4, parts)


def _colours(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> dict[str, str]:
    names = dict.fromkeys(name for _, rows in groups for name, _ in rows)
    others = [name for name in names if name not in COLOURS]
    return {**COLOURS, **{name: OTHERS[number % len(OTHERS)] for number, name in enumerate(others)}}


def _length(value: float, most: float) -> float:
    return (WIDTH - LABEL - 70) * value / most


def _round_up(value: float) -> float:
    unit = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(step * unit for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * unit >= value) if value > 0 else 1.0


def _box(x: float, y: float, width: float, height: float, look: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" {look}/>'


def _text(x: float, y: float, words: str, *, small: bool = False) -> str:
    kind = ' class="small"' if small else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{kind}>{escape(words)}</text>'


def _picture(title: str, height: float, parts: Sequence[str]) -> str:
    body = "\n".join([STYLE, _text(0, 16, title), *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(title)}">\n{body}\n</svg>\n'
    )

"""Elements of HTML: what is not an element is text, and is escaped."""

from __future__ import annotations

import html
from typing import Any

from lifebeat.errors import coded


class Markup(str):
    """HTML that is made here; any other string is text."""

    __slots__ = ()


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return an element.

    Args:
        name: Its name.
        children: Elements, text, and ``None`` for nothing.
        attributes: Its attributes: ``class_`` for ``class``, ``aria_label`` for ``aria-label``; true for one without a
            value, ``None`` or false for none.
    """
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escaped(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    content = joined(*children)
    return Markup(f"<{name}{shown}>{content}" + ("" if name in _VOID else f"</{name}>"))


_VOID = {"input", "meta", "link", "br"}


def joined(*children: Any) -> Markup:
    """Return elements and text one after the other."""
    return Markup("".join(one if isinstance(one, Markup) else escaped(one) for one in children if one is not None))


def escaped(value: Any) -> str:
    """Return a value as text of HTML, in which a page and a terminal show what it is and do nothing else."""
    return html.escape(coded(str(value), keep="\n"))


def table(caption: str, headings: list[str], rows: list[list[Any]], **attributes: Any) -> Markup:
    """Return a table that can be scrolled where it is wider than the screen, by keyboard too."""
    head = element("tr", *(element("th", one, scope="col") for one in headings))
    body = [element("tr", element("th", first, scope="row"), *(element("td", one) for one in rest))
            for first, *rest in rows]  # fmt: skip
    made = element("table", element("caption", caption), element("thead", head), element("tbody", *body), **attributes)
    return element("div", made, class_="wide", tabindex=0, role="region", aria_label=caption)


def pairs(rows: list[tuple[str, Any]]) -> Markup:
    """Return names and what is said of each."""
    return element("dl", *(element("div", element("dt", name), element("dd", said)) for name, said in rows))

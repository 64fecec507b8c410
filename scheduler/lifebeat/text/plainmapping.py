"""The plainest kind of YAML read without a YAML parser: words in block mappings, as most job files are.

Importing PyYAML takes longer than the rest of a start together. Only what cannot be read in two ways is read here;
whatever else a file holds (quotes, lists, anchors, documents, a tab, a second key of one name), the parser reads all
of it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lifebeat.text.document import MAX_NODES, Mapping, Node, Scalar

_MAX_DEPTH = 10
# A key; a value of words that begin with a letter, a digit or `${`, hold no sign that YAML gives a meaning, and do not
# end in a colon; a comment.
_LINE = re.compile(
    r"(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9_.-]{0,99}):"
    r"(?: +(?P<value>(?:[A-Za-z0-9]|\$\{)(?:[A-Za-z0-9_${}./+,;()'=-]|:(?=[A-Za-z0-9_/])| (?=[A-Za-z0-9(]))*))?"
    r"(?: +#.*)? *"
)
_COMMENT = re.compile(r" *(?:#.*)?")
_PRINTABLE = re.compile(r"[\n -~]*")


class _Open(NamedTuple):
    indent: int
    mapping: Mapping


def read(source: str, text: str) -> Mapping | None:
    """The document's root, just as the parser would give it; ``None`` for what only the parser can read."""
    if not _PRINTABLE.fullmatch(text):
        return None
    found = _Lines(source)
    for number, line in enumerate(text.split("\n"), 1):
        if not _COMMENT.fullmatch(line) and not found.take(number, _LINE.fullmatch(line)):
            return None
    return found.root()


class _Lines:
    """The mappings that the lines so far have opened, the outermost first, and the key that waits for one."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.open: list[_Open] = []
        self.waiting: Scalar | None = None

    def take(self, number: int, line: re.Match[str] | None) -> bool:
        """One more line; false if only the parser can read it."""
        if line is None:
            return False
        indent = len(line["indent"])
        key = Scalar(self.source, number, indent + 1, 1, line["key"], plain=True)
        if not (self._begin(key, indent) if self.waiting or not self.open else self._go_on(indent)):
            return False
        here = self.open[-1].mapping
        if key.text in here.keys:
            return False
        here.keys[key.text] = key
        self.waiting = key if line["value"] is None else None
        if self.waiting is None:
            here.items[key.text] = Scalar(self.source, number, line.start("value") + 1, 1, line["value"], plain=True)
        return True

    def root(self) -> Mapping | None:
        """The outermost mapping; ``None`` if there is none or a key has nothing behind it."""
        if self.waiting or not self.open:
            return None
        root = self.open[0].mapping
        return root if _count(root) <= MAX_NODES else None

    def _begin(self, key: Scalar, indent: int) -> bool:
        """A mapping begins: the document's, or that of the key which waits."""
        outer = self.open[-1] if self.open else None
        if len(self.open) >= _MAX_DEPTH or (indent if outer is None else indent <= outer.indent):
            return False
        mapping = Mapping(self.source, key.line, key.column, 1, {}, {})
        if outer is not None and self.waiting is not None:
            outer.mapping.items[self.waiting.text] = mapping
        self.open.append(_Open(indent, mapping))
        return True

    def _go_on(self, indent: int) -> bool:
        """Back to the mapping with that indentation, if there is one."""
        while self.open and self.open[-1].indent > indent:
            self.open.pop()
        return bool(self.open) and self.open[-1].indent == indent


def _count(node: Node) -> int:
    if isinstance(node, Mapping):
        node.size = 1 + sum(_count(child) for child in node.items.values())
    return node.size

"""JSON as nodes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from lifebeat.text.nodes import MAX_DEPTH, Mapping, Node, Opaque, Scalar, Sequence

if TYPE_CHECKING:
    from lifebeat.text.nodes import Document

_SPACE = re.compile(r"[ \t\r\n]*")
# Numbers stay as they were written: a version 1.10 is not 1.1.
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


def parse(document: Document, depth: int = MAX_DEPTH) -> None:
    """Read the document's text into its root; what is wrong with it becomes a problem of the document.

    Args:
        document: The document.
        depth: Lists and objects further down are ``Opaque``.
    """
    try:
        _Parser(document, depth).whole()
    except json.JSONDecodeError as error:
        document.refuse(f"is not JSON: {error.msg}", error.pos)
    except RecursionError:
        document.refuse("is nested too deeply", 0)


class _Parser:
    def __init__(self, document: Document, depth: int) -> None:
        self._document = document
        self._text = document.text
        self._depth = depth
        self._at = 0

    def whole(self) -> None:
        self._skip()
        self._expect(bool(self._text.strip()), "nothing is written here; write {} into it, or remove the file")
        self._document.root = self._node(1)
        self._skip()
        self._expect(self._at == len(self._text), "there is more behind the end")

    def _node(self, level: int) -> Node:
        """Read a value that begins here, and go behind it and the space after it."""
        self._expect(level <= MAX_DEPTH, f"this is nested deeper than {MAX_DEPTH} levels")
        start, first = self._at, self._text[self._at : self._at + 1]
        node: Node
        if first in {"{", "["} and level <= self._depth:
            node = self._mapping(level) if first == "{" else self._sequence(level)
        else:
            node = self._value(first)
        node.start = start
        self._skip()
        return node

    def _value(self, first: str) -> Node:
        start = self._at
        value, self._at = _DECODER.raw_decode(self._text, start)
        written = self._text[start : self._at]
        if first in {"{", "["}:
            return Opaque(document=self._document, start=start, end=self._at, content=written, is_mapping=first == "{")
        is_text = first == '"'
        text = value if is_text else written
        return Scalar(document=self._document, start=start, end=self._at, text=text, plain=not is_text)

    def _mapping(self, level: int) -> Mapping:
        node = Mapping(document=self._document, start=self._at, end=0, members=[], has_braces=True)
        if level == 1:  # what is read before a fault counts
            self._document.root = node
        self._step()
        while not self._is("}"):
            self._expect(self._is('"'), "a key in double quotes is missing here")
            key = self._node(level + 1)
            self._expect(self._is(":"), "a colon is missing here")
            self._step()
            node.members.append((key, self._node(level + 1)))
            self._separate("}", "a comma, or the closing brace, is missing here")
        self._at = node.end = self._at + 1
        return node

    def _sequence(self, level: int) -> Sequence:
        node = Sequence(document=self._document, start=self._at, end=0, items=[])
        self._step()
        while not self._is("]"):
            node.items.append(self._node(level + 1))
            self._separate("]", "a comma, or the closing bracket, is missing here")
        self._at = node.end = self._at + 1
        return node

    def _separate(self, end: str, message: str) -> None:
        if self._is(","):
            self._step()
            self._expect(not self._is(end), "a comma with nothing after it; remove it")
        else:
            self._expect(self._is(end), message)

    def _step(self) -> None:
        self._at += 1
        self._skip()

    def _skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _is(self, character: str) -> bool:
        return self._text[self._at : self._at + 1] == character

    def _expect(self, holds: bool, message: str) -> None:
        if not holds:
            raise json.JSONDecodeError(message, self._text, self._at)

"""YAML as text with places: every key and value knows its line and column, and nothing is guessed or executed.

The safe loader of YAML 1.1 turns ``no`` into False, ``24:00`` into 1440 and drops duplicate keys; so scalars stay the
text that was written until the field that they belong to reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from lifebeat.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 20
MAX_ALIASES = 1000
MAX_NODES = 2_000_000


@dataclass(slots=True)
class Node:
    """Something written in a document, and where."""

    source: str
    line: int
    column: int
    size: int


@dataclass(slots=True)
class Scalar(Node):
    """A text; ``plain`` if it was written without quotes."""

    text: str
    plain: bool


@dataclass(slots=True)
class Sequence(Node):
    """A list of nodes."""

    items: list[Node]


@dataclass(slots=True)
class Mapping(Node):
    """Nodes by key; each key is kept with its place."""

    items: dict[str, Node]
    keys: dict[str, Scalar]


class Reader:
    """Reads one document; collects what is wrong with it as a whole in one ``ConfigError``."""

    def __init__(self, source: str, data: bytes) -> None:
        self.source = source
        self.text = _decode(source, data)
        self._anchors: dict[str, Node | None] = {}
        self._aliases = 0
        self._nodes = 0

    def read(self) -> Node | None:
        """The document's root; ``None`` for an empty document.

        Raises:
            ConfigError: It is not YAML, or beyond the limits.
        """
        from lifebeat.text import plainmapping

        plain = plainmapping.read(self.source, self.text)
        return self.parsed() if plain is None else plain

    def parsed(self) -> Node | None:
        """The document's root as PyYAML reads it.

        Raises:
            ConfigError: It is not YAML, or beyond the limits.
        """
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            events = iter(yaml.parse(self.text, Loader=loader))
            return self._document(events)
        except yaml.MarkedYAMLError as error:
            raise ConfigError(self._yaml_problem(error)) from None
        except yaml.YAMLError as error:
            raise ConfigError(Problem(self.source, f"is not YAML: {_first_line(error)}", 1, 1)) from None

    def problem(self, message: str, line: int, column: int) -> Problem:
        """A problem at a place in this document, with the line's text."""
        lines = self.text.splitlines()
        return Problem(self.source, message, line, column, lines[line - 1] if 0 < line <= len(lines) else None)

    def _yaml_problem(self, error: Any) -> Problem:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "is not YAML"
        if mark is None:
            return Problem(self.source, f"is not YAML: {what}", 1, 1)
        if self.text[mark.index : mark.index + 1] == "\t":
            return self.problem("a tab stands here; YAML is indented with spaces", mark.line + 1, mark.column + 1)
        return self.problem(
            f"is not YAML: {what}; check the indentation and the quotes", mark.line + 1, mark.column + 1
        )

    def _document(self, events: Iterator[Any]) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    self._refuse(event, "a second document starts here; one file holds one document")
            elif name not in {"StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"}:
                root = self._node(event, events, 1)
        return root

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        self._nodes += 1
        if depth > MAX_DEPTH:
            self._refuse(event, f"is nested deeper than {MAX_DEPTH} levels")
        name = type(event).__name__
        if name == "AliasEvent":
            return self._alias(event)
        if event.tag is not None and not (name == "ScalarEvent" and event.tag == "!"):
            self._refuse(event, f"the tag {event.tag!r} is not used here; write the value as it is, or quoted")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = self._content(name, event, events, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _content(self, name: str, event: Any, events: Iterator[Any], depth: int) -> Node:
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        if name == "ScalarEvent":
            return Scalar(self.source, line, column, 1, event.value, not event.style)
        if name == "SequenceStartEvent":
            return self._sequence(Sequence(self.source, line, column, 1, []), events, depth)
        return self._mapping(Mapping(self.source, line, column, 1, {}, {}), events, depth)

    def _sequence(self, node: Sequence, events: Iterator[Any], depth: int) -> Sequence:
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            child = self._node(event, events, depth + 1)
            node.items.append(child)
            self._grow(node, child, event)
        return node

    def _mapping(self, node: Mapping, events: Iterator[Any], depth: int) -> Mapping:
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            key = self._node(event, events, depth + 1)
            if not isinstance(key, Scalar):
                self._refuse(event, "a key must be a word; quote it if it is meant as text")
            if key.text in node.keys:
                first = node.keys[key.text]
                self._refuse(event, f"{key.text!r} stands here a second time (first on line {first.line}); remove one")
            if key.text == "<<" and key.plain:
                self._refuse(event, "merge keys (<<) are not used here; write the fields out, or use an overlay")
            child = self._node(next(events), events, depth + 1)
            node.keys[key.text] = key
            node.items[key.text] = child
            self._grow(node, child, event)
        return node

    def _alias(self, event: Any) -> Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            self._refuse(event, f"there are more than {MAX_ALIASES} aliases (*name) in this file")
        node = self._anchors.get(event.anchor)
        if node is None:
            self._refuse(event, f"the alias *{event.anchor} stands for nothing that is complete at this point")
        return node

    def _grow(self, node: Node, child: Node, event: Any) -> None:
        node.size += child.size
        if node.size > MAX_NODES or self._nodes > MAX_NODES:
            self._refuse(event, f"with its aliases written out the file has more than {MAX_NODES:,} values")

    def _refuse(self, event: Any, message: str) -> NoReturn:
        mark = event.start_mark
        raise ConfigError(self.problem(message, mark.line + 1, mark.column + 1))


def _decode(source: str, data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise ConfigError(Problem(source, f"is larger than {MAX_BYTES >> 20} MiB, the largest allowed", 1, 1))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        byte = data[error.start]
        message = f"the byte 0x{byte:02x} is not UTF-8; save the file in UTF-8"
        raise ConfigError(Problem(source, message, line, column)) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


_INTEGER = r"[-+]?(?:0|[1-9][0-9]*)"
_FLOAT = r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_SURPRISES = (
    (r"(?i:yes|no|on|off|y|n)", "YAML 1.1 reads it as true or false"),
    (r"[-+]?[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?", "YAML 1.1 reads it as a number in base 60"),
    (r"[-+]?0[0-9_]+", "YAML 1.1 reads it as an octal number"),
    (r"[-+]?0[xXbBoO][0-9a-fA-F_]+", "YAML versions differ on it"),
    (r"[-+]?[0-9][0-9]*_[0-9_]*", "YAML 1.1 reads it as a number"),
    (r"[-+]?[0-9]+[eE][-+]?[0-9]+", "YAML 1.1 reads it as text, YAML 1.2 as a number"),
    (r"[-+]?\.(?i:inf|nan)", "YAML reads it as not a number"),
    (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?", "YAML 1.1 reads it as a date"),
    (r"=", "YAML 1.1 gives it a meaning of its own"),
)
_SURPRISING = ("y", "n", "yes", "no", "on", "off")


def value_of(node: Node) -> Any:
    """The plain Python value of a node: text, whole number, float, bool, None, list or dict.

    Raises:
        ValueError: A text without quotes that YAML 1.1 would turn into something else; the second argument is its
            node.
    """
    if isinstance(node, Mapping):
        return {key: value_of(item) for key, item in node.items.items()}
    if isinstance(node, Sequence):
        return [value_of(item) for item in node.items]
    assert isinstance(node, Scalar)
    return _scalar_value(node)


def _scalar_value(node: Scalar) -> Any:
    text = node.text
    if not node.plain:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text[0] not in "+-.=0123456789":
        return _surprise(node, _SURPRISES[0][1]) if text.lower() in _SURPRISING else text
    if re.fullmatch(_INTEGER, text):
        if len(text) > 40:  # noqa: PLR2004
            _surprise(node, "it is too long for a number")
        return int(text)
    if re.fullmatch(_FLOAT, text):
        return float(text)
    for pattern, why in _SURPRISES:
        if re.fullmatch(pattern, text):
            _surprise(node, why)
    return text


def _surprise(node: Scalar, why: str) -> NoReturn:
    raise ValueError(f'{node.text!r} is ambiguous ({why}); write "{node.text}" for the text', node)

"""YAML as nodes: PyYAML's events, within limits."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from lifebeat.text.nodes import MAX_DEPTH, Mapping, Node, Opaque, Scalar, Sequence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifebeat.text.nodes import Document, Member

MAX_ALIASES = 1000
MAX_VALUES = 2_000_000


def parse(document: Document, depth: int = MAX_DEPTH) -> None:
    """Read the document's text into its root; what is wrong with it becomes a problem of the document.

    Args:
        document: The document.
        depth: Lists and mappings further down are ``Opaque``.
    """
    import yaml

    events: Any = yaml.parse(document.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    try:
        _Parser(document, events, depth).stream()
    except _Refusal as refusal:
        document.refuse(refusal.message, refusal.offset)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at: int = mark.index if mark else 0
        document.refuse(_what_is_wrong(document, at, str(error.problem or error.context)), at)
    except yaml.reader.ReaderError as error:
        code = int(error.character)
        document.refuse(f"is not YAML: the character U+{code:04X} is not allowed", document.text.find(chr(code)))


def _what_is_wrong(document: Document, at: int, problem: str) -> str:
    text = document.text
    if text[at : at + 1] == "\t":
        return "a tab in the indentation, expected spaces"
    line, column = document.line(document.place(at)[0]), document.place(at)[1]
    before = text[text.rfind("\n", 0, max(text.rfind("\n", 0, at), 0)) + 1 : at + 1]  # it may be noticed a line later
    if odd := re.search("[\u00a0\u2002-\u200b\u202f\u3000\ufeff]", before):
        return f"has the character U+{ord(odd[0]):04X}, which looks like a space; write a space"
    for found in _MARKED.finditer("" if document.is_private else line):
        if found.start("value") < column <= found.end("value") + 2:  # a reference in braces is noticed behind it
            name, value = found["name"] or "", found["value"].rstrip(" ,}]") + "}" * found["value"].startswith("${")
            return (
                f"{value} has to be quoted, as {value[0]} has a meaning in YAML{' there' * (value[0] == '$')}; "
                f'write {name}"{value}"'
            )
    return f"is not YAML: {problem}; check the indentation and the quotes"


# A value that begins with what has a meaning in YAML: in a block up to the end of the line, in braces up to theirs.
_MARKED = re.compile(
    r"(?:(?P<name>[\w-]+: +)|(?:^|(?<=[\s\[])) *(?:- +)?)"
    r"(?P<value>[*@`%&!|>](?:(?!\s#|[,}\]](?:\s|$)).)*|\? .*|\$\{\w*)"
)


class _Refusal(Exception):
    def __init__(self, message: str, event: Any) -> None:
        super().__init__(message)
        self.message, self.offset = message, event.start_mark.index


class _Anchored(NamedTuple):
    """A node that aliases stand for, and how many values it is when written out."""

    node: Node
    values: int


class _Parser:
    def __init__(self, document: Document, events: Iterator[Any], depth: int) -> None:
        self._document = document
        self._events = events
        self._depth = depth
        self._anchors: dict[str, _Anchored | None] = {}
        self._aliases = 0
        self._values = 0  # with the aliases written out

    def stream(self) -> None:
        documents = 0
        for event in self._events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                if documents > 1:
                    raise _Refusal("a second document starts here; one file holds one document", event)
            elif name == "DocumentEndEvent":
                self._document.end = event.start_mark.index
            elif not name.startswith(("Stream", "Document")):
                self._document.root = self._node(event, 1)

    def _node(self, event: Any, level: int) -> Node:
        self._count(1, event)
        if type(event).__name__ == "AliasEvent":
            return self._alias(event)
        anchors, values = len(self._anchors), self._values
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node = self._content(event, level)
        node.is_anchored = event.anchor is not None or len(self._anchors) > anchors
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(node, 1 + self._values - values)
        return node

    def _content(self, event: Any, level: int) -> Node:
        start, end, tag = event.start_mark.index, event.end_mark.index, event.tag
        if type(event).__name__ == "ScalarEvent":
            # The end of a block is marked only where the next thing starts.
            end = start + len(self._document.text[start:end].rstrip(" \t\r\n"))
            plain = not event.style and tag != "!"
            tag = None if tag == "!" else tag
            return Scalar(document=self._document, start=start, end=end, tag=tag, text=event.value, plain=plain)
        if level > MAX_DEPTH:
            raise _Refusal(f"is nested deeper than {MAX_DEPTH} levels", event)
        at: dict[str, Any] = {"document": self._document, "start": start, "end": end, "tag": tag}
        if level > self._depth:
            return self._opaque(event, at, level)
        if type(event).__name__ == "SequenceStartEvent":
            return self._sequence(Sequence(**at, items=[]), level)
        return self._mapping(Mapping(**at, members=[], has_braces=bool(event.flow_style)), level)

    def _sequence(self, node: Sequence, level: int) -> Sequence:
        for event in self._events:
            if type(event).__name__ == "SequenceEndEvent":
                self._close(node, event, node.items[-1:])
                break
            node.items.append(self._node(event, level + 1))
        return node

    def _mapping(self, node: Mapping, level: int) -> Mapping:
        if level == 1:  # what is read before a fault counts
            self._document.root = node
        for event in self._events:
            if type(event).__name__ == "MappingEndEvent":
                self._close(node, event, [child for member in node.members[-1:] for child in member])
                break
            member: Member = self._node(event, level + 1), self._node(next(self._events), level + 1)
            node.members.append(member)
        return node

    def _opaque(self, start: Any, at: dict[str, Any], level: int) -> Opaque:
        node = Opaque(**at, content=0, is_mapping=type(start).__name__ == "MappingStartEvent")
        for event in self._events:
            if type(event).__name__.endswith("EndEvent"):
                self._close(node, event, [])
                break
            child = self._node(event, level + 1)
            node.end = max(node.end, child.end)
            node.content = hash((node.content, _meaning(child)))
        return node

    def _close(self, node: Node, event: Any, last: list[Node]) -> None:
        """Set the end: behind the bracket, or in a block behind the last thing in it."""
        has_bracket = event.end_mark.index > event.start_mark.index
        node.end = event.end_mark.index if has_bracket else max(node.end, *(child.end for child in last), node.start)

    def _alias(self, event: Any) -> Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise _Refusal(f"has more than {MAX_ALIASES} aliases (*name)", event)
        known = self._anchors.get(event.anchor)
        if known is None:
            raise _Refusal(f"the alias *{event.anchor} is not defined before it", event)
        self._count(known.values - 1, event)
        start, end = event.start_mark.index, event.end_mark.index
        return replace(known.node, start=start, end=end, is_alias=True, is_anchored=False)

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            raise _Refusal(f"has more than {MAX_VALUES:,} values with its aliases written out", event)


def _meaning(node: Node) -> object:
    if isinstance(node, Scalar):
        return node.tag, node.text, node.plain
    return node.tag, node.content if isinstance(node, Opaque) else None

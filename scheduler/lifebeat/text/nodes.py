"""A text as nodes that know where they stand: what YAML and JSON are read into, and nothing guessed or executed.

Scalars stay the text that was written until the field that they belong to reads them: the safe loader of YAML 1.1
turns ``no`` into False and ``24:00`` into 1440, and drops duplicate keys.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from lifebeat.errors import Problem, coded

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 100
_LONGEST_MESSAGE = 1000


class Document:
    """A file's text, what was read from it, and what is wrong with it as a whole.

    Args:
        source: The file's path, as a person knows it.
        data: Its content.
        is_private: Whether its lines may hold secrets of the application, and are not shown.

    Attributes:
        text: The decoded text; of what is not UTF-8 the part before the fault.
        root: What was read; of a broken text the part before the fault. ``None`` for an empty text.
        problems: Why it could not be read to its end.
        end: Where more could be written: the end of the text, or of the document in it.
    """

    def __init__(self, source: str, data: bytes, *, is_private: bool = False) -> None:
        self.source = source
        self.is_private = is_private
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._lines: list[int] = []
        try:
            self.text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self.text = data[: error.start].decode("utf-8-sig")
            byte = data[error.start]
            self.refuse(f"the byte 0x{byte:02x} is not UTF-8; save the file in UTF-8", len(self.text))
        self.end = len(self.text)

    @property
    def is_json(self) -> bool:
        """Return whether it is written in JSON, by its name."""
        return self.source.endswith(".json")

    def place(self, offset: int) -> tuple[int, int]:
        """Return the line and the column of a place in the text, both from 1."""
        if not self._lines:
            self._lines = [0, *(match.end() for match in re.finditer("\r\n?|\n", self.text))]
        line = bisect.bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def line(self, number: int) -> str:
        """Return a line of the text."""
        start = self._lines[number - 1]
        return re.split("[\r\n]", self.text[start : start + 10_000], maxsplit=1)[0]

    def problem(self, message: str, at: Node | int) -> Problem:
        """Return a problem at a place in the text; with its line, where that may be shown."""
        line, column = self.place(at if isinstance(at, int) else at.start)
        message = coded(message)
        if len(message) > _LONGEST_MESSAGE:  # what was written was long: how it begins, and what to do
            message = f"{message[: _LONGEST_MESSAGE // 2]} … {message[-_LONGEST_MESSAGE // 2 :]}"
        return Problem(self.source, message, line, column, None if self.is_private else self.line(line))

    def refuse(self, message: str, at: Node | int) -> None:
        """Note why the text cannot be read on."""
        self.problems.append(self.problem(message, at))


@dataclass(slots=True, kw_only=True)
class Node:
    """Something written in a document; nodes that mean the same are equal, wherever they stand.

    Attributes:
        document: Where it is written.
        start: Its first character.
        end: Behind its last character.
        tag: Its tag in YAML.
        is_alias: Whether it stands for a node that is written elsewhere.
        is_anchored: Whether other parts of the document may refer to it, or to something in it.
    """

    document: Document = field(compare=False, repr=False)
    start: int = field(compare=False)
    end: int = field(compare=False)
    tag: str | None = None
    is_alias: bool = False
    is_anchored: bool = False

    @property
    def source(self) -> str:
        """Return the file."""
        return self.document.source

    @property
    def line(self) -> int:
        """Return the line that it begins in, from 1."""
        return self.document.place(self.start)[0]

    @property
    def column(self) -> int:
        """Return the column that it begins in, from 1."""
        return self.document.place(self.start)[1]

    @property
    def is_null(self) -> bool:
        """Return whether nothing is written, or null."""
        return False


@dataclass(slots=True, kw_only=True)
class Scalar(Node):
    """A text; ``plain`` if it was written without quotes."""

    text: str
    plain: bool

    @property
    def is_null(self) -> bool:
        return self.plain and self.text.lower() in {"", "~", "null"}


@dataclass(slots=True, kw_only=True)
class Sequence(Node):
    """A list of nodes."""

    items: list[Node]


Member: TypeAlias = tuple[Node, Node]


@dataclass(slots=True, kw_only=True)
class Mapping(Node):
    """Keys with their values, in the order of the text.

    Attributes:
        members: All of them, also where a key stands twice.
        has_braces: Whether it is written with braces.
    """

    members: list[Member]
    has_braces: bool = field(compare=False)

    def named(self) -> dict[str, tuple[Scalar, Node]]:
        """Return the keys that are words, each with its place and its value; of two of a name the last."""
        return {key.text: (key, value) for key, value in self.members if isinstance(key, Scalar)}


@dataclass(slots=True, kw_only=True)
class Opaque(Node):
    """A list or a mapping that is not Lifebeat's, and is skipped; what is in it can be compared."""

    content: object
    is_mapping: bool


def faults(node: Node, *, deep: bool = True) -> Iterator[tuple[str, Node]]:
    """Yield what is refused in files that are Lifebeat's own: tags, merge keys, keys that stand twice or are no words.

    Args:
        node: Where to look.
        deep: Whether to look into the values of a mapping as well.
    """
    if node.is_alias:  # what it stands for is looked at where it is written
        return
    if node.tag is not None:
        yield f"the tag {node.tag!r} is not used here; write the value as it is, or quoted", node
    if isinstance(node, Scalar) and re.search("[\ud800-\udfff]", node.text):
        yield "holds half of a character (a lone surrogate); write the whole one", node
    if isinstance(node, Mapping):
        yield from _key_faults(node)
    below = [value for _, value in node.members] if isinstance(node, Mapping) else []
    for child in node.items if isinstance(node, Sequence) else below if deep else ():
        yield from faults(child)


def _key_faults(node: Mapping) -> Iterator[tuple[str, Node]]:
    first: dict[str, Scalar] = {}
    for key, _ in node.members:
        if not isinstance(key, Scalar):
            yield _no_word(key), key
        elif key.text == "<<" and key.plain:
            yield "merge keys (<<) are not used here; write the fields out, or use an overlay", key
        elif key.text in first:
            yield f"duplicate key {key.text!r} (first on line {first[key.text].line}); remove one", key
        else:
            yield from faults(key)
            first[key.text] = key


def _no_word(key: Node) -> str:
    if key.document.text.startswith("{", key.start) and key.document.text.startswith("{", key.start - 1):
        return "{{ … }} is not filled in here; write the value, or ${key} for that of a setting"
    return "a key must be a word; quote it if it is meant as text"


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
_LONGEST_NUMBER = 40


def value_of(node: Node) -> Any:
    """Return the plain Python value of a node: text, whole number, float, bool, None, list or dict.

    Raises:
        ValueError: A text without quotes that YAML 1.1 would turn into something else; the second argument is its
            node.
    """
    if isinstance(node, Mapping):
        return {name: value_of(item) for name, (_, item) in node.named().items()}
    if isinstance(node, Sequence):
        return [value_of(item) for item in node.items]
    assert isinstance(node, Scalar)
    return _scalar_value(node) if node.plain else node.text


def _scalar_value(node: Scalar) -> Any:
    text = node.text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text[0] not in "+-.=0123456789":
        return _surprise(node, _SURPRISES[0][1]) if text.lower() in _SURPRISING else text
    if len(text) > _LONGEST_NUMBER and re.fullmatch(r"[-+0-9.eE]+", text):
        _surprise(node, "it is too long for a number")
    if re.fullmatch(_INTEGER, text):
        return int(text)
    if re.fullmatch(_FLOAT, text) or node.document.is_json:
        return float(text)
    for pattern, why in _SURPRISES:
        if re.fullmatch(pattern, text):
            _surprise(node, why)
    return text


def _surprise(node: Scalar, why: str) -> NoReturn:
    raise ValueError(f'{node.text!r} is ambiguous ({why}); write "{node.text}" for the text', node)

"""What a config file says about our keys, and where. All else in the file is the application's, and is read over.

An application keeps its secrets there too. So no line of the file is shown, but one that holds nothing else than a key
of ours that is not secret.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from lifebeat.errors import ConfigError, Problem
from lifebeat.settings.table import BOOLEAN, BY_NAME, is_off

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024
JSON_LIMIT = 4 * MIB
YAML_LIMIT = 1 * MIB  # takes ten times as long to read
MAX_DEPTH = 100

_SPACE = re.compile(r"[ \t\r\n]*")
_YAML_NULL = frozenset({"", "~", "null"})


class Entry(NamedTuple):
    """What is written for one key.

    Attributes:
        value: A text, a boolean, a whole number, ``None``; a list or dict of YAML comes empty.
        line: The line of the key, from 1.
        column: The column of the key, from 1.
        text: The line, where it may be shown.
    """

    value: Any
    line: int
    column: int
    text: str | None


@dataclass(slots=True)
class Contents:
    """What a file says, as far as it can be read.

    Attributes:
        source: The file's path.
        entries: What it says about our keys.
        problems: What is wrong with it as a file.
    """

    source: str
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    problems: list[Problem] = field(default_factory=list[Problem])

    def add(self, name: str, entry: Entry) -> None:
        """Take in an entry; of two for one key the last one counts, but where the first one says off."""
        first = self.entries.get(name)
        if first is not None:
            self.report(f"{name!r} stands here a second time (first on line {first.line}); remove one", entry)
            if BY_NAME[name].kind is BOOLEAN and is_off(first.value):
                return
        self.entries[name] = entry

    def report(self, message: str, entry: Entry) -> None:
        """Something is wrong with an entry."""
        self.problems.append(Problem(self.source, message, entry.line, entry.column, entry.text))


def read(path: Path) -> Contents:
    """Read a config file or an overlay; one that is not there says nothing."""
    found = Contents(str(path))
    try:
        data = _bytes(path)
        if data is not None:
            from lifebeat.text.document import Reader

            reader = Reader(found.source, data)
            (_JsonFile(found, reader.text) if path.suffix == ".json" else _YamlFile(found, reader.text)).read()
    except ConfigError as error:
        found.problems += error.problems
    return found


def _bytes(path: Path) -> bytes | None:
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise _fault(
                path, f"is {'a directory' if stat.S_ISDIR(about.st_mode) else 'not a regular file'}; put a file there"
            )
        limit = JSON_LIMIT if path.suffix == ".json" else YAML_LIMIT
        if about.st_size > limit:
            raise _fault(path, f"is larger than {limit // MIB} MiB, the largest that a config file may be")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise _fault(path, "is a link to a file that is not there; mend or remove it") from None
        return None
    except (OSError, ValueError) as error:
        raise _fault(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _fault(source: object, message: str, line: int | None = None, column: int | None = None) -> ConfigError:
    return ConfigError(Problem(str(source), message, line, column))


# -- JSON ------------------------------------------------------------------------------------------------------------


class _JsonFile:
    def __init__(self, found: Contents, text: str) -> None:
        import json

        self._found = found
        self._text = text
        # Numbers with a fraction stay as they were written: a version 1.10 is not 1.1.
        self._decoder = json.JSONDecoder(parse_float=str, parse_int=_whole_number)
        self._error = json.JSONDecodeError
        self._at = 0

    def read(self) -> None:
        if not self._text.strip():
            raise _fault(self._found.source, "is empty; write {} into it, or remove it", 1, 1)
        try:
            self._object()
        except self._error as error:
            raise _fault(self._found.source, f"is not JSON: {error.msg}", error.lineno, error.colno) from None
        except RecursionError:
            raise _fault(self._found.source, "is nested too deeply here", *self._place(self._at)) from None

    def _object(self) -> None:
        start = self._skip(0)
        if self._text[start] != "{":
            self._decoder.decode(self._text)
            raise _fault(self._found.source, "holds no object; it takes {...} with settings in it", *self._place(start))
        self._at = self._skip(start + 1)
        while not self._is("}"):
            self._member()
            if self._is(","):
                self._at = self._skip(self._at + 1)
                self._expect(not self._is("}"), "a comma with nothing after it; remove it")
            else:
                self._expect(self._is("}"), "a comma, or the closing brace, is missing here")
        self._at = self._skip(self._at + 1)
        self._expect(self._at == len(self._text), "there is more behind the closing brace")

    def _member(self) -> None:
        self._expect(self._is('"'), "a key in double quotes is missing here")
        start = self._at
        name, end = self._decoder.raw_decode(self._text, start)
        self._at = self._skip(end)
        self._expect(self._is(":"), "a colon is missing here")
        value, end = self._decoder.raw_decode(self._text, self._skip(self._at + 1))
        self._at = self._skip(end)
        if name in BY_NAME:
            line, column = self._place(start)
            self._found.add(name, Entry(value, line, column, self._shown(name, start, end)))

    def _shown(self, name: str, start: int, end: int) -> str | None:
        """The line of a member, if nothing else is on it."""
        first = self._text.rfind("\n", 0, start) + 1
        last = self._text.find("\n", start)
        line = self._text[first : last if last >= 0 else None]
        others = line[: start - first] + line[end - first :]
        return None if BY_NAME[name].secret or others.strip(" \t\r,") else line.rstrip("\r")

    def _is(self, character: str) -> bool:
        return self._text[self._at : self._at + 1] == character

    def _expect(self, holds: bool, message: str) -> None:
        if not holds:
            raise self._error(message, self._text, self._at)

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _place(self, at: int) -> tuple[int, int]:
        return self._text.count("\n", 0, at) + 1, at - self._text.rfind("\n", 0, at)


def _whole_number(spelling: str) -> int | str:
    return int(spelling) if len(spelling) <= 40 else spelling  # noqa: PLR2004 - Python refuses some thousand digits


# -- YAML ------------------------------------------------------------------------------------------------------------


class _YamlFile:
    """Only the top level is looked at: tags and merge keys below it are between the application and its own reader."""

    def __init__(self, found: Contents, text: str) -> None:
        import yaml

        self._yaml = yaml
        self._found = found
        self._text = text
        self._lines = re.split("\r\n|[\r\n\x85\u2028\u2029]", text)
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        self._anchors: dict[str, Any] = {}

    def read(self) -> None:
        try:
            self._stream()
        except self._yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            message = f"is not YAML: {error.problem or error.context}; check the indentation and the quotes"
            raise _fault(self._found.source, message, *((mark.line + 1, mark.column + 1) if mark else (1, 1))) from None
        except self._yaml.reader.ReaderError as error:
            before = self._text[: self._text.find(chr(int(error.character)))]
            message = f"is not YAML: the character U+{int(error.character):04X} is not allowed"
            place = before.count("\n") + 1, len(before) - before.rfind("\n")
            raise _fault(self._found.source, message, *place) from None

    def _stream(self) -> None:
        documents = 0
        for event in self._events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                documents += 1
                self._expect(documents == 1, event, "a second document starts here; one file holds one document")
            elif name == "MappingStartEvent":
                self._note(event)
                self._mapping(in_lines=not event.flow_style)
            elif not name.startswith(("Stream", "Document")):
                is_null = name == "ScalarEvent" and not event.style and event.value.lower() in _YAML_NULL
                self._expect(is_null, event, "holds no mapping; it takes lines of `key: value`")

    def _mapping(self, *, in_lines: bool) -> None:
        for event in self._events:
            if type(event).__name__ == "MappingEndEvent":
                return
            key, value = self._node(event), self._node(next(self._events))
            name = getattr(key, "value", None)
            self._expect(
                name != "<<" or bool(key.style), event, "merge keys (<<) are not followed here; write out our keys"
            )
            if name in BY_NAME:
                self._add(name, event.start_mark, value, in_lines=in_lines)

    def _add(self, name: str, mark: Any, value: Any, *, in_lines: bool) -> None:
        shown = self._lines[mark.line] if in_lines and not BY_NAME[name].secret else None
        entry = Entry(_written(value), mark.line + 1, mark.column + 1, shown)
        self._found.add(name, entry)
        if value.tag not in {None, "!"}:
            self._found.report(f"{name}: the tag {value.tag!r} is not used here; write the value alone", entry)

    def _node(self, event: Any) -> Any:
        """Go to the end of a node; returns the event that it starts with, or the one that an alias stands for."""
        known = self._note(event)
        depth = _step(event)
        while depth:
            self._expect(depth < MAX_DEPTH, event, f"is nested deeper than {MAX_DEPTH} levels")
            inner = next(self._events)
            self._note(inner)
            depth += _step(inner)
        return known

    def _note(self, event: Any) -> Any:
        anchor: Any = getattr(event, "anchor", None)
        if type(event).__name__ == "AliasEvent":
            self._expect(anchor in self._anchors, event, f"the alias *{anchor} stands for nothing before it")
            return self._anchors[anchor]
        if anchor is not None:
            self._anchors[anchor] = event
        return event

    def _expect(self, holds: bool, event: Any, message: str) -> None:
        if not holds:
            raise _fault(self._found.source, message, event.start_mark.line + 1, event.start_mark.column + 1)


def _step(event: Any) -> int:
    name = type(event).__name__
    return name.endswith("StartEvent") - name.endswith("EndEvent")


def _written(event: Any) -> Any:
    if type(event).__name__ == "ScalarEvent":
        return None if not event.style and event.value.lower() in _YAML_NULL else event.value
    return [] if type(event).__name__ == "SequenceStartEvent" else {}

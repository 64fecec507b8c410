"""Edits one key of the config file in place. The file is the host application's: all else in it stays byte for byte.

An edit is a splice of the text, never a dump of what was parsed. What comes out is read again, and is written only if
nothing but that key says something else.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.settings.layers import CONFIG_FILES
from lifebeat.storage.locks import FileLock
from lifebeat.text.document import Reader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_TEMPORARY = ".lifebeat-tmp"
_INDENT = "    "
_ATTEMPTS = 10
_ELSEWHERE = "or set the key in the environment, or as an argument of the host"
_REMEDIES = {
    errno.ENOENT: "make it, and try again",
    errno.EROFS: f"the file system is mounted read-only: mount it writable, {_ELSEWHERE}",
    errno.EBUSY: f"the file is a mount of its own: mount its directory instead, {_ELSEWHERE}",
    errno.ENOSPC: "make room on the disk, and try again",
    errno.EDQUOT: "make room within the quota, and try again",
    errno.EFBIG: "raise the limit for the size of files, and try again",
}


class ConfigNotWritable(LifebeatError):
    """The config file cannot be written here; it is as it was."""


def config_file(directory: Path) -> Path | None:
    """The file to edit: ``config.json``, else ``config.yaml``, else ``config.yml``; ``None`` if there is none."""
    return next((path for name in CONFIG_FILES if os.access(path := directory / name, os.F_OK)), None)


def set_key(path: Path, key: str, value: str | bool | int, *, timeout: float = 2.0) -> None:
    """Set one top-level key; all else in the file, its mode and (where allowed) its owner stay.

    A file that is missing is made, with mode 0600, and so is its directory, with mode 0700; but no directory above it.
    A link is followed, and stays a link. Where a file system has no locks on directories (NFS), the last writer wins.

    Args:
        path: The file; JSON if its name ends in ``.json``, else YAML.
        key: The key.
        value: Its new value.
        timeout: Seconds to wait for other writers.

    Raises:
        ConfigError: The file cannot be read, or not be edited without doubt; it is left as it is.
        ConfigNotWritable: It cannot be written.
    """
    _edit(path, key, value, timeout=timeout, keep=False)


def set_key_if_absent(path: Path, key: str, value: str, *, timeout: float = 2.0) -> str:
    """Set one top-level key unless it is there, as ``set_key`` does; processes that start together agree on one value.

    Returns:
        What is in the file afterwards; a value that is no text, as it is written there. A key that is null or blank
        counts as absent.

    Raises:
        ConfigError: As with ``set_key``.
        ConfigNotWritable: It cannot be written; or there are no locks here, and others might choose another value.
    """
    data = _read(path)
    found = None if data is None else _Layout.of(path, data).says(key)
    return found or _edit(path, key, value, timeout=timeout, keep=True)


# -- the text --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    """A key and its value, as indices into the text.

    Attributes:
        key: The key's text; for a key of YAML that is no scalar, its events.
        says: The value's text; ``None`` for null.
        meaning: The value, comparable, with the spelling of numbers.
        anchored: Whether other parts of the file may refer to it.
    """

    key: object
    says: str | None
    meaning: object
    key_start: int
    key_end: int
    start: int
    end: int
    anchored: bool = False


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where things are in a file whose top level is a mapping.

    Attributes:
        reader: Knows the text, and the places in it.
        members: The top-level members in their order.
        start: Behind the opening brace; in YAML without braces, where the first member begins.
        end: In YAML without braces, where the document ends.
        column: In YAML without braces, the column of the keys.
        braces: Whether there are braces.
    """

    reader: Reader
    members: list[_Member]
    start: int
    end: int = 0
    column: int = 0
    braces: bool = True

    @classmethod
    def of(cls, path: Path, data: bytes) -> _Layout:
        """Read a file.

        Raises:
            ConfigError: It cannot be read.
        """
        if not data.strip():
            return cls(Reader(str(path), data), [], 0, len(data), braces=False)
        return _read_json(path, data) if path.suffix == ".json" else _read_yaml(path, data)

    def find(self, key: str) -> _Member | None:
        """The member with that key.

        Raises:
            ConfigError: There are two.
        """
        found = [member for member in self.members if member.key == key]
        if len(found) > 1:
            first, _ = _place(self.reader.text, found[0].key_start)
            message = f"{key!r} stands here a second time (first on line {first}); remove one"
            raise ConfigError(self.problem(message, found[1].key_start))
        return found[0] if found else None

    def says(self, key: str) -> str | None:
        """The text of a key's value; ``None`` if it is absent, null or blank."""
        member = self.find(key)
        return member.says if member and member.says and member.says.strip() else None

    def others(self, key: str) -> list[tuple[object, object]]:
        """What all the other keys mean."""
        return [(member.key, member.meaning) for member in self.members if member.key != key]

    def problem(self, message: str, index: int) -> Problem:
        """A problem at a place in the text."""
        return self.reader.problem(message, *_place(self.reader.text, index))


def edited(path: Path, data: bytes, key: str, value: str | bool | int) -> bytes:
    """The content ``data`` of the file ``path`` with one key set.

    Raises:
        ConfigError: It cannot be read, or not be edited without doubt.
    """
    literal = _literal(path, value)
    if not data.strip() and path.suffix == ".json":
        return f"{{\n{_INDENT}{_quoted(key)}: {literal}\n}}\n".encode()
    layout = _Layout.of(path, data)
    member = layout.find(key)
    wanted = _Layout.of(path, f"{{{_quoted(key)}: {literal}}}".encode()).members[0].meaning
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    for text in _candidates(layout, key, literal):
        with contextlib.suppress(ConfigError):
            after = _Layout.of(path, text.encode())
            now = after.find(key)
            if now and now.meaning == wanted and after.others(key) == layout.others(key):
                return bom + text.encode()
    message = f"{key!r} cannot be set here without touching more than its value; edit the file by hand"
    raise ConfigError(layout.problem(message, member.start if member else layout.start))


def _candidates(layout: _Layout, key: str, literal: str) -> Iterator[str]:
    """Texts with the key set, likeliest first."""
    text, member = layout.reader.text, layout.find(key)
    if member is None:
        yield from [_in_braces(layout, key, literal)] if layout.braces else _in_lines(layout, key, literal)
    elif not member.anchored:
        gap = " " if member.start == member.end else ""
        yield text[: member.start] + gap + literal + text[member.end :]


def _in_braces(layout: _Layout, key: str, literal: str) -> str:
    text, at, members = layout.reader.text, layout.start, layout.members
    if not members:
        space = _spaces(text, at)
        lead = f"{_newline(text)}{_INDENT}" if "\n" in space else space
        return f"{text[:at]}{lead}{_quoted(key)}: {literal}{text[at:]}"
    last = members[-1]
    colon = text[last.key_end : last.start]
    if not re.fullmatch(r"[ \t]*:[ \t]*", colon):
        colon = ": "
    if len(members) > 1:
        comma = text[members[-2].end : last.key_start]
    else:
        comma = "," + (text[at : last.key_start] or " " * (" " in colon))
    if not re.fullmatch(r"[ \t\r\n]*,[ \t\r\n]*", comma):
        comma = ", "
    comma = re.sub(r"(\r?\n)(?:[ \t]*\r?\n)+", r"\1", comma)
    quoted = _quoted(key) if text[last.key_start] == '"' else _plain(key)
    return f"{text[: last.end]}{comma}{quoted}{colon}{literal}{text[last.end :]}"


def _in_lines(layout: _Layout, key: str, literal: str) -> Iterator[str]:
    text, newline, indent = layout.reader.text, _newline(layout.reader.text), " " * layout.column
    head, tail = text[: layout.end], text[layout.end :]
    line = f"{_plain(key)}: {literal}"
    if head and not head.endswith(("\n", "\r")):
        yield f"{head}{newline}{indent}{line}{newline if tail else ''}{tail}"
    else:
        yield f"{head}{indent}{line}{newline}{tail}"
    # A block of text at the end may not bear a line after it.
    yield f"{text[: layout.start]}{line}{newline}{indent}{text[layout.start :]}"


def _literal(path: Path, value: str | bool | int) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(Problem(str(path), f"{value!r} cannot be written in UTF-8; write plain text")) from None
    return _quoted(value)


def _quoted(text: str) -> str:
    """A string as JSON and YAML both read it: YAML would not take, or fold, some of what JSON takes as it is."""
    unsafe = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
    return re.sub(unsafe, lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _plain(key: str) -> str:
    words = r"true|false|null|yes|no|on|off|y|n"
    return key if re.fullmatch(rf"(?!(?:{words})$)[a-z_][a-z0-9_]*", key, re.IGNORECASE | re.ASCII) else _quoted(key)


def _newline(text: str) -> str:
    return "\r\n" if text[: text.rfind("\n") + 1].endswith("\r\n") else "\n"


def _spaces(text: str, at: int) -> str:
    return text[at : _skip(text, at)]


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in {" ", "\t", "\r", "\n"}:
        at += 1
    return at


def _place(text: str, index: int) -> tuple[int, int]:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


# -- JSON ------------------------------------------------------------------------------------------------------------


def _number(spelling: str) -> tuple[str, str]:
    return "number", spelling


_JSON = json.JSONDecoder(object_pairs_hook=tuple, parse_int=_number, parse_float=_number, parse_constant=_number)


def _read_json(path: Path, data: bytes) -> _Layout:
    reader = Reader(str(path), data)
    try:
        _JSON.decode(reader.text)
    except json.JSONDecodeError as error:
        raise ConfigError(reader.problem(f"is not JSON: {error.msg}", error.lineno, error.colno)) from None
    except RecursionError:
        raise ConfigError(reader.problem("is nested too deeply", 1, 1)) from None
    start = _skip(reader.text, 0)
    if reader.text[start] != "{":
        raise ConfigError(reader.problem("holds no object; it takes {...} with settings in it", 1, 1))
    return _Layout(reader, list(_json_members(reader.text, start + 1)), start + 1)


def _json_members(text: str, at: int) -> Iterator[_Member]:
    """The members of an object that is known to be valid; ``at`` is behind its brace."""
    while text[at := _skip(text, at)] != "}":
        key_start = _skip(text, at + 1) if text[at] == "," else at
        key, key_end = _JSON.raw_decode(text, key_start)
        start = _skip(text, _skip(text, key_end) + 1)
        value, at = _JSON.raw_decode(text, start)
        says = value if value is None or isinstance(value, str) else text[start:at]
        yield _Member(key, says, value, key_start, key_end, start, at)


# -- YAML ------------------------------------------------------------------------------------------------------------


def _read_yaml(path: Path, data: bytes) -> _Layout:
    import yaml

    reader = Reader(str(path), data)
    try:
        # Not the C loader: its marks count differently.
        events: list[Any] = list(yaml.parse(reader.text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        raise ConfigError(reader.problem(f"is not YAML: {error.problem}", mark.line + 1, mark.column + 1)) from None
    except yaml.YAMLError as error:
        raise ConfigError(reader.problem(f"is not YAML: {str(error).splitlines()[0]}", 1, 1)) from None
    documents = [event for event in events if isinstance(event, yaml.DocumentStartEvent)]
    if len(documents) > 1:
        message, mark = "a second document starts here; one file holds one document", documents[1].start_mark
        raise ConfigError(reader.problem(message, mark.line + 1, mark.column + 1))
    end: int = events[-2 if documents else -1].start_mark.index
    root: Any = events[2] if documents else None
    if root is None or (type(root).__name__ == "ScalarEvent" and not root.value and not root.style):
        return _Layout(reader, [], end, end, braces=False)
    if not isinstance(root, yaml.MappingStartEvent):
        raise ConfigError(reader.problem("holds no mapping; it takes lines of `key: value`", 1, 1))
    members = list(_yaml_members(reader.text, events[3:]))
    mark = root.end_mark
    return _Layout(reader, members, mark.index, end, mark.column, braces=bool(root.flow_style))


def _yaml_members(text: str, events: list[Any]) -> Iterator[_Member]:
    """The members of a mapping, from the events behind its start."""
    at = 0
    while not type(events[at]).__name__.endswith("EndEvent"):
        behind_key = _behind(events, at)
        behind = _behind(events, behind_key)
        key, value = events[at:behind_key], events[behind_key:behind]
        start, end = value[0].start_mark.index, _end(text, value)
        scalar = type(value[0]).__name__ == "ScalarEvent"
        null = scalar and not value[0].style and value[0].value.lower() in {"", "~", "null"}
        yield _Member(
            key[0].value if type(key[0]).__name__ == "ScalarEvent" else _meaning(key),
            None if null else value[0].value if scalar else text[start:end],
            _meaning(value),
            key[0].start_mark.index,
            _end(text, key),
            start,
            end,
            anchored=any(type(event).__name__ != "AliasEvent" and getattr(event, "anchor", None) for event in value),
        )
        at = behind


def _behind(events: list[Any], at: int) -> int:
    """The index behind the node that starts at ``at``."""
    depth = 0
    while True:
        name = type(events[at]).__name__
        depth += name.endswith("StartEvent") - name.endswith("EndEvent")
        at += 1
        if not depth:
            return at


def _end(text: str, events: list[Any]) -> int:
    """Where a node ends in the text; the end of a block is marked only where the next thing starts."""
    start: int = events[0].start_mark.index
    ends: list[int] = [event.end_mark.index for event in events if not type(event).__name__.endswith("EndEvent")]
    ends += [event.end_mark.index for event in events if event.end_mark.index > event.start_mark.index]
    return start + len(text[start : max(ends)].rstrip(" \t\r\n"))


def _meaning(events: list[Any]) -> tuple[object, ...]:
    fields = ("anchor", "tag", "implicit", "value", "style", "flow_style")
    return tuple((type(event).__name__, *(getattr(event, name, None) for name in fields)) for event in events)


# -- the file --------------------------------------------------------------------------------------------------------


def _edit(path: Path, key: str, value: str | bool | int, *, timeout: float, keep: bool) -> str:
    """Set the key, unless it is to be kept and says something; returns what it says then."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        real = Path(os.path.realpath(path))
        with _alone(path, real.parent, timeout, needed=keep) as alone:
            if alone:
                sweep(real)
            for _ in range(_ATTEMPTS):
                old = _read(path)
                found = _Layout.of(path, old).says(key) if old is not None and keep else None
                if found:
                    return found
                new = edited(path, old or b"", key, value)
                if new == old or _replace(real, old, new):
                    return str(value)
    except OSError as error:
        raise _not_writable(path, error) from error
    raise ConfigNotWritable(f"{path}: somebody else keeps changing it; set {key!r} again when that has ended")


@contextlib.contextmanager
def _alone(path: Path, directory: Path, timeout: float, *, needed: bool) -> Generator[bool]:
    """Keep other writers out, if there are locks here; yields whether there are."""
    if not directory.is_dir():  # the lock would make a file in its place
        raise OSError(errno.ENOENT, f"there is no directory {str(directory)!r}")
    lock = FileLock(directory)
    try:
        there, free = True, lock.acquire(timeout=timeout)
    except OSError as error:
        there, free = False, not needed
        reason = f"{directory} cannot be locked ({error.strerror})"
    else:
        reason = f"another process has been writing for {timeout:g} s"
    try:
        if not free:
            raise ConfigNotWritable(f"{path}: {reason}; try again, {_ELSEWHERE}")
        yield there
    finally:
        lock.release()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(Problem(str(path), f"cannot be read: {error.strerror}")) from None


def _replace(path: Path, old: bytes | None, new: bytes) -> bool:
    """Put ``new`` in the place of ``old``; false if that is not what is there any more."""
    if old is not None and not os.access(path, os.W_OK):
        reason = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(reason, os.strerror(reason))
    with temporary(path, new, like=None if old is None else path) as made:
        # The host application knows nothing of our lock.
        if _read(path) != old:
            return False
        made.replace(path)
    sync(path.parent)
    return True


@contextlib.contextmanager
def temporary(path: Path, data: bytes, *, like: Path | None = None) -> Generator[Path]:
    """A complete file on the disk beside ``path``, of mode 0600 or as ``like`` is; gone afterwards, if it still is."""
    made = path.with_name(f".{path.name}.{os.urandom(6).hex()}{_TEMPORARY}")
    try:
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
            file.flush()
            if like is not None:
                _take_after(like, file.fileno())
            os.fsync(file.fileno())
        yield made
    finally:
        with contextlib.suppress(OSError):
            made.unlink()


def sweep(path: Path) -> None:
    """Remove the temporary files beside ``path`` that killed processes left; for when no process is writing."""
    for entry in path.parent.iterdir():
        if entry.name.startswith(f".{path.name}.") and entry.name.endswith(_TEMPORARY):
            with contextlib.suppress(OSError):
                entry.unlink()


def sync(directory: Path) -> None:
    """Have the names in a directory on the disk; some file systems cannot."""
    with contextlib.suppress(OSError):
        number = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _take_after(path: Path, number: int) -> None:
    """Give an open file the owner, the mode and the attributes (access lists among them) of another, where allowed."""
    was = path.stat()
    mode = stat.S_IMODE(was.st_mode)
    try:
        os.fchown(number, -1, was.st_gid)
    except OSError:
        mode &= ~stat.S_IRWXG  # that was meant for another group
    with contextlib.suppress(OSError):
        os.fchown(number, was.st_uid, -1)
    os.fchmod(number, mode)
    for name in os.listxattr(path) if hasattr(os, "listxattr") else ():
        with contextlib.suppress(OSError):
            os.setxattr(number, name, os.getxattr(path, name))


def _not_writable(path: Path, error: OSError) -> ConfigNotWritable:
    user = f"let user {os.geteuid()} write the file and in its directory, {_ELSEWHERE}"
    remedy = _REMEDIES.get(error.errno or 0, user)
    return ConfigNotWritable(f"{path}: cannot be written: {error.strerror}; {remedy}")

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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat import text as texts
from lifebeat.errors import ConfigError, LifebeatError, Problem
from lifebeat.settings.layers import CONFIG_FILES
from lifebeat.storage import safe_file
from lifebeat.storage.locks import FileLock
from lifebeat.text.nodes import Mapping, Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from lifebeat.text.nodes import Document, Member

_INDENT = "    "
_ATTEMPTS = 10
_ELSEWHERE = "or set the key in the environment, or as an argument of the host"
_REMEDIES = {
    errno.ENOENT: "make it, and try again",
    errno.EROFS: f"the file system is mounted read-only: mount it writable, {_ELSEWHERE}",
    errno.ENOSPC: "make room on the disk, and try again",
    errno.EDQUOT: "make room within the quota, and try again",
    errno.EFBIG: "raise the limit for the size of files, and try again",
}


class ConfigNotWritable(LifebeatError):
    """The config file cannot be written here; it is as it was."""


def config_file(directory: Path) -> Path | None:
    """Return the file to edit: ``config.json``, else ``config.yaml``, else ``config.yml``; ``None`` for none."""
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
    _edit(path, lambda old: edited(path, old or b"", key, value), timeout=timeout)


def unset_key(path: Path, key: str, *, timeout: float = 2.0) -> None:
    """Remove one top-level key, as ``set_key`` sets it; nothing happens where there is none.

    Args:
        path: The file.
        key: The key.
        timeout: Seconds to wait for other writers.

    Raises:
        ConfigError: The file cannot be read, or not be edited without doubt; it is left as it is.
        ConfigNotWritable: It cannot be written.
    """
    if _read(path) is not None:
        _edit(path, lambda old: edited(path, old or b"", key, None), timeout=timeout)


def set_key_if_absent(path: Path, key: str, value: str, *, timeout: float = 2.0) -> str:
    """Set one top-level key unless it is there, as ``set_key`` does; processes that start together agree on one value.

    Returns:
        What is in the file afterwards; a value that is no text, as it is written there. A key that is null or blank
        counts as absent.

    Raises:
        ConfigError: As with ``set_key``.
        ConfigNotWritable: It cannot be written; or there are no locks here, and others might choose another value.
    """
    found = _said(path, _read(path), key)
    if found is not None:
        return found

    def change(old: bytes | None) -> bytes | None:
        nonlocal found
        found = _said(path, old, key)
        return old if found is not None else edited(path, old or b"", key, value)

    _edit(path, change, timeout=timeout, needs_lock=True)
    return value if found is None else found


# -- the text --------------------------------------------------------------------------------------------------------


def edited(path: Path, data: bytes, key: str, value: str | bool | int | None) -> bytes:
    """Return the content ``data`` of the file ``path`` with one key set, or removed with ``None``.

    Raises:
        ConfigError: It cannot be read, or not be edited without doubt.
    """
    literal = None if value is None else _literal(path, value)
    before = _Layout(path, data)
    member = before.find(key)
    if literal is None and member is None:
        return data
    wanted = None if literal is None else _Layout(path, f"{{{_quoted(key)}: {literal}}}".encode()).members[0][1]
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    for candidate in _without(before, member) if literal is None and member else _with(before, key, literal or ""):
        with contextlib.suppress(ConfigError):
            after = _Layout(path, candidate.encode())
            now = after.find(key)
            if (now[1] if now else None) == wanted and after.others(key) == before.others(key):
                return bom + candidate.encode()
    verb = "removed" if literal is None else "set"
    message = f"{key!r} cannot be {verb} here without touching more than its value; edit the file by hand"
    raise ConfigError(before.document.problem(message, member[1] if member else before.start))


class _Layout:
    """Where things are in a file whose top level is a mapping.

    Attributes:
        document: The text, and the places in it.
        members: The top-level members in their order.
        start: Behind the opening brace; without braces, where the first member begins.
        has_braces: Whether there are braces.

    Raises:
        ConfigError: It cannot be read.
    """

    def __init__(self, path: Path, data: bytes) -> None:
        is_blank = not data.strip()
        source = safe_file.printable(path)
        self.document: Document = texts.parse(
            source, b"{\n}\n" if is_blank and path.suffix == ".json" else data, depth=1
        )
        self.members: list[Member] = []
        self.has_braces = False
        self.start = self.document.end
        root = self.document.root
        if self.document.problems:
            raise ConfigError(*self.document.problems)
        if isinstance(root, Mapping):
            self.members = root.members
            self.has_braces = root.has_braces
            text = self.document.text
            is_complex = text.startswith("?", root.start)
            first = root.start if root.has_braces or is_complex else root.members[0][0].start
            self.start = text.find("{", first) + 1 if root.has_braces else first
        elif root is not None and not (isinstance(root, Scalar) and root.plain and not root.text):
            raise ConfigError(self.document.problem("holds no mapping; expected keys with values", root))

    def find(self, key: str) -> Member | None:
        """Return the member with that key.

        Raises:
            ConfigError: There are two.
        """
        found = [member for member in self.members if isinstance(member[0], Scalar) and member[0].text == key]
        if len(found) > 1:
            message = f"duplicate key {key!r} (first on line {found[0][0].line}); remove one"
            raise ConfigError(self.document.problem(message, found[1][0]))
        return found[0] if found else None

    def others(self, key: str) -> list[Member]:
        """Return all the other members, comparable."""
        return [one for one in self.members if not (isinstance(one[0], Scalar) and one[0].text == key)]


def _said(path: Path, data: bytes | None, key: str) -> str | None:
    """Return the text of a key's value; ``None`` if it is absent, null or blank."""
    member = _Layout(path, data).find(key) if data else None
    if member is None or member[1].is_null:
        return None
    node = member[1]
    said = node.text if isinstance(node, Scalar) else node.document.text[node.start : node.end]
    return said if said.strip() else None


def _with(layout: _Layout, key: str, literal: str) -> Iterator[str]:
    """Yield texts with the key set, likeliest first."""
    text, member = layout.document.text, layout.find(key)
    if member is None:
        yield from [_in_braces(layout, key, literal)] if layout.has_braces else _in_lines(layout, key, literal)
    elif not member[1].is_anchored:
        node = member[1]
        gap = " " if node.start == node.end else ""
        yield text[: node.start] + gap + literal + text[node.end :]


def _without(layout: _Layout, member: Member) -> Iterator[str]:
    """Yield the text without a member: with one comma, or with its lines."""
    text, (key, value) = layout.document.text, member
    start, end = key.start, max(key.end, value.end)
    if not layout.has_braces:
        line = text.rfind("\n", 0, start) + 1
        rest = re.match(r"[ \t]*(?:#[^\r\n]*)?(?:\r?\n|$)", text[end:])
        if rest and not text[line:start].strip():
            yield text[:line] + text[end + rest.end() :]
        return
    at = next(at for at, (other, _) in enumerate(layout.members) if other is key)
    if at:
        start = layout.members[at - 1][1].end
    elif len(layout.members) > 1:
        end = layout.members[1][0].start
    elif text[end:].lstrip().startswith("}") and not text[layout.start : start].strip():
        start, end = layout.start, len(text) - len(text[end:].lstrip())
    if re.fullmatch(r"\s*,?\s*", text[start : key.start] + text[max(key.end, value.end) : end]):
        yield text[:start] + text[end:]


def _in_braces(layout: _Layout, key: str, literal: str) -> str:
    text, at, members = layout.document.text, layout.start, layout.members
    if not members:
        space = text[at : len(text) - len(text[at:].lstrip(" \t\r\n"))]
        lead = f"{_newline(text)}{_INDENT}" if "\n" in space else space
        return f"{text[:at]}{lead}{_quoted(key)}: {literal}{text[at:]}"
    last_key, last = members[-1]
    colon = text[last_key.end : last.start]
    if not re.fullmatch(r"[ \t]*:[ \t]*", colon):
        colon = ": "
    if len(members) > 1:
        comma = text[members[-2][1].end : last_key.start]
    else:
        comma = "," + (text[at : last_key.start] or " " * (" " in colon))
    if not re.fullmatch(r"[ \t\r\n]*,[ \t\r\n]*", comma):
        comma = ", "
    comma = re.sub(r"(\r?\n)(?:[ \t]*\r?\n)+", r"\1", comma)
    quoted = _quoted(key) if text[last_key.start] == '"' else _plain(key)
    return f"{text[: last.end]}{comma}{quoted}{colon}{literal}{text[last.end :]}"


def _in_lines(layout: _Layout, key: str, literal: str) -> Iterator[str]:
    document = layout.document
    text, newline = document.text, _newline(document.text)
    indent = " " * (document.place(layout.start)[1] - 1 if layout.members else 0)
    head, tail = text[: document.end], text[document.end :]
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
        source = safe_file.printable(path)
        raise ConfigError(Problem(source, f"{value!r} cannot be written in UTF-8; write plain text")) from None
    return _quoted(value)


def _quoted(text: str) -> str:
    """Return a string as JSON and YAML both read it: YAML would not take, or fold, some of what JSON takes."""
    unsafe = "[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]"
    return re.sub(unsafe, lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _plain(key: str) -> str:
    words = r"true|false|null|yes|no|on|off|y|n"
    return key if re.fullmatch(rf"(?!(?:{words})$)[a-z_][a-z0-9_]*", key, re.IGNORECASE | re.ASCII) else _quoted(key)


def _newline(text: str) -> str:
    return "\r\n" if text[: text.rfind("\n") + 1].endswith("\r\n") else "\n"


# -- the file --------------------------------------------------------------------------------------------------------


def _edit(
    path: Path, change: Callable[[bytes | None], bytes | None], *, timeout: float, needs_lock: bool = False
) -> None:
    """Replace what is in the file by what ``change`` makes of it."""
    try:
        if path.parent.parent.is_dir():
            safe_file.make_directory(path.parent)
        real = Path(os.path.realpath(path))
        with _alone(path, real.parent, timeout, needed=needs_lock) as alone:
            if alone:
                safe_file.sweep(real)
            for _ in range(_ATTEMPTS):
                old = _read(path)
                new = change(old)
                if new is None or new == old or safe_file.write(path, new, unless=partial(_has_changed, path, old)):
                    return
    except OSError as error:
        raise _not_writable(path, error) from error
    raise ConfigNotWritable(f"{safe_file.printable(path)}: another program keeps changing it; try again later")


@contextlib.contextmanager
def _alone(path: Path, directory: Path, timeout: float, *, needed: bool) -> Generator[bool]:
    """Keep other writers out, if there are locks here; yields whether there are."""
    if not directory.is_dir():  # the lock would make a file in its place
        raise OSError(errno.ENOENT, f"there is no directory {safe_file.printable(directory)!r}")
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
            raise ConfigNotWritable(f"{safe_file.printable(path)}: {reason}; try again, {_ELSEWHERE}")
        yield there
    finally:
        lock.release()


def _read(path: Path) -> bytes | None:
    try:
        return safe_file.read(path, limit=texts.limit(path))
    except safe_file.CannotRead as error:
        raise ConfigError(Problem(safe_file.printable(path), f"cannot be read: {error.reason}")) from None


def _has_changed(path: Path, old: bytes | None) -> bool:
    """Return whether the host application, which knows nothing of our lock, has written the file meanwhile."""
    return _read(path) != old


def _not_writable(path: Path, error: OSError) -> ConfigNotWritable:
    user = f"let user {os.geteuid()} write the file and in its directory, {_ELSEWHERE}"
    remedy = "" if isinstance(error, safe_file.WrongOwner) else f"; {_REMEDIES.get(error.errno or 0, user)}"
    return ConfigNotWritable(f"{safe_file.printable(path)}: cannot be written: {error.strerror}{remedy}")

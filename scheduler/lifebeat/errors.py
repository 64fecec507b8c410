"""The errors, and the problems they list: where, what, what is allowed, what to do next."""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST_REASON = 200  # characters


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in what a person wrote.

    Attributes:
        source: Where it was written: a file's path as the person knows it, or a layer such as ``environment``.
        message: What is wrong, what is allowed, what to do.
        line: The line in the file, from 1; ``None`` where there are no lines.
        column: The column in that line, from 1; ``None`` where there are no lines.
        text: The line itself, for the caret; ``None`` where it is not known.
    """

    source: str
    message: str
    line: int | None = None
    column: int | None = None
    text: str | None = None

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"
        return f"{place}: {self.message}"


class LifebeatError(Exception):
    """What Lifebeat raises when it cannot do what it was asked."""


class ConfigError(LifebeatError):
    """Config or a job file is wrong; every problem found is in ``problems``, in the order of the file."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def in_words(error: BaseException) -> str:
    """Return what an exception says, in one line that any terminal and page may show."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - it is another's
        said = ""
    if not isinstance(error, LifebeatError):
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    said = re.sub(r"://[^/\s@]*@", "://...@", said[: 8 * LONGEST_REASON])  # a password in a URL
    return " ".join(blanked(said[: 4 * LONGEST_REASON]).split())[:LONGEST_REASON]


def blanked(text: str) -> str:
    """Return a text with a blank for each character that cannot be printed, such as a line's end or an escape code."""
    return "".join(one if one.isprintable() else " " for one in text)


def coded(text: str, *, keep: str = "") -> str:
    """Return a text with the code of each character that cannot be printed, but for those to ``keep``."""
    if text.isprintable():  # as most are: a page has many thousands
        return text
    return "".join(one if one.isprintable() or one in keep else f"\\x{ord(one):02x}" for one in text)

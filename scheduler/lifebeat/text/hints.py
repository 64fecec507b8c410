"""Words that may have been meant where another was written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, words: Iterable[str], *, most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the words that are most like ``word``, the likeliest first."""
    import difflib

    return difflib.get_close_matches(word[:100], list(words), most, cutoff)


def did_you_mean(word: str, words: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return `` (did you mean 'x'?)`` for the end of a message; empty where no word is like it."""
    return asked(nearest(word, words, cutoff=cutoff))


def asked(meant: Iterable[str]) -> str:
    """Return the question for words that are known to be near; empty for none."""
    words = " or ".join(map(repr, meant))
    return f" (did you mean {words}?)" if words else ""

"""Text: bytes to nodes that know their places, durations, and words that were meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifebeat.text.nodes import MAX_DEPTH, Document

if TYPE_CHECKING:
    from pathlib import Path

_MIB = 1024 * 1024


def limit(path: Path) -> int:
    """Return how many bytes a file may have: YAML takes ten times as long to read as JSON."""
    return 4 * _MIB if path.suffix == ".json" else _MIB


def parse(source: str, data: bytes, *, depth: int = MAX_DEPTH, is_private: bool = False) -> Document:
    """Return a document: JSON if its name ends in ``.json``, else YAML. It is never an error to be wrong.

    Args:
        source: The file's path, as a person knows it.
        data: Its content.
        depth: Lists and mappings further down are read over.
        is_private: Whether its lines are not shown.
    """
    document = Document(source, data, is_private=is_private)
    if document.is_json:
        from lifebeat.text import json

        json.parse(document, depth)
    else:
        from lifebeat.text import yaml

        yaml.parse(document, depth)
    del document.problems[1:]  # after a byte that is not UTF-8 there is more that is wrong
    return document

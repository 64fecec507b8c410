"""The page on failures: every number names its test."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text()


def test_every_number_has_a_test() -> None:
    """The numbers run without a gap, and each names at least one test."""
    entries = re.split(r"^(\d+)\. ", PAGE, flags=re.MULTILINE)[1:]
    numbers = [int(number) for number in entries[::2]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [number for number, text in zip(numbers, entries[1::2], strict=True) if "::test_" not in text] == []

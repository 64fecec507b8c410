"""The page on failures: every number has its test, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text()


def test_every_named_test_exists() -> None:
    """A test that the page names is a function of that file."""
    for path, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE):
        functions = {
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"{path}::{name}"


def test_every_number_has_a_test() -> None:
    """The numbers run without a gap, and each names at least one test."""
    entries = re.split(r"^(\d+)\. ", PAGE, flags=re.MULTILINE)[1:]
    numbers = [int(number) for number in entries[::2]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [number for number, text in zip(numbers, entries[1::2], strict=True) if "::test_" not in text] == []

"""The page on failures: every number names its test."""

from __future__ import annotations

import re
from pathlib import Path

import test_hosts
import test_stop_disk

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "failures.md").read_text()
HOSTS = (ROOT / "docs" / "hosts" / "README.md").read_text()


def test_every_number_has_a_test() -> None:
    """The numbers run without a gap, and each names at least one test."""
    entries = re.split(r"^(\d+)\. ", PAGE, flags=re.MULTILINE)[1:]
    numbers = [int(number) for number in entries[::2]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [number for number, text in zip(numbers, entries[1::2], strict=True) if "::test_" not in text] == []


def test_the_tables_have_the_rows_that_are_measured() -> None:
    """What the long runs print has its row, and no row is of something that is not run."""
    assert first_column(PAGE, "| machine |") == list(test_stop_disk.ROWS)
    assert first_column(HOSTS, "| server and way of starting |") == [host.name for host in test_hosts.HOSTS]


def first_column(page: str, head: str) -> list[str]:
    """The first cells of the table with that head."""
    table = page[page.index(head) :].partition("\n\n")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]

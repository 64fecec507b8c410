"""Plain job files read without a YAML parser: the same as the parser's, or not at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifebeat.errors import ConfigError
from lifebeat.jobfile import reader as jobfile
from lifebeat.text import plainmapping
from lifebeat.text.document import Node, Reader
from mistakes import MISTAKES

if TYPE_CHECKING:
    from pathlib import Path

WORDS = [
    "jobs", "beat", "every", "24h", "true", "no", "${key}", "a.b:c", "12:00", "x y", "a  b", "-", "- a", "'q'", '"q"',
    "#", " # c", "{a: b}", "[a]", "&a", "*a", "!t", "|", ">", "~", "null", "", ":", "a:", "a: b", "é", "\t", "%", "@",
    "<<", "---", "...", "?", "0 3 * * *", "it's", "a#b", "a #b", "a, b", "(x)", "=", "1e3", "\r",
]  # fmt: skip


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A few lines of what may stand in a job file, and of what may not."""
    lines: list[str] = []
    for _ in range(draw(st.integers(0, 8))):
        indent = " " * draw(st.integers(0, 6))
        colon = draw(st.sampled_from([":", ": ", ":  ", "", " : "]))
        lines.append(indent + draw(st.sampled_from(WORDS)) + colon + draw(st.sampled_from(WORDS)))
    return "\n".join(lines)


def parsed(text: str) -> Node | str | None:
    """What the parser makes of it."""
    try:
        return Reader("file", text.encode()).parsed()
    except ConfigError as error:
        return str(error)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_the_same_as_the_parser(text: str) -> None:
    """Whatever is read here, the parser reads in the same way, places included."""
    plain = plainmapping.read("file", text)
    if plain is not None:
        assert plain == parsed(text)


def test_the_shipped_file_is_plain() -> None:
    """The job file that ships, which every application without one of its own starts with, needs no parser."""
    text = jobfile.packaged().read_text(encoding="utf-8")
    plain = plainmapping.read("file", text)
    assert plain is not None
    assert plain == parsed(text)


@pytest.mark.parametrize("number", range(len(MISTAKES)))
def test_the_mistakes_are_the_same(number: int) -> None:
    """A file with a mistake is read as the parser reads it, or left to the parser."""
    text = str(MISTAKES[number].text)
    plain = plainmapping.read("file", text)
    assert plain is None or plain == parsed(text)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "jobs:\n", "jobs:\n  a: b\n c: d\n", "a: b\na: c\n", "a: b\n  c: d\n", "  a: b\n", "a: 'b'\n",
     "a: b:\n", "a: [b]\n", "a:\n  - b\n", "a: b\n---\na: c\n", "a:\tb\n", "a: b\r\n", "ä: b\n"],
)  # fmt: skip
def test_what_is_left_to_the_parser(text: str) -> None:
    """What is empty, broken, or more than words in mappings is the parser's."""
    assert plainmapping.read("file", text) is None


def test_what_is_nested_deeply() -> None:
    """What is nested deeper than any job file is the parser's, which has limits."""
    deep = "".join(f"{' ' * depth}k{depth}:\n" for depth in range(12)) + " " * 12 + "k: v\n"
    assert plainmapping.read("file", deep) is None


def test_places(tmp_path: Path) -> None:
    """A mistake in a plain file is said with its line and column, as in any other."""
    path = tmp_path / "jobs.yaml"
    path.write_text("jobs:\n  beat:\n    run: lifebeat_jobs.telemetry:heartbeat\n    intervall: 24h # comment\n")
    from lifebeat.settings.source import ConfigSource

    found = jobfile.load(path, ConfigSource(tmp_path, environ={}, modules={}).read())
    assert re.search(r"jobs\.yaml:4:5: job 'beat': unknown field 'intervall'", str(found.problems[0]))

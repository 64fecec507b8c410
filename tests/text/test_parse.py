"""Bytes to nodes: YAML and JSON alike, each node at its place, within limits, and nothing raised."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lifebeat.text import parse
from lifebeat.text.nodes import MAX_DEPTH, Document, Mapping, Node, Opaque, Sequence, faults, value_of
from lifebeat.text.yaml import MAX_ALIASES, MAX_VALUES

TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12)
WORDS = TEXTS.map(lambda text: f"x{text}")  # which no YAML takes for something else


def values(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Anything that JSON can hold."""
    return st.recursive(
        st.none() | st.booleans() | st.integers(-(10**20), 10**20) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=10,
    )


def root(document: Document) -> Node:
    """What was read of a document that nothing is wrong with."""
    assert document.problems == []
    assert document.root is not None
    return document.root


def inside(node: Node) -> list[Node]:
    """A node and all that is in it."""
    below = [child for pair in node.members for child in pair] if isinstance(node, Mapping) else []
    below += node.items if isinstance(node, Sequence) else []
    return [node, *(one for child in below for one in inside(child))]


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(TEXTS, values(TEXTS), max_size=5), st.sampled_from([None, 2]))
def test_json_is_read_with_offsets(written: dict[str, Any], indent: int | None) -> None:
    """The value is what Python's own reader finds, and the text between a node's offsets says just that."""
    text = json.dumps(written, indent=indent, ensure_ascii=False)
    found = root(parse("a.json", text.encode()))
    assert value_of(found) == written
    for node in inside(found):
        assert json.loads(text[node.start : node.end]) == value_of(node)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(WORDS, values(WORDS), max_size=5), st.sampled_from([True, False]))
def test_yaml_means_the_same_as_json(written: dict[str, Any], flow: bool) -> None:
    """A value that YAML dumps is read as the same value that JSON dumps."""
    library: Any = yaml  # the types of safe_dump are incomplete
    text: str = library.safe_dump(written, default_flow_style=flow, allow_unicode=True)
    assert value_of(root(parse("a.yaml", text.encode()))) == value_of(
        root(parse("a.json", json.dumps(written).encode()))
    )


def test_nodes_know_line_column_and_offsets() -> None:
    """Line, column and offsets of keys and values; the end of a block is behind its last character."""
    found = root(parse("a.yaml", b"a: 1\nb:\n  - x\n  - |\n    y\n\nc: 2\n"))
    assert isinstance(found, Mapping)
    key, value = found.named()["b"]
    assert ((key.line, key.column), (value.line, value.column)) == ((2, 1), (3, 3))
    assert found.document.text[value.start : value.end] == "- x\n  - |\n    y"


def test_what_is_further_down_is_read_over() -> None:
    """Below the depth that is asked for lists and mappings are opaque, but can be compared."""
    for name, one, other in (
        ("a.json", b'{"a": {"b": [1]}}', b'{"a": {"b": [2]}}'),
        ("a.yaml", b"a: {b: [1]}", b"a: {b: [2]}"),
    ):
        found = root(parse(name, one, depth=1))
        assert isinstance(found, Mapping)
        assert isinstance(found.named()["a"][1], Opaque)
        assert found == root(parse(name, one + b"\n", depth=1)) != root(parse(name, other, depth=1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a 1\nb: [" + "*a, " * (MAX_ALIASES + 1) + "]\n", f"has more than {MAX_ALIASES} aliases"),
        (
            "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
            f"has more than {MAX_VALUES:,} values with its aliases written out",
        ),
        ("[" * (MAX_DEPTH + 1), f"is nested deeper than {MAX_DEPTH} levels"),
        ("a: *b\n", "the alias *b is not defined before it"),
        ("a: &a [*a]\n", "the alias *a is not defined before it"),
        ("a: 1\n---\nb: 2\n", "a second document starts here"),
    ],
    ids=["aliases", "values", "depth", "unknown alias", "own alias", "documents"],
)
def test_exceeded_limit_is_one_problem_with_its_place(text: str, message: str) -> None:
    """What would take memory or sense away is one problem with its place."""
    (problem,) = parse("a.yaml", text.encode()).problems
    assert message in problem.message
    assert problem.line is not None


def test_ten_thousand_lines() -> None:
    """A long file is read whole."""
    found = root(parse("a.yaml", b"".join(b"k%d: v\n" % number for number in range(10_000))))
    assert isinstance(found, Mapping)
    assert len(found.members) == 10_000
    assert found.members[-1][0].line == 10_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "2:1: duplicate key 'a' (first on line 1); remove one"),
        ("a: !x 1\n", "1:4: the tag '!x' is not used here"),
        ("<<: {a: 1}\n", "1:1: merge keys (<<) are not used here"),
        ("? [a]\n: 1\n", "1:3: a key must be a word"),
        ("a: {{ x }}\n", "1:5: {{ … }} is not filled in here"),
    ],
)
def test_what_is_refused_in_files_of_our_own(text: str, message: str) -> None:
    """Each has its place, and does not keep the rest from being read."""
    ((said, node),) = faults(root(parse("a.yaml", text.encode())))
    assert f"{node.line}:{node.column}: {said}".startswith(message)

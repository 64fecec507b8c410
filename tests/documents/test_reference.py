"""``docs/reference.md``: each name that a host may use says its units, what None means, and what it raises."""

from __future__ import annotations

import ast
import re

import pytest

import lifebeat
import reference
from lifebeat import testing, view
from lifebeat.handle import Lifebeat
from reference import Entry

ENTRIES = reference.everything()
LENGTHS = {"timeout", "seconds", "interval", "epoch"}
of_each = pytest.mark.parametrize("entry", ENTRIES, ids=[one.name for one in ENTRIES])


def allows_none(annotation: ast.expr | None) -> bool:
    """Whether a type is something or None."""
    written = ast.unparse(annotation) if annotation else "None"
    return written != "None" and re.search(r"\bNone\b", re.sub(r"\[.*\]", "", written)) is not None


def raises_itself(node: ast.AST) -> bool:
    """Whether a function raises something of its own accord."""
    return any(isinstance(one, ast.Raise) and one.exc is not None for one in ast.walk(node))


@of_each
def test_each_has_a_docstring_with_all_its_parameters(entry: Entry) -> None:
    """No parameter of a function with an ``Args:`` section is left out of it."""
    assert entry.docstring
    if "Args:" in entry.docstring:
        assert [one.arg for one in reference.parameters(entry) if f"    {one.arg}: " not in entry.docstring] == []


@of_each
def test_each_length_has_its_unit(entry: Entry) -> None:
    """A number that is a length of time is said to be one of seconds; a ``timedelta`` says so itself."""
    numbers = [
        one.arg for one in reference.parameters(entry) if one.annotation and "float" in ast.unparse(one.annotation)
    ]
    assert set(numbers) <= LENGTHS
    assert not numbers or "second" in entry.docstring.lower()


@of_each
def test_each_none_has_its_meaning(entry: Entry) -> None:
    """Where a parameter, an attribute or the result may be None, it is said what that means."""
    hints = [one.annotation for one in reference.parameters(entry)]
    if isinstance(entry.node, ast.ClassDef):
        hints += [one.annotation for one in entry.node.body if isinstance(one, ast.AnnAssign)]
    else:
        hints.append(entry.node.returns)
    assert entry.docstring.count("None``") >= sum(map(allows_none, hints))


@of_each
def test_each_error_is_named(entry: Entry) -> None:
    """What raises has a ``Raises:`` section."""
    if not isinstance(entry.node, ast.ClassDef) and raises_itself(entry.node):
        assert "Raises:" in entry.docstring


@of_each
def test_each_attribute_is_named(entry: Entry) -> None:
    """A class that is data names each attribute."""
    if isinstance(entry.node, ast.ClassDef):
        fields = [ast.unparse(one.target) for one in entry.node.body if isinstance(one, ast.AnnAssign)]
        documented = [one for one in fields if one != "name" or "JobContext" in entry.name]
        assert [one for one in documented if f"    {one}: " not in entry.docstring] == []


def test_nothing_public_is_left_out() -> None:
    """Each name of ``lifebeat`` and ``lifebeat.testing``, and each method of the handle and the receiver."""
    there = {one.name for one in ENTRIES}
    names = {f"lifebeat.{name}" for name in lifebeat.__all__ if name != "__version__"}
    names |= {f"lifebeat.testing.{name}" for name in testing.__all__ if name != "Event"}
    names |= {f"lifebeat.view.{name}" for name in view.__all__}
    assert names | {f"lifebeat.engines.{name}.attach" for name in ("celery", "procrastinate")} <= there
    methods = {name for name in vars(Lifebeat) if not name.startswith("_")} - reference.NOT_FOR_HOSTS
    assert {f"Lifebeat.{name}" for name in methods} <= there
    served = {name for name in dir(testing.PostHogServer) if not name.startswith("_")} - {"port"}
    assert {f"PostHogServer.{name}" for name in served} <= there

"""HogQL: read by PostHog's own parser, and as ClickHouse takes it, as far as our queries differ."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

# The parser looks for PostHog's own exceptions as it is imported; only PostHog has those. In a process of its own.
PARSER = """
import json, sys, types

for name in ("posthog", "posthog.hogql", "posthog.hogql.errors"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["posthog.hogql.errors"].__getattr__ = lambda name: type(name, (Exception,), {})
import hogql_parser

queries = json.load(sys.stdin)
print(json.dumps({name: json.loads(hogql_parser.parse_select_json(query)) for name, query in queries.items()}))
"""
Tree = dict[str, Any]


def parse(queries: Mapping[str, str]) -> dict[str, Tree]:
    """What PostHog's parser makes of each query; one with ``error`` and ``message`` where it is none.

    Raises:
        AssertionError: The parser did not run.
    """
    command = [sys.executable, "-I", "-c", PARSER]
    told = json.dumps(dict(queries))
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Tree] = json.loads(done.stdout)
    return found


def nodes(tree: object) -> Iterator[Tree]:
    """Every node of a tree that was parsed."""
    children: list[object] = []
    if isinstance(tree, dict):
        found = cast("Tree", tree)
        children = list(found.values())
        if "node" in found:
            yield found
    elif isinstance(tree, list):
        children = cast("list[object]", tree)
    for child in children:
        yield from nodes(child)


def rewrite(query: str, now: datetime) -> str:
    """The query for ClickHouse, at a time that stands still."""
    moment = f"toDateTime64('{now:%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
    query = re.sub(r"\btoInt\(([^()]*)\)", r"accurateCastOrNull(\1, 'Int64')", query)
    query = re.sub(r"\bproperties\.(\w+)", _extraction, query)
    return re.sub(r"\bnow\(\)", moment, query)


def _extraction(found: re.Match[str]) -> str:
    """A property as text, without its quotes; NULL where it is not there."""
    raw = f"nullIf(nullIf(JSONExtractRaw(properties, '{found[1]}'), ''), 'null')"
    return f"trim(BOTH '\"' FROM {raw})"

"""The reference of what a host imports, made from signatures and docstrings."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
ALL = ("*",)  # every public method
NOT_FOR_HOSTS = {"attach", "clock_changed", "application"}  # of the handle: for what attaches it, and for the page
# The name that a host imports it by, the module that defines it, and the methods of a class that are for hosts.
PUBLIC: dict[str, dict[str, tuple[str, tuple[str, ...] | None]]] = {
    "Embed it": {
        "lifebeat.attach": ("lifebeat.embedding", None),
        "lifebeat.main": ("lifebeat.cli.main", None),
        "lifebeat.Lifebeat": ("lifebeat.handle", ALL),
        "lifebeat.ConfigError": ("lifebeat.errors", ()),
        "lifebeat.LifebeatError": ("lifebeat.errors", ()),
        "lifebeat.Problem": ("lifebeat.errors", ()),
    },
    "On several machines": {
        "lifebeat.engines.procrastinate.attach": ("lifebeat.engines.procrastinate.hosts", None),
        "lifebeat.engines.celery.attach": ("lifebeat.engines.celery", None),
    },
    "In an admin area": {
        "lifebeat.view.wsgi": ("lifebeat.view", None),
        "lifebeat.view.asgi": ("lifebeat.view", None),
    },
    "In a job": {
        "lifebeat.JobContext": ("lifebeat.context", ()),
        "lifebeat_jobs.telemetry.record": ("lifebeat_jobs.telemetry", None),
        "lifebeat_jobs.events.Event": ("lifebeat_jobs.events", ()),
        "lifebeat_jobs.events.between": ("lifebeat_jobs.rules", None),
    },
    "In a test": {
        "lifebeat.testing.context.make_context": ("lifebeat.testing.context", None),
        "lifebeat.testing.fixtures.job_context": ("lifebeat.testing.fixtures", None),
        "lifebeat.testing.fixtures.posthog": ("lifebeat.testing.fixtures", None),
        "lifebeat.testing.contract.hold_contract": ("lifebeat.testing.contract", None),
        "lifebeat.testing.telemetry_allowed": ("lifebeat.testing.environment", None),
        "lifebeat.testing.FakeClock": ("lifebeat.testing.clock", ALL),
        "lifebeat.testing.PostHogServer": ("lifebeat.testing.server", ALL),
        "lifebeat.testing.Request": ("lifebeat.testing.messages", ("json", "header")),
        "lifebeat.testing.Answer": ("lifebeat.testing.messages", ()),
    },
}
ARRIVALS = ("requests", "events", "names", "distinct", "wait_for")  # what the server has of its base


class Entry(NamedTuple):
    """Something that a host may use.

    Attributes:
        name: What it is called where it is used.
        node: Its definition.
        arguments: What a ``**`` argument stands for; ``None`` where there is none.
    """

    name: str
    node: Function | ast.ClassDef
    arguments: ast.ClassDef | None = None

    @property
    def docstring(self) -> str:
        """Its docstring, that of its arguments included."""
        return "\n".join(ast.get_docstring(one) or "" for one in (self.node, self.arguments) if one)


@functools.cache
def _module(name: str) -> ast.Module:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))


def _defined(within: ast.Module | ast.ClassDef, name: str) -> Function | ast.ClassDef:
    for node in within.body:
        if isinstance(node, Function | ast.ClassDef) and node.name == name:
            return node
    raise LookupError(name)


def entries(name: str, module: str, methods: tuple[str, ...] | None) -> list[Entry]:
    """A function, or a class with its methods that are for hosts."""
    node = _defined(_module(module), name.rpartition(".")[2])
    if methods is None:
        arguments = _defined(_module(module), "HostArguments") if name == "lifebeat.attach" else None
        assert not isinstance(arguments, Function)
        return [Entry(name, node, arguments)]
    assert isinstance(node, ast.ClassDef)
    if methods == ALL:
        public = [one.name for one in node.body if isinstance(one, Function) and not one.name.startswith("_")]
        methods = tuple(name for name in public if name not in NOT_FOR_HOSTS)
    found = [Entry(f"{node.name}.{method}", _defined(node, method)) for method in methods]
    if node.name == "PostHogServer":
        base = _defined(_module("lifebeat.testing.arrivals"), "Arrivals")
        assert isinstance(base, ast.ClassDef)
        found += [Entry(f"{node.name}.{method}", _defined(base, method)) for method in ARRIVALS]
    return [Entry(name, node), *found]


def everything() -> list[Entry]:
    """All that a host may use."""
    return [one for group in PUBLIC.values() for name, place in group.items() for one in entries(name, *place)]


def parameters(entry: Entry) -> list[ast.arg]:
    """The parameters of a function, those of a ``**`` argument included."""
    if isinstance(entry.node, ast.ClassDef):
        return []
    given = entry.node.args
    found = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    named = [one for one in entry.arguments.body if isinstance(one, ast.AnnAssign)] if entry.arguments else []
    return [one for one in found if one.arg != "self"] + [
        ast.arg(ast.unparse(one.target), one.annotation) for one in named
    ]


def is_property(entry: Entry) -> bool:
    """Whether it is used without a call."""
    return not isinstance(entry.node, ast.ClassDef) and "property" in map(ast.unparse, entry.node.decorator_list)


def _signature(entry: Entry) -> str:
    node, short = entry.node, entry.name.rpartition(".")[2] if entry.name.startswith("lifebeat") else entry.name
    if isinstance(node, ast.ClassDef):
        return f"class {short}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if is_property(entry):
        return f"{short}{returns}"
    written = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", re.sub(r"^self(, )?", "", ast.unparse(node.args)))
    if entry.arguments:
        named = (
            ", ".join(ast.unparse(one) for one in entry.arguments.body if isinstance(one, ast.AnnAssign))
            .replace("Required[str]", "str")
            .replace(" | None", " | None = None")
            .replace("allow: str | Sequence[str]", "allow: str | Sequence[str] = ()")
        )
        written = re.sub(r"\*\*arguments: .*", named, written)
    line = f"{short}({written}){returns}"
    return line if len(line) <= _WIDTH else _folded(short, written, returns)


_WIDTH = 100


def _folded(name: str, written: str, returns: str) -> str:
    parts, depth, start = list[str](), 0, 0
    for at, letter in enumerate(written):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append(written[start:at].strip())
            start = at + 1
    lines = "".join(f"    {part},\n" for part in [*parts, written[start:].strip()])
    return f"{name}(\n{lines}){returns}"


def _prose(docstring: str) -> str:
    text = re.sub(r"``", "`", docstring)
    text = re.sub(r"::\n\n((?:    .*\n|\n)*(?:    .*))", lambda one: f":\n\n```python\n{_dedent(one[1])}\n```", text)
    text = re.sub(r"^(Args|Attributes|Returns|Raises):\n((?:    .*\n?|\n)+)", _list, text, flags=re.MULTILINE)
    return text.replace("\n\n\n", "\n\n").strip()


def _dedent(text: str) -> str:
    return re.sub(r"^    ", "", text, flags=re.MULTILINE).strip()


def _list(section: re.Match[str]) -> str:
    items = re.sub(r"\n {5,}", " ", _dedent_once(section[2])).splitlines()
    if section[1] == "Returns":
        return f"Returns: {' '.join(one.strip() for one in items).strip()}\n\n"
    shown = [re.sub(r"^(\w+): ", r"- `\1`: ", one) for one in items if one.strip()]
    return f"{section[1]}:\n\n" + "\n".join(shown) + "\n\n"


def _dedent_once(text: str) -> str:
    return re.sub(r"^    (?=\S)", "", text, flags=re.MULTILINE)


def _shown(entry: Entry, level: str) -> str:
    docstring = ast.get_docstring(entry.node) or ""
    if entry.name == "lifebeat.Lifebeat":  # attach makes it
        docstring = docstring.partition("\n\nArgs:")[0]
    text = _prose(docstring)
    if entry.arguments:
        about = _prose(ast.get_docstring(entry.arguments) or "").partition("Attributes:\n\n")[2]
        text = re.sub(r"^- `arguments`: .*$", lambda _: about, text, flags=re.MULTILINE)
    return f"{level} {entry.name}\n\n```text\n{_signature(entry)}\n```\n\n{text}"


def reference() -> str:
    """Everything that a host may use, in groups."""
    parts: list[str] = []
    for heading, group in PUBLIC.items():
        parts.append(f"## {heading}")
        for name, place in group.items():
            first, *methods = entries(name, *place)
            parts += [_shown(first, "###"), *(_shown(one, "####") for one in methods)]
    return "\n\n".join(parts)

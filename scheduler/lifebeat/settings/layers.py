"""The layers of config, read and merged: defaults, host, files, overlay, environment, command line, and consent.

Consent is a merge rule. ``DO_NOT_TRACK``, a CI environment and a test run are layers that can only say
``telemetryEnabled: false``, and for that key off at any layer wins.

A config file is the application's, which keeps its secrets there too. So no line of it is shown, but one that holds
nothing else than a key of ours that is not secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lifebeat import text
from lifebeat.errors import Problem
from lifebeat.settings import switch
from lifebeat.settings.switch import ENABLED
from lifebeat.settings.table import BOOLEAN, BY_NAME, KEYS, LayerValue, Settings, is_off
from lifebeat.storage import safe_file
from lifebeat.storage.safe_file import CannotRead
from lifebeat.text.nodes import Mapping as MappingNode
from lifebeat.text.nodes import Opaque, Scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from lifebeat.settings.table import FileState, Key
    from lifebeat.text.nodes import Document, Node

JOB_FILE = "jobs.yaml"
CONFIG_FILES = ("config.json", "config.yaml", "config.yml")
CI_VARIABLES = (
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TF_BUILD", "TEAMCITY_VERSION", "JENKINS_URL",
    "TRAVIS", "BITBUCKET_BUILD_NUMBER", "CODEBUILD_BUILD_ID", "DRONE",
)  # fmt: skip
TEST_MODE = "LIFEBEAT_TEST_MODE"
DEPTH = 3  # lifebeat: {telemetry: {enabled: false}}


@dataclass(slots=True)
class Layer:
    """What one place says.

    Attributes:
        label: The place, as a person would find it.
        values: What is written, by the key's name in files. Foreign keys are left alone.
        labels: A closer label for single keys, such as the variable that is set.
        problems: Why (a part of) the layer cannot be read.
        warnings: What is strange, and counts all the same.
        where: The places of keys in a file, as problems that have no message yet.
        state: What state the file is in; ``None`` for what is no file.
    """

    label: str
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    problems: list[Problem] = field(default_factory=list[Problem])
    warnings: list[Problem] = field(default_factory=list[Problem])
    where: dict[str, Problem] = field(default_factory=dict[str, Problem])
    state: FileState | None = None

    def problem(self, name: str, message: str) -> Problem:
        """Return a problem with the key ``name`` of this layer."""
        place = self.where.get(name)
        if place is None:
            return Problem(self.labels.get(name, self.label), message)
        return Problem(place.source, message, place.line, place.column, place.text)

    def take_near_miss(self, name: str, value: Any, *, label: str, right: str, problem: Problem) -> None:
        """Hear a key that is not ours, and may be meant as one: off counts, all else is only said.

        Args:
            name: The key, with its section before it.
            value: What is written for it.
            label: Where an off stands, as a person would find it.
            right: The switch in this layer's spelling, as it says off.
            problem: The place.
        """
        if not switch.is_worth_a_look(name):
            return
        near = switch.meant(name)
        if switch.says_off(name, value):
            self.values[ENABLED], self.labels[ENABLED] = False, label
            self.where.pop(ENABLED, None)
            message = f"{name!r} is not a setting; it counts as off (did you mean {right!r}?)"
        elif near is not None and not isinstance(value, (list, dict)):
            message = f"{name!r} is not a setting, and says nothing (did you mean {near!r}?)"
        else:
            return
        self.warnings.append(Problem(problem.source, message, problem.line, problem.column))


def packaged() -> Layer:
    """Return the defaults that Lifebeat ships."""
    return Layer("default", {key.name: key.default for key in KEYS if key.default is not None})


def from_arguments(values: Mapping[str, Any], *, label: str = "host argument") -> Layer:
    """Return what the embedding application or the command line says; ``None`` or a blank text says nothing."""
    layer = Layer(label)
    for name, value in values.items():
        if value is None or _is_blank(name, value):
            continue
        if name in BY_NAME:
            if layer.values.get(name) is not False:  # an off that was meant
                layer.values[name] = value
        else:
            layer.take_near_miss(name, value, label=label, right=f"{ENABLED}: false", problem=Problem(label, ""))
    return layer


def from_environment(environ: Mapping[str, str]) -> list[Layer]:
    """Return the spelling of files, then ``TELEMETRY_API_KEY`` and the like above it, then what is near to them.

    An empty variable says nothing.
    """
    near = Layer("environment")
    known = {spelled for key in KEYS for spelled in (key.name, key.variable)} | {"DO_NOT_TRACK"}
    for name, value in environ.items():
        if name not in known and value.strip():
            source = f"environment ({name})"
            near.take_near_miss(name, value, label=source, right="TELEMETRY_ENABLED=false", problem=Problem(source, ""))
    return [_spelled(environ, lambda key: key.name), _spelled(environ, lambda key: key.variable), near]


def _spelled(environ: Mapping[str, str], spelling: Callable[[Key], str]) -> Layer:
    found = {key.name: (spelling(key), environ.get(spelling(key), "").strip()) for key in KEYS}
    values = {name: value for name, (_, value) in found.items() if value}
    return Layer("environment", values, {name: f"environment ({found[name][0]})" for name in values})


def _is_blank(name: str, value: Any) -> bool:
    """Return whether a key is there with nothing behind it, as in a file to fill in; a switch like that is off."""
    return isinstance(value, str) and not value.strip() and name != ENABLED


# -- files -----------------------------------------------------------------------------------------------------------


def from_file(path: Path) -> Layer:
    """Return a config file or an overlay; an empty layer where there is no file."""
    layer = Layer(safe_file.printable(path), state="missing")
    try:
        data = safe_file.read(path, limit=text.limit(path))
    except CannotRead as error:
        layer.state = "unreadable"
        layer.problems.append(Problem(layer.label, f"cannot be read: {error.reason}"))
        return layer
    if data is None:
        if path.is_symlink():
            layer.state = "unreadable"
            layer.problems.append(Problem(layer.label, "is a link to a file that does not exist; fix or remove it"))
        return layer
    document = text.parse(layer.label, data, depth=DEPTH, is_private=True)
    layer.state = _state(document)
    layer.problems += document.problems
    if isinstance(document.root, MappingNode):
        _read_members(layer, document.root)
    elif document.root is not None and not document.root.is_null:
        layer.problems.append(document.problem("holds no mapping; expected keys with values", document.root))
    is_broken = bool(document.problems) or not isinstance(document.root, MappingNode)
    if is_broken and ENABLED not in layer.values and switch.text_says_off(document.text):
        layer.values[ENABLED] = False
    return layer


def _state(document: Document) -> FileState:
    """Return whether a file is whole, as far as can be seen: an editor may be in the middle of it."""
    if not document.text.strip():
        return "empty"
    is_closed = isinstance(document.root, MappingNode) and document.root.has_braces
    is_whole = is_closed or document.text.endswith(("\n", "\r"))
    return "complete" if is_whole and not document.problems else "unfinished"


def _read_members(layer: Layer, root: MappingNode) -> None:
    document, first = root.document, dict[str, Scalar]()
    for key, value in root.members:
        if not isinstance(key, Scalar):
            continue
        if key.text in BY_NAME:
            if key.text in first:
                line = first[key.text].line
                place = _place(key, value, key.text)
                layer.problems.append(_said(place, f"duplicate key {key.text!r} (first on line {line}); remove one"))
            first[key.text] = key
            _take(layer, key, value)
        elif key.text == "<<" and key.plain:
            layer.problems.append(document.problem("merge keys (<<) are not followed here; write out our keys", key))
        else:
            for name, at, inside in flattened(key.text, key, value):
                place = document.problem("", at)
                label = f"{layer.label}:{place.line} ({name})"
                layer.take_near_miss(name, written(inside), label=label, right=f"{ENABLED}: false", problem=place)


def _take(layer: Layer, key: Scalar, value: Node) -> None:
    """Take in a key; of two of a name the last one counts, but where the first one says off."""
    name, said = key.text, written(value)
    place = _place(key, value, name)
    if value.tag is not None:
        layer.problems.append(_said(place, f"{name}: the tag {value.tag!r} is not used here; write the value alone"))
    if name in layer.values and BY_NAME[name].kind is BOOLEAN and is_off(layer.values[name]):
        return
    layer.values.pop(name, None)
    layer.where[name] = place
    if name == ENABLED or not (said is None or _is_blank(name, said)):
        layer.values[name] = said


def flattened(name: str, key: Scalar, value: Node) -> Iterator[tuple[str, Scalar, Node]]:
    """Yield a foreign key with its value; of a section that may hold settings of ours each key in it, by one name."""
    if isinstance(value, MappingNode) and switch.is_section(name):
        for inner, inside in value.members:
            if isinstance(inner, Scalar):
                yield from flattened(switch.in_section(name, inner.text), inner, inside)
    else:
        yield name, key, value


def written(node: Node) -> Any:
    """Return a text, a boolean or ``None``; of a list or a mapping an empty one. Numbers stay as they are spelled."""
    if isinstance(node, Scalar):
        word = node.text.lower() if node.plain else ""
        return None if node.is_null else word == "true" if word in {"true", "false"} else node.text
    return {} if isinstance(node, MappingNode) or (isinstance(node, Opaque) and node.is_mapping) else []


def _place(key: Scalar, value: Node, name: str) -> Problem:
    """Return the place of a key, with its line where nothing else is on it and it holds no secret."""
    document = key.document
    place = document.problem("", key)
    line = document.line(place.line or 1)
    begin = key.start - (place.column or 1) + 1
    others = line[: key.start - begin] + line[max(value.end, key.end) - begin :]
    is_alone = not others.strip(" \t,:") and not BY_NAME[name].secret and "@" not in line
    return Problem(place.source, "", place.line, place.column, line if is_alone else None)


def _said(place: Problem, message: str) -> Problem:
    return Problem(place.source, message, place.line, place.column, place.text)


# -- consent ---------------------------------------------------------------------------------------------------------


def refusals(environ: Mapping[str, str], modules: Mapping[str, Any]) -> list[Layer]:
    """Return the layers that can only say off: ``DO_NOT_TRACK``, a CI environment, a test run."""
    layers: list[Layer] = []
    if _is_set(environ.get("DO_NOT_TRACK", "")):
        layers.append(_refusal("environment (DO_NOT_TRACK)"))
    layers += [_refusal(f"CI environment ({name})") for name in CI_VARIABLES if _is_set(environ.get(name, ""))][:1]
    if "PYTEST_CURRENT_TEST" in environ or "PYTEST_VERSION" in environ or "_pytest" in modules:
        layers.append(_refusal("test run (pytest)"))
    return layers


def _refusal(label: str) -> Layer:
    return Layer(label, {ENABLED: False})


def _is_set(value: str) -> bool:
    return unquoted(value.strip()).lower() not in {"", "0", "false"}


def merge(layers: list[Layer]) -> Settings:
    """Return the settings of layers, lowest first; a higher one wins, but for ``telemetryEnabled`` off wins."""
    values: dict[str, Any] = {key.name: None for key in KEYS}
    found: dict[str, tuple[LayerValue, ...]] = {key.name: () for key in KEYS}
    sources: dict[str, str] = dict.fromkeys(values, "default")
    problems, warnings = list[Problem](), list[Problem]()
    for layer in layers:
        problems += layer.problems
        warnings += layer.warnings
        for name in BY_NAME.keys() & layer.values.keys():
            one = _parse_value(layer, name, problems, warnings)
            found[name] = (*found[name], one)
            if one.value is not None and not (name == ENABLED and values[name] is False):
                values[name], sources[name] = one.value, one.layer
    opted_out = values[ENABLED] is False
    return Settings(
        **{BY_NAME[name].attribute: value for name, value in values.items() if name != ENABLED},
        enabled=not opted_out and not problems,
        layer_values=found,
        sources=sources,
        problems=tuple(problems),
        warnings=tuple(warnings),
        opted_out=opted_out,
        files={layer.label: layer.state for layer in layers if layer.state is not None},
    )


def _parse_value(layer: Layer, name: str, problems: list[Problem], warnings: list[Problem]) -> LayerValue:
    key, label, written = BY_NAME[name], layer.labels.get(name, layer.label), layer.values[name]
    bare = unquoted(written) if isinstance(written, str) else written
    if bare != written:
        message = f"{name}: the quotes around the value are taken off (docker --env-file keeps them); write it without"
        warnings.append(layer.problem(name, message))
    try:
        value = key.kind.parse(bare)
    except ValueError as error:
        problems.append(layer.problem(name, f"{name}: {key.shown(written)} {error}"))
        # A switch that cannot be read counts as off: no one writes it to be counted as on.
        return LayerValue(label, False if name == ENABLED else None, written)
    if (doubt := key.kind.doubt(value)) is not None:
        warnings.append(layer.problem(name, f"{name}: {key.shown(written)} {doubt}"))
    return LayerValue(label, value, written)


def unquoted(value: str) -> str:
    """Return a text without the quotes around the whole of it."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted else value

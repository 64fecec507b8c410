"""The layers of config, read and merged: defaults, host, files, overlay, environment, command line, and consent.

Consent is a merge rule. ``DO_NOT_TRACK``, a CI environment and a test run are layers that can only say
``telemetryEnabled: false``, and for that key off at any layer wins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lifebeat.errors import Problem
from lifebeat.settings import configtext
from lifebeat.settings.table import BOOLEAN, BY_NAME, KEYS, LayerValue, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lifebeat.settings.table import Key

ENABLED = "telemetryEnabled"
JOB_FILE = "jobs.yaml"
CONFIG_FILES = ("config.json", "config.yaml", "config.yml")
CI_VARIABLES = (
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TF_BUILD", "TEAMCITY_VERSION", "JENKINS_URL",
    "TRAVIS", "BITBUCKET_BUILD_NUMBER", "CODEBUILD_BUILD_ID", "DRONE",
)  # fmt: skip
TEST_MODE = "LIFEBEAT_TEST_MODE"


@dataclass(frozen=True, slots=True)
class Layer:
    """What one place says.

    Attributes:
        label: The place, as a person would find it.
        values: What was written, by the key's name in files. Foreign keys are left alone.
        labels: A closer label for single keys, such as the variable that was set.
        problems: Why (a part of) the layer cannot be read.
        where: The places of keys in a file: line, column, and the line's text where it may be shown.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    problems: tuple[Problem, ...] = ()
    where: Mapping[str, tuple[int, int, str | None]] = field(default_factory=dict[str, tuple[int, int, str | None]])

    def problem(self, name: str, message: str) -> Problem:
        """A problem with the key ``name`` of this layer."""
        if name in self.where:
            line, column, text = self.where[name]
            return Problem(self.label, message, line, column, text)
        return Problem(self.labels.get(name, self.label), message)


def packaged() -> Layer:
    """The defaults that Lifebeat ships."""
    return Layer("default", {key.name: key.default for key in KEYS if key.default is not None})


def from_arguments(values: Mapping[str, Any], *, label: str = "host argument") -> Layer:
    """What the embedding application or the command line says; ``None`` or a blank text says nothing."""
    return Layer(label, {name: value for name, value in values.items() if not _is_unsaid(name, value)})


def from_environment(environ: Mapping[str, str]) -> list[Layer]:
    """The spelling of files, then ``TELEMETRY_API_KEY`` and the like above it. An empty variable says nothing."""
    return [_spelled(environ, lambda key: key.name), _spelled(environ, lambda key: key.variable)]


def _spelled(environ: Mapping[str, str], spelling: Callable[[Key], str]) -> Layer:
    written = {key.name: (spelling(key), environ.get(spelling(key), "").strip()) for key in KEYS}
    values = {name: value for name, (_, value) in written.items() if value}
    return Layer("environment", values, {name: f"environment ({written[name][0]})" for name in values})


def from_file(path: Path) -> Layer:
    """A config file or an overlay; an empty layer where there is no file."""
    found = configtext.read(path)
    values = {name: entry.value for name, entry in found.entries.items() if not _is_blank(name, entry.value)}
    where = {name: (entry.line, entry.column, entry.text) for name, entry in found.entries.items()}
    return Layer(found.source, values, problems=tuple(found.problems), where=where)


def _is_unsaid(name: str, value: Any) -> bool:
    return value is None or _is_blank(name, value)


def _is_blank(name: str, value: Any) -> bool:
    """Whether a key is there with nothing behind it, as in a file to fill in; a switch like that counts as off."""
    return isinstance(value, str) and not value.strip() and BY_NAME[name].kind is not BOOLEAN


def refusals(environ: Mapping[str, str], modules: Mapping[str, Any]) -> list[Layer]:
    """The layers that can only say off: ``DO_NOT_TRACK``, a CI environment, a test run."""
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
    return value.strip().lower() not in {"", "0", "false"}


def merge(layers: list[Layer]) -> Settings:
    """Merge layers, lowest first; a higher one wins, but for ``telemetryEnabled`` off wins."""
    values: dict[str, Any] = {key.name: None for key in KEYS}
    found: dict[str, tuple[LayerValue, ...]] = {key.name: () for key in KEYS}
    sources: dict[str, str] = dict.fromkeys(values, "default")
    problems = [problem for layer in layers for problem in layer.problems]
    for layer in layers:
        for name in BY_NAME:
            if layer.values.get(name) is not None:
                one, problem = _parse_value(layer, name)
                found[name] = (*found[name], one)
                problems += [problem] if problem else []
                if one.value is not None and not (name == ENABLED and values[name] is False):
                    values[name], sources[name] = one.value, one.layer
    opted_out = values[ENABLED] is False
    return Settings(
        **{BY_NAME[name].attribute: value for name, value in values.items() if name != ENABLED},
        enabled=not opted_out and not problems,
        layer_values=found,
        sources=sources,
        problems=tuple(problems),
        opted_out=opted_out,
    )


def _parse_value(layer: Layer, name: str) -> tuple[LayerValue, Problem | None]:
    written = layer.values[name]
    label = layer.labels.get(name, layer.label)
    try:
        return LayerValue(label, BY_NAME[name].kind.parse(written), written), None
    except ValueError as error:
        shown = "the value" if BY_NAME[name].secret else repr(written)
        problem = layer.problem(name, f"{name}: {shown} {error}")
        # A switch that cannot be read counts as off: nobody writes it to be counted as on.
        return LayerValue(label, False if name == ENABLED else None, written), problem

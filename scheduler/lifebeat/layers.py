"""The layers of config, read and merged: defaults, host, files, overlay, environment, command line, and consent.

Consent is a merge rule. ``DO_NOT_TRACK``, a CI environment and a test run are layers that can only say
``telemetryEnabled: false``, and for that key off at any layer wins.
"""

from __future__ import annotations

import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat import document
from lifebeat.errors import ConfigError, Problem
from lifebeat.settings import BY_NAME, FALSE, KEYS, Said, Settings, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        where: The lines of keys in a file.
    """

    label: str
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    problems: tuple[Problem, ...] = ()
    where: Mapping[str, tuple[int, int, str]] = field(default_factory=dict[str, tuple[int, int, str]])

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
    """What the embedding application or the command line says; ``None`` leaves a key to the other layers."""
    return Layer(label, {name: value for name, value in values.items() if value is not None})


def from_environment(environ: Mapping[str, str]) -> Layer:
    """``TELEMETRY_API_KEY`` and the like; the spelling of files is heard too. An empty variable says nothing."""
    values: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for key in KEYS:
        for variable in (key.name, key.variable):
            written = environ.get(variable, "").strip()
            if written and not (key.name == ENABLED and _is_off(values.get(ENABLED))):
                values[key.name] = written
                labels[key.name] = f"environment ({variable})"
    return Layer("environment", values, labels)


def from_file(path: Path) -> Layer:
    """A config file or an overlay; an empty layer where there is no file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Layer(str(path))
    except OSError as error:
        return Layer(str(path), problems=(Problem(str(path), f"cannot be read: {error.strerror}"),))
    if not data.strip():
        return Layer(str(path))
    return _from_json(path, data) if path.suffix == ".json" else _from_yaml(path, data)


def _from_json(path: Path, data: bytes) -> Layer:
    label = str(path)
    repeated: list[str] = []
    text = ""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated[:] = [name for name in BY_NAME if names.count(name) > 1] if len(set(names)) < len(names) else []
        return dict(pairs)

    try:
        text = data.decode("utf-8-sig")
        values: Any = json.loads(text, object_pairs_hook=members)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return Layer(label, problems=(Problem(label, "is not UTF-8; save the file in UTF-8", line, 1),))
    except json.JSONDecodeError as error:
        line_text = (text.splitlines() or [""])[min(error.lineno, len(text.splitlines())) - 1]
        problem = Problem(label, f"is not JSON: {error.msg}", error.lineno, error.colno, line_text)
        return Layer(label, problems=(problem,))
    except (RecursionError, ValueError) as error:
        return Layer(label, problems=(Problem(label, f"cannot be read as JSON: {error}", 1, 1),))
    if not isinstance(values, dict):
        return Layer(label, problems=(Problem(label, "holds no object; it takes {...} with settings in it", 1, 1),))
    ours: dict[str, Any] = {name: values[name] for name in BY_NAME if name in values}
    layer = Layer(label, ours, where=_places_in_json(text, ours))
    doubled = tuple(layer.problem(name, f"{name!r} stands here twice; remove one of them") for name in repeated)
    return Layer(label, ours, problems=doubled, where=layer.where)


def _places_in_json(text: str, values: Mapping[str, Any]) -> dict[str, tuple[int, int, str]]:
    where: dict[str, tuple[int, int, str]] = {}
    for name in values:
        at = text.find(f'"{name}"') if name in BY_NAME else -1
        if at >= 0:
            line = text.count("\n", 0, at) + 1
            where[name] = (line, at - (text.rfind("\n", 0, at) + 1) + 1, text.splitlines()[line - 1])
    return where


def _from_yaml(path: Path, data: bytes) -> Layer:
    label = str(path)
    try:
        reader = document.Reader(label, data)
        root = reader.read()
    except ConfigError as error:
        return Layer(label, problems=error.problems)
    if root is None:
        return Layer(label)
    if not isinstance(root, document.Mapping):
        return Layer(label, problems=(reader.problem("holds no mapping; it takes lines of `key: value`", 1, 1),))
    ours = {name: node for name, node in root.items.items() if name in BY_NAME}
    values = {name: _written(node) for name, node in ours.items()}
    lines = reader.text.splitlines()
    where = {name: (node.line, node.column, lines[node.line - 1]) for name, node in ours.items()}
    return Layer(label, values, where=where)


def _written(node: document.Node) -> Any:
    if isinstance(node, document.Scalar):
        return None if node.plain and node.text.lower() in {"", "~", "null"} else node.text
    return [] if isinstance(node, document.Sequence) else {}


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


def _is_off(value: Any) -> bool:
    return str(value).strip().lower() in FALSE


def merge(layers: list[Layer]) -> Settings:
    """Merge layers, lowest first; a higher one wins, but for ``telemetryEnabled`` off wins."""
    values: dict[str, Any] = {key.name: None for key in KEYS}
    said: dict[str, tuple[Said, ...]] = {key.name: () for key in KEYS}
    decided: dict[str, str] = dict.fromkeys(values, "default")
    problems = [problem for layer in layers for problem in layer.problems]
    for layer in layers:
        for name in BY_NAME:
            if layer.values.get(name) is not None:
                one, problem = _hear(layer, name)
                said[name] = (*said[name], one)
                problems += [problem] if problem else []
                if one.value is not None and not (name == ENABLED and values[name] is False):
                    values[name], decided[name] = one.value, one.layer
    opted_out = values[ENABLED] is False
    return Settings(
        **{BY_NAME[name].attribute: value for name, value in values.items() if name != ENABLED},
        enabled=not opted_out and not problems,
        said=said,
        decided_by=decided,
        problems=tuple(problems),
        opted_out=opted_out,
    )


def _hear(layer: Layer, name: str) -> tuple[Said, Problem | None]:
    written = layer.values[name]
    label = layer.labels.get(name, layer.label)
    try:
        return Said(label, BY_NAME[name].kind.parse(written), written), None
    except ValueError as error:
        shown = "the value" if BY_NAME[name].secret else repr(written)
        problem = layer.problem(name, f"{name}: {shown} {error}")
        # A switch that cannot be read counts as off: nobody writes it to be counted as on.
        return Said(label, False if name == ENABLED else None, written), problem


def config_dir(argument: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """The config directory: the argument, else ``LIFEBEAT_CONFIG_DIR``, else systemd's, else ``./config``."""
    if argument is not None:
        return Path(argument)
    if environ.get("LIFEBEAT_CONFIG_DIR"):
        return Path(environ["LIFEBEAT_CONFIG_DIR"])
    return Path(environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0] or "config")


class ConfigSource:
    """Where the settings come from; ``read`` gives them as they are at that moment.

    Args:
        config_dir: The config directory; it need not exist.
        arguments: What the host application says, by the key's name in files.
        command_line: What the command line says, likewise.
        environ: The environment; it is read at each ``read``.
        modules: The loaded modules, in which a test run shows.
        deployment: The overlay's name; ``None`` leaves it to ``LIFEBEAT_DEPLOYMENT``.
    """

    def __init__(
        self,
        config_dir: Path,
        *,
        arguments: Mapping[str, Any] | None = None,
        command_line: Mapping[str, Any] | None = None,
        environ: Mapping[str, str],
        modules: Mapping[str, Any],
        deployment: str | None = None,
    ) -> None:
        self.config_dir = config_dir
        self.environ = environ
        self._arguments = dict(arguments or {})
        self._command_line = dict(command_line or {})
        self._modules = modules
        self._deployment = deployment
        self._read_files: dict[Path, tuple[object, Layer]] = {}

    @property
    def deployment(self) -> str | None:
        """The name of the overlay in use; ``None`` for none."""
        return self._deployment or self.environ.get("LIFEBEAT_DEPLOYMENT") or None

    @property
    def overlay(self) -> Path | None:
        """The overlay's file; ``None`` where no deployment is named."""
        return self.config_dir / "deployments" / f"{self.deployment}.yaml" if self.deployment else None

    @property
    def job_file(self) -> Path:
        """The config directory's own job file; it need not exist."""
        return self.config_dir / JOB_FILE

    def files(self) -> list[Path]:
        """The files that settings are read from, lowest first; they need not exist."""
        found = [self.config_dir / name for name in CONFIG_FILES]
        return [*found, self.overlay] if self.overlay else found

    def layers(self) -> list[Layer]:
        """Every layer as it is now, lowest first."""
        layers = [
            packaged(),
            from_arguments(self._arguments),
            *(self._file(path) for path in self.files()),
            from_environment(self.environ),
            from_arguments(self._command_line, label="command line"),
        ]
        if self.overlay and (problem := self._no_overlay(self.overlay)):
            layers.append(Layer(str(self.overlay), problems=(problem,)))
        return layers + self._refusals(layers)

    def read(self) -> Settings:
        """The merged settings as they are now."""
        return merge(self.layers())

    def _file(self, path: Path) -> Layer:
        seen = fingerprint(path)
        known = self._read_files.get(path)
        if known is None or known[0] != seen:
            self._read_files[path] = known = (seen, from_file(path))
        return known[1]

    def _no_overlay(self, path: Path) -> Problem | None:
        name = self.deployment or ""
        if os.sep in name or name.startswith("."):
            return Problem("LIFEBEAT_DEPLOYMENT", f"{name!r} is not a name; it takes one such as production")
        if path.exists():
            return None
        there = sorted(file.stem for file in path.parent.glob("*.yaml"))
        near = difflib.get_close_matches(name, there, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there) or 'none'}"
        return Problem(str(path), f"there is no overlay for the deployment {name!r} ({hint})")

    def _refusals(self, layers: list[Layer]) -> list[Layer]:
        found = refusals(self.environ, self._modules)
        if self.environ.get(TEST_MODE) == "loopback" and is_loopback(merge(layers).host):
            return [layer for layer in found if "DO_NOT_TRACK" in layer.label]
        return found


def fingerprint(path: Path) -> object:
    """What changes when a file is edited, replaced, or swapped behind a link; ``None`` where there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev)

"""The layers of config, read and merged: defaults, host, files, overlay, environment, command line, and consent.

Consent is a merge rule. ``DO_NOT_TRACK``, a CI environment and a test run are layers that can only say
``telemetryEnabled: false``, and for that key off at any layer wins.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat.errors import Problem
from lifebeat.settings import configtext
from lifebeat.settings.table import BOOLEAN, BY_NAME, KEYS, Said, Settings, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lifebeat.settings.table import Key

ENABLED = "telemetryEnabled"
JOB_FILE = "jobs.yaml"
CONFIG_FILES = ("config.json", "config.yaml", "config.yml")
CI_VARIABLES = (
    "CI", "GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", "TF_BUILD", "TEAMCITY_VERSION", "JENKINS_URL",
    "TRAVIS", "BITBUCKET_BUILD_NUMBER", "CODEBUILD_BUILD_ID", "DRONE",
)  # fmt: skip
TEST_MODE = "LIFEBEAT_TEST_MODE"
SMALL = 64 * 1024


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
    return Path(next(filter(None, environ.get("CONFIGURATION_DIRECTORY", "").split(":")), "config"))


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
        self._agreed: dict[str, Any] = {}

    def agree(self, values: Mapping[str, Any]) -> None:
        """What the processes of the installation have agreed on, where no other layer says anything."""
        self._agreed = dict(values)

    @property
    def deployment(self) -> str | None:
        """The name of the overlay in use; ``None`` for none."""
        return self._deployment or self.environ.get("LIFEBEAT_DEPLOYMENT") or None

    @property
    def overlay(self) -> Path | None:
        """The overlay's file; ``None`` where no deployment is named, or by what cannot be a name."""
        name = self.deployment
        return self.config_dir / "deployments" / f"{name}.yaml" if name and _is_name(name) else None

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
            *([from_arguments(self._agreed, label="agreed on in the database")] if self._agreed else []),
            from_arguments(self._arguments),
            *self._written(),
            *from_environment(self.environ),
            from_arguments(self._command_line, label="command line"),
        ]
        return layers + self._refusals(layers)

    def read(self) -> Settings:
        """The merged settings as they are now."""
        return merge(self.layers())

    def _written(self) -> list[Layer]:
        if problem := self._no_directory():
            return [Layer(problem.source, problems=(problem,))]
        overlay = self._no_overlay()
        files = [self._file(path) for path in self.files()]
        return [*files, Layer(overlay.source, problems=(overlay,))] if overlay else files

    def _file(self, path: Path) -> Layer:
        seen = fingerprint(path)
        known = self._read_files.get(path)
        if known is None or known[0] != seen:
            self._read_files[path] = known = (seen, from_file(path))
        return known[1]

    def _no_directory(self) -> Problem | None:
        """What is wrong with the directory, said once and not of each file."""
        try:
            os.stat(f"{self.config_dir}/.")  # noqa: PTH116 - a path would drop the dot, and with it the question
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return Problem(str(self.config_dir), "is not a directory; name the config directory, not a file in it")
        except (OSError, ValueError) as error:
            return Problem(str(self.config_dir), f"cannot be read: {getattr(error, 'strerror', None) or error}")
        return None

    def _no_overlay(self) -> Problem | None:
        name, path = self.deployment, self.overlay
        if name and not path:
            source = "command line (--deployment)" if self._deployment else "environment (LIFEBEAT_DEPLOYMENT)"
            return Problem(source, f"{name!r} is not the name of a deployment; it takes one such as production")
        if not path or fingerprint(path) != errno.ENOENT or path.is_symlink():
            return None
        return Problem(str(path), f"there is no overlay for the deployment {name!r} ({_nearest(path)})")

    def _refusals(self, layers: list[Layer]) -> list[Layer]:
        found = refusals(self.environ, self._modules)
        if self.environ.get(TEST_MODE) == "loopback" and is_loopback(merge(layers).host):
            return [layer for layer in found if "DO_NOT_TRACK" in layer.label]
        return found


def _is_name(name: str) -> bool:
    return name.isprintable() and not name.startswith(".") and not set(name) & set("/\\") and len(name.encode()) <= 100  # noqa: PLR2004


def _nearest(overlay: Path) -> str:
    import difflib

    there = sorted(file.stem for file in overlay.parent.glob("*.yaml"))
    near = difflib.get_close_matches(overlay.stem, there, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there) or 'none'}"


def fingerprint(path: Path) -> object:
    """What changes when a file is edited, replaced, or swapped behind a link, or can be read no more or again.

    Of a small file its content: the clocks of file systems tick in steps of milliseconds, some of seconds, and two
    edits within one step may be of one size.
    """
    try:
        about = path.stat()
        if stat.S_ISREG(about.st_mode) and about.st_size <= SMALL:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        return getattr(error, "errno", None)
    return (about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino, about.st_dev)

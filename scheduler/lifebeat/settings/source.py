"""Where the settings come from: the config directory, its files, the environment; the settings as they are now."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifebeat.errors import Problem
from lifebeat.settings.layers import (
    CONFIG_FILES,
    JOB_FILE,
    TEST_MODE,
    Layer,
    from_arguments,
    from_environment,
    from_file,
    merge,
    packaged,
    refusals,
    unquoted,
)
from lifebeat.settings.table import is_loopback
from lifebeat.storage.safe_file import fingerprint, printable
from lifebeat.text.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lifebeat.settings.table import Settings


def variable(environ: Mapping[str, str], name: str) -> str:
    """Return a variable of the environment without blanks and quotes around it, which ``docker --env-file`` keeps."""
    return unquoted(environ.get(name, "").strip())


def config_dir(argument: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path:
    """Return the config directory: the argument, else ``LIFEBEAT_CONFIG_DIR``, else systemd's, else ``./config``."""
    systemd = environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0]
    path = Path(variable(environ, "LIFEBEAT_CONFIG_DIR") or systemd or "config" if argument is None else argument)
    try:
        return path.expanduser()
    except RuntimeError:  # nobody's home is known
        return path


class ConfigSource:
    """Where the settings come from; ``read`` gives them as they are at that moment.

    Args:
        config_dir: The config directory; it need not exist.
        arguments: What the host application says, by the key's name in files.
        arguments_label: Whose arguments these are.
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
        arguments_label: str = "host argument",
        command_line: Mapping[str, Any] | None = None,
        environ: Mapping[str, str],
        modules: Mapping[str, Any],
        deployment: str | None = None,
    ) -> None:
        self.config_dir = config_dir
        self.environ = environ
        self.arguments = dict(arguments or {})
        self.arguments_label = arguments_label
        # Gives the layer of an opt-out that was seen before, by the settings without it (``lifebeat.consent``).
        self.earlier_opt_out: Callable[[Settings], Layer | None] | None = None
        self._command_line = dict(command_line or {})
        self._modules = modules
        self._deployment = deployment
        self._read_files: dict[Path, tuple[object, Layer]] = {}
        self.agreed: dict[str, Any] = {}

    def agree(self, values: Mapping[str, Any]) -> None:
        """Take what the processes of the installation have agreed on, where no other layer says anything."""
        self.agreed = dict(values)

    @property
    def deployment(self) -> str | None:
        """Return the name of the overlay in use; ``None`` for none."""
        return self._deployment or variable(self.environ, "LIFEBEAT_DEPLOYMENT") or None

    @property
    def overlay(self) -> Path | None:
        """Return the overlay's file; ``None`` where no deployment is named, or by what cannot be a name."""
        name = self.deployment
        return self.config_dir / "deployments" / f"{name}.yaml" if name and _is_name(name) else None

    @property
    def job_file(self) -> Path:
        """Return the config directory's own job file; it need not exist."""
        return self.config_dir / JOB_FILE

    def files(self) -> list[Path]:
        """Return the files that settings are read from, lowest first; they need not exist."""
        found = [self.config_dir / name for name in CONFIG_FILES]
        return [*found, self.overlay] if self.overlay else found

    def layers(self) -> list[Layer]:
        """Return every layer as it is now, lowest first."""
        layers = [
            packaged(),
            *([from_arguments(self.agreed, label="agreed on in the database")] if self.agreed else []),
            from_arguments(self.arguments, label=self.arguments_label),
            *self._written(),
            *from_environment(self.environ),
            from_arguments(self._command_line, label="command line"),
        ]
        layers += self._refusals(layers)
        earlier = self.earlier_opt_out(merge(layers)) if self.earlier_opt_out else None
        return [*layers, earlier] if earlier else layers

    def each_deployment(self) -> list[ConfigSource]:
        """Return this source without an overlay and with each that there is; only itself where one is named."""
        if self.deployment:
            return [self]
        others = [copy.copy(self) for _ in deployments(self.config_dir)]
        for other, name in zip(others, deployments(self.config_dir), strict=False):
            other._deployment = name  # noqa: SLF001 - a copy of its own
        return [self, *others]

    def read(self) -> Settings:
        """Return the merged settings as they are now."""
        return merge(self.layers())

    def _written(self) -> list[Layer]:
        if problem := self._no_directory():
            return [Layer(problem.source, problems=[problem])]
        overlay = self._no_overlay()
        files = [self._file(path) for path in self.files()]
        return [*files, Layer(overlay.source, problems=[overlay])] if overlay else files

    def _file(self, path: Path) -> Layer:
        seen = fingerprint(path)
        known = self._read_files.get(path)
        if known is None or known[0] != seen:
            layer = from_file(path)
            if known is not None and layer.state in {"missing", "empty"}:
                layer = known[1]  # while a process runs, what vanishes or is empty is no edit
            self._read_files[path] = known = (seen, layer)
        return known[1]

    def _no_directory(self) -> Problem | None:
        """Return what is wrong with the directory, once and not for each file."""
        try:
            if not self.config_dir.is_absolute():
                os.getcwd()  # noqa: PTH109 - only whether there is one
        except OSError:
            return Problem(printable(self.config_dir), "cannot be found: the working directory is gone; name it whole")
        try:
            os.stat(f"{self.config_dir}/.")  # noqa: PTH116 - a path would drop the dot, and with it the question
        except FileNotFoundError:
            if not self.config_dir.is_symlink() or self._read_files:  # while a process runs, what vanishes is no edit
                return None
            message = "is a link to a directory that does not exist; fix or remove it"
            return Problem(printable(self.config_dir), message)
        except NotADirectoryError:
            return Problem(
                printable(self.config_dir), "is not a directory; name the config directory, not a file in it"
            )
        except (OSError, ValueError) as error:
            return Problem(printable(self.config_dir), f"cannot be read: {getattr(error, 'strerror', 'it is no path')}")
        return None

    def _no_overlay(self) -> Problem | None:
        name, path = self.deployment, self.overlay
        if name and not path:
            source = "command line (--deployment)" if self._deployment else "environment (LIFEBEAT_DEPLOYMENT)"
            return Problem(source, f"{name!r} is not the name of a deployment; expected one such as production")
        if not path or fingerprint(path) is not None or path.is_symlink():
            return None
        there = deployments(self.config_dir)
        near = did_you_mean(path.stem, there) or f" (there are: {', '.join(there) or 'none'})"
        return Problem(printable(path), f"there is no overlay for the deployment {name!r}{near}")

    def _refusals(self, layers: list[Layer]) -> list[Layer]:
        found = refusals(self.environ, self._modules)
        if self.environ.get(TEST_MODE) == "loopback" and is_loopback(merge(layers).host):
            return [layer for layer in found if "DO_NOT_TRACK" in layer.label]
        return found


def _is_name(name: str) -> bool:
    return name.isprintable() and not name.startswith(".") and not set(name) & set("/\\") and len(name.encode()) <= 100  # noqa: PLR2004


def deployments(config_dir: Path) -> list[str]:
    """Return the names of the overlays that there are."""
    try:
        return sorted(file.stem for file in (config_dir / "deployments").glob("*.yaml"))
    except OSError:
        return []

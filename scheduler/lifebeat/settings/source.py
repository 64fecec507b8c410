"""Where the settings come from: the config directory, its files, the environment; the settings as they are now."""

from __future__ import annotations

import errno
import os
import stat
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
)
from lifebeat.settings.table import Settings, is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SMALL = 64 * 1024


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
            from_arguments(self.arguments, label=self.arguments_label),
            *self._written(),
            *from_environment(self.environ),
            from_arguments(self._command_line, label="command line"),
        ]
        layers += self._refusals(layers)
        earlier = self.earlier_opt_out(merge(layers)) if self.earlier_opt_out else None
        return [*layers, earlier] if earlier else layers

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

"""What a kubelet does with a rendered pod, as far as a process can tell: mounts, variables, probes, the stop."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from hosts import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hosts import Installation


# Root without any capability is a user as others are, and can run a Python that is in root's home.
UNPRIVILEGED: tuple[str, ...] = (
    ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs") if os.geteuid() == 0 else ()
)


def mount(data: Mapping[str, str], directory: Path) -> Path:
    """A ConfigMap as a directory that cannot be written: links to files behind one link."""
    directory.mkdir(parents=True)
    for name in data:
        (directory / name).symlink_to(f"..data/{name}")
    bring(directory, data)
    return directory


def bring(mounted: Path, data: Mapping[str, str]) -> None:
    """An edited ConfigMap: the new files are written beside, one rename swaps the link, and the old files go."""
    former = mounted / (mounted / "..data").readlink() if (mounted / "..data").is_symlink() else None
    mounted.chmod(0o755)
    edition = mounted / ("..first" if former is None else f"{former.name}+")
    edition.mkdir()
    for name, text in data.items():
        (edition / name).write_text(text)
        (edition / name).chmod(0o444)  # the volume is read-only
    edition.chmod(0o555)
    (mounted / "..data_tmp").symlink_to(edition.name)
    (mounted / "..data_tmp").replace(mounted / "..data")
    if former is not None:
        former.chmod(0o755)
        shutil.rmtree(former)
    mounted.chmod(0o555)


def variables(container: Mapping[str, Any], mounts: Mapping[str, Path], secrets: Mapping[str, str]) -> dict[str, str]:
    """A container's environment, with each mount at a place of this machine's.

    Args:
        container: The container's specification.
        mounts: Where each volume lies, by its name.
        secrets: What the Secrets hold, by the variable's name.
    """
    places = {each["mountPath"]: str(mounts[each["name"]]) for each in container["volumeMounts"]}
    written: dict[str, str] = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    return {**secrets, **{name: places.get(value, value) for name, value in written.items()}}


class Pod:
    """One replica, as a process.

    Args:
        installation: Where it is started.
        container: The container's specification.
        config: Where its ConfigMap is mounted.
        state: Its state volume; it may be there.
        confined: Whether it runs without capabilities, so that what cannot be written cannot be written.
        data: What the ConfigMap holds.
        secrets: What the Secrets hold, by the variable's name.
    """

    def __init__(
        self,
        installation: Installation,
        container: Mapping[str, Any],
        *,
        config: Path,
        state: Path,
        data: Mapping[str, str],
        secrets: Mapping[str, str],
        confined: bool = True,
    ) -> None:
        state.mkdir(exist_ok=True)
        environ = variables(container, {"config": mount(data, config), "state": state}, secrets)
        self._environ = installation.environ(**environ)
        self._container = container
        self._program = (*(UNPRIVILEGED if confined else ()), sys.executable, "-m", "lifebeat")
        self.process = installation.start(*self._program, *container["args"], **environ)

    def probe(self, name: str) -> bool:
        """Whether a probe of the container succeeds."""
        probe = self._container[name]
        program, *arguments = probe["exec"]["command"]
        assert program == "lifebeat"
        command, patience = [*self._program, *arguments], probe["timeoutSeconds"]
        done = subprocess.run(command, env=self._environ, capture_output=True, check=False, timeout=patience)
        return done.returncode == 0

    def wait_until_started(self) -> None:
        """Wait as long as the startup probe would, at most."""
        probe = self._container["startupProbe"]
        eventually(lambda: self.probe("startupProbe"), probe["failureThreshold"] * probe["periodSeconds"])

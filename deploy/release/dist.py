"""Build a release, of which everybody who builds the same commit gets the same bytes: sdist, wheel, bill, sums.

    python deploy/release/dist.py            # into dist/

It is made of what is committed, whatever else lies around. What a build takes from the machine that it runs on (times,
owners, modes, the order of files) is put to fixed values afterwards. SOURCE_DATE_EPOCH is the time; without it that of
the last commit, and in an sdist, which has no commits, that of the newest release in CHANGELOG.md.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
LOCK = "deploy/container/requirements.lock"
BUILD_LOCK = "deploy/container/build.lock"
# The same for all releases: the bill's number is made from it and the wheel, and so the same for the same wheel.
NAMESPACE = uuid.UUID("5d8a7c86-4f0e-4d7a-9a1c-6d7b0a5f3c21")
EARLIEST = 315532800  # 1980, the first year of zip

Json = dict[str, Any]


class Package(NamedTuple):
    """A package of a lock file.

    Attributes:
        name: Its name, in lower case.
        version: The version that is locked.
        hashes: SHA-256 of each of its files that may be installed.
        needed_by: The names of those that need it.
    """

    name: str
    version: str
    hashes: list[str]
    needed_by: list[str]

    @property
    def url(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def epoch() -> int:
    """The time of the release, in seconds since the Unix epoch."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing from outside
    if done.returncode == 0 and (ROOT / ".git").exists():
        return int(done.stdout)
    days = re.findall(r"^## \[[^]]+\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    return int(datetime.fromisoformat(days[0]).replace(tzinfo=UTC).timestamp()) if days else EARLIEST


def release(moment: int) -> dict[str, bytes]:
    """The sdist, the wheel and the bill, by their file names.

    Raises:
        SystemExit: The build failed; with what it said.
    """
    with tempfile.TemporaryDirectory() as directory:
        source, out = Path(directory, "source"), Path(directory, "out")
        export(source)
        build(source, out, moment)
        [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
        packed = level_zip(wheel.read_bytes(), moment)
        materials = bill(packed, locked(source / LOCK), wheel.name.split("-")[1], moment)
        return {
            sdist.name: level_tar(sdist.read_bytes(), moment),
            wheel.name: packed,
            f"{sdist.name.removesuffix('.tar.gz')}.cdx.json": f"{json.dumps(materials, indent=2)}\n".encode(),
        }


def export(target: Path) -> None:
    """What is committed; where there are no commits, the tree as it is, without what setuptools adds to an sdist."""
    if not (ROOT / ".git").exists():
        made = ("PKG-INFO", "setup.cfg", "*.egg-info", "__pycache__", ".*_cache", ".venv", "dist", "build")
        shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*made))
        return
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", "HEAD"]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - nothing from outside
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")


def build(source: Path, out: Path, moment: int) -> None:
    """Let the build backend make sdist and wheel."""
    constraints = out.with_name("constraints.txt")  # setuptools' version stands in the wheel
    constraints.write_text("".join(f"{one.name}=={one.version}\n" for one in locked(source / BUILD_LOCK)))
    environ = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(moment),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PIP_CONSTRAINT": str(constraints),
    }
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)  # noqa: S603 - ours
    if done.returncode:
        raise SystemExit(f"the build failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def level_tar(data: bytes, moment: int) -> bytes:
    """The same files without a trace of the machine."""
    plain = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda one: one.name):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = moment
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=moment) as file:
        file.write(plain.getvalue())
    return packed.getvalue()


def level_zip(data: bytes, moment: int) -> bytes:
    """The same files without a trace of the machine, the list of them last."""
    packed = io.BytesIO()
    date = time.gmtime(max(moment, EARLIEST))[:6]
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in sorted(old.namelist(), key=lambda one: (one.endswith("/RECORD"), one)):
            about = zipfile.ZipInfo(name, date)
            about.compress_type = zipfile.ZIP_DEFLATED
            about.create_system = 3
            about.external_attr = 0o100644 << 16
            new.writestr(about, old.read(name), compresslevel=9)
    return packed.getvalue()


def bill(wheel: bytes, packages: list[Package], version: str, moment: int) -> Json:
    """What the wheel needs, as CycloneDX: the locked packages with their hashes, and who needs what."""
    digest = hashlib.sha256(wheel).hexdigest()
    ours = Package("lifebeat", version, [digest], [])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(moment, tz=UTC).isoformat().replace("+00:00", "Z"),
            "component": {**_component(ours), "licenses": [{"license": {"id": "MIT"}}]},
        },
        "components": [_component(one) for one in packages],
        "dependencies": [_needs(one, packages) for one in (ours, *packages)],
    }


def locked(path: Path) -> list[Package]:
    """Each package of a lock file, as ``uv pip compile`` writes it."""
    parts = re.split(r"^([A-Za-z0-9_.-]+)==", path.read_text("utf-8"), flags=re.MULTILINE)
    return [_package(name, about) for name, about in zip(parts[1::2], parts[2::2], strict=True)]


def _package(name: str, about: str) -> Package:
    _, _, users = about.partition("# via")
    found = re.findall(r"^[ #]*([A-Za-z0-9][\w.-]*)", users, re.MULTILINE)
    return Package(name.lower(), about.split(maxsplit=1)[0], re.findall(r"sha256:([0-9a-f]{64})", about), found)


def _component(one: Package) -> Json:
    return {
        "type": "library",
        "bom-ref": one.url,
        "name": one.name,
        "version": one.version,
        "purl": one.url,
        # One for each file of that version that may be installed.
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(one.hashes)],
    }


def _needs(one: Package, packages: list[Package]) -> Json:
    return {"ref": one.url, "dependsOn": [other.url for other in packages if one.name in other.needed_by]}


def clear(directory: Path) -> None:
    """Remove the files of a former release; the sums would not fit them, and a publisher would take them along."""
    for pattern in ("lifebeat-*.whl", "lifebeat-*.tar.gz", "lifebeat-*.cdx.json", "SHA256SUMS"):
        for old in directory.glob(pattern):
            if old.is_file():
                old.unlink()


def main() -> int:
    """Write everything, and print the sums."""
    options = argparse.ArgumentParser(description="Build a release, the same bytes for the same commit.")
    options.add_argument("--outdir", type=Path, default=ROOT / "dist", help="where to (default: dist)")
    args = options.parse_args()
    files = release(epoch())
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    args.outdir.mkdir(parents=True, exist_ok=True)
    clear(args.outdir)
    for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
        (args.outdir / name).write_bytes(data)
    print(sums, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

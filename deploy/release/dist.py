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
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "deploy/container/requirements.lock"
BUILD_LOCK = ROOT / "deploy/container/build.lock"
# The same for all releases: the bill's number is made from it and the wheel, and so the same for the same wheel.
NAMESPACE = uuid.UUID("5d8a7c86-4f0e-4d7a-9a1c-6d7b0a5f3c21")
EARLIEST = 315532800  # 1980, the first year of zip

Json = dict[str, Any]


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


def build(moment: int) -> tuple[bytes, bytes, str, str]:
    """The sdist and the wheel, each with its file name.

    Raises:
        SystemExit: The build failed; with what it said.
    """
    with tempfile.TemporaryDirectory() as directory:
        source, out, constraints = (Path(directory, name) for name in ("source", "out", "constraints.txt"))
        export(source)
        # Its version stands in the wheel.
        constraints.write_text("".join(f"{name}=={version}\n" for name, version, _ in locked(BUILD_LOCK)))
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
        [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")
        return level_tar(sdist.read_bytes(), moment), level_zip(wheel.read_bytes(), moment), sdist.name, wheel.name


def export(target: Path) -> None:
    """What is committed; where there are no commits, the tree as it is."""
    if not (ROOT / ".git").exists():
        ignored = shutil.ignore_patterns(".venv", "dist", "build", "*.egg-info", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, target, ignore=ignored)
        return
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", "HEAD"]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603 - nothing from outside
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")


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


def bill(wheel: bytes, name: str, moment: int) -> Json:
    """What the wheel consists of and needs, as CycloneDX: from the lock file, with its hashes."""
    _, version = name.split("-")[:2]
    parts = [_component(*one) for one in locked(LOCK)]
    ours: Json = {
        "type": "library",
        "bom-ref": f"pkg:pypi/lifebeat@{version}",
        "name": "lifebeat",
        "version": version,
        "purl": f"pkg:pypi/lifebeat@{version}",
        "licenses": [{"license": {"id": "MIT"}}],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel).hexdigest()}],
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, hashlib.sha256(wheel).hexdigest())}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(moment, tz=UTC).isoformat().replace("+00:00", "Z"),
            "component": ours,
        },
        "components": parts,
        "dependencies": [{"ref": ours["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def locked(path: Path) -> list[tuple[str, str, list[str]]]:
    """Each package of a lock file: its name, version and hashes."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    found = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)(.*)$", text, re.MULTILINE)
    return [(name.lower(), version, re.findall(r"sha256:([0-9a-f]{64})", rest)) for name, version, rest in found]


def _component(name: str, version: str, hashes: list[str]) -> Json:
    reference = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": name,
        "version": version,
        "purl": reference,
        # One for each file of that version that may be installed.
        "hashes": [{"alg": "SHA-256", "content": one} for one in sorted(hashes)],
    }


def main() -> int:
    """Write everything, and print the sums."""
    options = argparse.ArgumentParser(description="Build a release, the same bytes for the same commit.")
    options.add_argument("--outdir", type=Path, default=ROOT / "dist", help="where to (default: dist)")
    args = options.parse_args()
    moment = epoch()
    sdist, wheel, sdist_name, wheel_name = build(moment)
    told = json.dumps(bill(wheel, wheel_name, moment), indent=2) + "\n"
    bill_name = f"{sdist_name.removesuffix('.tar.gz')}.cdx.json"
    files = {sdist_name: sdist, wheel_name: wheel, bill_name: told.encode()}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()))
    args.outdir.mkdir(parents=True, exist_ok=True)
    for old in args.outdir.iterdir():
        if old.name.startswith("lifebeat-") or old.name == "SHA256SUMS":
            old.unlink()
    for name, data in {**files, "SHA256SUMS": sums.encode()}.items():
        (args.outdir / name).write_bytes(data)
    print(sums, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

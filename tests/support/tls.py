"""A certificate for a server on loopback."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def make_certificate(directory: Path) -> Path:
    """Make a certificate for 127.0.0.1 that no authority has signed, and its key, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    path = directory / "server.pem"
    subject = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*made, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_name("server.pem.crt").read_text())
    return path

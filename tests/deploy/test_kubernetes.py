"""``deploy/kubernetes``: rendered by kustomize, held against the schemas, and edited live as a kubelet does."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

import kustomize
from conftest import Installation, end, eventually
from lifebeat import __version__
from lifebeat.host import JOB_GRACE
from lifebeat.settings import BY_NAME

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = ("base", "overlays/staging", "overlays/production")
REPLICAS = {"base": 1, "overlays/staging": 1, "overlays/production": 3}


@functools.cache
def objects(overlay: str) -> list[dict[str, Any]]:
    """What an overlay renders to."""
    return kustomize.build(KUBERNETES / overlay)


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


def environment(overlay: str) -> dict[str, str]:
    """The variables that stand in the object itself."""
    return {each["name"]: each["value"] for each in container(overlay)["env"] if "value" in each}


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    """Each kustomization that somebody may apply."""
    return str(request.param)


def test_the_schemas_of_kubernetes(overlay: str) -> None:
    """Every rendered object is what Kubernetes knows, with no field that it does not."""
    for each in objects(overlay):
        kubernetes_validate.validate(each, "1.33", strict=True)


def test_a_broken_object_would_be_found() -> None:
    """A field that does not exist does not pass."""
    broken = {**one("base", "StatefulSet"), "spec": {**one("base", "StatefulSet")["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.33", strict=True)


def test_restricted(overlay: str) -> None:
    """The pods fit the restricted Pod Security Standard, and the namespace enforces it."""
    labels = one(overlay, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    security, inner = pod(overlay)["securityContext"], container(overlay)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inner == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(overlay)["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(overlay))
    assert {name for volume in pod(overlay)["volumes"] for name in volume} == {"name", "configMap"}


def test_one_directory_can_be_written(overlay: str) -> None:
    """State lies on its own volume, and config is a whole directory that cannot be written."""
    mounts = {mount["name"]: mount for mount in container(overlay)["volumeMounts"]}
    assert mounts["config"]["readOnly"] is True
    assert not any("subPath" in mount for mount in mounts.values())
    assert environment(overlay)["LIFEBEAT_CONFIG_DIR"] == mounts["config"]["mountPath"]
    assert environment(overlay)["TELEMETRY_STATE_DIR"] == mounts["state"]["mountPath"]


def test_probes_and_grace(overlay: str) -> None:
    """All three probes ask the scheduler, and the grace period holds the jobs' end and the last flush."""
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(overlay)[probe]["exec"]["command"] == ["lifebeat", "status", "--healthy"]
    flush = BY_NAME["telemetryShutdownTimeout"].default.total_seconds()
    assert pod(overlay)["terminationGracePeriodSeconds"] >= JOB_GRACE + flush + 10


def test_replicas_and_what_they_need(overlay: str) -> None:
    """More than one replica only with an engine and its database, and the image that has it."""
    stateful, variables = one(overlay, "StatefulSet"), environment(overlay)
    assert stateful["spec"]["replicas"] == REPLICAS[overlay]
    shared = stateful["spec"]["replicas"] > 1
    assert (variables.get("LIFEBEAT_ENGINE") == "procrastinate") is shared
    secrets = [each for each in container(overlay)["env"] if each["name"] == "LIFEBEAT_DATABASE"]
    assert bool(secrets) is shared
    assert all("secretKeyRef" in each["valueFrom"] for each in secrets)
    assert container(overlay)["image"].endswith(f":{__version__}-procrastinate" if shared else f":{__version__}")
    ports = {port["port"] for rule in one(overlay, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]}
    assert ports == ({53, 443, 5432} if shared else {53, 443})


def test_nothing_comes_in(overlay: str) -> None:
    """The policy shuts both directions, and lets HTTPS out to public addresses only."""
    policy = one(overlay, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not policy.get("ingress")
    [https] = [rule for rule in policy["egress"] if rule["ports"] == [{"protocol": "TCP", "port": 443}]]
    excepted = {cidr for block in https["to"] for cidr in block["ipBlock"]["except"]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} <= excepted


def test_overlays_change_only_what_they_say() -> None:
    """Staging is the base with other settings in another namespace."""

    def apart(overlay: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for each in objects(overlay):
            metadata = {name: value for name, value in each["metadata"].items() if name != "namespace"}
            if each["kind"] == "Namespace":
                metadata.pop("name")
            rest = {name: value for name, value in each.items() if name != "metadata"}
            if each["kind"] == "ConfigMap":
                rest = {**rest, "data": {"jobs.yaml": each["data"]["jobs.yaml"]}}
            found.append({**rest, "metadata": metadata})
        return found

    assert apart("overlays/staging") == apart("base")
    assert {each["metadata"].get("namespace") for each in objects("overlays/staging")} == {"lifebeat-staging", None}


def test_no_secrets() -> None:
    """No file holds a key, a password or an image without a version."""
    for path in KUBERNETES.rglob("*.yaml"):
        text = path.read_text()
        assert "phc_" not in text
        assert "kind: Secret" not in text
        assert ":latest" not in text


def test_the_job_file_is_the_shipped_one() -> None:
    """The job file to start from is the one that ships."""
    assert (KUBERNETES / "base/jobs.yaml").read_text() == (ROOT / "config/jobs.yaml").read_text()


def mounted(overlay: str, directory: Path) -> Path:
    """The ConfigMap as the kubelet mounts it: links to a directory behind one link."""
    config = directory / "mounted"
    config.mkdir()
    bring(config, dict(one(overlay, "ConfigMap")["data"]))
    for name in one(overlay, "ConfigMap")["data"]:
        (config / name).symlink_to(f"..data/{name}")
    return config


def bring(config: Path, data: dict[str, str]) -> None:
    """A new edition of the files, brought in by one rename as the kubelet does."""
    edition = config / f"..{len(list(config.iterdir()))}"
    edition.mkdir()
    for name, text in data.items():
        (edition / name).write_text(text)
    (config / "..data_tmp").symlink_to(edition.name)
    (config / "..data_tmp").replace(config / "..data")


@pytest.mark.parametrize(
    ("overlay", "interval", "host"),
    [
        ("base", "24h", "https://us.i.posthog.com"),
        ("overlays/staging", "1h", "https://us.i.posthog.com"),
        ("overlays/production", "24h", "https://eu.i.posthog.com"),
    ],
)
def test_the_interval_that_it_promises(overlay: str, interval: str, host: str, tmp_path: Path) -> None:
    """With the rendered files and variables the settings are what the overlay says, and the files pass the check."""
    config = mounted(overlay, tmp_path)
    environ = {**os.environ, **environment(overlay), "LIFEBEAT_CONFIG_DIR": str(config)}
    commands = [[sys.executable, "-m", "lifebeat", command] for command in ("check", "config", "plan")]
    check, shown, plan = (
        subprocess.run(command, env=environ, capture_output=True, text=True, check=False) for command in commands
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines() if "HeartbeatInterval" in line] == [interval]
    assert [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("telemetryHost ")] == [host]
    assert f"every {interval}" in plan.stdout


@pytest.fixture
def noting(installation: Installation) -> Installation:
    """An installation with a module whose job says that it ran."""
    (installation.directory / "noting.py").write_text("def note(text):\n    print(text, flush=True)\n")
    return installation


def test_a_live_edit(noting: Installation) -> None:
    """What the kubelet brings into a mounted ConfigMap is followed by the running host."""
    config = mounted("base", noting.directory)
    settings = {"config.yaml": "telemetryEnabled: false\n"}
    job = "jobs:\n  note: {run: 'noting:note', every: 200ms, args: {text: NAME}}\n"
    bring(config, {**settings, "jobs.yaml": job.replace("NAME", "old")})
    process = noting.lifebeat("run", "--config", str(config), "--allow", "noting", PYTHONPATH=str(noting.directory))
    assert process.stdout is not None
    assert process.stdout.readline() == "old\n"
    bring(config, {**settings, "jobs.yaml": job.replace("NAME", "new")})
    assert eventually(lambda: process.stdout is not None and process.stdout.readline() == "new\n")
    end(process)

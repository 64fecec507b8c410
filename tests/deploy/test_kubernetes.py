"""``deploy/kubernetes``: rendered by kubectl, and held against the schemas and what it promises."""

from __future__ import annotations

import copy
import ipaddress
import re
import shutil
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml

from artifacts import ROOT
from kubelet import mount, variables
from kustomize import KUBERNETES, OVERLAYS, REPLICAS, build, container, data, objects, one, pod
from lifebeat import __version__
from lifebeat.host.host import JOB_GRACE, STOP_MARGIN
from lifebeat.settings.table import BY_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation

SCHEMAS = ("1.33", "1.37")
EXAMPLE = "secret.example.yaml"


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
        for version in SCHEMAS:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_broken_object_would_be_found() -> None:
    """A field that does not exist does not pass."""
    broken = {**one("base", "StatefulSet"), "spec": {**one("base", "StatefulSet")["spec"], "replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, SCHEMAS[0], strict=True)


def test_pods_fit_the_restricted_standard(overlay: str) -> None:
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
    assert pod(overlay)["shareProcessNamespace"] is True  # else orphans of own jobs would stay as zombies
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
    assert pod(overlay)["terminationGracePeriodSeconds"] >= JOB_GRACE + flush + STOP_MARGIN


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
    assert any(each["kind"] == "PodDisruptionBudget" for each in objects(overlay)) is shared
    ports = {port["port"] for rule in one(overlay, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]}
    assert ports == ({53, 443, 5432} if shared else {53, 443})


def test_nothing_comes_in(overlay: str) -> None:
    """The policy shuts both directions, and lets HTTPS out to public addresses only."""
    policy = one(overlay, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert not policy.get("ingress")
    assert all(rule.get("to") for rule in policy["egress"])  # without it a rule is for every address
    [https] = [rule for rule in policy["egress"] if rule["ports"] == [{"protocol": "TCP", "port": 443}]]
    excepted = {cidr for block in https["to"] for cidr in block["ipBlock"]["except"]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"} <= excepted


def apart(overlay: str) -> list[dict[str, Any]]:
    """The objects without what every overlay may change: the namespace's name and the settings."""
    found: list[dict[str, Any]] = copy.deepcopy(objects(overlay))
    for each in found:
        each["metadata"].pop("name" if each["kind"] == "Namespace" else "namespace")
        if each["kind"] == "ConfigMap":
            each["data"].pop("config.yaml")
    return found


def test_staging_changes_only_what_it_says() -> None:
    """Staging is the base with other settings in another namespace."""
    assert apart("overlays/staging") == apart("base")
    assert {each["metadata"].get("namespace") for each in objects("overlays/staging")} == {"lifebeat-staging", None}


def test_production_changes_only_what_it_says() -> None:
    """Production is the base with other settings, more replicas and what those need."""
    found = {each["kind"]: each for each in apart("overlays/production")}
    del found["PodDisruptionBudget"]
    spec = found["StatefulSet"]["spec"]
    spec["replicas"] = 1
    [inner] = spec["template"]["spec"]["containers"]
    inner["image"] = inner["image"].removesuffix("-procrastinate")
    assert [each["name"] for each in inner["env"][:2]] == ["LIFEBEAT_ENGINE", "LIFEBEAT_DATABASE"]
    del inner["env"][:2]
    database = found["NetworkPolicy"]["spec"]["egress"].pop()
    assert database["ports"] == [{"protocol": "TCP", "port": 5432}]
    blocks = [ipaddress.ip_network(to["ipBlock"]["cidr"]) for to in database["to"] if "ipBlock" in to]
    assert all(block.is_private and block.prefixlen for block in blocks)
    assert found == {each["kind"]: each for each in apart("base")}


@pytest.mark.parametrize("overlay", OVERLAYS[1:])
def test_the_host_by_its_name(overlay: str, tmp_path: Path) -> None:
    """With the component for Cilium, as its comment in the overlay says, what goes out goes to the PostHog host."""
    tree = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    path = tree / overlay / "kustomization.yaml"
    path.write_text(re.sub(r"^( *)# (components:| *- \S+/cilium)", r"\1\2", path.read_text(), flags=re.MULTILINE))
    found = {each["kind"]: each for each in build(tree / overlay)}
    cilium, policy = found["CiliumNetworkPolicy"], found["NetworkPolicy"]
    look_ups, https = cilium["spec"]["egress"]
    assert cilium["apiVersion"] == "cilium.io/v2"
    assert cilium["metadata"]["namespace"] == policy["metadata"]["namespace"]
    assert cilium["spec"]["endpointSelector"] == policy["spec"]["podSelector"]
    assert look_ups["toPorts"][0]["rules"] == {"dns": [{"matchPattern": "*"}]}
    host = yaml.safe_load(found["ConfigMap"]["data"]["config.yaml"])["telemetryHost"]
    assert {"matchName": host.removeprefix("https://")} in https["toFQDNs"]
    assert https["toPorts"] == [{"ports": [{"port": "443", "protocol": "TCP"}]}]
    ports = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert ports == ([5432] if REPLICAS[overlay] > 1 else [])
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_no_secrets() -> None:
    """No file holds a key, a password or an image without a version."""
    for path in KUBERNETES.rglob("*.yaml"):
        text = path.read_text()
        assert "phc_" not in text
        assert ":latest" not in text
    assert not [each for overlay in OVERLAYS for each in objects(overlay) if each["kind"] == "Secret"]


def test_the_secrets_to_fill_in() -> None:
    """The example has every key that the pods ask for, with nothing in it."""
    secrets = {each["metadata"]["name"]: each for each in yaml.safe_load_all((KUBERNETES / EXAMPLE).read_text())}
    for each in secrets.values():
        kubernetes_validate.validate(each, SCHEMAS[0], strict=True)
    assert [each["secretRef"]["name"] for each in container("base")["envFrom"]] == ["lifebeat"]
    assert secrets.pop("lifebeat")["stringData"] == {"TELEMETRY_API_KEY": "", "TELEMETRY_INSTANCE_ID": ""}
    [database] = [each["valueFrom"] for each in container("overlays/production")["env"] if "valueFrom" in each]
    asked = database["secretKeyRef"]
    assert {name: each["stringData"] for name, each in secrets.items()} == {asked["name"]: {asked["key"]: ""}}


def test_the_job_file_is_the_shipped_one() -> None:
    """The job file to start from is the one that ships."""
    assert (KUBERNETES / "base/jobs.yaml").read_text() == (ROOT / "config/jobs.yaml").read_text()


@pytest.mark.parametrize(
    ("overlay", "interval", "host"),
    [
        ("base", "24h", "https://us.i.posthog.com"),
        ("overlays/staging", "1h", "https://us.i.posthog.com"),
        ("overlays/production", "24h", "https://eu.i.posthog.com"),
    ],
)
def test_the_interval_that_it_promises(overlay: str, interval: str, host: str, installation: Installation) -> None:
    """With the rendered files and variables the settings are what the overlay says, and the files pass the check."""
    mounts = {"config": mount(data(overlay), installation.directory / "mounted"), "state": installation.directory}
    environ = variables(container(overlay), mounts, {})
    code, out, err = installation.run("check", **environ)
    assert code == 0, out + err
    shown = dict(line.split()[:2] for line in installation.run("config", **environ)[1].splitlines() if line.strip())
    assert (shown["telemetryHeartbeatInterval"], shown["telemetryHost"]) == (interval, host)
    assert (shown["appName"], shown["appVersion"]) == ("myapp", "1.0.0")  # or every event would say `unknown`
    assert f"every {interval}" in installation.run("plan", **environ)[1]

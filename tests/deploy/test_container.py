"""The files of ``deploy/container``, checked by the tools of their field."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from artifacts import ROOT
from hosts import end
from lifebeat.host.host import JOB_GRACE
from lifebeat.settings.table import BY_NAME, KEYS
from lifebeat.text.durations import parse_duration

HERE = ROOT / "deploy" / "container"
CONTAINERFILE = HERE / "Containerfile"
COMPOSE = yaml.safe_load((HERE / "compose.yaml").read_text(encoding="utf-8"))
USER = 65532
GRACE = parse_duration(COMPOSE["services"]["lifebeat"]["stop_grace_period"]).total_seconds()


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment."""
    command = [Path(sys.executable).with_name(name), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


# -- the files, by the tools of their field --------------------------------------------------------------------------


def test_containerfile_has_no_finding() -> None:
    """Hadolint has nothing to say about the Containerfile, not even as information."""
    done = tool("hadolint", CONTAINERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_really_looks(tmp_path: Path) -> None:
    """The same call refuses a Containerfile whose base has no tag and whose shell is no list."""
    bad = tmp_path / "Containerfile"
    bad.write_text("FROM python\nENTRYPOINT lifebeat run\n")
    done = tool("hadolint", bad)
    assert done.returncode == 1
    assert {"DL3006", "DL3025"} <= set(re.findall(r"\bDL\d+", done.stdout))


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cluster.yaml"])
def test_compose_file_is_valid(name: str) -> None:
    """Each compose file fits the schema of the compose specification."""
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", HERE / name)
    assert done.returncode == 0, done.stdout


def test_compose_schema_really_looks(tmp_path: Path) -> None:
    """The same call refuses a compose file with a word that the specification does not know."""
    bad = tmp_path / "compose.yaml"
    bad.write_text((HERE / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace"))
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", bad)
    assert done.returncode == 1
    assert "stop_grace" in done.stdout


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_are_confined(name: str) -> None:
    """Each service runs as the image's user on a read-only root, without a capability and without a way to one."""
    service = COMPOSE["services"][name]
    assert service["user"] == f"{USER}:{USER}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "ports" not in service


def test_host_writes_to_one_volume_only() -> None:
    """Of what is mounted into the host, the state alone is writable, where the image has its volume."""
    mounts = COMPOSE["services"]["lifebeat"]["volumes"]
    assert [one["target"] for one in mounts if not one.get("read_only")] == ["/var/lib/lifebeat"]
    assert "tmpfs" not in COMPOSE["services"]["lifebeat"]


def test_grace_fits_the_flush() -> None:
    """The time to stop is more than jobs and the last flush take at their longest, by default."""
    service = COMPOSE["services"]["lifebeat"]
    assert (
        parse_duration(service["stop_grace_period"]).total_seconds()
        >= JOB_GRACE + default("telemetryShutdownTimeout") + 5
    )


def default(name: str) -> float:
    """A duration's default, in seconds."""
    return float(BY_NAME[name].default.total_seconds())


def test_variables_passed_on_exist() -> None:
    """Each variable that the compose file passes on is one that Lifebeat reads, and none has a value of its own."""
    passed = COMPOSE["services"]["lifebeat"]["environment"]
    known = {key.variable for key in KEYS} | {"DO_NOT_TRACK", "LIFEBEAT_DEPLOYMENT"}
    assert set(passed) <= known
    assert set(passed.values()) == {None}


def test_the_cluster_has_its_engine() -> None:
    """Laid over it, the other file gives replicas an engine that its image holds, and no password of its own."""
    cluster = yaml.safe_load((HERE / "compose.cluster.yaml").read_text(encoding="utf-8"))
    host, database = cluster["services"]["lifebeat"], cluster["services"]["postgres"]
    assert host["deploy"]["replicas"] > 1
    engine = host["environment"]["LIFEBEAT_ENGINE"]
    assert host["build"]["args"] == {"EXTRA": engine}
    assert (HERE / f"requirements-{engine}.lock").exists()
    assert host["image"] != COMPOSE["services"]["lifebeat"]["image"]
    assert database["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
    url = host["environment"]["LIFEBEAT_DATABASE"]  # a database of one's own takes no password of this one
    assert url == "${LIFEBEAT_DATABASE:-postgresql://lifebeat:${POSTGRES_PASSWORD}@postgres/lifebeat}"
    assert re.fullmatch(r"docker.io/library/postgres:\d+\.\d+-\w+", database["image"])


def test_the_host_has_an_init() -> None:
    """What children of own jobs leave behind is collected by the engine's init; test_image.py shows that it is."""
    assert COMPOSE["services"]["lifebeat"]["init"] is True


def test_what_the_readme_runs_names_the_application() -> None:
    """Both ways of the README tell which application runs, in which version."""
    commands = re.findall(r"^(?:printf|docker run)(?:.*\\\n)*.*$", (HERE / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert all({"APP_NAME=", "APP_VERSION="} <= set(re.findall(r"APP_\w+=", command)) for command in commands)


def test_build_arguments_exist() -> None:
    """Each argument that the compose file passes on to the build is one of the Containerfile."""
    named = set(re.findall(r"^ARG (\w+)", CONTAINERFILE.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(COMPOSE["services"]["lifebeat"]["build"]["args"]) == named


def test_what_compose_names_is_there() -> None:
    """The Containerfile, the config directory and the receiver lie where the compose file says."""
    services = COMPOSE["services"]
    build = services["lifebeat"]["build"]
    assert (HERE / build["context"] / build["dockerfile"]).resolve() == CONTAINERFILE
    config = services["lifebeat"]["volumes"][0]["source"]
    assert (HERE / config.removeprefix("${LIFEBEAT_CONFIG_DIR:-").removesuffix("}") / "jobs.yaml").exists()
    assert (HERE / services["receiver"]["volumes"][0]["source"]).exists()


def test_trial_settings_reach_the_receiver() -> None:
    """The settings of the trial name the receiver's service and port, and are passed on by the compose file."""
    lines = [line for line in (HERE / "local.env").read_text().splitlines() if not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["TELEMETRY_HOST"] == f"http://receiver:{COMPOSE['services']['receiver']['command'][0]}"
    assert set(settings) <= set(COMPOSE["services"]["lifebeat"]["environment"])
    assert {"APP_NAME", "APP_VERSION"} <= set(settings)  # or the version in every event were `unknown`


def test_receiver_prints_what_it_gets(tmp_path: Path) -> None:
    """The receiver takes a host's events through its own port, prints each, is healthy, and ends at SIGTERM."""
    import urllib.request

    command = (sys.executable, HERE / "receiver.py")
    process = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = process.stdout.readline().split()[-1]
    body = json.dumps({"api_key": "phc_local", "batch": [{"event": "startup"}]}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/batch/", body, timeout=10) as answer:
        assert answer.status == 200
    assert json.loads(process.stdout.readline()) == {"event": "startup"}
    healthy = [*command, "--healthy", port]
    assert subprocess.run(healthy, check=False).returncode == 0
    assert end(process) == (0, "", "")
    assert subprocess.run(healthy, check=False, stderr=subprocess.DEVNULL).returncode == 1

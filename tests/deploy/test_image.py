"""The image of ``deploy/container``: built by a real builder, run as PID 1 of a container, and stopped."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from packaging.utils import canonicalize_name

from artifacts import ROOT, run
from builder import Builder, Image, find_init, make_base
from container import Container, Network, required
from hosts import eventually
from lifebeat.testing import PostHogServer
from lifebeat.version import __version__
from test_container import CONTAINERFILE, GRACE, HERE, USER
from test_requirements import PROJECT, pins

if TYPE_CHECKING:
    from collections.abc import Iterator

ENGINE = "procrastinate"
ENDED = 128 + signal.SIGTERM  # as a parent sees a process that the signal ended
BASE = re.search(r"^ARG BASE=(\S+)$", CONTAINERFILE.read_text(encoding="utf-8"), re.MULTILINE)

# One worker for all of them: the image is built once. The time is for that, on a machine with too much to do.
pytestmark = [pytest.mark.xdist_group("container"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """A builder that has the base which the Containerfile names, made of this machine's Python."""
    required()
    directory = tmp_path_factory.mktemp("builder")
    wheels = directory / "wheels"
    wheels.mkdir()
    download = ("download", "--quiet", "--require-hashes", "--only-binary=:all:", "--dest", wheels)
    for name in ("build", "requirements", f"requirements-{ENGINE}"):
        run(sys.executable, "-m", "pip", *download, "--requirement", HERE / f"{name}.lock", cwd=directory)
    made = Builder(directory)
    assert BASE is not None
    variables = {"PATH": "/usr/local/bin:/bin", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/packages"}
    made.adopt(make_base(directory / "base", wheels), BASE.group(1), **variables)
    yield made
    shutil.rmtree(directory)  # hundreds of megabytes, which pytest would keep


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    """The image, built by the Containerfile's own steps."""
    return builder.build(CONTAINERFILE, ROOT, VERSION=__version__, REVISION="0123abc")


@pytest.fixture(scope="module")
def cluster_image(builder: Builder) -> Image:
    """The image for more than one replica, as compose.cluster.yaml and the overlay ``production`` take it."""
    return builder.build(CONTAINERFILE, ROOT, EXTRA=ENGINE)


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_under_ci_root_may_not_skip_this(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]) -> None:
    """Where root lacks what containers need, these tests are skipped on a machine of somebody's, and fail under CI."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(outcome, match="missing here: unshare"):
        required()


def test_a_forge_runs_this_as_root() -> None:
    """The forge's jobs are not root; on one Python a step runs this file with what it takes, and tells it of CI."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text(encoding="utf-8"))
    check = workflow["jobs"]["check"]
    [step] = [one for one in check["steps"] if "sudo" in one.get("run", "")]
    assert Path(__file__).relative_to(ROOT).as_posix() in step["run"]
    assert "--preserve-env=CI " in step["run"]
    assert step["if"] in [f"matrix.python == '{python}'" for python in check["strategy"]["matrix"]["python"]]


def test_image_says_how_to_run_it(image: Image) -> None:
    """User, volume, signal, health check and entry are what engines and Kubernetes can act upon."""
    config = image.config
    assert config["User"] == f"{USER}:{USER}"
    assert (config["Entrypoint"], config["Cmd"]) == (["lifebeat"], ["run"])
    assert config["StopSignal"] == "SIGTERM"
    assert list(config["Volumes"]) == [config["WorkingDir"]] == [image.environ["STATE_DIRECTORY"]]
    assert config["Healthcheck"]["Test"] == ["CMD", "lifebeat", "status", "--healthy"]


def test_image_is_labelled(image: Image) -> None:
    """The labels of the OCI say what it is, of which version and revision, under which licence, on which base."""
    said = {name.rpartition(".image.")[2]: value for name, value in image.config["Labels"].items()}
    assert BASE is not None
    assert said.items() >= {"version": __version__, "revision": "0123abc", "base.name": BASE.group(1)}.items()
    assert said["licenses"] == PROJECT["license"]
    assert said["title"] == PROJECT["name"]


def packages(image: Image) -> Path:
    """The directory that its packages are in."""
    (site,) = (image.root / "opt" / "lifebeat" / "lib").glob("python*/site-packages")
    return site


def installed(image: Image) -> set[str]:
    """The names of its packages."""
    return {str(canonicalize_name(path.name.partition("-")[0])) for path in packages(image).glob("*.dist-info")}


def locked(lock: str) -> set[str]:
    """Return the names of the packages that a lock of the image has for this Python."""
    held = pins(f"deploy/container/{lock}").items()
    return {name for name, found in held if any(marker is None or marker.evaluate() for _, marker, _ in found)}


def test_image_holds_exactly_what_is_locked(image: Image) -> None:
    """The wheel and the pins are installed, nothing that only builds, and bytecode for all of it."""
    assert installed(image) == {"lifebeat", *locked("requirements.lock")}
    assert list((packages(image) / "lifebeat" / "__pycache__").glob("clock.*.pyc"))
    assert image.size("opt/lifebeat") < 40_000_000


def test_image_of_an_engine_holds_its_lock(cluster_image: Image) -> None:
    """Built with ``EXTRA`` it has what that engine's lock pins, and nothing else."""
    assert installed(cluster_image) == {"lifebeat", *locked(f"requirements-{ENGINE}.lock")}


def test_image_is_no_golden_image(image: Image) -> None:
    """No state and no config are in it: each installation makes an ID of its own."""
    state = image.root / "var" / "lib" / "lifebeat"
    assert (list(state.iterdir()), state.stat().st_uid) == ([], USER)
    assert list((image.root / "etc" / "lifebeat").iterdir()) == []
    assert not (image.root / "src").exists()


def test_no_config_of_an_operator_reaches_the_builder(builder: Builder, tmp_path: Path) -> None:
    """Of a tree in use, the ignore file lets neither config.json nor anything unneeded into a build."""
    for name in ("config/config.json", "config/jobs.yaml", "config/deployments/mine.yaml", ".git/config", "tests/x.py"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("phc_of_an_operator")
    probe = tmp_path / "Containerfile"
    probe.write_text("FROM scratch\nCOPY . /\n")
    shutil.copy(HERE / "Containerfile.dockerignore", tmp_path)
    built = builder.build(probe, tmp_path / "tree").root
    assert [str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()] == ["config/jobs.yaml"]


# -- its life --------------------------------------------------------------------------------------------------------


class Deployment:
    """A volume and a config directory, on which containers of one image are started; as a compose file names them."""

    def __init__(self, image: Image, directory: Path) -> None:
        self._image = image
        self._directory = directory
        self.volume, self.config = directory / "volume", directory / "config"
        self.init: Path | None = None
        self.volume.mkdir()
        self.config.mkdir()
        os.chown(self.volume, USER, USER)
        self._network = Network()
        with self._network.joined():
            self.receiver = PostHogServer().start()
        self._started: list[Container] = []

    def start(self, *command: str, **environ: str) -> Container:
        """Start a container that may send to the receiver, and nowhere else; below an engine's init, if one is set."""
        scratch = self._directory / f"container{len(self._started)}"
        scratch.mkdir()
        allowed = {"TELEMETRY_HOST": self.receiver.url, "TELEMETRY_API_KEY": "phc_x", "LIFEBEAT_TEST_MODE": "loopback"}
        environ = {**allowed, **environ}
        one = Container(self._image, self._network, self.volume, self.config, scratch, environ, self.init)
        self._started.append(one)
        one.start(*command)
        return one

    def close(self) -> None:
        """End what still runs."""
        for one in self._started:
            one.close()
        self.receiver.stop()
        self._network.close()


@pytest.fixture
def deployment(image: Image, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment of the image, with a receiver that is all that it can reach."""
    made = Deployment(image, tmp_path)
    yield made
    made.close()


@pytest.fixture
def cluster(cluster_image: Image, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment of the image for more than one replica."""
    made = Deployment(cluster_image, tmp_path)
    yield made
    made.close()


PATIENT = {"TELEMETRY_SHUTDOWN_TIMEOUT": "20s"}  # for the last flush, so that a busy machine changes no outcome


def status_of(container: Container, of: str) -> dict[str, str]:
    """What the kernel says about a process inside."""
    lines = container.run("cat", f"/proc/{of}/status").stdout.splitlines()
    return dict(re.split(r":\s*", line, maxsplit=1) for line in lines)


def told(receiver: PostHogServer) -> list[str]:
    """The names of the events that are left once repeats are removed, in alphabetical order."""
    return sorted(event for *_, event, _ in receiver.distinct())


def test_a_life_in_the_image(deployment: Deployment) -> None:
    """PID 1 is the host itself; it says that it started, is healthy, and at SIGTERM delivers that it stopped."""
    running = deployment.start(**PATIENT)
    deployment.receiver.wait_for(1, timeout=20)
    assert status_of(running, "1")["Name"] == "lifebeat"
    _, *check = running.image.config["Healthcheck"]["Test"]
    assert eventually(lambda: running.run(*check).returncode == 0)
    assert running.stop(GRACE) == ENDED
    assert deployment.receiver.names() == ["startup", "shutdown"]
    assert "Warning" not in running.log


def test_health_is_false_when_nothing_runs(deployment: Deployment) -> None:
    """On the volume of a host that has stopped, the health check fails."""
    running = deployment.start(**PATIENT)
    deployment.receiver.wait_for(1, timeout=20)
    running.stop(GRACE)
    _, *check = running.image.config["Healthcheck"]["Test"]
    assert deployment.start(*check).process.wait(20) == 1


def test_host_has_no_root_and_no_capability(deployment: Deployment) -> None:
    """The host is not root, has no capability, can get none, and can write its volume and nothing else."""
    running = deployment.start()
    eventually(lambda: status_of(running, "1")["Name"] == "lifebeat")
    status = status_of(running, "1")
    assert (status["Uid"].split(), status["Gid"].split(), status["Groups"].split()) == ([str(USER)] * 4,) * 2 + ([],)
    assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
    mounts = [line.split()[1:4] for line in running.run("cat", "/proc/1/mounts").stdout.splitlines()]
    writable = [at for at, kind, how in mounts if how.startswith("rw") and kind not in {"proc", "devtmpfs"}]
    assert writable == ["/var/lib/lifebeat"]
    places = ("/", "/tmp", "/etc/lifebeat", "/opt/lifebeat", "/var/lib/lifebeat")
    refused = [place for place in places if running.run("touch", f"{place}/mine").returncode]
    assert refused == list(places[:-1])


def test_stop_is_bounded_when_nobody_answers(deployment: Deployment) -> None:
    """With a receiver that never answers, the host ends well within the grace period and keeps the events."""
    deployment.receiver.hang()
    running = deployment.start()
    deployment.receiver.wait_for(lambda server: bool(server.requests), timeout=20)
    assert running.stop(GRACE) == ENDED
    deployment.receiver.resume()
    again = deployment.start(**PATIENT)
    deployment.receiver.wait_for(lambda server: len(server.distinct()) == 3, timeout=20)
    assert again.stop(GRACE) == ENDED
    assert told(deployment.receiver) == ["shutdown", "shutdown", "startup", "startup"]


def test_an_unclean_end_is_seen(deployment: Deployment) -> None:
    """A container that is killed is the same installation again in the next one, which starts a new life."""
    killed = deployment.start()
    deployment.receiver.wait_for(1, timeout=20)
    assert killed.stop(GRACE, signal.SIGKILL) != 0
    again = deployment.start(**PATIENT)
    deployment.receiver.wait_for(lambda server: len(server.distinct()) == 2, timeout=20)
    again.stop(GRACE)
    # What was under way at the kill may come twice, as the same event.
    assert told(deployment.receiver) == ["shutdown", "startup", "startup"]
    assert len({event["distinct_id"] for event in deployment.receiver.events}) == 1
    assert list(deployment.config.iterdir()) == []


def test_containers_on_one_volume_are_one_application(deployment: Deployment) -> None:
    """The first of two that comes says that it started, the last that goes says that it stopped."""
    one = deployment.start(**PATIENT)
    deployment.receiver.wait_for(1, timeout=20)
    two = deployment.start(**PATIENT)
    presence = (deployment.volume / "lock").stat().st_ino
    eventually(lambda: len(re.findall(rf":{presence} ", Path("/proc/locks").read_text())) == 2)
    assert one.stop(GRACE) == ENDED
    assert told(deployment.receiver) == ["startup"]
    assert two.stop(GRACE) == ENDED
    assert told(deployment.receiver) == ["shutdown", "startup"]


def test_tuned_by_the_environment(deployment: Deployment) -> None:
    """A variable sets the interval of one deployment."""
    deployment.start(TELEMETRY_HEARTBEAT_INTERVAL="1s")
    deployment.receiver.wait_for(lambda server: "heartbeat" in server.names(), timeout=20)


def test_tuned_by_an_overlay_edited_while_it_runs(deployment: Deployment) -> None:
    """A deployment's overlay on the config mount sets the interval, and what is written there later is followed."""
    overlay = deployment.config / "deployments" / "staging.yaml"
    overlay.parent.mkdir()
    overlay.write_text("telemetryHeartbeatInterval: 1h\n")
    running = deployment.start(LIFEBEAT_DEPLOYMENT="staging", **PATIENT)
    deployment.receiver.wait_for(1, timeout=20)
    settings = {one["key"]: one for one in json.loads(running.run("lifebeat", "config", "--json").stdout)}
    assert settings["telemetryHeartbeatInterval"]["value"] == "1h"
    edited = overlay.with_suffix(".new")
    edited.write_text("telemetryHeartbeatInterval: 1s\n")
    edited.replace(overlay)
    deployment.receiver.wait_for(lambda server: "heartbeat" in server.names(), timeout=20)
    assert running.stop(GRACE) == ENDED


def test_off_means_off(deployment: Deployment) -> None:
    """Switched off for one deployment, the host runs and stops all the same, and leaves nothing on its volume."""
    running = deployment.start(TELEMETRY_ENABLED="false")
    eventually(lambda: "started; telemetry is off" in running.log)
    assert running.stop(GRACE) == ENDED
    assert deployment.receiver.connections == 0
    assert list(deployment.volume.iterdir()) == []


def test_the_engine_is_in_its_image(cluster: Deployment) -> None:
    """What production starts finds its engine and the driver in the image, and says that the database is away."""
    away = "postgresql://lifebeat@127.0.0.1:1/lifebeat"
    running = cluster.start(LIFEBEAT_ENGINE=ENGINE, LIFEBEAT_DATABASE=away)
    eventually(lambda: "PostgreSQL: connection failed" in running.log)
    assert running.stop(GRACE) == ENDED


LEAVING = """
import subprocess

def leave():
    print(subprocess.run(["sh", "-c", "sleep 0.1 > /dev/null & echo left $!"], capture_output=True).stdout, flush=True)
"""


def leave_an_orphan(deployment: Deployment) -> tuple[Container, str]:
    """A host with a job of its own whose child leaves a process behind; that process's number."""
    (deployment.config / "leaving.py").write_text(LEAVING)
    (deployment.config / "jobs.yaml").write_text("jobs: {leave: {run: 'leaving:leave', when: start}}\n")
    command = ("lifebeat", "run", "--allow", "leaving")
    running = deployment.start(*command, PYTHONPATH="/etc/lifebeat")
    assert eventually(lambda: re.search(r"left (\d+)", running.log))
    found = re.search(r"left (\d+)", running.log)
    assert found is not None
    return running, found[1]


def test_the_engines_init_collects_orphans(deployment: Deployment) -> None:
    """With ``init: true`` what a job's child leaves behind is gone when it has ended, and the stop is the same."""
    deployment.init = find_init()
    running, orphan = leave_an_orphan(deployment)
    assert status_of(running, "1")["Name"] == "init"
    assert eventually(lambda: not status_of(running, orphan))
    assert running.stop(GRACE) == ENDED


def test_the_host_itself_collects_none(deployment: Deployment) -> None:
    """As PID 1 the host leaves that zombie where it is, as the README says; were it not so, no init would be asked."""
    running, orphan = leave_an_orphan(deployment)
    assert eventually(lambda: status_of(running, orphan).get("State", "").startswith("Z"))
    assert running.stop(GRACE) == ENDED

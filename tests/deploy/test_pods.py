"""The pods of ``deploy/kubernetes`` as processes: probed, edited live and stopped as a kubelet does."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from hosts import DEADLINE, Installation, end, eventually
from kubelet import Pod, bring, mount
from kustomize import REPLICAS, container, data, pod
from lifebeat.lifecycle.watch import Watch
from lifebeat.testing.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from postgresql import PostgreSQL

ID = "0b5b2c1e-6d0f-4a53-9d27-5c1f0e8f3a11"
# A long time for the last flush, so that a busy machine changes no outcome.
PROJECT = {"TELEMETRY_API_KEY": "phc_test", "TELEMETRY_SHUTDOWN_TIMEOUT": "20s"}
JOB = "jobs:\n  note: {run: 'noting:note', every: 200ms, args: {text: NAME}}\n"


def start(overlay: str, installation: Installation, volume: str = "state-0", **secrets: str) -> Pod:
    """A pod, whose Secret names the receiver too."""
    return Pod(
        installation,
        container(overlay),
        config=installation.directory / f"mounted-{len(installation.started)}",
        state=installation.directory / volume,
        data=data(overlay),
        confined="LIFEBEAT_DATABASE" not in secrets,  # the tests' PostgreSQL lets in only its owner and root
        secrets={**PROJECT, "TELEMETRY_HOST": installation.receiver.url, **secrets},
    )


def told(installation: Installation) -> list[tuple[str, str]]:
    """The events that arrived, each with its instance ID."""
    return [(each["event"], each["properties"]["instance_id"]) for each in installation.receiver.events]


def test_pod_passes_its_probes_and_delivers_its_end(installation: Installation) -> None:
    """The base's pod passes its probes, and at its stop has delivered its end within the grace period."""
    one_pod = start("base", installation, TELEMETRY_INSTANCE_ID=ID)
    one_pod.wait_until_started()
    assert one_pod.probe("livenessProbe")
    assert one_pod.probe("readinessProbe")
    eventually(lambda: told(installation))
    assert end(one_pod.process)[0] == -signal.SIGTERM
    assert told(installation) == [("startup", ID), ("shutdown", ID)]


def test_the_next_pod_takes_the_volume_over(installation: Installation) -> None:
    """Without an instance ID in the Secret, the state volume keeps the one that the first pod made."""
    for _ in range(2):
        one_pod = start("base", installation)
        one_pod.wait_until_started()
        end(one_pod.process)
    events = told(installation)
    assert [name for name, _ in events] == ["startup", "shutdown"] * 2
    assert len({instance for _, instance in events}) == 1


def test_three_replicas_are_one_application(installation: Installation, postgresql: PostgreSQL) -> None:
    """Production's replicas, each with a volume of its own, are one application with one start, one end and one ID."""
    database = postgresql.schema()
    pods = [
        start(
            "overlays/production", installation, f"state-{number}", TELEMETRY_INSTANCE_ID=ID, LIFEBEAT_DATABASE=database
        )
        for number in range(REPLICAS["overlays/production"])
    ]
    for each in pods:
        each.wait_until_started()
    eventually(lambda: told(installation))
    for each in pods:
        each.process.send_signal(signal.SIGTERM)
    for each in pods:
        each.process.communicate(timeout=DEADLINE)
    assert told(installation) == [("startup", ID), ("shutdown", ID)]


def test_pod_that_waits_for_its_database_is_healthy(installation: Installation) -> None:
    """A pod that waits for PostgreSQL is well, is not started again for it, and stops within the grace period."""
    away = "postgresql://lifebeat@127.0.0.1:1/lifebeat"
    one_pod = start("overlays/production", installation, LIFEBEAT_DATABASE=away)
    one_pod.wait_until_started()
    assert one_pod.probe("livenessProbe")
    begun = time.monotonic()
    assert end(one_pod.process)[0] == -signal.SIGTERM
    assert time.monotonic() - begun < pod("overlays/production")["terminationGracePeriodSeconds"]


def test_edited_config_map_is_followed(installation: Installation) -> None:
    """What the kubelet brings into a mounted ConfigMap is followed by the running host."""
    (installation.directory / "noting.py").write_text("def note(text):\n    print(text, flush=True)\n")
    settings = {"config.yaml": "telemetryEnabled: false\n"}
    config = mount({**settings, "jobs.yaml": JOB.replace("NAME", "old")}, installation.directory / "mounted")
    path = str(installation.directory)
    process = installation.lifebeat("run", "--config", str(config), "--allow", "noting", PYTHONPATH=path)
    assert process.stdout is not None
    assert process.stdout.readline() == "old\n"
    bring(config, {**settings, "jobs.yaml": JOB.replace("NAME", "new")})
    assert eventually(lambda: process.stdout is not None and process.stdout.readline() == "new\n")
    end(process)


def test_a_live_edit_where_nothing_is_told(tmp_path: Path) -> None:
    """Where the system tells of no changes, a look finds the swapped link too, and nothing when nothing is new."""
    config = mount({"jobs.yaml": JOB}, tmp_path / "mounted")
    watch = Watch(lambda: [config / "jobs.yaml"], FakeClock())
    assert not watch.look()
    bring(config, {"jobs.yaml": JOB.replace("NAME", "new")})
    assert watch.look()
    bring(config, {"jobs.yaml": JOB.replace("NAME", "new")})
    assert not watch.look()

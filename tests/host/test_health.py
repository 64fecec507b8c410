"""``lifebeat status --healthy``: a host is well if its scheduler goes around."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.events import EVENT_JOB_SUBMITTED
from apscheduler.schedulers.background import BackgroundScheduler

import lifebeat
from hosts import Installation, end, eventually
from lifebeat.host.health import Health, ask

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")


def is_well(installation: Installation) -> bool:
    """What the command says."""
    return installation.run("status", "--healthy")[0] == 0


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_a_host_that_runs_is_well(installation: Installation, enabled: str) -> None:
    """While it runs, with telemetry on or off, the exit code is 0; before and after it is 1."""
    code, out, _ = installation.run("status", "--healthy")
    assert (code, "no lifebeat run" in out) == (1, True)
    process = installation.lifebeat("run", TELEMETRY_ENABLED=enabled)
    eventually(lambda: is_well(installation))
    end(process)
    assert not is_well(installation)


def test_a_frozen_host_is_not(installation: Installation) -> None:
    """A host that stands still is not well, within seconds; and well again when it goes on."""
    process = installation.lifebeat("run")
    eventually(lambda: is_well(installation))
    process.send_signal(signal.SIGSTOP)
    code, out, _ = installation.run("status", "--healthy", "--json")
    process.send_signal(signal.SIGCONT)
    assert code == 1
    assert json.loads(out) == {
        "healthy": False,
        "reason": f"the scheduler of process {process.pid} has stopped responding",
        "failing": [],
    }
    eventually(lambda: is_well(installation))


def test_one_of_two_is_stuck(tmp_path: Path) -> None:
    """Of two processes with one config directory both have to be well."""
    program = (
        "import sys, time; from pathlib import Path; from lifebeat.host.health import Health; "
        "Health(Path(sys.argv[1]), lambda timeout: False).start(); print(flush=True); time.sleep(60)"
    )
    there = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert there.stdout is not None
    there.stdout.readline()
    here = Health(tmp_path, lambda _: True)
    here.start()
    assert ask(tmp_path) == (False, f"the scheduler of process {there.pid} has stopped responding")
    there.kill()
    there.communicate()
    assert ask(tmp_path) == (True, "running")
    here.stop()
    assert not ask(tmp_path)[0]


def test_another_user_gets_no_answer(tmp_path: Path) -> None:
    """A process of another user is told nothing, and disturbs nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    program = (
        "import os, sys; from pathlib import Path; from lifebeat.host.health import Health\n"
        "os.setuid(65534); Health(Path(sys.argv[1]), lambda timeout: True).start(); print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    there = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert there.stdout is not None
    there.stdout.readline()
    assert ask(tmp_path)[0]  # root may ask
    asking = (
        "import os, sys; from pathlib import Path; from lifebeat.host.health import ask; import socket\n"
        "os.setuid(65533); sys.exit(not ask(Path(sys.argv[1]))[0])\n"
    )
    assert subprocess.run([sys.executable, "-c", asking, str(tmp_path)], check=False).returncode == 1
    there.kill()
    there.communicate()


def test_long_jobs_are_no_illness(installation: Installation) -> None:
    """A host all of whose threads are at long jobs is well."""
    (installation.directory / "slow.py").write_text("import time\n\ndef job():\n    time.sleep(30)\n")
    jobs = "".join(f"  job-{n}: {{run: 'slow:job', when: start}}\n" for n in range(25))
    (installation.config / "jobs.yaml").write_text("jobs:\n" + jobs)
    process = installation.lifebeat("run", "--allow", "slow", PYTHONPATH=str(installation.directory))
    eventually(lambda: is_well(installation))
    assert is_well(installation)
    process.kill()


def test_a_host_asks_its_own_scheduler(tmp_path: Path) -> None:
    """An embedding application can ask the handle, for a health page of its own."""
    scheduler: Any = BackgroundScheduler()
    handle = lifebeat.attach(scheduler, app_name="notes", app_version="1", enabled=False, config_dir=tmp_path)
    assert not handle.responds(0.1)
    scheduler.start()
    assert handle.responds(10)
    block = threading.Event()

    def hold_up(_: object) -> None:
        block.wait(20)

    scheduler.add_listener(hold_up, EVENT_JOB_SUBMITTED)  # called in the scheduler's own thread
    scheduler.add_job(int)
    eventually(lambda: not handle.responds(0.1))
    block.set()
    assert handle.responds(10)
    scheduler.shutdown()

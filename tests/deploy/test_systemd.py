"""What ``deploy/systemd`` holds: checked by systemd's own tools, and its contract lived without systemd as PID 1."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from artifacts import ROOT
from hosts import DEADLINE, end, eventually
from lifebeat.cli.console import NO_START, USAGE
from lifebeat.host.host import JOB_GRACE, STOP_MARGIN
from lifebeat.settings.table import BY_NAME, KEYS
from lifebeat.storage.locks import held
from lifebeat.testing import telemetry_allowed
from lifebeat.text.durations import parse_duration
from test_notify import Manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lifebeat.testing import PostHogServer

    Tool = Callable[..., subprocess.CompletedProcess[str]]

HERE = ROOT / "deploy" / "systemd"
UNIT = HERE / "lifebeat.service"
DROP_INS = sorted(path.name for path in HERE.glob("lifebeat.service.d/*.conf"))
INSTALLED, VENV = "/opt/lifebeat/bin", str(Path(sys.executable).parent)
NOBODY = 65534
EXPOSURE = 1.5
# Root without any capability is a user as others are, and can run a Python that is in root's home.
UNPRIVILEGED: tuple[str, ...] = (
    ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs") if os.geteuid() == 0 else ()
)

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd needs Linux"),
    pytest.mark.timeout(120),
]


# -- systemd's tools -------------------------------------------------------------------------------------------------


def _fetched() -> str:
    """The command that runs a tool of Debian's package, which is fetched if it is not there yet."""
    directory = ROOT / ".venv" / "tools" / "systemd"
    directory.mkdir(parents=True, exist_ok=True)
    with held(directory, timeout=100) as alone:
        if not (directory / "run").exists():
            fetch = [Path(__file__).with_name("fetch-systemd.sh"), directory]
            done = subprocess.run(fetch, check=False, capture_output=True, text=True, timeout=100)
            if done.returncode or not alone:
                why = f"systemd-analyze is neither here nor to be had from Debian: {done.stderr.strip()}"
                (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    return str(directory / "run")


@pytest.fixture(scope="session")
def tool() -> Tool:
    """Runs a tool of systemd's, this machine's or Debian's."""
    prefix = [] if shutil.which("systemd-analyze") else [_fetched()]

    def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, *map(str, arguments)]
        environ = {**os.environ, **environ}
        return subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=30)

    return run


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The unit without drop-ins, where the only program that it starts is there to be found."""
    (tmp_path / "units" / "lifebeat.service.d").mkdir(parents=True)
    _install(UNIT, tmp_path / "units" / "lifebeat.service")
    return tmp_path / "units"


def _install(source: Path, target: Path) -> None:
    target.write_text(source.read_text(encoding="utf-8").replace(INSTALLED, VENV), encoding="utf-8")


def drop_in(units: Path, name: str | None) -> None:
    """Add a drop-in, or none."""
    if name is not None:
        _install(HERE / "lifebeat.service.d" / name, units / "lifebeat.service.d" / name)


@pytest.mark.parametrize("name", [None, *DROP_INS])
def test_systemd_has_nothing_to_say(tool: Tool, units: Path, name: str | None) -> None:
    """``systemd-analyze verify`` finds nothing in the unit, alone and with each drop-in."""
    drop_in(units, name)
    done = tool("systemd-analyze", "verify", units / "lifebeat.service")
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_really_looks(tool: Tool, units: Path) -> None:
    """The same call finds a word that systemd does not know, in the unit and in a drop-in, and a missing program."""
    unit = units / "lifebeat.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogTime="))
    (units / "lifebeat.service.d" / "bad.conf").write_text("[Service]\nExecStart=\nExecStart=/no/lifebeat\nNotes=1\n")
    told = tool("systemd-analyze", "verify", unit).stderr
    assert "'WatchdogTime'" in told
    assert "'Notes'" in told
    assert "/no/lifebeat" in told


@pytest.mark.parametrize("name", [None, *DROP_INS])
def test_exposure_is_at_most_1_5(tool: Tool, units: Path, name: str | None) -> None:
    """``systemd-analyze security`` gives the unit at most 1.5, alone and with each drop-in."""
    drop_in(units, name)
    done = security(tool, units)
    assert done.returncode == 0, done.stdout
    found = re.search(r"exposure level for lifebeat.service: (\d+\.\d)", done.stdout)
    assert found is not None
    assert float(found.group(1)) <= EXPOSURE


def test_exposure_really_looks(tool: Tool, units: Path) -> None:
    """The same call refuses the unit without its system call filter."""
    unit = units / "lifebeat.service"
    unit.write_text(re.sub(r"^SystemCallFilter=.*\n", "", unit.read_text(), flags=re.MULTILINE))
    assert security(tool, units).returncode == 1


def security(tool: Tool, units: Path) -> subprocess.CompletedProcess[str]:
    """The rating; a threshold counts in tenths."""
    options = ["--no-pager", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}"]
    return tool("systemd-analyze", "security", *options, units / "lifebeat.service")


def test_the_user_can_be_made(tool: Tool, tmp_path: Path) -> None:
    """``systemd-sysusers`` makes the unit's user of the file for it."""
    (tmp_path / "etc").mkdir()
    done = tool("systemd-sysusers", f"--root={tmp_path}", HERE / "lifebeat.sysusers")
    assert done.returncode == 0, done.stderr
    made = (tmp_path / "etc" / "passwd").read_text().splitlines()
    assert [line.split(":")[0] for line in made] == [directives(UNIT)["User"][-1]]
    assert made[0].endswith(":/var/lib/lifebeat:/usr/sbin/nologin")


# -- the unit and the code say the same ------------------------------------------------------------------------------


def directives(*paths: Path) -> dict[str, list[str]]:
    """The values of each word, in their order; an empty one forgets those before it."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found[name] = [*found[name], value] if value else []
    return found


def test_a_stop_has_the_time_that_it_takes() -> None:
    """The time to stop is at least what a host with the default settings says that it needs."""
    flush = BY_NAME["telemetryShutdownTimeout"].default.total_seconds()
    assert seconds("TimeoutStopSec") >= JOB_GRACE + flush + STOP_MARGIN


def test_what_cannot_start_is_not_started_again() -> None:
    """The exit codes of mistakes are those that end the restarts; failures are no more than systemd counts."""
    unit = directives(UNIT)
    assert set(unit["RestartPreventExitStatus"][0].split()) == {str(USAGE), str(NO_START)}
    assert seconds("RestartSec") * int(unit["StartLimitBurst"][0]) < seconds("StartLimitIntervalSec")


def seconds(name: str) -> float:
    """A duration of the unit, in seconds."""
    return parse_duration(directives(UNIT)[name][0].replace("min", "m")).total_seconds()


def test_variables_exist() -> None:
    """Each variable that the unit and its drop-ins set is one that Lifebeat or Python reads."""
    files = [UNIT, *(HERE / "lifebeat.service.d" / name for name in DROP_INS)]
    names = {value.partition("=")[0] for value in directives(*files)["Environment"]}
    assert names <= {key.variable for key in KEYS} | {"PYTHONFAULTHANDLER", "PYTHONPATH"}


def test_every_file_is_in_the_readme() -> None:
    """The page names each file beside it."""
    page = (HERE / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in HERE.rglob("*") if path.is_file() and path.name not in page] == ["README.md"]


def test_root_installs_nothing_by_its_name() -> None:
    """What the page has root install is pinned by hashes, or is the clone itself, built without fetching anything."""
    page = (HERE / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in re.findall(r"^sudo \S+/pip install (.*)$", page, re.MULTILINE)]
    assert len(commands) == 4  # the first time, and an upgrade
    for command in commands:
        names = [word for word in command if not word.startswith("-")]
        assert ("--require-hashes" in command) != ({"--no-deps", "--no-build-isolation"} <= set(command))
        assert all((HERE / name).exists() for name in names), names


# -- the contract, as systemd would start it -------------------------------------------------------------------------


class Service:
    """The unit's command, started with the rights, directories and variables that systemd would give it."""

    def __init__(self, directory: Path, receiver: PostHogServer) -> None:
        self.config, self.state = directory / "etc", directory / "state"
        self.config.mkdir()
        self.state.mkdir(mode=0o700)
        self.manager = Manager(str(directory / "notify"))
        self.processes: list[subprocess.Popen[str]] = []
        self._receiver = receiver
        self.prefix: tuple[str, ...] = UNPRIVILEGED

    def environ(self, unit: dict[str, list[str]]) -> dict[str, str]:
        """What systemd sets, and what lets telemetry run towards loopback."""
        return {
            **{name: value for name, value in telemetry_allowed().items() if name.startswith("LIFEBEAT_")},
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "HOME": "/var/lib/lifebeat",
            "NOTIFY_SOCKET": self.manager.address,
            "CONFIGURATION_DIRECTORY": str(self.config),
            "STATE_DIRECTORY": str(self.state),
            "WATCHDOG_USEC": "1000000",
            **dict(value.split("=", 1) for value in unit["Environment"]),
            "TELEMETRY_HOST": self._receiver.url,
            "TELEMETRY_API_KEY": "phc_test",
        }

    def start(self, *drop_ins: str, **environ: str) -> subprocess.Popen[str]:
        """Start it, with the config directory as it is: not this user's to write."""
        self.config.chmod(0o555)
        if os.geteuid() == 0:
            os.chown(self.config, NOBODY, NOBODY)
        unit = directives(UNIT, *(HERE / "lifebeat.service.d" / name for name in drop_ins))
        command = shlex.split(unit["ExecStart"][-1].replace(INSTALLED, VENV))
        process = subprocess.Popen(
            [*self.prefix, *command],
            cwd=self.state,
            env={**self.environ(unit), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            umask=int(unit["UMask"][0], 8),
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End what still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.manager.close()
        self.config.chmod(0o755)


@pytest.fixture
def service(tmp_path: Path, receiver: PostHogServer) -> Iterator[Service]:
    """The service of an installation that has no config yet."""
    made = Service(tmp_path, receiver)
    yield made
    made.close()


def names_in(directory: Path) -> set[str]:
    """What lies in a directory."""
    return {path.name for path in directory.iterdir()}


def test_service_is_ready_beats_reloads_and_stops(service: Service, receiver: PostHogServer) -> None:
    """On a config directory that it cannot write: ready, beating, reloaded, stopped; all delivered, the ID in state."""
    process = service.start()
    service.manager.await_("READY")
    service.manager.await_("WATCHDOG", 2)
    reload = directives(UNIT)["ExecReload"][0].replace("$MAINPID", str(process.pid))
    subprocess.run(shlex.split(reload), check=True)
    service.manager.await_("RELOADING")
    service.manager.await_("READY", 2)
    receiver.wait_for(lambda one: "startup" in one.names(), timeout=DEADLINE)
    begin = time.monotonic()
    code, _, told = end(process)
    assert code == -signal.SIGTERM, told
    assert time.monotonic() - begin < seconds("TimeoutStopSec")
    assert any("STOPPING" in said for said in service.manager.receive())
    assert receiver.names() == ["startup", "shutdown"]
    assert names_in(service.config) == set()
    instance_id = (service.state / "instance-id").read_text().strip()
    assert {one["properties"]["instance_id"] for one in receiver.events} == {instance_id}
    assert [path.name for path in service.state.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_the_id_survives_a_restart(service: Service, receiver: PostHogServer) -> None:
    """The ID in the state directory is that of the next life as well."""
    for lives in (1, 2):
        process = service.start()
        receiver.wait_for(lambda one, lives=lives: one.names().count("startup") == lives, timeout=DEADLINE)
        end(process)
    assert len({one["properties"]["instance_id"] for one in receiver.events}) == 1


def test_the_interval_of_a_drop_in_holds(service: Service) -> None:
    """The drop-in tunes the interval of the heartbeat, without a change to any other file."""
    environ = service.environ(directives(UNIT, HERE / "lifebeat.service.d" / "interval.conf"))
    plan = [f"{VENV}/lifebeat", "plan", "--json", "--count", "2"]
    done = subprocess.run(plan, env=environ, check=True, capture_output=True, text=True)
    (runs,) = (one["next"] for one in json.loads(done.stdout) if one["job"] == "heartbeat")
    first, second = (datetime.fromisoformat(run["instant"]) for run in runs)
    assert second - first == timedelta(hours=6)


def test_jobs_of_a_drop_in_run(service: Service) -> None:
    """With the drop-in for jobs the host's own module is found, allowed, and run."""
    (service.config / "jobs.yaml").write_text("jobs:\n  report:\n    run: myapp.jobs:report\n    every: 200ms\n")
    (service.state / "myapp").mkdir()
    (service.state / "myapp" / "jobs.py").write_text(
        "from pathlib import Path\ndef report():\n    Path('ran').touch()\n"
    )
    process = service.start("jobs.conf", PYTHONPATH=str(service.state))
    eventually((service.state / "ran").exists)
    end(process)


def test_a_mistake_ends_in_the_code_that_ends_restarts(service: Service) -> None:
    """With a mistake in config the code is one of those that systemd does not answer with a restart."""
    (service.config / "config.json").write_text('{"telemetryHeartbeatInterval": "often"}')
    process = service.start()
    process.communicate(timeout=DEADLINE)
    assert str(process.returncode) in directives(UNIT)["RestartPreventExitStatus"][0].split()
    assert "often" in service.manager.await_("ERRNO")["STATUS"]


def test_the_watchdog_shows_where_it_is_stuck(service: Service) -> None:
    """What systemd's watchdog sends makes it write where each thread is."""
    (service.config / "config.json").write_text('{"telemetryEnabled": false}')
    code, err = -signal.SIGSEGV, ""
    while code == -signal.SIGSEGV:  # Python itself may fail when it shows a thread that is just ending
        process = service.start(WATCHDOG_USEC="0")
        service.manager.await_("READY")
        code, _, err = end(process, signal.SIGABRT)
    assert code == -signal.SIGABRT
    assert "_main_loop" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another group")
def test_settings_by_root_stay_readable(service: Service) -> None:
    """A file that root made for the service's group stays so when root sets a key with the command."""
    path = service.config / "config.json"
    path.write_text("{}")
    os.chown(path, NOBODY, 0)  # the service of these tests is of root's group, and not the owner
    path.chmod(0o640)
    command = [f"{VENV}/lifebeat", "setconfig", "--config", service.config, "telemetryEnabled", "false"]
    subprocess.run(command, check=True, capture_output=True)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, 0, 0o640)
    service.start()
    assert service.manager.await_("READY")["STATUS"].endswith(f"telemetry is off ({path})")


def test_a_life_within_the_system_call_filter(
    tool: Tool, tmp_path: Path, service: Service, receiver: PostHogServer
) -> None:
    """No system call of a whole life, delivery included, is one that the unit forbids; memory and sockets likewise."""
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(sorted(allowed_calls(tool))), encoding="utf-8")
    sandboxed = Path(__file__).with_name("sandboxed.py")
    service.prefix = (*UNPRIVILEGED, sys.executable, str(sandboxed), str(allowed))
    process = service.start()
    service.manager.await_("WATCHDOG", 2)
    receiver.wait_for(lambda one: "startup" in one.names(), timeout=DEADLINE)
    code, _, told = end(process)
    assert (code, receiver.names()) == (-signal.SIGTERM, ["startup", "shutdown"]), told


def test_the_system_call_filter_really_kills(tool: Tool, tmp_path: Path) -> None:
    """The same filter ends what asks for another thing."""
    allowed = tmp_path / "allowed"
    allowed.write_text("\n".join(sorted(allowed_calls(tool))), encoding="utf-8")
    program = "import os; os.sched_setaffinity(0, [0])"
    command = [sys.executable, Path(__file__).with_name("sandboxed.py"), allowed, sys.executable, "-c", program]
    assert subprocess.run(command, check=False, timeout=DEADLINE).returncode == -signal.SIGSYS


def allowed_calls(tool: Tool) -> set[str]:
    """The system calls that the unit allows: what a ``~`` takes out, and what is always allowed."""
    allowed = set(calls_of(tool, "@default"))
    for value in directives(UNIT)["SystemCallFilter"]:
        for name in value.removeprefix("~").split():
            calls = calls_of(tool, name)
            allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def calls_of(tool: Tool, group: str) -> set[str]:
    """The system calls of a group, and of the groups in it."""
    lines = tool("systemd-analyze", "syscall-filter", group).stdout.splitlines()
    words = {line.split()[0] for line in lines if line.startswith(" ") and not line.strip().startswith("#")}
    groups = {word for word in words if word.startswith("@")}
    return (words - groups).union(*(calls_of(tool, one) for one in groups))

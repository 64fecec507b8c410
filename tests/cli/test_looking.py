"""Looking never acts: every command in every condition, its exit code, and no byte of the installation changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from hosts import DEADLINE, Installation, end, eventually
from lifebeat.testing import PostHogServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOOKING: dict[str, list[str]] = {
    "status": ["status"],
    "status --json": ["status", "--json"],
    "log": ["log"],
    "log --json": ["log", "--json"],
    "runs": ["runs"],
    "runs --json": ["runs", "--json", "--failed"],
    "preview": ["preview"],
    "plan": ["plan"],
    "config": ["config", "--layers"],
    "check": ["check"],
    "schema": ["schema", "jobs"],
    "describe": ["describe"],
    "view": ["view", "--export", "-"],
    "prove-off": ["prove-off"],
}
ACTING: dict[str, list[str]] = {
    "flush": ["flush", "--timeout", "1"],
    "run": ["run"],
    "setconfig": ["setconfig", "telemetryHeartbeatInterval", "6h"],
    "rotate-id": ["rotate-id"],
    "pause": ["pause", "heartbeat"],
}
# Runs each command with what it takes to run them all in one interpreter: the conditions are many.
PROGRAM = """
import contextlib, io, json, sys, traceback
from lifebeat.cli.main import main

found = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*words, "--config", "config"])
        except BaseException:
            code, _ = -1, traceback.print_exc()
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""


def good(config: Path) -> None:
    """Leave it as it is."""


def broken_jobs(config: Path) -> None:
    """Break the job file."""
    (config / "jobs.yaml").write_text("jobs:\n  heartbeat: {evry: 24h}\n")


def broken_own_jobs(config: Path) -> None:
    """Name a job of the host that is nowhere."""
    (config / "jobs.yaml").write_text("jobs:\n  report: {run: 'nowhere.jobs:report', every: 1h}\n")


def broken_config(config: Path) -> None:
    """Break the config file."""
    (config / "config.json").write_text("{")


def unreadable_config(config: Path) -> None:
    """Let nobody read the config file."""
    (config / "config.json").chmod(0)


def unsearchable(config: Path) -> None:
    """Let nobody into the config directory."""
    config.chmod(0)


def missing(config: Path) -> None:
    """Take the config directory away."""
    shutil.rmtree(config)


def read_only(config: Path) -> None:
    """Let nobody write in the config directory."""
    config.chmod(0o500)


def pipes(config: Path) -> None:
    """Put pipes in the place of files."""
    (config / "config.json").unlink()
    for name in ("config.json", "jobs.yaml"):
        os.mkfifo(config / name)


def a_file(config: Path) -> None:
    """Put a file in the place of the directory."""
    shutil.rmtree(config)
    config.write_text("not a directory")


def somebody_elses(config: Path) -> None:
    """Give everything to another user, who lets nobody in."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in (config, *config.rglob("*")):
        os.chown(path, 65534, 65534)
    config.chmod(0o700)


def readable_but_somebody_elses(config: Path) -> None:
    """Give everything to another user, who lets everybody read the directory, but not the state."""
    somebody_elses(config)
    config.chmod(0o755)


def databases(config: Path) -> list[Path]:
    """The files that hold state."""
    return list(config.rglob("*.sqlite3"))


def corrupt_state(config: Path) -> None:
    """Overwrite the state with noise."""
    for path in databases(config):
        path.write_bytes(b"noise" * 1000)


def empty_state(config: Path) -> None:
    """Empty the state's file."""
    for path in databases(config):
        path.write_bytes(b"")


def foreign_state(config: Path) -> None:
    """Put another program's database in the place of the state."""
    for path in databases(config):
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE others (id)")
        connection.close()


HOLD = """
import sqlite3, sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""
_holders: list[subprocess.Popen[str]] = []


def locked_state(config: Path) -> None:
    """Keep the state locked, as a process that was stopped in the middle of a write does."""
    for path in databases(config):
        command = [sys.executable, "-c", HOLD, str(path)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"


# What each command's exit code is: 0 unless named here. docs/commands.md shows the same.
OK, BAD, NO_START = 0, 1, 3
STATE_UNSEEN = {
    "status": BAD,
    "log": BAD,
    "runs": BAD,
    "preview": BAD,
    "describe": BAD,
}  # what was agreed to is in it as well
CONDITIONS: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "nothing wrong": (good, {}),
    "a broken job file": (broken_jobs, {"status": BAD, "plan": BAD, "check": BAD}),
    "a broken job of the host's own": (broken_own_jobs, {"status": BAD, "plan": BAD, "check": BAD}),
    "a broken config file": (broken_config, {"status": BAD, "plan": BAD, "config": BAD, "check": BAD}),
    "a config file that cannot be read": (unreadable_config, {"status": BAD, "plan": BAD, "config": BAD, "check": BAD}),
    "a directory that cannot be searched": (
        unsearchable, {"status": BAD, "log": BAD, "runs": BAD, "plan": BAD, "config": BAD, "check": BAD}
    ),
    "no directory": (missing, {}),
    "a directory that cannot be written": (read_only, {}),
    "pipes instead of files": (pipes, {"status": BAD, "plan": BAD, "config": BAD, "check": BAD}),
    "a file instead of the directory": (
        a_file, {"status": BAD, "log": BAD, "runs": BAD, "plan": BAD, "config": BAD, "check": BAD}
    ),
    "another user's directory": (
        somebody_elses, {"status": BAD, "log": BAD, "runs": BAD, "plan": BAD, "config": BAD, "check": BAD}
    ),
    "another user's readable directory": (readable_but_somebody_elses, STATE_UNSEEN),
    "damaged state": (corrupt_state, STATE_UNSEEN),
    "an empty state file": (empty_state, {}),
    "a foreign state file": (foreign_state, STATE_UNSEEN),
    "locked state": (locked_state, STATE_UNSEEN),
}  # fmt: skip


def tree(directory: Path) -> dict[str, Any]:
    """Everything below a directory: kind, mode, owner, content, and when it was changed."""
    found: dict[str, Any] = {}
    for path in [directory, *directory.rglob("*")]:
        about = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (about.st_mode, about.st_uid, about.st_mtime_ns, content)
    return found


def without_rights() -> list[str]:
    """What makes root obey the modes of files, as everybody else does."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, as root may read everything")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner,-chown"]


def run_all(installation: Installation, commands: dict[str, list[str]]) -> dict[str, tuple[int, str, str]]:
    """Run commands one after the other; code, output and errors of each."""
    command = [*without_rights(), sys.executable, "-c", PROGRAM, json.dumps(list(commands.values()))]
    # What the config file says is said by the environment too, as some of them break the file.
    environ = installation.environ(TELEMETRY_HOST=installation.receiver.url, TELEMETRY_API_KEY="phc_test")
    done = subprocess.run(
        command, cwd=installation.directory, env=environ, capture_output=True, text=True, check=False,
        timeout=4 * DEADLINE,  # each waits for a locked state
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results: list[tuple[int, str, str]] = [(code, out, err) for code, out, err in json.loads(done.stdout)]
    return dict(zip(commands, results, strict=True))


@pytest.fixture(scope="session")
def one_life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Path]]:
    """An installation in which an application has lived, and a copy of it from right after that."""
    directory = tmp_path_factory.mktemp("lived")
    with PostHogServer() as receiver:
        installation = Installation(directory / "now", receiver)
        live(installation)
        shutil.copytree(installation.directory, directory / "then")
        yield installation, directory / "then"


def live(installation: Installation) -> None:
    """Start and stop an application that cannot deliver its two events."""
    installation.receiver.refuse()
    installation.write(telemetryShutdownTimeout="500ms")
    process = installation.script("""
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", config_dir="config")
        scheduler.start()
        scheduler.shutdown()
    """)
    process.communicate(timeout=DEADLINE)
    assert databases(installation.config) != []


@pytest.fixture
def lived(one_life: tuple[Installation, Path]) -> Iterator[Installation]:
    """An installation in which an application has lived, and two events are pending."""
    installation, then = one_life
    shutil.rmtree(installation.directory)
    shutil.copytree(then, installation.directory)
    yield installation
    while _holders:
        _holders.pop().communicate()


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_look_changes_nothing(lived: Installation, condition: str) -> None:
    """In every condition each looking command ends with the code of the table, untraced, and changes no byte."""
    change, codes = CONDITIONS[condition]
    change(lived.config)
    before = tree(lived.directory)
    found = run_all(lived, LOOKING)
    after = tree(lived.directory)
    if lived.config.exists():
        lived.config.chmod(0o700)
    assert after == before
    assert [name for name, (_, out, err) in found.items() if "Traceback" in out + err or "not foreseen" in err] == []
    assert {name: code for name, (code, _, _) in found.items()} == {
        name: codes.get(name.removesuffix(" --json"), OK) for name in LOOKING
    }
    unseen = {
        "a directory that cannot be searched",
        "another user's directory",
        "another user's readable directory",
        "damaged state",
        "locked state",
    }
    assert condition not in unseen or "nothing was recorded" not in found["log"][1]


def test_a_look_beside_a_running_host_changes_nothing(installation: Installation) -> None:
    """While a host runs every looking command ends well, and changes no byte of what the host has made."""
    installation.receiver.refuse()
    host = installation.lifebeat("run", "--config", "config")
    log = ("log", "--json", "--config", "config")
    runs = ("runs", "--json", "--config", "config")
    eventually(lambda: any(one["attempts"] for one in json.loads(installation.run(*log)[1])))
    eventually(lambda: [one["outcome"] for one in json.loads(installation.run(*runs)[1])] == ["ok"])
    before = tree(installation.directory)
    found = run_all(installation, LOOKING)
    assert tree(installation.directory) == before
    assert {name: code for name, (code, _, _) in found.items()} == dict.fromkeys(LOOKING, OK)
    assert f"process {host.pid}" in found["status"][1]
    end(host)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_command_that_acts_ends_in_order(lived: Installation, condition: str) -> None:
    """In every condition each acting command ends with a documented code, in time, and without a traceback."""
    runs = {"nothing wrong", "no directory", "a directory that cannot be written", "an empty state file"}
    if condition in runs | {"another user's readable directory"}:
        commands = {name: words for name, words in ACTING.items() if name != "run"}  # it would run
    else:
        commands = ACTING if "state" not in condition else {"flush": ACTING["flush"]}
    CONDITIONS[condition][0](lived.config)
    found = run_all(lived, commands)
    if lived.config.is_dir():
        lived.config.chmod(0o700)
    assert [name for name, (_, out, err) in found.items() if "Traceback" in out + err or "not foreseen" in err] == []
    assert {code for code, _, _ in found.values()} <= {0, 1, 3}

"""Who follows a page word for word has sent an event: the commands of its blocks, run as they are written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from artifacts import copy_project, run
from hosts import DEADLINE, eventually
from lifebeat.testing import telemetry_allowed
from redisserver import RedisServer
from test_docs import in_language, read
from test_examples import CASES, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

RECEIVER = "python -m lifebeat.testing --port 8765"
PORT = "8765"


class Terminal:
    """A directory in which blocks are run, with the programs of an environment; the receiver has a port of its own.

    Args:
        directory: Where the blocks are run.
        programs: The directory of the environment's programs.
        environ: Variables besides those that allow telemetry towards this machine.
    """

    def __init__(self, directory: Path, programs: Path, **environ: str) -> None:
        self.directory = directory
        self.port = str(free_port())
        path = f"{programs}:{os.environ['PATH']}"
        self._environ = {**telemetry_allowed(), "PATH": path, "PYTHONUNBUFFERED": "1", **environ}
        self._shells: list[subprocess.Popen[bytes]] = []

    def type(self, block: str) -> Path:
        """Begin to run a block; the file to which it prints."""
        output = self.directory / f"terminal-{len(self._shells)}.log"
        with output.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-ec", block.replace(PORT, self.port)],
                cwd=self.directory, env=self._environ, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._shells.append(shell)
        return output

    def run(self, block: str, timeout: float = DEADLINE) -> str:
        """Run a block to its end; what it printed."""
        output = self.type(block)
        assert self._shells[-1].wait(timeout) == 0, output.read_text()
        return output.read_text()

    def interrupt(self) -> None:
        """Press Ctrl-C in the latest shell, and wait for its end."""
        os.killpg(self._shells[-1].pid, signal.SIGINT)
        self._shells[-1].wait(DEADLINE)

    def close(self) -> None:
        """End whatever still runs."""
        for shell in self._shells:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A terminal with the programs of the environment that the tests run in."""
    made = Terminal(tmp_path, Path(sys.executable).parent, HOME=str(tmp_path))
    yield made
    made.close()


def blocks_of_start() -> dict[str, str]:
    """The blocks of the first page that are run here, by the names that they have there."""
    mark = r"<!-- run by tests/documents/test_first_event\.py: (\w+) -->\n```sh\n(.*?)```"
    return dict(re.findall(mark, read("docs/start.md"), re.DOTALL))


def run_it(name: str) -> list[str]:
    """The commands of a host's page: the installation, the receiver, what comes before, the host."""
    found = re.search(r"^## Run it\n.*?```sh\n(.*?)```", read(f"docs/hosts/{name}.md"), re.DOTALL | re.MULTILINE)
    assert found
    return found.group(1).splitlines()


@pytest.mark.parametrize("name", CASES)
def test_hosts_page_has_the_commands_that_its_example_is_run_by(name: str) -> None:
    """Between the installation and the host there is a receiver, and the example sends to it."""
    install, receiver, *commands = run_it(name)
    assert re.match(r"pip install '?\.\./\.\.", install)
    assert receiver == f"{RECEIVER} &"
    assert commands == [*CASES[name].before, CASES[name].command]
    assert f"http://127.0.0.1:{PORT}" in read(f"examples/{name}/config/config.json")


def test_first_page_sends_its_first_event(terminal: Terminal) -> None:
    """Its commands in their order: a config directory and a host are made, and the receiver shows start and stop."""
    block = blocks_of_start()
    assert "3 jobs, no problem" in terminal.run(block["make"])
    received = terminal.type(block["receive"])
    eventually(lambda: "listens" in received.read_text())
    terminal.type(block["send"])
    eventually(lambda: '"event": "startup"' in received.read_text())
    terminal.interrupt()
    eventually(lambda: '"event": "shutdown"' in received.read_text())
    assert "notes 1.4.2 sends to" in terminal.run(block["look"])


# -- in a fresh environment --------------------------------------------------------------------------------------------


def fresh(tmp_path: Path) -> Path:
    """The programs of an environment with nothing but pip in it."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    return tmp_path / "venv" / "bin"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the project."""
    return copy_project(tmp_path_factory.mktemp("clone") / "lifebeat")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CASES)
def test_hosts_page_sends_its_first_event(name: str, clone: Path, tmp_path: Path) -> None:
    """With nothing installed, the page's commands alone, from its directory: the receiver shows the startup."""
    server = RedisServer() if CASES[name].needs_redis else None
    config = clone / "examples" / name / "config" / "config.json"
    terminal = Terminal(config.parents[1], fresh(tmp_path), **({"CELERY_BROKER_URL": server.url} if server else {}))
    config.write_text(config.read_text().replace(PORT, terminal.port))
    try:
        install, *rest = run_it(name)
        terminal.run(install, timeout=300)
        options = f" {CASES[name].serves.format(free_port())}" if CASES[name].serves else ""
        shown = terminal.type("\n".join(rest) + options)
        eventually(lambda: '"event": "startup"' in shown.read_text())
    finally:
        terminal.close()
        if server:
            server.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_readme_installs_and_embeds(clone: Path, tmp_path: Path) -> None:
    """README's first block installs, and its second one, as a program, has sent a startup and a shutdown."""
    install, embed = (
        next(one.text for one in in_language(kind) if one.page == "README.md") for kind in ("sh", "python")
    )
    terminal = Terminal(tmp_path, fresh(tmp_path))
    (tmp_path / "main.py").write_text(embed)
    try:
        terminal.run(install.replace("git clone REPOSITORY lifebeat", f"cp -r {clone} lifebeat"), timeout=300)
        received = terminal.type(RECEIVER)
        eventually(lambda: "listens" in received.read_text())
        terminal.run(f"TELEMETRY_HOST=http://127.0.0.1:{PORT} python main.py")
        eventually(lambda: '"event": "shutdown"' in received.read_text())
    finally:
        terminal.close()

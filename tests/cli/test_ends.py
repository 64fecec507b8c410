"""The ends of a command: Ctrl-C, closed pipes, full devices, ASCII terminals, misspelt words, the unforeseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import DEADLINE, eventually
from lifebeat.cli import jobs
from lifebeat.cli import main as cli

if TYPE_CHECKING:
    from hosts import Installation

LIFEBEAT = (sys.executable, "-m", "lifebeat")


def test_ctrl_c_ends_a_command_with_130(installation: Installation) -> None:
    """A command that waits for a server that never answers ends at Ctrl-C, without a traceback."""
    installation.receiver.refuse()
    host = installation.lifebeat("run", "--config", "config")
    eventually(lambda: installation.run("log", "--json", "--config", "config")[1].strip() not in {"", "[]"})
    host.kill()
    host.communicate()
    installation.receiver.accept_again()
    installation.receiver.hang()
    process = installation.lifebeat("flush", "--config", "config", "--timeout", "30")
    installation.receiver.wait_for(lambda server: server.connections > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, err) == (cli.INTERRUPTED, "", "")


def test_a_closed_pipe_is_quiet(installation: Installation) -> None:
    """Whoever reads only the beginning gets no complaint about the rest."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [*LIFEBEAT, "plan", "--count", "200", "--config", "config"],
        cwd=installation.directory, env=installation.environ(), stdout=writer, stderr=subprocess.PIPE, timeout=DEADLINE,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert (process.returncode, process.stderr) == (cli.DONE, b"")


@pytest.mark.parametrize("words", [["status"], ["schema", "jobs"], ["--help"], ["plan", "--count", "200"]])
def test_a_full_device_is_one_line(installation: Installation, words: list[str]) -> None:
    """What cannot be written is said once, with exit code 1."""
    with Path("/dev/full").open("wb") as full:
        process = subprocess.run(
            [*LIFEBEAT, *words], cwd=installation.directory, env=installation.environ(), stdout=full,
            stderr=subprocess.PIPE, timeout=DEADLINE, check=False,
        )  # fmt: skip
    assert process.returncode == cli.PROBLEM
    assert process.stderr == b"lifebeat: the output cannot be written: No space left on device\n"


def test_both_outputs_closed_is_no_traceback(installation: Installation) -> None:
    """A command whose outputs are closed ends with its exit code."""
    command = f"exec {sys.executable} -m lifebeat status --config config >&- 2>&-"
    process = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=installation.directory,
        env=installation.environ(),
        timeout=DEADLINE,
        check=False,
    )
    assert process.returncode == cli.DONE


@pytest.mark.parametrize("words", [["status"], ["config", "--layers"], ["plan", "--timeline"], ["log"]])
def test_an_ascii_terminal_shows_everything(installation: Installation, words: list[str]) -> None:
    """A terminal that knows no letter but ASCII's is written to without an error."""
    installation.write(appName="café ☕")
    code, out, err = installation.run(*words, "--config", "config", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (code, err) == (cli.DONE, "")
    assert out.isascii()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["statsu"], "did you mean 'status'?"),
        (["plan", "--cuont", "3"], "did you mean '--count'?"),
        (["check", "--confg", "x"], "did you mean '--config'?"),
        (["flush", "--timeout", "nan"], "not a number of seconds greater than zero"),
        (["flush", "--timeout", "inf"], "not a number of seconds greater than zero"),
        (["flush", "--timeout", "1e300"], "not a number of seconds greater than zero, at most 86400"),
        (["flush", "--timeout", "soon"], "'soon' is not a number of seconds"),
        (["view", "--port", "99999"], "'99999' is not a port"),
        (["log", "--count", "1.5"], "'1.5' is not a number from 1 up"),
        (["flush", "--timeout", "-1"], "not a number of seconds greater than zero"),
        (["log", "--count", "-1"], "not a number from 1 up"),
        (["plan", "--count", "0"], "not a number from 1 up"),
        (["demo", "--seconds", "0"], "not a number of seconds greater than zero"),
        ([], "COMMAND"),
    ],
)
def test_what_is_not_understood_is_usage(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """A wrong command, option or value exits 2 and says what would be right."""
    assert cli.main(words) == cli.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--config", "config", "check"], ["check", "--config", "config"]])
def test_shared_options_stand_before_or_after_the_command(installation: Installation, words: list[str]) -> None:
    """``lifebeat --config DIR check`` is ``lifebeat check --config DIR``."""
    assert installation.run(*words)[:2] == (cli.DONE, installation.run("check", "--config", "config")[1])


def test_repeated_options_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    """``--allow`` before and after the command are both meant."""
    args = cli.command_line().parse(["--allow", "a", "check", "--allow", "b", "--json"])
    assert (args.allow, args.json) == (["a", "b"], True)


def test_the_unforeseen_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw is said in a line, with how to report it; the traceback comes on demand."""

    def fail(*_: object) -> None:
        raise RuntimeError("something\nodd")

    monkeypatch.setattr(jobs.console, "counted", fail)
    assert cli.main(["check"]) == cli.PROBLEM
    (line,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: something odd" in line
    assert "LIFEBEAT_DEBUG=1" in line
    monkeypatch.setenv("LIFEBEAT_DEBUG", "1")
    with pytest.raises(RuntimeError):
        cli.main(["check"])


@pytest.mark.parametrize("words", [["status"], ["run"], ["check"], ["setconfig", "telemetryEnabled", "false"]])
def test_a_working_directory_that_is_gone_is_said(installation: Installation, words: list[str]) -> None:
    """A command started in a directory that was removed says so; with an absolute ``--config`` it works."""
    gone = installation.directory / "gone"
    gone.mkdir()
    command = f"rmdir {gone}; exec {sys.executable} -P -m lifebeat {' '.join(words)}"
    process = subprocess.run(
        ["/bin/sh", "-c", command], cwd=gone, env=installation.environ(), capture_output=True, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert process.returncode == cli.PROBLEM
    assert process.stderr.startswith("lifebeat: the working directory cannot be used")


def test_an_application_has_the_commands_under_its_own_name(
    installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    """``lifebeat.main`` knows what the application passes to ``attach``, and is called what it says."""
    process = installation.script("""
        import sys, lifebeat
        sys.exit(lifebeat.main(
            prog="notes telemetry", app_name="notes", app_version="1.4.2", api_key="phc_notes", config_dir="config"))
    """)
    process.communicate(timeout=DEADLINE)
    script = process.args[1]  # type: ignore[index]
    shown = installation.start(sys.executable, script, "config", "--layers")  # type: ignore[arg-type]
    out, _ = shown.communicate(timeout=DEADLINE)
    assert shown.returncode == cli.DONE
    assert "host argument" in out
    assert "notes" in out
    usage = installation.start(sys.executable, script, "--help")  # type: ignore[arg-type]
    assert usage.communicate(timeout=DEADLINE)[0].startswith("usage: notes telemetry")

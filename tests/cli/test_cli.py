"""The commands, as a person or a program meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lifebeat.cli import main as cli

if TYPE_CHECKING:
    from hosts import Installation
    from lifebeat.testing import PostHogServer


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config directory, and no environment that speaks about telemetry; the working directory is above it."""
    for name in ("DO_NOT_TRACK", "CI", "GITHUB_ACTIONS", "LIFEBEAT_CONFIG_DIR", "LIFEBEAT_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "config"
    made.mkdir()
    return Path("config")


def test_check_accepts_the_shipped_job_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``check`` on what is shipped finds nothing and exits 0."""
    assert cli.main(["check"]) == cli.DONE
    assert "3 jobs, no problem" in capsys.readouterr().out


def test_check_names_every_problem(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``check`` names each problem with file, line, column and the nearest right word, and exits 1."""
    (config / "jobs.yaml").write_text(
        "jobs:\n"
        "  heartbeat:\n"
        "    run: lifebeat_jobs.telemetry:hartbeat\n"
        "    evry: 24h\n"
        "  report:\n"
        "    run: myapp.jobs:report\n"
        "    every: 24:00\n"
    )
    (config / "config.json").write_text('{\n  "telemetryEnabled": "flase"\n}\n')
    assert cli.main(["check"]) == cli.PROBLEM
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "config/config.json:2:3",
        "config/jobs.yaml:3:10",
        "config/jobs.yaml:4:5",
        "config/jobs.yaml:6:10",
        "config/jobs.yaml:7:12",
    ]
    assert "did you mean 'every'" in lines[2]


def test_check_tells_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``check --json`` gives each problem's place as fields."""
    (config / "jobs.yaml").write_text("jobs:\n  a: {run: 'lifebeat_jobs.telemetry:startup'}\n")
    assert cli.main(["check", "--json"]) == cli.PROBLEM
    (problem,) = json.loads(capsys.readouterr().out)
    assert (problem["source"], problem["line"], problem["column"]) == ("config/jobs.yaml", 2, 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("jobs.yaml", b"\xff\xfe"),
        ("jobs.yaml", b"- a\n- b\n"),
        ("jobs.yaml", b"jobs: [" * 5000),
        ("jobs.yaml", b"jobs:\n\tx: 1\n"),
        ("jobs.yaml", b"\x00"),
        ("config.json", b"{"),
        ("config.json", b"[1]"),
        ("config.json", b"\xff"),
        ("config.json", b'{"telemetryHost": 5, "telemetryHeartbeatInterval": [], "telemetryApiKey": {}}'),
        ("config.yaml", b"a: *b\n"),
    ],
)
@pytest.mark.parametrize(
    "command", ["check", "plan", "config", "status", "preview", "log", "flush", "run", "rotate-id"]
)
def test_no_input_gives_a_traceback(
    config: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, content: bytes
) -> None:
    """Whatever is in a file, a command ends with an exit code that it documents, and leaves the file as it was."""
    (config / name).write_bytes(content)
    assert cli.main([command]) in cli.EXIT_CODES
    assert "Traceback" not in capsys.readouterr().err
    assert (config / name).read_bytes() == content or command == "rotate-id"


def test_run_cannot_start_on_a_broken_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``run`` says what is wrong and exits 3."""
    (config / "jobs.yaml").write_text("jobs:\n  a: {run: 'lifebeat_jobs.telemetry:startup', every: -5s}\n")
    assert cli.main(["run"]) == cli.NO_START
    assert capsys.readouterr().err.startswith("config/jobs.yaml:2:")


def test_unknown_command_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that there is not exits 2."""
    assert cli.main(["strat"]) == cli.USAGE


def test_plan_shows_the_next_runs(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``plan`` tells of each job when it runs next, and of one that is off that it does not."""
    monkeypatch.setenv("LIFEBEAT_TEST_MODE", "loopback")
    monkeypatch.setenv("TELEMETRY_HOST", "http://127.0.0.1:9")
    (config / "jobs.yaml").write_text(
        "jobs:\n"
        "  a: {run: 'lifebeat_jobs.telemetry:heartbeat', every: 6h}\n"
        "  b: {run: 'lifebeat_jobs.telemetry:heartbeat', cron: '0 3 * * 0', timezone: Europe/Stockholm}\n"
        "  c: {run: 'lifebeat_jobs.telemetry:startup', when: start}\n"
        "  d: {run: 'lifebeat_jobs.telemetry:startup', every: 1h, enabled: no}\n"
    )
    assert cli.main(["plan", "--json", "--count", "4"]) == cli.DONE
    a, b, c, d = json.loads(capsys.readouterr().out)
    assert len(a["next"]) == len(b["next"]) == 4
    assert {one["starts"][11:] for one in a["next"]} == {f"{hour}:00:00+00:00" for hour in ("00", "06", "12", "18")}
    assert b["when"] == "cron 0 3 * * 0 (Europe/Stockholm)"
    assert (c["when"], c["next"]) == ("at start", [])
    assert (d["when"], d["next"]) == ("every 1h (off)", [])
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    assert cli.main(["plan", "--json"]) == cli.DONE
    assert [one["next"] for one in json.loads(capsys.readouterr().out)] == [[], [], [], []]


def test_setconfig_writes_and_says_who_overrides(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``setconfig`` keeps everything else in the file, and says if a higher layer wins."""
    (config / "config.json").write_text('{"adminChannel": "music", "maxVolume": 75}')
    monkeypatch.setenv("TELEMETRY_HEARTBEAT_INTERVAL", "6h")
    assert cli.main(["setconfig", "telemetryHeartbeatInterval", "12h"]) == cli.DONE
    assert "environment (TELEMETRY_HEARTBEAT_INTERVAL) says otherwise, and wins" in capsys.readouterr().out
    there = json.loads((config / "config.json").read_text())
    assert there == {"adminChannel": "music", "maxVolume": 75, "telemetryHeartbeatInterval": "12h"}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("telemetryEnable", "false", "did you mean 'telemetryEnabled'?"),
        ("telemetryEnabled", "maybe", "expected true or false"),
        ("telemetryHeartbeatInterval", "-1h", "is negative"),
        ("telemetryHost", "posthog.example.org", "is not a URL"),
    ],
)
def test_setconfig_refuses(config: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, said: str) -> None:
    """``setconfig`` refuses what is not valid, says what is, and changes nothing."""
    (config / "config.json").write_text("{}")
    assert cli.main(["setconfig", key, "--", value]) == cli.PROBLEM
    assert said in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in config.iterdir()] == [("config.json", "{}")]


def test_setconfig_refuses_a_directory_without_an_installation(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing of Lifebeat is, an opt-out would be heard by nobody: the directory is named, and nothing made."""
    assert cli.main(["setconfig", "telemetryEnabled", "false"]) == cli.PROBLEM
    said = capsys.readouterr().err
    assert str(config.absolute()) in said
    assert "--config DIR" in said
    assert list(config.iterdir()) == []


def test_an_opt_out_is_written_where_the_state_is_locked(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen process that holds the database keeps nobody from turning telemetry off."""
    from lifebeat.storage.sqlite import DatabaseUnavailable
    from lifebeat_jobs import telemetry

    def locked(_: object) -> None:
        raise DatabaseUnavailable("lifebeat.sqlite3: cannot be used: in use for 5 s; try again")

    monkeypatch.setattr(telemetry, "withdrawn", locked)
    (config / "config.json").write_text("{}")
    assert cli.main(["setconfig", "telemetryEnabled", "false"]) == cli.DONE
    out, err = capsys.readouterr()
    assert "telemetryEnabled is false" in out
    assert "what is pending is not deleted yet" in err
    assert json.loads((config / "config.json").read_text()) == {"telemetryEnabled": False}


@pytest.mark.parametrize("words", [[], ["telemetryEnabled"], ["telemetryEnabled", "no", "--unset", "telemetryHost"]])
def test_setconfig_takes_a_key_and_a_value_or_unset(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Half of it is a mistake in usage."""
    assert cli.main(["setconfig", *words]) == cli.USAGE
    assert "expected KEY VALUE, or --unset KEY" in capsys.readouterr().err


def test_status_and_log_make_no_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking leaves nothing behind."""
    for command in (["status"], ["log"], ["preview"], ["status", "--json"], ["log", "--json"]):
        assert cli.main(command) == cli.DONE
    assert list(config.iterdir()) == []
    assert "nothing was recorded" in capsys.readouterr().out


def test_log_and_status_after_an_outage(installation: Installation, receiver: PostHogServer) -> None:
    """``status`` says what waits, ``log`` what became of each event, ``flush`` delivers it."""
    receiver.refuse()
    process = installation.script("""
        from apscheduler.schedulers.background import BackgroundScheduler
        import lifebeat

        scheduler = BackgroundScheduler()
        lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2")
        scheduler.start()
        scheduler.shutdown()
    """)
    process.communicate(timeout=20)
    told = json.loads(installation.run("status", "--json", "--config", "config")[1])
    assert (told["telemetry"], told["waiting"]) == ("on", 2)
    code, out, _ = installation.run("flush", "--timeout", "2", "--config", "config")
    assert (code, out) == (cli.PROBLEM, "0 delivered, 2 waiting: the connection was refused\n")
    receiver.accept_again()
    code, out, _ = installation.run("flush", "--config", "config")
    assert (code, out) == (cli.DONE, "2 delivered, 0 waiting\n")
    entries = json.loads(installation.run("log", "--json", "--config", "config")[1])
    assert {(one["event"], one["state"], one["status"]) for one in entries} == {
        ("startup", "delivered", 200),
        ("shutdown", "delivered", 200),
    }
    assert sorted(receiver.names()) == ["shutdown", "startup"]


def test_rotate_id_makes_a_new_random_id(installation: Installation) -> None:
    """``rotate-id`` gives the installation a new random ID."""
    installation.write(telemetryInstanceId="6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11")
    code, out, _ = installation.run("rotate-id", "--config", "config")
    assert code == cli.DONE
    new = json.loads((installation.config / "config.json").read_text())["telemetryInstanceId"]
    assert new != "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"
    assert new in out


def test_demo_shows_a_whole_life_in_ci_too(installation: Installation) -> None:
    """``demo`` shows the whole life, in CI and with DO_NOT_TRACK too, since it sends to itself."""
    code, out, err = installation.run("demo", "--seconds", "3", CI="true", DO_NOT_TRACK="1")
    assert (code, err) == (cli.DONE, "")
    assert all(word in out for word in ("startup", "heartbeat", "shutdown", "SIGTERM"))

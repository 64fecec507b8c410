"""``lifebeat config``: the merged settings, who set each, what each layer said; and no key in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lifebeat.cli import main as cli

SECRETS = ("phc_from_the_file", "phc_from_the_overlay", "phc_from_the_environment", "phc_from_the_command_line")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config directory in which each layer says something about the key and the interval."""
    for name in ("DO_NOT_TRACK", "LIFEBEAT_CONFIG_DIR", "LIFEBEAT_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "config"
    (made / "deployments").mkdir(parents=True)
    file = {"telemetryApiKey": SECRETS[0], "telemetryHeartbeatInterval": "12h", "adminChannel": "music"}
    (made / "config.json").write_text(json.dumps(file))
    overlay = f"telemetryApiKey: {SECRETS[1]}\ntelemetryHeartbeatInterval: 1h\n"
    (made / "deployments" / "staging.yaml").write_text(overlay)
    monkeypatch.setenv("TELEMETRY_API_KEY", SECRETS[2])
    monkeypatch.setenv("TELEMETRY_HEARTBEAT_INTERVAL", "6h")
    return Path("config")


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    """What ``config --json`` tells, by key."""
    cli.main(["config", "--json", *words])
    return {one["key"]: one for one in json.loads(capsys.readouterr().out)}


def test_each_value_comes_with_its_layer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each value comes with the layer that set it; a key without a value has none."""
    told = rows(capsys, "--set", "appName=notes", "--deployment", "staging")
    assert {name: (one["value"], one["source"]) for name, one in told.items()} == {
        "telemetryEnabled": (False, told["telemetryEnabled"]["source"]),
        "telemetryApiKey": ("phc_... (24 characters)", "environment (TELEMETRY_API_KEY)"),
        "telemetryHost": ("https://us.i.posthog.com", "default"),
        "telemetryInstanceId": (None, None),
        "telemetryHeartbeatInterval": ("6h", "environment (TELEMETRY_HEARTBEAT_INTERVAL)"),
        "telemetryShutdownTimeout": ("2s", "default"),
        "telemetryStateDir": (None, None),
        "telemetryIdentity": ("installation", "default"),
        "telemetryNewFields": ("ask", "default"),
        "telemetryOutboxEvents": (1000, "default"),
        "telemetryOutboxBytes": (5242880, "default"),
        "telemetryOutboxAge": ("30d", "default"),
        "runHistory": ("30d", "default"),
        "appName": ("notes", "command line"),
        "appVersion": (None, None),
        "releaseVersion": (None, None),
    }


def test_layers_option_shows_the_value_of_each_layer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With ``--layers`` each key has what every layer said, lowest first, and which word counts."""
    told = rows(capsys, "--layers", "--deployment", "staging")
    assert [(one["layer"], one["value"], one["counts"]) for one in told["telemetryHeartbeatInterval"]["layers"]] == [
        ("default", "24h", False),
        ("config/config.json", "12h", False),
        ("config/deployments/staging.yaml", "1h", False),
        ("environment (TELEMETRY_HEARTBEAT_INTERVAL)", "6h", True),
    ]
    assert told["appVersion"]["layers"] == []


def test_off_in_a_lower_layer_counts(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ``telemetryEnabled`` it is the word off that counts, though a higher layer says on."""
    (config / "deployments" / "quiet.yaml").write_text("telemetryEnabled: false\n")
    monkeypatch.setenv("TELEMETRY_ENABLED", "true")
    layers = rows(capsys, "--layers", "--deployment", "quiet")["telemetryEnabled"]["layers"]
    assert [one["layer"] for one in layers if one["counts"]] == ["config/deployments/quiet.yaml"]
    assert ("environment (TELEMETRY_ENABLED)", True) in [(one["layer"], one["value"]) for one in layers]


def test_table_marks_the_value_that_counts(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """People see the word that counts marked, and the layers that there are, those that said nothing too."""
    assert cli.main(["config", "--layers", "--deployment", "staging"]) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.split()[:2] == [">", "6h"]] == [
        [">", "6h", "environment", "(TELEMETRY_HEARTBEAT_INTERVAL)"]
    ]
    asked = lines[lines.index("") + 2 :]
    assert [line.strip() for line in asked[:6]] == [
        "default",
        "host argument (no application has run here yet; what it passes in code is not known)",
        "config/config.json",
        "config/config.yaml",
        "config/config.yml",
        "config/deployments/staging.yaml",
    ]


@pytest.mark.parametrize("words", [[], ["--json"], ["--layers"], ["--layers", "--json"]], ids=" ".join)
def test_no_key_is_shown(config: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """No form of the command shows the key of any layer, not even one that is not valid."""
    assert cli.main(["config", *words, "--deployment", "staging", "--set", f"telemetryApiKey={SECRETS[3]}"]) == cli.DONE
    invalid = f"{SECRETS[3]}\a"
    assert cli.main(["config", *words, "--set", f"telemetryApiKey={invalid}"]) == cli.PROBLEM
    said = capsys.readouterr()
    assert [secret for secret in SECRETS if secret[4:] in said.out + said.err] == []


def test_a_short_key_is_not_shown_by_its_beginning(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four characters of a short secret would be all of it."""
    assert rows(capsys, "--set", "telemetryApiKey=abcd")["telemetryApiKey"]["value"] == "... (4 characters)"


def test_invalid_value_is_named_in_its_layer(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A word that is not valid is told as such in its layer; the lower one counts, and the exit code is 1."""
    words = ["config", "--layers", "--set", "telemetryHeartbeatInterval=soon"]
    assert cli.main(words) == cli.PROBLEM
    said = capsys.readouterr()
    assert "(not valid)" in said.out
    assert "command line" in said.err
    *_, lower, highest = rows(capsys, *words[1:])["telemetryHeartbeatInterval"]["layers"]
    assert (lower["value"], lower["counts"]) == ("6h", True)
    assert (highest["value"], highest["valid"], highest["counts"]) == (None, False, False)


def test_a_switch_that_is_not_valid(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A switch that cannot be read is told as not valid, and as what it counts as."""
    monkeypatch.setenv("TELEMETRY_ENABLED", "flase")
    assert cli.main(["config", "--layers"]) == cli.PROBLEM
    assert "(not valid, counts as false)" in capsys.readouterr().out

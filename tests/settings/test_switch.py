"""Near misses of the switch: whoever says off in any spelling is heard, and keys of the application change nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat.settings.source import ConfigSource, config_dir

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.settings.table import Settings

FILES = ("config.json", "config.yaml")
OFF_IN_FILES: list[dict[str, Any]] = [
    {"telemetry_enabled": False},
    {"telemetryEnable": False},
    {"TELEMETRY_ENABLED": False},
    {"telemetry-enabled": "no"},
    {"TelemetryEnabled": "off"},
    {"telemetryenabled": 0},
    {"telemetry.enabled": False},
    {"telemetryEnabled ": False},
    {"telemtryEnabled": False},
    {"telemetryEnabeld": False},
    {"telemetryEnabledd": "false"},
    {"telemetry_enabled": None},
    {"telemetry_enabled": "maybe"},
    {"telemetry": False},
    {"telemetry": "off"},
    {"telemetry": "none"},
    {"telemetry": {"enabled": False}},
    {"telemetry": {"enable": "no"}},
    {"telemetry": {"disabled": True}},
    {"telemetry": {"telemetryEnabled": False}},
    {"telemetry": {"optOut": True}},
    {"lifebeat": {"enabled": False}},
    {"lifebeat": {"telemetry": {"enabled": False}}},
    {"lifebeat": False},
    {"lifebeatEnabled": False},
    {"lifebeatTelemetryEnabled": False},
    {"telemetryDisabled": True},
    {"telemetryDisable": 1},
    {"telemetryDisabeld": True},
    {"disableTelemetry": "yes"},
    {"enableTelemetry": False},
    {"noTelemetry": True},
    {"telemetryOptOut": True},
    {"telemetry_opt_in": False},
    {"sendTelemetry": "n"},
    {"doNotTrack": True},
    {"do_not_track": 1},
    {"dnt": 1},
    {"telemtery": False},
    {"telmetry": {"enabled": "no"}},
    {"telemtery": {"disable": True}},
    {"liefbeat": {"telemetry": {"enabled": False}}},
    {"telemetry": {"send": False}},
    {"telemetrySettings": {"enabled": False}},
    {"telemetryReporting": "off"},
    {"shareTelemetry": False},
    {"telemetry": {"is_active": False}},
    {"telemetryIsOff": True},
    {"blockTelemetry": True},
    {"telemetry": {"doNotSend": True}},
    {"telemetry": "denied"},
    {"telemetry": "opt-out"},
    {"telemetry": {"status": "inactive"}},
    {"anonymizedTelemetry": False},
    {"usageTelemetry": "off"},
    {"telemetryHeartbeat": False},
    {"privacy": {"telemetry": False}},
    {"settings": {"telemetryEnabled": False}},
    {"app": {"doNotTrack": True}},
    {"telemetry": {"enabled:false": None}},
]
OFF_IN_ENVIRONMENT = [
    {"TELEMETRY_ENABLE": "false"},
    {"TELEMETRY_DISABLED": "1"},
    {"Telemetry_Enabled": "false"},
    {"telemetry_enabled": "0"},
    {"do_not_track": "1"},
    {"DONOTTRACK": "1"},
    {"LIFEBEAT_TELEMETRY_ENABLED": "false"},
    {"LIFEBEAT_ENABLED": "no"},
    {"LIFEBEAT_DISABLED": "true"},
    {"LIFEBEAT_TELEMETRY": "off"},
    {"TELEMETRY": "0"},
    {"TELEMETRY_OPTOUT": "1"},
    {"TELEMETRY_OPT_OUT": "true"},
    {"NO_TELEMETRY": "1"},
    {"DISABLE_TELEMETRY": "1"},
    {"TELEMETRY_ENALBED": "false"},
    {"TELEMETRY_DISABLE": '"1"'},
    {"DO_NOT_TRAK": "1"},
    {"TELEMETRY_CONSENT": "denied"},
    {"ANONYMIZED_TELEMETRY": "False"},
]
FOREIGN_IN_FILES: list[dict[str, Any]] = [
    {"telemetryUrl": "off"},
    {"telemetry_port": 9},
    {"telemetryPort": 0},
    {"telemetryInterval": "0"},
    {"telemetry": True},
    {"telemetry": "on"},
    {"telemetry": {}},
    {"telemetry": []},
    {"telemetry": None},
    {"telemetry": ""},
    {"telemetry": {"port": 0}},
    {"telemetry": {"exporters": []}},
    {"telemetry": {"enabled": True}},
    {"telemetry": {"disabled": False}},
    {"telemetry": {"tracing": {"enabled": False}}},
    {"telemetry": {"metrics": False}},
    {"metrics": {"enabled": False}},
    {"logging": {"telemetry": False}},
    {"enabled": False},
    {"disabled": True},
    {"tracking": False},
    {"analytics": False},
    {"analyticsEnabled": False},
    {"tts": {"enabled": False}},
    {"plugins": [{"telemetryEnabled": False}]},
    {"a": {"telemetryEnabled": False}},
    {"telemetryEnabledSince": "0"},
    {"telemetryEnabledPlugins": "none"},
    {"telemetryDisabledPlugins": "a, b"},
    {"telemetry_endpoint": "none"},
    {"crossfadeEnabled": False},
    {"telemetryDisabled": False},
    {"telemetryDisabled": "no"},
    {"doNotTrack": False},
    {"noTelemetry": 0},
    {"telemeter": False},
    {"telegram": False},
    {"telemetricsEnabled": False},
    {"telemetrySendInterval": 0},
    {"telemetryUseTls": False},
    {"sendTelemetryErrors": False},
    {"telemetryMode": "batch"},
    {"telemetry": {"level": "info"}},
    {"opentelemetry": {"enabled": False}},
    {"heartbeat": {"enabled": False}},
    {"donutTracker": False},
    {"settings": {"enabled": False}},
    {"privacy": {"disabled": True}},
    {"general": {"telemetryUrl": False}},
    {"telemetrySampleRate": 0},
    {"telemetry": {"otlp": {"enabled": False}}},
    {"telemetry": {"exporter": "none"}},
    {"openTelemetry": False},
    {"carTelemetryEnabled": False},
    {"geometryEnabled": False},
    {"telemeterDisabled": True},
]
FOREIGN_IN_ENVIRONMENT = [
    {"NEXT_TELEMETRY_DISABLED": "1"},
    {"DOTNET_CLI_TELEMETRY_OPTOUT": "1"},
    {"AZURE_CORE_COLLECT_TELEMETRY": "0"},
    {"OTEL_SDK_DISABLED": "true"},
    {"HF_HUB_DISABLE_TELEMETRY": "1"},
    {"TELEMETRY_DISABLED": ""},
    {"TELEMETRY_DISABLED": "0"},
    {"TELEMETRY_ENABLE": ""},
    {"TELEMETRY_PORT": "0"},
    {"ENABLED": "false"},
    {"LIFEBEAT_ENGINE": "none"},
    {"DO_NOT_TRACK": "0"},
]


def shown(values: dict[str, Any]) -> str:
    """The case as its name."""
    return json.dumps(values)


def read(directory: Path, files: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> Settings:
    """The settings of a config directory and an environment."""
    for name, content in (files or {}).items():
        (directory / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return ConfigSource(directory, environ=environ or {}, modules={}).read()


@pytest.mark.parametrize("values", OFF_IN_FILES, ids=shown)
def test_a_near_miss_in_a_file_that_says_off_is_off(tmp_path: Path, values: dict[str, Any]) -> None:
    """It counts, is named once with its place and the right spelling, and says so over a yes beside it."""
    for file in FILES:
        directory = tmp_path / file
        directory.mkdir()
        found = read(directory, {file: {**values, "telemetryEnabled": True}})
        assert found.opted_out
        (warning,) = found.warnings
        assert (warning.source, warning.line) == (str(directory / file), warning.line)
        assert "counts as off (did you mean 'telemetryEnabled: false'?)" in warning.message
        assert found.sources["telemetryEnabled"].startswith(str(directory / file))
        assert found.problems == ()


@pytest.mark.parametrize("environ", OFF_IN_ENVIRONMENT, ids=shown)
def test_a_near_miss_in_the_environment_that_says_off_is_off(tmp_path: Path, environ: dict[str, str]) -> None:
    """Misspelled, in another case, turned round or with our name before it: it counts, and is named once."""
    found = read(tmp_path, environ=environ)
    assert found.opted_out
    (warning,) = found.warnings
    assert "TELEMETRY_ENABLED=false" in warning.message
    assert found.sources["telemetryEnabled"] == f"environment ({next(iter(environ))})"


@pytest.mark.parametrize("values", [{"telemetry_enabled": "false"}, {"telemetry": "off"}], ids=shown)
def test_a_near_miss_among_the_arguments_is_off(tmp_path: Path, values: dict[str, Any]) -> None:
    """What a host passes on under another name is heard as well."""
    found = ConfigSource(tmp_path, arguments=values, environ={}, modules={}).read()
    assert (found.opted_out, found.sources["telemetryEnabled"]) == (True, "host argument")


@pytest.mark.parametrize("values", FOREIGN_IN_FILES, ids=shown)
def test_a_foreign_key_in_a_file_changes_nothing(tmp_path: Path, values: dict[str, Any]) -> None:
    """What is the application's own, or says on, turns nothing off."""
    for file in FILES:
        (tmp_path / file).mkdir()
        found = read(tmp_path / file, {file: values})
        assert (found.enabled, found.problems, found.sources["telemetryEnabled"]) == (True, (), "default")


@pytest.mark.parametrize("environ", FOREIGN_IN_ENVIRONMENT, ids=shown)
def test_a_foreign_variable_changes_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    """The switches of other programs are theirs; an empty variable says nothing."""
    found = read(tmp_path, environ=environ)
    assert (found.enabled, found.problems, found.warnings) == (True, (), ())


BROKEN_AND_OFF = {
    "config.yaml": [
        "telemetryEnabled:false\n",
        "telemetryEnabled=no\n",
        "\ttelemetry_enabled: off\n",
        "a: [\ntelemetryEnabled: 0\n",
        "telemetryDisabled=true\nfoo\n",
        "do_not_track: 1\n\tx: 1\n",
    ],
    "config.json": [
        "{telemetryEnabled: false}",
        "{'telemetryEnabled': False}",
        '// off\n{"telemetryEnabled": false}',
        '{"appName": }, "telemetryEnabled": "no"}',
    ],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in BROKEN_AND_OFF.items() for text in texts])
def test_a_broken_file_that_says_off_is_off(tmp_path: Path, file: str, text: str) -> None:
    """Where the file is not understood, the switch with a word for off behind it is: off, and not only paused."""
    (tmp_path / file).write_text(text, encoding="utf-8")
    found = read(tmp_path)
    assert (found.opted_out, found.sources["telemetryEnabled"]) == (True, str(tmp_path / file))
    assert found.problems != ()


@pytest.mark.parametrize(
    "text",
    [
        "# telemetryEnabled: false\n{",
        '{"telemetryDisabled": f',
        '{"telemetryEna',
        '{"telemetryEnabled":',
        '{"telemetryEnabled": tr',
        '{"a": "off"',
        "{",
    ],
)
def test_a_broken_file_that_says_nothing_is_paused(tmp_path: Path, text: str) -> None:
    """The first half of a file is nobody's opt-out."""
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    found = read(tmp_path)
    assert (found.enabled, found.opted_out) == (False, False)


@pytest.mark.parametrize("text", ["telemetryEnabled:\n", "telemetryEnabled: null\n", "telemetryEnabled: ~\n"])
def test_null_is_off_and_an_error(tmp_path: Path, text: str) -> None:
    """Nobody writes the switch and leaves it open to have it count as on."""
    (tmp_path / "config.yaml").write_text(text)
    found = read(tmp_path)
    assert found.opted_out
    assert "config.yaml:1:1: telemetryEnabled: null is not a boolean" in str(found.problems[0])


def test_a_near_miss_of_another_setting_is_named(tmp_path: Path) -> None:
    """``telemetry_host`` says nothing, which somebody who wrote it wants to know."""
    found = read(tmp_path, {"config.json": {"telemetry_host": "https://eu.i.posthog.com"}})
    assert (found.enabled, found.host) == (True, "https://us.i.posthog.com")
    assert "'telemetry_host' is not a setting, and says nothing (did you mean 'telemetryHost'?)" in str(
        found.warnings[0]
    )


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_that_docker_keeps_are_taken_off(tmp_path: Path, quote: str) -> None:
    """``--env-file`` hands quotes on: the key without them counts, and that is said without showing it."""
    found = read(tmp_path, environ={"TELEMETRY_API_KEY": f"{quote}phc_x{quote}", "DO_NOT_TRACK": f"{quote}0{quote}"})
    assert (found.api_key, found.enabled) == ("phc_x", True)
    (warning,) = found.warnings
    assert "environment (TELEMETRY_API_KEY): telemetryApiKey: the quotes around the value" in str(warning)
    assert "phc_" not in str(warning)


def test_quotes_around_a_place_are_taken_off(tmp_path: Path) -> None:
    """Else an opt-out in that directory, or in that overlay, would not be seen."""
    environ = {"LIFEBEAT_CONFIG_DIR": f'"{tmp_path}"', "LIFEBEAT_DEPLOYMENT": "'quiet'"}
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments" / "quiet.yaml").write_text("telemetryEnabled: false\n")
    assert config_dir(None, environ) == tmp_path
    assert read(tmp_path, environ=environ).opted_out


def test_a_key_that_is_none(tmp_path: Path) -> None:
    """A personal key is refused, and what does not look like a project key is doubted; neither is shown."""
    found = read(tmp_path, environ={"TELEMETRY_API_KEY": "phx_secret"})
    assert "it is no project key" in str(found.problems[0])
    for key in ("secret", "phc_ secret", "phc_secret'"):
        doubted = read(tmp_path, environ={"TELEMETRY_API_KEY": key})
        assert (doubted.problems, doubted.api_key) == ((), key)
        assert "does not look like a project key" in str(doubted.warnings[0])
        assert "secret" not in f"{found.problems}{doubted.warnings}"


def test_a_password_in_a_url_is_refused_and_not_shown(tmp_path: Path) -> None:
    """Neither the value nor its line is in the message."""
    found = read(tmp_path, {"config.yaml": {"telemetryHost": "http://user:hunter2@host"}})
    assert "telemetryHost: the value must not hold a user" in str(found.problems[0])
    assert "hunter2" not in repr(found.problems)

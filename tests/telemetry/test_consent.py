"""Consent: off at any layer is off, and nothing above it can turn it on again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat.settings.layers import CI_VARIABLES
from lifebeat.settings.source import ConfigSource

if TYPE_CHECKING:
    from pathlib import Path

    from lifebeat.settings.table import Settings

LAYERS = (
    "host argument",
    "config.json",
    "config.yaml",
    "config.yml",
    "overlay",
    "telemetryEnabled",
    "TELEMETRY_ENABLED",
    "command line",
)
TOLD = {
    "overlay": "quiet.yaml",
    "telemetryEnabled": "environment (telemetryEnabled)",
    "TELEMETRY_ENABLED": "environment (TELEMETRY_ENABLED)",
}
OFF = ["false", "False", "FALSE", "0", "no", "No", "off", "OFF"]


def consent(directory: Path, said: dict[str, Any], environ: dict[str, str] | None = None) -> Settings:
    """The settings where each of the layers says so and so of ``telemetryEnabled``."""
    (directory / "deployments").mkdir(exist_ok=True)
    (directory / "deployments" / "quiet.yaml").touch()
    for layer, value in said.items():
        if layer.startswith("config.") or layer == "overlay":
            path = directory / ("deployments/quiet.yaml" if layer == "overlay" else layer)
            path.write_text(json.dumps({"telemetryEnabled": value}))
    variables = {name: str(said[name]) for name in ("telemetryEnabled", "TELEMETRY_ENABLED") if name in said}
    return ConfigSource(
        directory,
        arguments={"telemetryEnabled": said.get("host argument")},
        command_line={"telemetryEnabled": said.get("command line")},
        environ={"LIFEBEAT_DEPLOYMENT": "quiet", **variables, **(environ or {})},
        modules={},
    ).read()


def with_environment(directory: Path, modules: dict[str, Any] | None = None, /, **environ: str) -> Settings:
    """The settings where only the environment, or a loaded module, says something."""
    return ConfigSource(directory, environ=environ, modules=modules or {}).read()


def test_on_where_nobody_says_off(tmp_path: Path) -> None:
    """Without a word, and where all say on, it is on."""
    assert consent(tmp_path, {}).enabled
    found = consent(tmp_path, dict.fromkeys(LAYERS, True))
    assert found.enabled
    assert found.reason == "on (telemetryEnabled: command line)"


@pytest.mark.parametrize("layer", LAYERS)
def test_off_at_any_layer_wins(tmp_path: Path, layer: str) -> None:
    """One layer says off and every other one on: off, and told by whom."""
    found = consent(tmp_path, {**dict.fromkeys(LAYERS, True), layer: False})
    assert not found.enabled
    assert found.opted_out
    assert found.problems == ()
    assert found.sources["telemetryEnabled"].endswith(TOLD.get(layer, layer))
    assert found.reason.startswith("off (")


@pytest.mark.parametrize("word", OFF)
@pytest.mark.parametrize("layer", ["config.json", "overlay", "TELEMETRY_ENABLED", "telemetryEnabled"])
def test_every_word_for_off(tmp_path: Path, layer: str, word: str) -> None:
    """Off in each of its spellings is off."""
    found = consent(tmp_path, {layer: word})
    assert (found.enabled, found.opted_out, found.problems) == (False, True, ())


@pytest.mark.parametrize("word", ["flase", "nope", "2", "disabled", "{}"])
@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_not_understood_counts_as_off(tmp_path: Path, layer: str, word: str) -> None:
    """A switch that cannot be read is off at each layer, whatever the others say, and a problem that names the key."""
    found = consent(tmp_path, {**dict.fromkeys(LAYERS, True), layer: word})
    assert not found.enabled
    assert found.opted_out
    assert f"telemetryEnabled: {word!r} is not a boolean; expected true or false" in str(found.problems[0])


def test_off_stays_off_where_another_layer_cannot_be_read(tmp_path: Path) -> None:
    """Off beneath a broken file is still an opt-out, not only a hold."""
    (tmp_path / "config.yaml").write_text("{")
    found = consent(tmp_path, {"host argument": False})
    assert (found.enabled, found.opted_out) == (False, True)


def test_of_two_in_one_file_off_wins(tmp_path: Path) -> None:
    """A key that stands twice in a file is off if either says so."""
    for text in ("telemetryEnabled: false\ntelemetryEnabled: true\n", "telemetryEnabled: on\ntelemetryEnabled: off\n"):
        (tmp_path / "config.yaml").write_text(text)
        found = consent(tmp_path, {})
        assert (found.enabled, found.opted_out) == (False, True)


# -- DO_NOT_TRACK ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes", "on", "2", "no", "off", "x", " 1 ", "-"])
def test_do_not_track_is_off(tmp_path: Path, value: str) -> None:
    """Anything but empty, 0 and false is a wish not to be tracked, also where all layers and the tests say on."""
    found = consent(tmp_path, dict.fromkeys(LAYERS, True), {"DO_NOT_TRACK": value})
    assert (found.enabled, found.opted_out) == (False, True)
    assert found.reason == "off (environment (DO_NOT_TRACK))"
    loopback = {"LIFEBEAT_TEST_MODE": "loopback", "TELEMETRY_HOST": "http://127.0.0.1:9", "DO_NOT_TRACK": value}
    assert not with_environment(tmp_path / "none", **loopback).enabled


@pytest.mark.parametrize("value", ["", "0", "false", "False", "FALSE", " ", " 0 "])
def test_do_not_track_that_says_nothing(tmp_path: Path, value: str) -> None:
    """Empty, 0 and false are no such wish, and do not turn on what is off."""
    assert with_environment(tmp_path, DO_NOT_TRACK=value).enabled
    assert not with_environment(tmp_path, DO_NOT_TRACK=value, TELEMETRY_ENABLED="false").enabled


# -- CI and test runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CI_VARIABLES)
def test_ci_variables_are_off(tmp_path: Path, name: str) -> None:
    """Each variable by which a CI shows itself turns telemetry off, and says which; set to false it does not."""
    found = with_environment(tmp_path, **{name: "true", "TELEMETRY_ENABLED": "true"})
    assert (found.enabled, found.opted_out) == (False, True)
    assert found.reason == f"off (CI environment ({name}))"
    for value in ("", "0", "false"):
        assert with_environment(tmp_path, **{name: value}).enabled


def test_the_usual_ci_environments_are_known() -> None:
    """The list has the variables that the big ones document."""
    assert {"CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TF_BUILD", "TEAMCITY_VERSION"} <= set(CI_VARIABLES)


@pytest.mark.parametrize("name", ["PYTEST_CURRENT_TEST", "PYTEST_VERSION"])
def test_a_test_run_shows_in_the_environment(tmp_path: Path, name: str) -> None:
    """Programs that a test starts are part of the test run."""
    found = with_environment(tmp_path, **{name: "8"})
    assert (found.enabled, found.reason) == (False, "off (test run (pytest))")


def test_a_test_run_shows_in_the_modules(tmp_path: Path) -> None:
    """A process that pytest runs in is a test run, also with an empty environment."""
    found = with_environment(tmp_path, {"_pytest": object()})
    assert (found.enabled, found.reason) == (False, "off (test run (pytest))")


@pytest.mark.parametrize(
    ("mode", "host", "enabled"),
    [
        ("loopback", "http://127.0.0.1:9", True),
        ("loopback", "http://localhost:9", True),
        ("loopback", "http://[::1]:9", True),
        ("loopback", "https://us.i.posthog.com", False),
        ("loopback", "http://127.0.0.1.example.org", False),
        ("loopback", "http://10.0.0.1", False),
        ("1", "http://127.0.0.1:9", False),
        ("", "http://127.0.0.1:9", False),
    ],
)
def test_tests_may_send_to_loopback_only(tmp_path: Path, mode: str, host: str, *, enabled: bool) -> None:
    """In CI and in a test run events go nowhere but to this machine, and there only where a test says so."""
    environ = {"LIFEBEAT_TEST_MODE": mode, "TELEMETRY_HOST": host, "CI": "true"}
    found = with_environment(tmp_path, {"_pytest": object()}, **environ)
    assert found.enabled == enabled
    assert found.opted_out == (not enabled)


def test_the_test_mode_does_not_turn_on(tmp_path: Path) -> None:
    """Who said off is not overruled by a test."""
    environ = {"LIFEBEAT_TEST_MODE": "loopback", "TELEMETRY_HOST": "http://127.0.0.1:9", "TELEMETRY_ENABLED": "no"}
    assert not with_environment(tmp_path, **environ).enabled

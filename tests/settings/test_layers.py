"""The layers: which one wins over which, what each of them can say, and how it is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat.settings import layers
from lifebeat.settings.source import ConfigSource, config_dir
from lifebeat.settings.table import KEYS
from lifebeat.storage.safe_file import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from hosts import Installation
    from lifebeat.settings.table import Settings
    from lifebeat.testing import PostHogServer

INSTANCE_ID = "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52"
KEY, HOST = "telemetryApiKey", "telemetryHost"
# Lowest first: where it is written, and what is told of it.
PLACES = {
    "default": "default",
    "host argument": "host argument",
    "config.json": "config.json",
    "config.yaml": "config.yaml",
    "config.yml": "config.yml",
    "overlay": "production.yaml",
    "variable as in files": "environment ({name})",
    "variable": "environment ({variable})",
    "command line": "command line",
}
VARIABLES = {KEY: "TELEMETRY_API_KEY", HOST: "TELEMETRY_HOST"}
PAIRS = list(zip(PLACES, list(PLACES)[1:], strict=False))


class Places:
    """Everything that settings are read from, to be filled place by place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.arguments: dict[str, Any] = {}
        self.command_line: dict[str, Any] = {}
        self.environ: dict[str, str] = {"LIFEBEAT_TEST_MODE": "loopback", "LIFEBEAT_DEPLOYMENT": "production"}
        (directory / "deployments").mkdir()
        (directory / "deployments" / "production.yaml").touch()

    def say(self, place: str, name: str, value: Any) -> None:
        """Write a value for a key in one of the places."""
        if place == "host argument":
            self.arguments[name] = value
        elif place == "command line":
            self.command_line[name] = value
        elif place.startswith("variable"):
            self.environ[VARIABLES[name] if place == "variable" else name] = value
        elif place != "default":
            self.write("deployments/production.yaml" if place == "overlay" else place, f"{json.dumps({name: value})}\n")

    def write(self, name: str, text: str) -> None:
        """Write a file of the config directory."""
        (self.directory / name).write_text(text)

    def read(self) -> Settings:
        """The merged settings."""
        return self.source().read()

    def source(self, deployment: str | None = None) -> ConfigSource:
        """Where they come from."""
        return ConfigSource(
            self.directory,
            arguments=self.arguments,
            command_line=self.command_line,
            environ=self.environ,
            modules={},
            deployment=deployment,
        )


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """A config directory with an overlay in use, and nothing said."""
    return Places(tmp_path)


# -- precedence ------------------------------------------------------------------------------------------------------


def test_defaults_hold_where_no_layer_has_a_value(places: Places) -> None:
    """Where nothing is said the defaults hold."""
    found = places.read()
    assert (found.api_key, found.host, found.problems) == (None, "https://us.i.posthog.com", ())
    assert {found.sources[key.name] for key in KEYS} == {"default"}


@pytest.mark.parametrize("name", [KEY, HOST])
@pytest.mark.parametrize(("lower", "higher"), PAIRS, ids=[f"{higher} over {lower}" for lower, higher in PAIRS])
def test_the_higher_of_two_neighbours_wins(places: Places, lower: str, higher: str, name: str) -> None:
    """Of two adjacent layers the higher one counts, and is told as the one that decided; the lower one is told too."""
    places.say(lower, name, "https://127.0.0.1:1/lower")
    places.say(higher, name, "https://127.0.0.1:1/higher")
    found = places.read()
    assert found.value(name) == "https://127.0.0.1:1/higher"
    told = [PLACES[place].format(name=name, variable=VARIABLES[name]) for place in (lower, higher)]
    assert found.sources[name].endswith(told[1])
    said = [one.layer for one in found.layer_values[name]]
    assert said[-1].endswith(told[1])
    if (lower, name) != ("default", KEY):  # which has none
        assert said[-2].endswith(told[0])
    assert found.problems == ()


@pytest.mark.parametrize("place", list(PLACES)[1:])
def test_each_layer_alone(places: Places, place: str) -> None:
    """Each layer can say both, and leaves the other keys to the others."""
    places.say(place, KEY, "phc_alone")
    found = places.read()
    assert (found.api_key, found.host) == ("phc_alone", "https://us.i.posthog.com")


def test_the_order_of_the_layers(places: Places) -> None:
    """All at once: the layers are in the order that is documented, lowest first."""
    for place in PLACES:
        places.say(place, HOST, f"https://127.0.0.1:1/{place.replace(' ', '-')}")
    layers = [one.layer for one in places.read().layer_values[HOST]]
    told = [PLACES[place].format(name=HOST, variable=VARIABLES[HOST]) for place in PLACES]
    assert [layer.endswith(one) for layer, one in zip(layers, told, strict=True)] == [True] * len(PLACES)


def test_null_and_empty_leave_a_key_to_lower_layers(places: Places) -> None:
    """``None`` in code, ``null`` in a file and an empty variable leave a key to the layers below."""
    places.say("host argument", KEY, "phc_host")
    places.write("config.json", '{"telemetryApiKey": null}')
    places.write("config.yaml", "telemetryApiKey:\n")
    places.environ |= {"TELEMETRY_API_KEY": "", "telemetryApiKey": "  "}
    places.say("command line", KEY, None)
    assert places.read().api_key == "phc_host"


@pytest.mark.parametrize("blank", ['""', '"  "', '"\\n"'])
@pytest.mark.parametrize("file", ["config.json", "config.yaml", "deployments/production.yaml"])
def test_blank_in_a_file_is_not_said(places: Places, file: str, blank: str) -> None:
    """A file to fill in, with ``""`` behind each key, says nothing with them, and is no problem."""
    places.say("host argument", KEY, "phc_host")
    places.write(file, json.dumps({key.name: json.loads(blank) for key in KEYS if key.name != "telemetryEnabled"}))
    found = places.read()
    assert (found.problems, found.enabled, found.api_key) == ((), True, "phc_host")
    assert {found.sources[key.name] for key in KEYS} == {"default", "host argument"}


@pytest.mark.parametrize("place", ["config.json", "config.yaml", "overlay"])
def test_blank_switch_in_a_file_counts_as_off(places: Places, place: str) -> None:
    """``telemetryEnabled: ""`` is not a boolean: it counts as off, and is told."""
    places.say(place, "telemetryEnabled", "")
    found = places.read()
    assert not found.enabled
    assert "telemetryEnabled: '' is not a boolean" in str(found.problems[0])


# -- to the wire -----------------------------------------------------------------------------------------------------

PROGRAM = """
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

scheduler = BackgroundScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2"{arguments})
scheduler.start()
scheduler.shutdown()
"""


@pytest.mark.parametrize("place", ["config.json", "variable", "host argument"])
def test_key_and_host_reach_the_wire(installation: Installation, receiver: PostHogServer, place: str) -> None:
    """What the file, the environment or the host says is where the events go, over what the layer below says."""
    (installation.config / "config.json").unlink()
    wrong = {"telemetryApiKey": "phc_wrong", "telemetryHost": "http://127.0.0.1:9"}
    environ: dict[str, str] = {"TELEMETRY_SHUTDOWN_TIMEOUT": "20s"}
    arguments = f', api_key="phc_{place}", host="{receiver.url}"'
    if place != "host argument":
        arguments = f', api_key="{wrong[KEY]}", host="{wrong[HOST]}"'
        installation.write(**{**wrong, **({KEY: f"phc_{place}", HOST: receiver.url} if place != "variable" else {})})
    if place == "variable":
        environ |= {"TELEMETRY_API_KEY": f"phc_{place}", "TELEMETRY_HOST": receiver.url}
    process = installation.script(PROGRAM.format(arguments=arguments), **environ)
    _, err = process.communicate(timeout=30)
    assert receiver.names() == ["startup", "shutdown"], err
    assert {request.json()["api_key"] for request in receiver.requests} == {f"phc_{place}"}


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_file_of_the_reference(places: Places) -> None:
    """A config.json of an application, with all its own settings in it, works as it stands, secrets unseen."""
    foreign: dict[str, Any] = {
        "adminChannel": "music-admin",
        "standardChannel": "music",
        "gongLimit": 3,
        "voteLimit": 6,
        "market": "SE",
        "token": "xoxb-secret",
        "blacklist": ["U1", "U2"],
        "crossfadeEnabled": True,
        "sonos": {"ip": "192.168.0.10", "groups": [{"telemetryHost": "nested, not ours"}]},
        "maxVolume": 75.5,
        "spotifyClientSecret": None,
        "emoji": "🎵",
        "ttsEnabled": "maybe",
        "TelemetryHost": "another case, not ours",
    }
    ours = {"telemetryEnabled": True, "telemetryInstanceId": INSTANCE_ID, KEY: "", HOST: "https://eu.i.posthog.com"}
    places.say("host argument", KEY, "phc_host")
    foreign |= {f"option{number}": number for number in range(500)}
    places.write("config.json", json.dumps({**foreign, **ours}, indent=4))
    found = places.read()
    assert (found.problems, found.api_key, found.host) == ((), "phc_host", "https://eu.i.posthog.com")
    assert found.instance_id == INSTANCE_ID
    assert set(found.layer_values) == {key.name for key in KEYS}
    assert "xoxb-secret" not in repr(found)


def test_an_edit_is_seen(places: Places) -> None:
    """A file that is written, changed and removed counts from the next look on."""
    source = places.source()
    seen: list[str | None] = [source.read().api_key]
    for text in ('{"telemetryApiKey": "phc_a"}', '{"telemetryApiKey": "phc_b"}'):
        places.write("config.json", text)
        seen.append(source.read().api_key)
    (places.directory / "config.json").unlink()
    assert [*seen, source.read().api_key] == [None, "phc_a", "phc_b", "phc_b"]  # what vanishes is no edit


def test_the_fingerprint_of_an_edit(tmp_path: Path) -> None:
    """Two edits of one size within one tick of the clock differ, and so do a file and none; a look changes nothing."""
    path = tmp_path / "config.json"
    seen = [fingerprint(path)]
    for text in ("a", "b", "a" * 2_000_000):
        path.write_text(text)
        seen.append(fingerprint(path))
        assert fingerprint(path) == seen[-1]
    assert len({repr(one) for one in seen}) == 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (HOST, "posthog.com", "is not a URL"),
        ("telemetryHeartbeatInterval", "0s", "must be greater than zero"),
        ("telemetryShutdownTimeout", "2h", "is longer than 60s"),
        ("telemetryInstanceId", "me", "is not a UUID"),
        ("telemetryOutboxEvents", "-1", "is not a whole number from 1 up"),
        ("appVersion", "x" * 201, "is not a text of at most 200"),
        ("telemetryEnabled", "flase", "is not a boolean"),
    ],
    ids=["URL", "interval", "timeout", "UUID", "number", "text", "boolean"],
)
def test_an_invalid_value_holds_telemetry(places: Places, name: str, value: Any, message: str) -> None:
    """A value that is not valid is a problem with file, line and key; until it is mended nothing is sent."""
    places.write("config.json", json.dumps({"ours": 1, name: value}, indent=2))
    found = places.read()
    (problem,) = found.problems
    assert not found.enabled
    assert f"config.json:3:3: {name}: {value!r} {message}" in str(problem)
    assert found.opted_out == (name == "telemetryEnabled")
    if name != "telemetryEnabled":
        assert found.value(name) == places_default(name)
        assert found.reason.startswith("off until the settings can be read (")


def places_default(name: str) -> Any:
    """The default of a key."""
    return next(key.default for key in KEYS if key.name == name)


def test_an_invalid_value_does_not_hide_the_valid_one_below(places: Places) -> None:
    """The value of the layer below stays, and telemetry is held all the same."""
    places.say("config.json", HOST, "https://eu.i.posthog.com")
    places.say("variable", HOST, "eu")
    found = places.read()
    assert (found.host, found.enabled) == ("https://eu.i.posthog.com", False)
    assert "environment (TELEMETRY_HOST): telemetryHost: 'eu' is not a URL" in str(found.problems[0])


def test_a_secret_is_not_told(places: Places) -> None:
    """A key that is not valid is named, and not shown."""
    places.say("config.json", KEY, "phc_secret\u0007")
    found = places.read()
    assert "telemetryApiKey: the value is not a text" in str(found.problems[0])
    assert "phc_secret" not in str(found.problems[0])


# -- directory and overlay -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "environ", "expected"),
    [
        ("here", {"LIFEBEAT_CONFIG_DIR": "there"}, "here"),
        (None, {"LIFEBEAT_CONFIG_DIR": "there", "CONFIGURATION_DIRECTORY": "/etc/notes"}, "there"),
        (None, {"LIFEBEAT_CONFIG_DIR": "", "CONFIGURATION_DIRECTORY": "/etc/notes:/etc/more"}, "/etc/notes"),
        (None, {"CONFIGURATION_DIRECTORY": ""}, "config"),
        (None, {}, "config"),
    ],
    ids=["argument", "LIFEBEAT_CONFIG_DIR", "systemd", "empty", "none"],
)
def test_the_config_directory(argument: str | None, environ: dict[str, str], expected: str) -> None:
    """The argument, else LIFEBEAT_CONFIG_DIR, else systemd's first one, else ./config."""
    assert str(config_dir(argument, environ)) == expected


def test_no_config_directory(tmp_path: Path) -> None:
    """A directory that is not there says nothing; a file in its place is a problem, told once."""
    missing = ConfigSource(tmp_path / "missing", environ={}, modules={}).read()
    assert (missing.problems, missing.enabled) == ((), True)
    (tmp_path / "file").touch()
    (problem,) = ConfigSource(tmp_path / "file", environ={}, modules={}).read().problems
    assert "is not a directory; name the config directory, not a file in it" in str(problem)


def test_a_link_to_no_config_directory_pauses(tmp_path: Path) -> None:
    """A mount that is missing at the start is no installation without settings; while a process runs it is no edit."""
    (tmp_path / "c").symlink_to("mounted")
    paused = ConfigSource(tmp_path / "c", environ={}, modules={}).read()
    assert "is a link to a directory that does not exist" in str(paused.problems[0])
    (tmp_path / "mounted").mkdir()
    source = ConfigSource(tmp_path / "c", environ={}, modules={})
    assert source.read().enabled
    (tmp_path / "mounted").rmdir()
    assert source.read().enabled


def test_the_overlay_is_named_by_the_argument_first(places: Places) -> None:
    """The command line's deployment goes before LIFEBEAT_DEPLOYMENT; without any there is no overlay."""
    places.say("overlay", KEY, "phc_production")
    places.write("deployments/staging.yaml", "telemetryApiKey: phc_staging\n")
    assert places.read().api_key == "phc_production"
    assert places.source("staging").read().api_key == "phc_staging"
    del places.environ["LIFEBEAT_DEPLOYMENT"]
    assert places.read().api_key is None


@pytest.mark.parametrize(
    ("deployment", "message"),
    [
        ("prodution", "there is no overlay for the deployment 'prodution' (did you mean 'production'?)"),
        ("zzz", "there is no overlay for the deployment 'zzz' (there are: production)"),
        ("../config", "command line (--deployment): '../config' is not the name of a deployment"),
        (".hidden", "command line (--deployment): '.hidden' is not the name of a deployment"),
        ("a\nb", "command line (--deployment): 'a\\nb' is not the name of a deployment"),
    ],
    ids=["misspelled", "unknown", "outside", "hidden", "line break"],
)
def test_unknown_deployment_pauses_telemetry(places: Places, deployment: str, message: str) -> None:
    """A deployment that has no overlay, or whose name leads elsewhere, holds telemetry and is told."""
    found = places.source(deployment).read()
    assert message in str(found.problems[0])
    assert not found.enabled


def test_a_blank_argument_says_nothing() -> None:
    """A host that passes on a variable that is not set, as an empty text, leaves the key to the other layers."""
    made = layers.merge([layers.packaged(), layers.from_arguments({"telemetryApiKey": "", "telemetryHost": " "})])
    assert made.problems == ()
    assert (made.api_key, made.host) == (None, "https://us.i.posthog.com")

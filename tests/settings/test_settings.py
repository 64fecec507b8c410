"""The table of settings: its spellings, its kinds, and what each of them takes and refuses, in which words."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta
from typing import Any

import pytest
from jsonschema import Draft7Validator

from lifebeat.settings import layers
from lifebeat.settings import table as settings
from lifebeat.settings.table import (
    BOOLEAN,
    COUNT,
    DURATION,
    IDENTITY,
    KEYS,
    LENGTH,
    NEW_FIELDS,
    PROJECT_KEY,
    TEXT,
    TIMEOUT,
    URL,
    UUID,
    Key,
    Kind,
    Settings,
    is_loopback,
)
from lifebeat.text.durations import format_duration

SPELLINGS = {
    "telemetryEnabled": ("enabled", "TELEMETRY_ENABLED"),
    "telemetryApiKey": ("api_key", "TELEMETRY_API_KEY"),
    "telemetryHost": ("host", "TELEMETRY_HOST"),
    "telemetryInstanceId": ("instance_id", "TELEMETRY_INSTANCE_ID"),
    "telemetryHeartbeatInterval": ("heartbeat_interval", "TELEMETRY_HEARTBEAT_INTERVAL"),
    "telemetryShutdownTimeout": ("shutdown_timeout", "TELEMETRY_SHUTDOWN_TIMEOUT"),
    "telemetryStateDir": ("state_dir", "TELEMETRY_STATE_DIR"),
    "telemetryIdentity": ("identity", "TELEMETRY_IDENTITY"),
    "telemetryNewFields": ("new_fields", "TELEMETRY_NEW_FIELDS"),
    "telemetryOutboxEvents": ("outbox_events", "TELEMETRY_OUTBOX_EVENTS"),
    "telemetryOutboxBytes": ("outbox_bytes", "TELEMETRY_OUTBOX_BYTES"),
    "telemetryOutboxAge": ("outbox_age", "TELEMETRY_OUTBOX_AGE"),
    "runHistory": ("run_history", "RUN_HISTORY"),
    "appName": ("app_name", "APP_NAME"),
    "appVersion": ("app_version", "APP_VERSION"),
    "releaseVersion": ("release_version", "RELEASE_VERSION"),
}
named = pytest.mark.parametrize("key", KEYS, ids=[key.name for key in KEYS])
INSTANCE = "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"


def merged(**values: Any) -> Settings:
    """The packaged settings with what a host says."""
    return layers.merge([layers.packaged(), layers.from_arguments(values)])


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_three_spellings_of_each_key() -> None:
    """Each key has the spellings in code and in the environment that DESIGN gives it, by one rule."""
    assert {key.name: (key.attribute, key.variable) for key in KEYS} == SPELLINGS
    for key in KEYS:
        words = re.findall("[A-Z]?[a-z]+", key.name)
        assert key.variable == "_".join(words).upper()
        assert key.attribute == "_".join(words).lower().removeprefix("telemetry_")


def test_the_settings_hold_what_is_in_the_table() -> None:
    """The merged settings have one attribute for each key, and ``value`` gives it by the name in files."""
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == {key.attribute for key in KEYS} | {
        "layer_values", "sources", "problems", "warnings", "opted_out", "files",
    }  # fmt: skip
    found = merged(telemetryHost="https://eu.i.posthog.com")
    assert found.value("telemetryHost") == found.host == "https://eu.i.posthog.com"


@named
def test_each_key_is_explained(key: Key) -> None:
    """Each key says in sentences what it means, and its kind in words what expected."""
    assert re.fullmatch(r"[A-Z].{20,}\.", key.help)
    assert key.kind.allowed
    assert key.kind.name


@named
def test_each_default_is_valid(key: Key) -> None:
    """A default passes its own kind and its own schema, and is what holds where nothing is said."""
    if key.default is not None:
        written = format_duration(key.default) if isinstance(key.default, timedelta) else key.default
        assert key.kind.parse(key.default) == key.kind.parse(written) == key.default
        assert Draft7Validator(key.kind.schema).is_valid(written)  # pyright: ignore[reportUnknownMemberType]
    assert merged().value(key.name) == key.default
    assert merged().sources[key.name] == "default"


def test_only_the_key_of_posthog_is_a_secret() -> None:
    """The API key is masked where it is shown; nothing else needs to be."""
    assert [key.name for key in KEYS if key.secret] == ["telemetryApiKey"]


# -- kinds -----------------------------------------------------------------------------------------------------------

AN_HOUR_AND_A_HALF, A_MINUTE = timedelta(minutes=90), timedelta(minutes=1)
TAKEN: list[tuple[Kind, Any, list[Any]]] = [
    (BOOLEAN, True, [True, 1, "true", "1", "yes", "on", "TRUE", "Yes", "oN", " true "]),
    (BOOLEAN, False, [False, 0, "false", "0", "no", "off", "FALSE", "No", "oFF", " no\n"]),
    (TEXT, "notes", ["notes", "  notes\n"]),
    (TEXT, "1.4", ["1.4", 1.4]),
    (TEXT, "7", ["7", 7]),
    (TEXT, "x" * 200, ["x" * 200]),
    (TEXT, "Größe 1", ["Größe 1"]),
    (URL, "https://eu.i.posthog.com", ["https://eu.i.posthog.com", "https://eu.i.posthog.com/"]),
    (URL, "http://posthog_web:8000/ph", ["http://posthog_web:8000/ph//"]),
    (URL, "HTTP://10.0.0.1", ["HTTP://10.0.0.1"]),
    (URL, "http://[::1]:65535", ["http://[::1]:65535"]),
    (UUID, INSTANCE, [INSTANCE, INSTANCE.upper(), INSTANCE.replace("-", "")]),
    (DURATION, timedelta(milliseconds=500), ["500ms", "0.5s"]),
    (DURATION, AN_HOUR_AND_A_HALF, ["90m", "1h30m", "1.5h", " 5400s ", AN_HOUR_AND_A_HALF]),
    (DURATION, timedelta(days=14), ["14d", "2w"]),
    (DURATION, timedelta(days=3660), ["3660d"]),
    (LENGTH, timedelta(0), ["0s", "0d", timedelta(0)]),
    (LENGTH, timedelta(days=14), ["14d", "2w"]),
    (TIMEOUT, A_MINUTE, ["60s", "1m", A_MINUTE]),
    (PROJECT_KEY, "phc_x", ["phc_x", " phc_x "]),
    (PROJECT_KEY, "other", ["other"]),
    (IDENTITY, "monthly", ["monthly", " none".replace("none", "monthly")]),
    (NEW_FIELDS, "send", ["send"]),
    (COUNT, 1, [1, "1"]),
    (COUNT, 999_999_999_999, [999_999_999_999, " 999999999999 "]),
]
TAKES = "expected a number with a unit, such as 90s, 15m, 24h or 7d"
REFUSED: list[tuple[Kind, str, list[Any]]] = [
    (
        BOOLEAN,
        "is not a boolean; expected true or false (or 1/0, yes/no, on/off)",
        ["", "flase", "2", 2, 1.0, None, [], {}, "true false", "t"],
    ),
    (TEXT, "is not a text", ["", "  ", True, [], {}]),
    (TEXT, "is not a text of at most 200 printable characters", ["x" * 201, "a\nb", "a\x1b[1m", "\udc80"]),
    (
        URL,
        "is not a URL; expected one such as https://us.i.posthog.com",
        [
            *("", "posthog.com", "ftp://a.b", "https://", "https:///batch", 5, True, [], "javascript:alert(1)"),
            *("http://a:0", "http://a:65536", "http://a:b", "http://[::1"),
        ],
    ),
    (
        URL,
        "must not hold a user, a query or a fragment; expected a URL such as https://us.i.posthog.com",
        ["https://u@a.b", "https://:p@a.b", "https://a.b?c=d", "https://a.b/#c", "https://a.b/?", "https://a.b#"],
    ),
    (
        URL,
        "must not hold spaces or letters outside ASCII",
        ["https://a b", " https://a.b", "https://ä.b", "https://a.b/\n", "https://a.b/ c"],
    ),
    (
        URL,
        "does not name a host; expected a URL such as https://us.i.posthog.com",
        ["http://127.0.0.1\\.example.org", "http://a:", "http://a%2fb", "http://a;b"],
    ),
    (
        UUID,
        "is not a UUID; remove the line and a new one is made",
        ["", "x", 5, None, [], INSTANCE[:-1], INSTANCE + " "],
    ),
    (
        UUID,
        "is the UUID of all zeros, which PostHog refuses; remove the line and a new one is made",
        ["00000000-0000-0000-0000-000000000000"],
    ),
    (
        DURATION,
        f"is not a duration; {TAKES}",
        ["", "soon", "1y", True, [], {}, "1e3s", "nan", "infd"],
    ),
    (DURATION, "is not written as a duration here; write 1h", ["h", "1 h", "1H", "PT1H", "@hourly"]),
    (DURATION, "is not written as a duration here; write 5s", ["5s!", "5 sec"]),
    (DURATION, "has no unit; write 90s, 90m or 90h", [90, "90"]),
    (DURATION, "has no unit; write 1.5s, 1.5m or 1.5h", [1.5, "1.5"]),
    (DURATION, f"is negative; {TAKES}", ["-5s", -5]),
    (DURATION, f"looks like a clock time, which YAML 1.1 turns into another number; {TAKES}", ["24:00", "1:30:00"]),
    (DURATION, "must be greater than zero", ["0s", "0h0m", "0.0001ms"]),
    (DURATION, "is longer than 3660d, the longest allowed", ["3661d", "9999w"]),
    (DURATION, "is too long for a duration", ["9" * 400 + "d", "1s" * 21]),
    (
        DURATION,
        "must be greater than zero and at most ten years",
        [timedelta(0), timedelta(days=-1), timedelta(days=4000)],
    ),
    (LENGTH, "is longer than 3660d, the longest allowed", ["3661d"]),
    (TIMEOUT, "is longer than 60s; a stop must not wait longer than that", ["61s", "24h", timedelta(seconds=61)]),
    (PROJECT_KEY, "is not a text", ["", True, []]),
    (
        PROJECT_KEY,
        "opens more than it may: it is no project key; expected the project's own, phc_…",
        ["phx_x", "phs_x", " phx_x"],
    ),
    (
        IDENTITY,
        "is not a choice; expected installation, monthly or none (did you mean 'monthly'?)",
        ["month", "Monthly"],
    ),
    (IDENTITY, "is not a choice; expected installation, monthly or none", [True, [], 5, "x"]),
    (NEW_FIELDS, "is not a choice; expected ask or send", ["x"]),
    (
        COUNT,
        "is not a whole number from 1 up",
        [0, -1, 1.5, 1.0, True, "", "x", "007", [], {}, 10**12, "\N{FULLWIDTH DIGIT ONE}"],
    ),
]
VALID = [(kind, written, value) for kind, value, listed in TAKEN for written in listed]
INVALID = [(kind, written, message) for kind, message, listed in REFUSED for written in listed]


@pytest.mark.parametrize(("kind", "written", "value"), VALID)
def test_kind_reads_what_people_write(kind: Kind, written: Any, value: Any) -> None:
    """A kind reads what people write for it, and gives a value of one type."""
    found = kind.parse(written)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(("kind", "written", "message"), INVALID)
def test_kind_refuses_the_rest_and_says_what_it_expected(kind: Kind, written: Any, message: str) -> None:
    """A kind refuses anything else and says what expected; no other error comes out of it."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kind.parse(written)


def test_every_kind_is_held_against_both_lists() -> None:
    """No kind of the table is without a value that expected and one that it refuses."""
    kinds = {id(key.kind) for key in KEYS}
    assert kinds == {id(kind) for kind, _, _ in VALID} == {id(kind) for kind, _, _ in INVALID}


@named
def test_a_refused_value_is_a_problem_that_names_the_key(key: Key) -> None:
    """What is refused leaves the key as it was, is said with the key and what was written, and holds telemetry."""
    found = merged(**{key.name: []})
    (problem,) = found.problems
    shown = "the value" if key.secret else "[]"
    assert str(problem).startswith(f"host argument: {key.name}: {shown} is not a")
    assert (found.enabled, found.opted_out) == (False, key.name == "telemetryEnabled")
    assert found.value(key.name) == (False if key.name == "telemetryEnabled" else key.default)
    assert found.layer_values[key.name][-1].written == []


def test_a_secret_is_not_in_the_message() -> None:
    """A key of PostHog that is refused is not printed."""
    (problem,) = merged(telemetryApiKey="phc_secret\n" * 30).problems
    assert "phc_" not in str(problem)


# -- what is asked of the settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.99.3.4", True),
        ("http://[::1]:9", True),
        ("https://localhost/ph", True),
        ("https://LOCALHOST", True),
        ("https://us.i.posthog.com", False),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://128.0.0.1", False),
        ("http://0.0.0.0", False),
        ("http://10.0.0.1", False),
        ("http://[fe80::1]", False),
        ("http://127.0.0.1@example.org", False),
        ("", False),
    ],
)
def test_what_leads_to_this_machine_only(url: str, expected: bool) -> None:
    """127/8, ::1 and localhost are this machine; names and addresses that look like them are not."""
    assert is_loopback(url) is expected


def test_consent_names_its_layer() -> None:
    """On or off comes with the layer that said so; settings that cannot be read are neither."""
    assert merged().reason == "on (telemetryEnabled: default)"
    assert merged(telemetryEnabled=True).reason == "on (telemetryEnabled: host argument)"
    assert merged(telemetryEnabled=False).reason == "off (host argument)"
    assert merged(telemetryHost="x").reason.startswith("off until the settings can be read (host argument: telemetryH")


@pytest.mark.parametrize("word", [*sorted(settings.TRUE), *sorted(settings.FALSE), "", "flase", None])
def test_only_a_word_for_off_is_off(word: str | None) -> None:
    """Only a word for off says off."""
    assert settings.is_off(word) is (word in settings.FALSE)
    assert settings.is_off(f" {word} ".upper()) is (word in settings.FALSE)

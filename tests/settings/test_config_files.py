"""What a config file says about our keys: values and places, told without a word of the application's own."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lifebeat import text as texts
from lifebeat.settings.layers import Layer
from lifebeat.settings.layers import from_file as read
from lifebeat.settings.table import BY_NAME
from lifebeat.text.nodes import MAX_DEPTH


def contents(directory: Path, name: str, text: str | bytes) -> Layer:
    """What is found in a file with this text."""
    path = directory / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read(path)


def values(directory: Path, name: str, text: str | bytes) -> dict[str, Any]:
    """The values in a file that nothing is wrong with."""
    found = contents(directory, name, text)
    assert found.problems == []
    return found.values


def problem(directory: Path, name: str, text: str | bytes) -> str:
    """The one thing that is wrong with a file, from the file's name on."""
    (found,) = contents(directory, name, text).problems
    return str(found).removeprefix(f"{directory}/")


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "config.yaml", "config.yml"])
def test_missing_file_is_no_problem(tmp_path: Path, name: str) -> None:
    """A file that is not there says nothing, and nothing is wrong with it."""
    assert read(tmp_path / name) == Layer(str(tmp_path / name), state="missing")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("false", False),
        ('"no"', "no"),
        ('"24:00"', "24:00"),
        ("5", "5"),
        ("-5", "-5"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        ("9" * 5000, "9" * 5000),
        ('"\\u00e4\\n"', "ä\n"),
        ("[]", []),
        ('{"telemetryHost": 1}', {}),
    ],
    ids=range(12),
)
def test_values_in_json(tmp_path: Path, written: str, value: Any) -> None:
    """Values of JSON; a number stays as it was written, as it may be a version."""
    found = values(tmp_path, "config.json", f'{{"appVersion": {written}}}')["appVersion"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("24:00", "24:00"),
        ("1.10", "1.10"),
        ("0x10", "0x10"),
        ("true", True),
        ("'true'", "true"),
        ("'null'", "null"),
        ("2026-01-01", "2026-01-01"),
        ("[a, b]", []),
        ("{a: b}", {}),
        ("*word", "anchored"),
        (">-\n  two\n  words", "two words"),
    ],
    ids=range(12),
)
def test_values_in_yaml(tmp_path: Path, written: str, value: Any) -> None:
    """A value of YAML stays the text that was written: no word becomes False, no time a number."""
    assert values(tmp_path, "config.yaml", f"other: &word anchored\nappVersion: {written}\n") == {"appVersion": value}


@pytest.mark.parametrize("written", ["~", "", "Null", "null", '""', '"  "'])
def test_null_and_blank_say_nothing(tmp_path: Path, written: str) -> None:
    """A key with nothing behind it, as in a file to fill in, leaves the setting to the other layers."""
    assert values(tmp_path, "config.yaml", f"appVersion: {written}\n") == {}


def test_only_the_top_level_is_ours(tmp_path: Path) -> None:
    """Keys further down, and other keys with whatever behind them, are the application's own."""
    for name in ("config.json", "config.yaml"):
        foreign = {"a": {"telemetryHost": "x"}, "b": [{"telemetryHost": "y"}], "TelemetryHost": "z"}
        assert values(tmp_path, name, json.dumps({**foreign, "appName": "notes"})) == {"appName": "notes"}


def test_what_an_application_may_write(tmp_path: Path) -> None:
    """Tags, anchors, block texts and merges below the top level are not our concern."""
    text = (
        "a: !secret x\nb: &b {c: !!python/object:os.system d}\ne:\n  <<: *b\nf: |\n  telemetryHost: x\nappName: notes\n"
    )
    assert values(tmp_path, "config.yaml", text) == {"appName": "notes"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "~\n", "{}\n"], ids=ascii)
def test_yaml_that_says_nothing(tmp_path: Path, text: str) -> None:
    """An empty file of YAML says nothing."""
    assert values(tmp_path, "config.yaml", text) == {}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_byte_order_mark_and_crlf_change_nothing(tmp_path: Path, encoding: str, newline: str) -> None:
    """A mark at the beginning and the line ends of another system change nothing."""
    for name, text in (("config.json", '{\n"appName":\n"nötes"\n}\n'), ("config.yaml", "a: 1\nappName: nötes\n")):
        found = contents(tmp_path, name, text.replace("\n", newline).encode(encoding))
        assert (found.problems, found.values["appName"], found.where["appName"].line) == ([], "nötes", 2)


OURS = st.sampled_from(sorted(BY_NAME))
TEXTS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=20)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | OURS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(OURS | TEXTS, JSON_VALUES, max_size=8), st.sampled_from([None, 4]))
def test_json_is_read_as_json_is(written: dict[str, Any], indent: int | None) -> None:
    """Of any object our keys have the values that Python's own reader finds, at the places where they stand."""
    text = json.dumps(written, indent=indent, ensure_ascii=False)
    with tempfile.TemporaryDirectory() as directory:
        found = contents(Path(directory), "config.json", text)
    assert found.problems == []
    assert found.values.keys() | BY_NAME.keys() & {name for name, value in written.items() if is_blank(value)} == (
        written.keys() & BY_NAME.keys()
    )
    for name, value in found.values.items():
        assert value == as_read(written[name])
    for name, place in found.where.items():
        assert text.split("\n")[(place.line or 0) - 1][(place.column or 0) - 1 :].startswith(f'"{name}"')


def is_blank(value: Any) -> bool:
    """Whether a value says nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def as_read(value: Any) -> Any:
    """What is read of a value: of lists and mappings that they are, and numbers as they are spelled."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, list):
        return []
    return {} if isinstance(value, dict) else json.dumps(value)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(OURS | TEXTS.filter(lambda text: text != "<<"), JSON_VALUES, max_size=6),
    st.sampled_from(["block", "flow"]),
)
def test_yaml_is_read_as_text(written: dict[str, Any], style: str) -> None:
    """Of any mapping our keys have the texts that were written, at the places where they stand."""
    library: Any = yaml  # the types of safe_dump are incomplete
    text: str = library.safe_dump(written, default_flow_style=style == "flow", allow_unicode=True, width=10_000)
    with tempfile.TemporaryDirectory() as directory:
        found = contents(Path(directory), "config.yaml", text)
    assert found.problems == []
    for name, place in found.where.items():
        assert text.split("\n")[(place.line or 0) - 1][(place.column or 0) - 1 :].startswith(name)
        if isinstance(written[name], (str, list, dict)) and not is_blank(written[name]):
            assert found.values[name] == as_read(written[name])


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_a_line_is_shown_where_it_is_ours_alone(tmp_path: Path) -> None:
    """A line with nothing but one of our keys on it is shown; one with a secret of ours or with more is not."""
    text = '{\n  "appName": "notes",\n  "telemetryApiKey": "phc_secret",\n  "token": "x", "telemetryHost": "h"\n}'
    found = contents(tmp_path, "config.json", text).where
    shown = {name: entry.text for name, entry in found.items()}
    assert shown == {"appName": '  "appName": "notes",', "telemetryApiKey": None, "telemetryHost": None}
    found = contents(tmp_path, "config.yaml", "appName: notes\ntelemetryApiKey: phc_secret\n").where
    assert {name: entry.text for name, entry in found.items()} == {"appName": "appName: notes", "telemetryApiKey": None}
    found = contents(tmp_path, "config.yaml", "{token: x, appName: notes}").where
    assert found["appName"].text is None


BROKEN = [
    '{"token": "hunter2"',
    '{"token": "hunter2", }',
    '{"token" "hunter2"}',
    '["hunter2"]',
    '"hunter2"',
    "hunter2: [",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_no_secret_of_the_application_is_told(tmp_path: Path, name: str, text: str) -> None:
    """What is wrong with a file is told without what stands in it."""
    assert "hunter2" not in "".join(map(str, contents(tmp_path, name, text).problems))


# -- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.json:1:1: is not JSON: nothing is written here; write {} into it, or remove the file"),
        (" \n", "config.json:2:1: is not JSON: nothing is written here"),
        ("[]", "config.json:1:1: holds no mapping; expected keys with values"),
        ("\n 5", "config.json:2:2: holds no mapping"),
        ("{,}", "config.json:1:2: is not JSON: a key in double quotes is missing here"),
        ("{'a': 1}", "config.json:1:2: is not JSON: a key in double quotes is missing here"),
        ('{\n"a" 1}', "config.json:2:5: is not JSON: a colon is missing here"),
        ('{"a": 1\n"b": 2}', "config.json:2:1: is not JSON: a comma, or the closing brace, is missing here"),
        ('{"a": 1,\n}', "config.json:2:1: is not JSON: a comma with nothing after it; remove it"),
        ('{"a": 1', "config.json:1:8: is not JSON: a comma, or the closing brace, is missing here"),
        ('{"a": }', "config.json:1:7: is not JSON: "),
        ("{} {}", "config.json:1:4: is not JSON: there is more behind the end"),
        ("// no\n{}", "config.json:1:1: is not JSON: "),
        ("{" + '"a":{' * 100_000, "config.json:1:"),
        ('{"a":' + "[" * 100_000, "config.json:1:"),
        (b'{"a": "\xff"}', "config.json:1:8: "),
    ],
    ids=range(16),
)
def test_broken_json_is_one_problem_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    """One problem, at the place where reading ended, that says what is missing."""
    assert problem(tmp_path, "config.json", text).startswith(message)


DEEP = "a: " + "[" * MAX_DEPTH + "]" * MAX_DEPTH


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "config.yaml:1:1: holds no mapping; expected keys with values"),
        ("word\n", "config.yaml:1:1: holds no mapping"),
        ("a: [1\nb: 2\n", "config.yaml:2:2: is not YAML: "),
        ("a: 1\n b: 2\n", "config.yaml:2:3: is not YAML: "),
        ("a: 1\n---\nb: 2\n", "config.yaml:2:1: a second document starts here; one file holds one document"),
        ("<<: {a: 1}\n", "config.yaml:1:1: merge keys (<<) are not followed here; write out our keys"),
        ("a: 1\nb: *c\n", "config.yaml:2:4: the alias *c is not defined before it"),
        (DEEP, f"config.yaml:1:{MAX_DEPTH + 3}: is nested deeper than {MAX_DEPTH} levels"),
        ("a: 1\nappName: !x notes\n", "config.yaml:2:1: appName: the tag '!x' is not used here; write the value alone"),
        ("a: 1\nb: \x07\n", "config.yaml:2:4: "),
        (b"a: 1\nb: \xff\n", "config.yaml:2:4: "),
    ],
    ids=range(11),
)
def test_broken_yaml_is_one_problem_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    """One problem, at its line and column, that says what to do."""
    assert problem(tmp_path, "config.yaml", text).startswith(message)


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    """The last one counts, and the second one is told with the line of the first."""
    for name, text in (
        ("config.json", '{"appName": "a",\n"appName": "b"}'),
        ("config.yaml", "appName: a\nappName: b\n"),
    ):
        found = contents(tmp_path, name, text)
        assert found.values["appName"] == "b"
        assert f"{name}:2:1: duplicate key 'appName' (first on line 1); remove one" in str(found.problems[0])


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_what_is_before_the_fault_counts(tmp_path: Path, name: str) -> None:
    """An opt-out is heard even if the file is broken further down."""
    text = '{"telemetryEnabled": false, "a": [' if name.endswith("json") else "telemetryEnabled: false\na: [\n"
    found = contents(tmp_path, name, text)
    assert found.values["telemetryEnabled"] is False
    assert found.problems


# -- files that are not files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_what_is_not_a_file(tmp_path: Path, name: str) -> None:
    """A directory, a pipe, a link to nothing and a link to itself are told, and nobody waits on a pipe."""
    path = tmp_path / name
    path.mkdir()
    assert "cannot be read: it is a directory, expected a regular file" in str(read(path).problems[0])
    path.rmdir()
    os.mkfifo(path)
    assert "cannot be read: it is a pipe, expected a regular file" in str(read(path).problems[0])
    path.unlink()
    path.symlink_to("nothing")
    assert "is a link to a file that does not exist; fix or remove it" in str(read(path).problems[0])
    path.unlink()
    path.symlink_to(name)
    assert "cannot be read: " in str(read(path).problems[0])


@pytest.mark.parametrize("name", ["config.json", "config.yaml"])
def test_file_beyond_the_limit_is_not_read(tmp_path: Path, name: str) -> None:
    """A file beyond the limit is not read; one that just fits is."""
    limit = texts.limit(tmp_path / name)
    assert values(tmp_path, name, "{}".ljust(limit)) == {}
    assert f"it has {limit + 1} bytes, expected at most {limit}" in problem(tmp_path, name, "{}".ljust(limit + 1))


@pytest.mark.parametrize(
    ("name", "text", "state"),
    [
        ("config.json", None, "missing"),
        ("config.json", "", "empty"),
        ("config.json", '{"telemetryEnabled": tr', "unfinished"),
        ("config.json", "{}", "complete"),
        ("config.yaml", " \n", "empty"),
        ("config.yaml", "appName: no", "unfinished"),
        ("config.yaml", "appName: notes\n", "complete"),
        ("config.yaml", "# nothing\n", "complete"),
        ("config.yaml", "{appName: notes}", "complete"),
        ("config.yaml", "a: [\n", "unfinished"),
    ],
)
def test_the_state_of_a_file(tmp_path: Path, name: str, text: str | None, state: str) -> None:
    """An absence, an empty file and one that an editor is in the middle of are told from one that is whole."""
    assert (read(tmp_path / name) if text is None else contents(tmp_path, name, text)).state == state


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A directory in its place is no answer either."""
    (tmp_path / "config.yaml").mkdir()
    assert read(tmp_path / "config.yaml").state == "unreadable"

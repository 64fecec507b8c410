"""Editing one key of a config file: what changes, what stays, and what happens when many write or one is killed."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lifebeat.errors import ConfigError
from lifebeat.settings.edit import ConfigNotWritable, config_file, edited, set_key, set_key_if_absent, unset_key
from lifebeat.storage.locks import held
from lifebeat.text import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0
KEY = "telemetryHost"
JSON, YAML = Path("config.json"), Path("config.yaml")
REFERENCE = {f"foreignKey{number}": [number, {"deep": None}] for number in range(25)}


def can_mount() -> bool:
    """Whether mounts can be made that nobody else sees."""
    command = ["unshare", "-m", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root can mount, in a mount namespace of its own")
FLOCK = {"x86_64": [73], "aarch64": [32]}.get(platform.machine())
FSYNC = {"x86_64": [74], "aarch64": [82]}.get(platform.machine())
needs_denial = pytest.mark.skipif(
    sys.platform != "linux" or FLOCK is None, reason="the kernel is asked to deny system calls, by their numbers"
)
DENY = """
import ctypes, struct
def deny(numbers, error):
    # A filter of the kernel's: those system calls fail with that error in this process from now on.
    tests = b"".join(struct.pack("HBBI", 0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers))
    code = struct.pack("HBBI", 0x20, 0, 0, 0) + tests
    code += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000) + struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | error)
    kept = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
"""


def run(program: str, *args: object, prefix: tuple[str, ...] = ()) -> str:
    """Run a program in a process of its own; what it prints."""
    command = [*prefix, sys.executable, "-c", textwrap.dedent(program), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def together(program: str, count: int, *args: object) -> list[str]:
    """Run ``count`` processes that wait for one another before they begin; what each prints."""
    begin = "import sys; print('ready', flush=True); sys.stdin.readline()\n"
    head, _, tail = textwrap.dedent(program).partition("# begin\n")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", head + begin + tail, str(number), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.communicate(timeout=PATIENCE)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def names(directory: Path) -> list[str]:
    """What is in a directory."""
    return sorted(entry.name for entry in directory.iterdir())


def is_addition(old: str, new: str) -> bool:
    """Whether ``new`` is ``old`` with something put in at one place."""
    common = next((at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), len(old))
    return len(new) > len(old) and new.endswith(old[common:])


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that any user can come to, as pytest's own are not."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


# -- the text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n    "k": "v"\n}\n'),
        ("{}", '{"k": "v"}'),
        ("{ }\n", '{ "k": "v" }\n'),
        ("{\n}\n", '{\n    "k": "v"\n}\n'),
        ('{"a":1}', '{"a":1,"k":"v"}'),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 2, "k": "v"}'),
        ('{\n  "a" : {"k": 1}\n}', '{\n  "a" : {"k": 1},\n  "k" : "v"\n}'),
        (
            '{\r\n\t"a": 1e5,\r\n\r\n\t"b": [1,\r\n2]\r\n}',
            '{\r\n\t"a": 1e5,\r\n\r\n\t"b": [1,\r\n2],\r\n\t"k": "v"\r\n}',
        ),
        ('{ "a": 1\n, "b": 2\n}', '{ "a": 1\n, "b": 2\n, "k": "v"\n}'),
        ('{"a": 1, "a": 2, "k":null}', '{"a": 1, "a": 2, "k":"v"}'),
        ('{"\\u006b" :  ["x", {}] , "a": NaN}', '{"\\u006b" :  "v" , "a": NaN}'),
        ('{"a": ' + "9" * 5000 + ', "k": "\\ud800"}', '{"a": ' + "9" * 5000 + ', "k": "v"}'),
        ('\ufeff{"k": 1}', '\ufeff{"k": "v"}'),
    ],
)
def test_json(before: str, after: str) -> None:
    """In JSON only the value changes, or one member is added at the end in the file's own style."""
    assert edited(JSON, before.encode(), "k", "v").decode() == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'k: "v"\n'),
        ("# only this", '# only this\nk: "v"'),
        ("---\n", '---\nk: "v"\n'),
        ("--- # empty\n...\n", '--- # empty\nk: "v"\n...\n'),
        ("a: 1", 'a: 1\nk: "v"'),
        ("a: 1\r\nb: 2", 'a: 1\r\nb: 2\r\nk: "v"'),
        ("\ufeffa: 1\n# end\n", '\ufeffa: 1\n# end\nk: "v"\n'),
        ("%YAML 1.1\n---\na: 1\n...\n# more\n", '%YAML 1.1\n---\na: 1\nk: "v"\n...\n# more\n'),
        ("  a: 1\n  b:\n    - x\n", '  a: 1\n  b:\n    - x\n  k: "v"\n'),
        ("a: !ours {k: 1}\na: 0x10\n<<: {k: 1}\n", 'a: !ours {k: 1}\na: 0x10\n<<: {k: 1}\nk: "v"\n'),
        ("a: |\n  text", 'k: "v"\na: |\n  text'),
        ("a: |+\n  text\n\n", 'a: |+\n  text\n\nk: "v"\n'),
        ("? [a]\n: 1\n", '? [a]\n: 1\nk: "v"\n'),
        ("{}", '{"k": "v"}'),
        ("--- {a: 1, b: 2,}\n", '--- {a: 1, b: 2, k: "v",}\n'),
        ("{\n  a: 1, # c\n  b: 2 # d\n}\n", '{\n  a: 1, # c\n  b: 2, k: "v" # d\n}\n'),
        ("{\n  a: 1,\n  b: 2\n}\n", '{\n  a: 1,\n  b: 2,\n  k: "v"\n}\n'),
        ('{"a":1,\n "k":2}', '{"a":1,\n "k":"v"}'),
        ('{"a":1}', '{"a":1,"k":"v"}'),
        ("{a : [k]}", '{a : [k], k : "v"}'),
        ("k:\nb: 1\n", 'k: "v"\nb: 1\n'),
        ("k: # c\n", 'k: "v" # c\n'),
        ("'k' : yes   # c\r\nb: 1\n", "'k' : \"v\"   # c\r\nb: 1\n"),
        ("k: >-  \n  long\n\n  text\n\n# c\nb: 1\n", 'k: "v"\n\n# c\nb: 1\n'),
        ("k: long\n  text # c\n", 'k: "v" # c\n'),
        ("k:\n  a: 1\n  # c\n\nb: 1\n", 'k:\n  "v"\n  # c\n\nb: 1\n'),
        ("b: &x 1\nk: *x\n", 'b: &x 1\nk: "v"\n'),
        ("? k\n: 1\n", '? k\n: "v"\n'),
    ],
)
def test_yaml(before: str, after: str) -> None:
    """In YAML only the value changes, or one line is added, wherever comments, documents and blocks begin and end."""
    assert edited(YAML, before.encode(), "k", "v").decode() == after


@pytest.mark.parametrize("path", [JSON, YAML])
@pytest.mark.parametrize("key", ["telemetryEnabled", "no", "NULL", "a b: #", "5"])
@pytest.mark.parametrize(
    "value", [True, False, 0, -7, "true", "", "5", "24:00", "a: b # c", 'ö "\\"\n\u2028\x7f\u0085😀']
)
def test_values(path: Path, key: str, value: str | bool | int) -> None:
    """Each value is read again as what it was, of the same type, by other readers than ours."""
    data = edited(path, b"", key, value)
    read = json.loads(data) if path == JSON else yaml.safe_load(data)
    assert read == {key: value}
    assert type(read[key]) is type(value)
    assert parse("settings", data).root is not None


@pytest.mark.parametrize(
    ("path", "content", "place", "why"),
    [
        (JSON, b'{"a": 1,\n "b" 2}', (2, 6), "is not JSON"),
        (JSON, b'{"a": 1} {}', (1, 10), "is not JSON"),
        (JSON, b'{"a": 1, // a comment\n "b": 2}', (1, 10), "is not JSON"),
        (JSON, b"[1]", (1, 1), "holds no mapping"),
        (JSON, b'"telemetryHost"', (1, 1), "holds no mapping"),
        (JSON, b'{"telemetryHost": 1,\n  "telemetryHost": 1}', (2, 3), "duplicate key .* \\(first on line 1\\)"),
        (JSON, b'{"a": "\xff"}', (1, 8), "0xff is not UTF-8"),
        (JSON, b"[" * 100_000, (1, 1), "nested too deeply"),
        (YAML, b"a: 1\n b: [\n", (2, 3), "is not YAML"),
        (YAML, b"a: \x01", (1, 4), "is not YAML"),
        (YAML, b"- a\n", (1, 1), "holds no mapping"),
        (YAML, b"text", (1, 1), "holds no mapping"),
        (YAML, b"a: 1\n---\nb: 1\n", (2, 1), "a second document"),
        (YAML, b"telemetryHost: 1\n'telemetryHost': 2\n", (2, 1), "duplicate key"),
        (YAML, b"telemetryHost: &x 1\nb: *x\n", (1, 16), "edit the file by hand"),
        (YAML, b"{telemetryHost, a}", (1, 15), "edit the file by hand"),
    ],
)
def test_file_that_is_not_understood(
    tmp_path: Path, path: Path, content: bytes, place: tuple[int, int], why: str
) -> None:
    """A file that cannot be read, or not be edited without doubt, is named with the place and kept byte for byte."""
    there = tmp_path / path
    there.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        set_key(there, KEY, "v")
    (problem,) = caught.value.problems
    assert (problem.source, problem.line, problem.column) == (str(there), *place)
    assert there.read_bytes() == content
    assert names(tmp_path) == [path.name]


def test_text_that_is_no_text(tmp_path: Path) -> None:
    """A value that UTF-8 cannot hold, as from a command line in another encoding, is refused."""
    with pytest.raises(ConfigError, match=r"'\\udcff' cannot be written in UTF-8"):
        set_key(tmp_path / JSON, KEY, "\udcff")
    assert not names(tmp_path)


SPACE = st.sampled_from(["", " ", "\n", "\r\n\t", "\n\n  "])
NUMBER = st.sampled_from(["1e5", "-0.0", "1E+2", "NaN", "1.50", "12345678901234567890123", "-Infinity"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def json_values(draw: st.DrawFn) -> str:
    """A value as somebody may have written it."""
    leaves = st.none() | st.booleans() | TEXT
    value = draw(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=3))
    written = json.dumps(value, indent=draw(st.sampled_from([None, 2, "\t"])), ensure_ascii=draw(st.booleans()))
    return draw(st.just(written) | NUMBER)


@st.composite
def json_files(draw: st.DrawFn) -> tuple[str, str, str]:
    """A JSON file before, in and behind the value of our key; without the key, all is before."""
    keys = draw(st.lists(TEXT, max_size=4))
    ours = draw(st.none() | st.integers(0, len(keys)))
    parts: list[str] = []
    mark = "\0"
    for at, key in enumerate([*keys, ""] if ours is None or ours == len(keys) else keys):
        is_ours = at == ours
        if at == len(keys) and not is_ours:
            continue
        name, value = json.dumps(KEY if is_ours else key), draw(json_values())
        written = f"{mark}{value}{mark}" if is_ours else value
        parts.append(f"{draw(SPACE)}{name}{draw(SPACE)}:{draw(SPACE)}{written}{draw(SPACE)}")
    bom = draw(st.sampled_from(["", "\ufeff"]))
    text = f"{bom}{draw(SPACE)}{{{','.join(parts) or draw(SPACE)}}}{draw(SPACE)}"
    before, value, behind = text.split(mark) if mark in text else (text, "", "")
    return before, value, behind


def pairs(text: str) -> list[tuple[str, Any]]:
    """The members of a JSON object, repeated ones too; numbers as they are spelt."""
    found: list[tuple[str, Any]] = json.JSONDecoder(
        object_pairs_hook=list, parse_float=str, parse_int=str, parse_constant=str
    ).decode(text.removeprefix("\ufeff"))
    return found


@settings(deadline=None, max_examples=50)
@given(json_files(), st.booleans() | st.integers(-9, 9) | TEXT)
def test_json_round_trip(file: tuple[str, str, str], value: str | bool | int) -> None:
    """In any JSON file, whatever its style, only the value of the key changes or one member is added at the end."""
    before, old, behind = file
    after = edited(JSON, (before + old + behind).encode(), KEY, value).decode()
    said = pairs(after)
    if old:
        assert after.startswith(before)
        assert after.endswith(behind)
        assert json.loads(after[len(before) : len(after) - len(behind)]) == value
    else:
        assert is_addition(before, after)
        assert said[:-1] == pairs(before)
    read = json.loads(after.removeprefix("\ufeff"))[KEY]
    assert read == value
    assert type(read) is type(value)


FOREIGN = st.sampled_from(
    [
        "a{n}: 1e5",
        "a{n}: no  # a comment",
        "'a{n}': \"quoted # {n}\"",
        "a{n}:",
        "a{n}: [1, {{x: y}},\n  2]",
        "a{n}:\n  b: 1\n  # inside\n  c:\n    - d",
        "a{n}:\n- x\n- y: z",
        "a{n}: |\n  block # no comment\n\n  more",
        "a{n}: >+\n  folded\n",
        "a{n}: plain\n  goes on",
        "a{n}: &anchor{n} {{b: 0x1F}}\nother{n}: *anchor{n}",
        "# a comment of its own",
        "",
    ]
)
VALUES = st.sampled_from(["", " old", ' "old"', " 'old'", " yes", " [1,\n  2]", " two\n  lines", "\n  below", " ~"])


@st.composite
def yaml_files(draw: st.DrawFn) -> tuple[str, str, str]:
    """A YAML file before, in and behind the value of our key; without the key, all is before."""
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [line.format(n=number) for number, line in enumerate(draw(st.lists(FOREIGN, max_size=5)))]
    mark = "\0"
    if draw(st.booleans()):
        value = draw(VALUES)
        lead = value[: len(value) - len(value.lstrip())]
        comment = draw(st.sampled_from(["", "  # why"]))
        lines.insert(draw(st.integers(0, len(lines))), f"{KEY}:{lead}{mark}{value.strip()}{mark}{comment}")
    text = "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n...\n", "\n\n# end"]))
    text = draw(st.sampled_from(["", "\ufeff", "# head\n", "---\n"])) + text
    if draw(st.booleans()):
        text = textwrap.indent(text, "  ") if not text.startswith(("\ufeff", "---")) and "..." not in text else text
    text = text.replace("\n", newline)
    before, value, behind = text.split(mark) if mark in text else (text, "", "")
    return before, value, behind


@settings(deadline=None, max_examples=50)
@given(yaml_files(), st.booleans() | st.integers(-9, 9) | TEXT)
def test_yaml_round_trip(file: tuple[str, str, str], value: str | bool | int) -> None:
    """In any YAML file only the value of the key changes or one line is added; the rest says what it said."""
    before, old, behind = file
    text = before + old + behind
    try:
        said: dict[str, Any] = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        with pytest.raises(ConfigError):
            edited(YAML, text.encode(), KEY, value)
        return
    after = edited(YAML, text.encode(), KEY, value).decode()
    assert yaml.safe_load(after) == {**said, KEY: value}
    if KEY in said:
        assert after.startswith(before)
        assert after.endswith(behind)
        assert yaml.safe_load(after[len(before) : len(after) - len(behind)]) == value
    else:
        assert is_addition(text, after)
        assert "\r\n" not in text or after.count("\r\n") == after.count("\n")


# -- the file --------------------------------------------------------------------------------------------------------


def test_json_goes_before_yaml(tmp_path: Path) -> None:
    """JSON goes before YAML, and where there is no file there is none."""
    assert config_file(tmp_path) is None
    for name in ("config.yml", "config.yaml", "config.json"):
        (tmp_path / name).touch()
        assert config_file(tmp_path) == tmp_path / name


def test_missing_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """A missing file is made for its owner alone, in a directory that may be missing, but not in one below that."""
    path = tmp_path / "config" / "config.json"
    set_key(path, KEY, "v")
    assert path.read_bytes() == b'{\n    "telemetryHost": "v"\n}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ConfigNotWritable, match=r"config\.yaml: cannot be written: .*; make it, and try again"):
        set_key(tmp_path / "two" / "levels" / "config.yaml", KEY, "v")
    assert names(tmp_path) == ["config"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666])
def test_mode_and_owner_stay(tmp_path: Path, mode: int) -> None:
    """The file keeps its mode and its owner, whoever edits it."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    if os.geteuid() == 0:
        os.chown(path, 12345, 54321)
    path.chmod(mode)
    before = path.stat()
    set_key(path, KEY, "v")
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux's attributes are kept")
def test_attributes_stay(tmp_path: Path) -> None:
    """The file keeps its extended attributes, among which are access lists."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    try:
        os.setxattr(path, "user.note", b"kept")
    except OSError as error:
        pytest.skip(f"no attributes on this file system: {error}")
    set_key(path, KEY, "v")
    assert os.getxattr(path, "user.note") == b"kept"


def test_link_is_followed(tmp_path: Path) -> None:
    """A link stays one, and the file that it leads to is edited; one that leads nowhere gets its file."""
    (tmp_path / "real").mkdir()
    (tmp_path / "config").mkdir()
    target, link = tmp_path / "real" / "settings", tmp_path / "config" / "config.json"
    link.symlink_to("../real/settings")
    for _ in range(2):
        set_key(link, KEY, "v")
        assert link.is_symlink()
        assert json.loads(target.read_text()) == {KEY: "v"}
        target.write_text("{}")
    target.unlink()
    target.parent.rmdir()
    with pytest.raises(ConfigNotWritable, match="there is no directory"):
        set_key(link, KEY, "v")
    assert names(tmp_path) == ["config"]


def test_same_value_again(tmp_path: Path) -> None:
    """A file that says so already is not written again."""
    path = tmp_path / "config.json"
    path.write_text('{"telemetryHost":"v"}')
    before = path.stat()
    set_key(path, KEY, "v")
    assert set_key_if_absent(path, KEY, "w") == "v"
    assert path.stat() == before


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("config.json", '{"telemetryHost": "there"}', "there"),
        ("config.json", '{"telemetryHost": 5e1}', "5e1"),
        ("config.json", '{"telemetryHost": null}', "new"),
        ("config.json", '{"telemetryHost": " "}', "new"),
        ("config.yaml", "telemetryHost: there # c", "there"),
        ("config.yaml", "telemetryHost: [1,  2]", "[1,  2]"),
        ("config.yaml", "telemetryHost: 'null'", "null"),
        ("config.yaml", "telemetryHost: ~", "new"),
        ("config.yaml", "telemetryHost:", "new"),
        ("config.yml", "a: 1", "new"),
    ],
)
def test_value_of_the_file_is_kept(tmp_path: Path, name: str, content: str, says: str) -> None:
    """What the file says is kept and told; null and blank say nothing."""
    path = tmp_path / name
    path.write_text(content)
    assert set_key_if_absent(path, KEY, "new") == says
    assert set_key_if_absent(path, KEY, "newer") == says
    assert (path.read_text() == content) == (says != "new")


def test_stale_temporary_files(tmp_path: Path) -> None:
    """What a killed process left is removed by the next write; what belongs to others is not."""
    for name in (".config.json.0123456789ab.lifebeat-tmp", ".config.json.swp", ".other.json.1.lifebeat-tmp"):
        (tmp_path / name).touch()
    set_key(tmp_path / "config.json", KEY, "v")
    assert names(tmp_path) == [".config.json.swp", ".other.json.1.lifebeat-tmp", "config.json"]


def test_waiting_is_bounded(tmp_path: Path) -> None:
    """A process that holds the lock holds another up no longer than that allows; reading needs no lock."""
    path = tmp_path / "config.json"
    path.write_text('{"a": "there"}')
    with held(tmp_path, timeout=0) as got:
        assert got
        began = time.monotonic()
        with pytest.raises(ConfigNotWritable, match=r"another process has been writing for 0\.1 s; try again"):
            set_key(path, KEY, "v", timeout=0.1)
        assert 0.1 <= time.monotonic() - began < 5
        assert set_key_if_absent(path, "a", "v", timeout=0) == "there"


def open_temporary_file(process: subprocess.Popen[str]) -> bool:
    """Whether a process has a temporary file open."""
    try:
        links = [entry.readlink().name for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
    except OSError:
        return False
    return any(link.endswith(".lifebeat-tmp") for link in links)


def stop_while_writing(process: subprocess.Popen[str]) -> bool:
    """Stop a process while it writes its temporary file; false if it was too quick."""
    deadline = time.monotonic() + PATIENCE
    while not open_temporary_file(process) and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGSTOP)
    if process.poll() is None:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return open_temporary_file(process)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux's /proc tells when to step in")
def test_host_that_writes_meanwhile(tmp_path: Path) -> None:
    """What the host application writes while an edit is under way is not overwritten, though it takes no lock."""
    path, other = tmp_path / "config.json", tmp_path / "new"
    program = (
        "import sys; from pathlib import Path; from lifebeat.settings.edit import *; set_key(Path(sys.argv[1]), 'k', 1)"
    )
    for attempt in itertools.count():
        assert attempt < 20
        path.write_text(json.dumps({"large": "x" * 4_000_000}))
        other.write_text(json.dumps({"host": "has written"}))
        process = subprocess.Popen([sys.executable, "-c", program, path], text=True)
        stopped = stop_while_writing(process)
        if stopped:
            other.replace(path)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE) == 0
        if stopped:
            break
    assert json.loads(path.read_text()) == {"host": "has written", "k": 1}


def test_many_agree_on_one_value(tmp_path: Path) -> None:
    """Eight processes that start together, each with a value of its own, all end up with the one in the file."""
    program = """
        import sys
        from pathlib import Path
        from lifebeat.settings.edit import set_key_if_absent
        # begin
        for number in range(20):
            name = "config.yaml" if number % 2 else "config.json"
            path = Path(sys.argv[2]) / str(number) / name
            print(set_key_if_absent(path, "telemetryInstanceId", f"of-{sys.argv[1]}", timeout=30))
    """
    said = set(together(program, 8, tmp_path))
    assert len(said) == 1
    there = [yaml.safe_load(next((tmp_path / str(number)).iterdir()).read_text()) for number in range(20)]
    assert [found["telemetryInstanceId"] for found in there] == said.pop().split()


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    """Keys that several processes set at the same time are all there in the end, and so are the host's."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(REFERENCE, indent=4))
    program = """
        import sys
        from pathlib import Path
        from lifebeat.settings.edit import set_key
        # begin
        for number in range(10):
            set_key(Path(sys.argv[2]), f"key-{sys.argv[1]}-{number}", number, timeout=30)
    """
    together(program, 4, path)
    written = {f"key-{process}-{number}": number for process in range(4) for number in range(10)}
    assert json.loads(path.read_text()) == {**REFERENCE, **written}
    assert names(tmp_path) == ["config.json"]


def test_killed_while_writing(tmp_path: Path) -> None:
    """Killed at any point, a writer leaves the whole old or the whole new file, and no rubbish past the next write."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(REFERENCE, indent=4))
    program = """
        import json, os, random, select, signal, sys
        from pathlib import Path
        from lifebeat.settings.edit import set_key
        path, reference = Path(sys.argv[1]), json.loads(sys.argv[2])
        random.seed(1)
        for number in range(50):
            read, write = os.pipe()
            child = os.fork()
            if not child:
                count = 0
                while True:
                    set_key(path, "telemetryHost", f"{count} " + "x" * (count * 997 % 5000))
                    os.write(write, b".")
                    count += 1
            os.close(write)
            os.read(read, 1)
            select.select([], [], [], random.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            found = json.loads(path.read_text())
            count, _, padding = found.pop("telemetryHost").partition(" ")
            assert found == reference
            assert padding == "x" * (int(count) * 997 % 5000)
        set_key(path, "telemetryHost", "end")
    """
    run(program, path, json.dumps(REFERENCE))
    assert names(tmp_path) == ["config.json"]


# -- where it cannot be written --------------------------------------------------------------------------------------

REFUSED = """
import os, sys
from pathlib import Path
from lifebeat.settings.edit import *
def refused(path):
    path = Path(path)
    before, names = path.read_bytes(), os.listdir(path.parent)
    try:
        set_key(path, "telemetryHost", "v" * 5000)
    except ConfigNotWritable as error:
        print(error)
    assert path.read_bytes() == before and os.listdir(path.parent) == names
"""


@pytest.mark.parametrize(("directory", "file"), [(0o555, 0o444), (0o755, 0o444), (0o311, 0o444)])
def test_file_without_permission_is_not_written(shared: Path, directory: int, file: int) -> None:
    """Neither a directory nor a file that its user made read-only is written, and the message says who may not."""
    path = shared / "config.json"
    path.write_text("{}")
    for place, mode in ((path, file), (shared, directory)):
        if os.geteuid() == 0:
            os.chown(place, 65534, -1)
        place.chmod(mode)
    program = """
        edited(Path("config.json"), b"{}", "k", "v")  # so that all is imported that others may not read
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            set_key(Path(sys.argv[1]), "telemetryHost", "v")
        except ConfigNotWritable as error:
            print(error, os.geteuid())
    """
    said = run(REFUSED + textwrap.dedent(program), path)
    user = said.split()[-1]
    shared.chmod(0o755)
    assert said.startswith(f"{path}: cannot be written: Permission denied; let user {user} write the file")
    assert path.read_text() == "{}"
    assert names(shared) == ["config.json"]


@needs_mounts
def test_read_only_and_full_mounts_name_their_remedy(tmp_path: Path) -> None:
    """A read-only file system and a full disk name their remedy; a file that is a mount of its own is written."""
    for name in ("read-only", "single", "single/file", "full"):
        (tmp_path / name).mkdir()
    program = """
        import subprocess
        def mount(*args):
            subprocess.run(["mount", *args], check=True)
        root = Path(sys.argv[1])
        for name in ("read-only", "single"):
            (root / name / "config.json").write_text("{}")
        mount("--bind", root / "read-only", root / "read-only")
        mount("-o", "remount,bind,ro", root / "read-only")
        (root / "single/file/a").write_text("{}")
        mount("--bind", root / "single/file/a", root / "single/config.json")
        mount("-t", "tmpfs", "-o", "size=16k", "none", root / "full")
        (root / "full/config.json").write_text("{}")
        with open(root / "full/rest", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        for name in ("read-only", "full"):
            refused(root / name / "config.json")
        set_key(root / "single/config.json", "telemetryEnabled", False)
        print((root / "single/file/a").read_text())
    """
    read_only, full, single = run(REFUSED + textwrap.dedent(program), tmp_path, prefix=("unshare", "-m")).splitlines()
    assert "Read-only file system; the file system is mounted read-only: mount it writable" in read_only
    assert single == '{"telemetryEnabled": false}'
    assert "No space left on device; make room on the disk" in full


def test_limit_for_files(tmp_path: Path) -> None:
    """A write that breaks off half-way leaves the file as it was, and nothing beside it."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(REFERENCE))
    program = """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        refused(sys.argv[1])
    """
    assert "raise the limit for the size of files" in run(REFUSED + textwrap.dedent(program), path)


@needs_denial
def test_edit_is_made_where_directories_cannot_be_locked(tmp_path: Path) -> None:
    """Where directories cannot be locked a person's edit is made; a value to agree on is not, as others may differ."""
    path = tmp_path / "config.json"
    program = """
        import errno
        deny(eval(sys.argv[2]), errno.ENOLCK)
        set_key(Path(sys.argv[1]), "telemetryHost", "v")
        print(set_key_if_absent(Path(sys.argv[1]), "telemetryHost", "w"))
        try:
            set_key_if_absent(Path(sys.argv[1]), "telemetryInstanceId", "w")
        except ConfigNotWritable as error:
            print(error)
    """
    there, refused = run(REFUSED + DENY + textwrap.dedent(program), path, FLOCK).splitlines()
    assert there == "v"
    assert "cannot be locked (No locks available)" in refused
    assert json.loads(path.read_text()) == {KEY: "v"}


@needs_denial
def test_disk_that_fails(tmp_path: Path) -> None:
    """Only what is on the disk takes the place of the old file."""
    path = tmp_path / "config.json"
    path.write_text("{}")
    program = """
        import errno
        deny(eval(sys.argv[2]), errno.EIO)
        refused(sys.argv[1])
    """
    assert "Input/output error" in run(REFUSED + DENY + textwrap.dedent(program), path, FSYNC)


def test_directory_in_its_place(tmp_path: Path) -> None:
    """A directory where the file should be, as containers make them, is a problem of config."""
    (tmp_path / "config.json").mkdir()
    for ask in (set_key, set_key_if_absent):
        with pytest.raises(ConfigError, match=r"config\.json: cannot be read: it is a directory"):
            ask(tmp_path / "config.json", KEY, "v")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("config.json", '{"k": 1}', "{}"),
        ("config.json", '{\n  "k": 1\n}\n', "{}\n"),
        ("config.json", '{\n  "k": 1,\n  "a": 1e5\n}\n', '{\n  "a": 1e5\n}\n'),
        ("config.json", '{\n  "a": 1,\n  "k": [1,\n 2]\n}\n', '{\n  "a": 1\n}\n'),
        ("config.json", '{"a": {"k": 1}, "k": 2, "b": 3}', '{"a": {"k": 1}, "b": 3}'),
        ("config.json", '{"a": 1}', '{"a": 1}'),
        ("config.yaml", "a: 1\nk: x # why\nb: 2\n", "a: 1\nb: 2\n"),
        ("config.yaml", "# head\nk:\n  - 1\n  - 2\n\n# end\nb: |\n  k: 1\n", "# head\n\n# end\nb: |\n  k: 1\n"),
        ("config.yaml", "a: 1\r\nk: 2", "a: 1\r\n"),
        ("config.yaml", "{a: 1, k: 2}\n", "{a: 1}\n"),
        ("config.yaml", "k: 1\n", ""),
        ("config.yaml", "a: 1\n", "a: 1\n"),
    ],
)
def test_a_key_is_removed(tmp_path: Path, name: str, before: str, after: str) -> None:
    """All else stays byte for byte; where there is no such key nothing changes."""
    path = tmp_path / name
    path.write_bytes(before.encode())
    unset_key(path, "k")
    assert path.read_bytes().decode() == after


@pytest.mark.parametrize("text", ["k: &x 1\nb: *x\n", "{k: 1, # c\n a: 2}\n", "k: 1\nk: 2\n", "--- {\n"])
def test_a_key_that_cannot_be_removed_without_doubt(tmp_path: Path, text: str) -> None:
    """The file is left as it is, and a person is asked."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        unset_key(path, "k")
    assert path.read_text() == text


def test_nothing_is_made_to_remove_a_key(tmp_path: Path) -> None:
    """Where there is no file there is none afterwards."""
    unset_key(tmp_path / "config.json", "k")
    assert not names(tmp_path)


@settings(deadline=None, max_examples=50)
@given(yaml_files())
def test_removing_from_any_file(file: tuple[str, str, str]) -> None:
    """In any YAML file a key that was set is removed again, and the rest says what it said, or a person is asked."""
    text = "".join(file)
    try:
        said: dict[str, Any] = yaml.safe_load(text) or {}
        after = edited(YAML, text.encode(), KEY, None).decode()
    except (yaml.YAMLError, ConfigError):
        return
    assert (yaml.safe_load(after) or {}) == {key: value for key, value in said.items() if key != KEY}

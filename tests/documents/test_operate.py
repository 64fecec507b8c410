"""``docs/log-lines.md`` explains every log line, and what ``docs/operate.md`` says of moving and cloning is so."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lifebeat
import lifebeat_jobs
from hosts import Installation, end, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lifebeat.testing import PostHogServer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/operate.md"
LOG_LINES = ROOT / "docs/log-lines.md"
PACKAGES = [Path(package.__file__).parent for package in (lifebeat, lifebeat_jobs) if package.__file__]
OURS = [path for package in PACKAGES for path in package.rglob("*.py") if package / "testing" not in path.parents]
LEVELS = {
    "info": "info", "log": "info", "warning": "warning", "say_once": "warning", "_say_once": "warning",
    "_warn": "warning", "warn": "warning", "error": "error", "exception": "error",
}  # fmt: skip
PRINTED = [path for path in OURS if path.parent.name == "cli" or path.stem == "installation"]
SPOKEN_BY_A_LOGGER = {"info", "log", "warning", "error", "exception"}


def said() -> set[tuple[str, str]]:
    """Every line that the program can log: its level and its text, with ``…`` for what differs."""
    return {one for path in OURS for one in said_in(path)}


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """What a module consists of."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def constants_of(path: Path) -> dict[str, str]:
    """Return the texts that a module has given a name."""
    assigned = [one for one in nodes_of(path) if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant)]
    return {ast.unparse(one.targets[0]): text_of(one.value) for one in assigned}


def said_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that one module can log."""
    for node in nodes_of(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            name = node.func.attr
            if name in SPOKEN_BY_A_LOGGER and "logger" not in ast.unparse(node.func.value).lower():
                continue
            words = node.args if name in SPOKEN_BY_A_LOGGER else node.args[-1:]
            text = next((text_of(one, constants_of(path)) for one in words if text_of(one, constants_of(path))), "…")
            if not node_passes_on(path, node):
                yield LEVELS[name], text


def node_passes_on(path: Path, node: ast.Call) -> bool:
    """Whether a call hands on a line that is collected where it is made."""
    return ast.unparse(node.args[-1]) == "message" and path.stem in {"lifecycle", "delivery"}


def reasons() -> set[str]:
    """What an error says that a line passes on; config's have a page of their own, and commands print theirs."""
    nodes = [node for path in OURS if path not in PRINTED for node in nodes_of(path)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    kinds = {"LifebeatError"}
    for _ in range(3):  # as deep as classes of errors may be
        kinds |= {one.name for one in classes if kinds & set(map(ast.unparse, one.bases))}
    printed, asking_again = {"ConfigError", "ConfigNotWritable"}, {"Busy", "UnknownJob"}
    makers = kinds - printed - asking_again | {"self._unavailable", "OutboxUnavailable"}
    calls = [one for one in nodes if isinstance(one, ast.Call) and one.args and ast.unparse(one.func) in makers]
    return {text for one in calls if re.search(r"\w", text := text_of(one.args[0]))}


def text_of(node: ast.expr, constants: Mapping[str, str] | None = None) -> str:
    """Return a message's own words."""
    if isinstance(node, ast.Name):
        return (constants or {}).get(node.id, "")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:[srdg]|\.\df)", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
    return ""


def explained() -> set[tuple[str, str]]:
    """Return the lines of the page's table; one with backticks in it is written between two of them."""
    rows = re.findall(r"^\| (\w+) \| (`+) ?(.+?) ?\2 \|", LOG_LINES.read_text(), re.MULTILINE)
    return {(level, line) for level, _, line in rows}


def commands(name: str) -> str:
    """The commands of the page that are run here, by the name in the comment above them."""
    found = re.search(
        rf"<!-- run by tests/documents/test_operate.py: {name} -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL
    )
    assert found is not None
    return found.group(1)


def test_table_has_every_log_line_and_no_other() -> None:
    """The table has every line that the program can say, at its level, and none that it cannot."""
    assert said() - explained() == set()
    assert explained() - said() == set()


def test_table_has_every_reason_and_no_other() -> None:
    """So is every reason that an error of ours gives and a line passes on."""
    table = set(
        re.findall(r"^\| `(.+?)` \| [^|]+ \|$", LOG_LINES.read_text().partition("\n## Reasons\n")[2], re.MULTILINE)
    )
    assert reasons() - table == set()
    assert table - reasons() == set()


def test_log_lines_are_found_in_every_form(tmp_path: Path) -> None:
    """Lines are found in whatever way they are said; what only hands one on is not taken for one."""
    source = tmp_path / "module.py"
    source.write_text(
        "logger.info('one %s', 1)\n"
        "self.logger.error('%s; two', problem)\n"
        "context.logger.log(20 if shown else 30, 'three')\n"
        "life.say_once('key', f'four {error}')\n"
        "life.say_once('key', str(error))\n"
        "self._warn(f'five {name} ' 'and more')\n"
        "print('not logged')\n"
    )
    assert list(said_in(source)) == [
        ("info", "one …"),
        ("error", "…; two"),
        ("info", "three"),
        ("warning", "four …"),
        ("warning", "…"),
        ("warning", "five … and more"),
    ]


def test_named_bounds_are_the_defaults() -> None:
    """The bounds of the outbox are the defaults."""
    from lifebeat.settings.table import BY_NAME

    assert BY_NAME["telemetryOutboxEvents"].default == 1000
    assert BY_NAME["telemetryOutboxBytes"].default == 5 * 1024 * 1024
    assert BY_NAME["telemetryOutboxAge"].default.days == 30


def live(installation: Installation, receiver: PostHogServer) -> str:
    """Run the application once; the ID that it sent with."""
    before = len(receiver.events)
    process = installation.lifebeat("run")
    eventually(lambda: len(receiver.events) > before)
    end(process)
    sent = receiver.events[before:]
    assert [event["event"] for event in sent] == ["startup", "shutdown"]
    [found] = {str(event["distinct_id"]) for event in sent}
    return found


def copied(installation: Installation, to: Path) -> Installation:
    """The same directories on another machine."""
    copy = Installation(to, installation.receiver)
    for name in ("config", "state"):
        shutil.rmtree(copy.directory / name, ignore_errors=True)
        if (installation.directory / name).exists():
            shutil.copytree(installation.directory / name, copy.directory / name)
    return copy


def follow(installation: Installation, name: str, state: str = "config/lifebeat") -> str:
    """Copy the page's commands into a shell, as its reader does."""
    environ = installation.environ()
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ.get('PATH', os.defpath)}"
    script = commands(name).replace("STATE=config/lifebeat", f"STATE={state}")
    command, place = ["sh", "-eu", "-c", script], installation.directory
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def machine(tmp_path: Path, name: str) -> Path:
    """A place for another machine's directories."""
    place = tmp_path / name
    place.mkdir()
    return place


@pytest.mark.soak
def test_moved_installation_keeps_its_id(installation: Installation, receiver: PostHogServer, tmp_path: Path) -> None:
    """With its directories taken along it is the same installation; so is an image that was not cleaned."""
    first = live(installation, receiver)
    assert live(copied(installation, machine(tmp_path, "moved")), receiver) == first


@pytest.mark.soak
def test_cleaned_copy_gets_an_id_of_its_own(
    installation: Installation, receiver: PostHogServer, tmp_path: Path
) -> None:
    """After the page's commands a copy of one that runs is an installation of its own, and both stay what they are."""
    process = installation.lifebeat("run")
    [started] = eventually(lambda: receiver.events)
    copy = copied(installation, machine(tmp_path, "copy"))
    end(process)
    follow(copy, "copy")
    second = live(copy, receiver)
    assert second != started["distinct_id"]
    assert live(copy, receiver) == second


@pytest.mark.soak
def test_machines_from_a_cleaned_image_get_ids_of_their_own(
    installation: Installation, receiver: PostHogServer, tmp_path: Path
) -> None:
    """Cleaned as the page says, what is made from an image are installations of their own."""
    first = live(installation, receiver)
    assert re.search(r"^instance id +-$", follow(installation, "image"), re.MULTILINE)
    machines = [live(copied(installation, machine(tmp_path, name)), receiver) for name in ("one", "two")]
    assert len({first, *machines}) == 3


@pytest.mark.soak
def test_image_is_cleaned_where_the_state_is_elsewhere(installation: Installation, receiver: PostHogServer) -> None:
    """The commands hold where the ID is kept as state, too."""
    state = installation.directory / "state"
    state.mkdir()
    (state / "instance-id").write_text("6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52\n")
    installation.write(telemetryStateDir="../state")
    assert live(installation, receiver) == "6c62b5ae-9d3c-4f4e-a9ab-8c1f4d1f0e52"
    assert re.search(r"^instance id +-$", follow(installation, "image", state="state"), re.MULTILINE)
    assert list(state.iterdir()) == []


def test_erased_installation_leaves_nothing_and_stays_off(installation: Installation, receiver: PostHogServer) -> None:
    """After the page's commands nothing of the old installation is left, and it stays off."""
    first = live(installation, receiver)
    assert installation.run("setconfig", "telemetryEnabled", "false")[0] == 0
    follow(installation, "erase")
    assert sorted(path.name for path in installation.config.iterdir()) == ["config.json", "lifebeat"]
    assert list((installation.config / "lifebeat").iterdir()) == []
    assert first not in (installation.config / "config.json").read_text()
    assert json.loads((installation.config / "config.json").read_text())["telemetryEnabled"] is False

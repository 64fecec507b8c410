"""``docs/operate.md``: every log line is explained there, and what it says of moving and cloning is so."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from conftest import Installation, end, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifebeat.testing import PostHogServer

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/operate.md"
SOURCES = [*(ROOT / "scheduler/lifebeat").rglob("*.py"), *(ROOT / "jobs/lifebeat_jobs").rglob("*.py")]
LEVELS = {
    "info": "info", "log": "info", "warning": "warning", "say_once": "warning", "_say_once": "warning",
    "_warn": "warning", "_turn": "warning", "error": "error", "exception": "exception",
}  # fmt: skip
SPOKEN_BY_A_LOGGER = {"info", "log", "warning", "error", "exception"}


def said() -> set[tuple[str, str]]:
    """Every line that the program can log: its level and its text, with ``…`` for what differs."""
    return {one for path in SOURCES if "testing" not in path.parts for one in said_in(path)}


def said_in(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            name = node.func.attr
            if name in SPOKEN_BY_A_LOGGER and "logger" not in ast.unparse(node.func.value).lower():
                continue
            words = node.args if name in SPOKEN_BY_A_LOGGER else node.args[-1:]
            text = next((text_of(one) for one in words if text_of(one)), "")
            if re.search(r"\w", text):
                yield LEVELS[name], text


def text_of(node: ast.expr) -> str:
    """A message's own words."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:[sr]|\.\df)", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
    return ""


def explained() -> set[tuple[str, str]]:
    """The lines of the page's table."""
    return set(re.findall(r"^\| (\w+) \| `(.+?)` \|", PAGE.read_text(), re.MULTILINE))


def test_every_log_line_is_explained() -> None:
    """The table has every line that the program can say, at its level, and none that it cannot."""
    assert said() - explained() == set()
    assert explained() - said() == set()


def test_the_bounds_that_it_names() -> None:
    """The bounds of the outbox are the defaults."""
    from lifebeat.settings import BY_NAME  # noqa: PLC0415

    assert BY_NAME["telemetryOutboxEvents"].default == 1000
    assert BY_NAME["telemetryOutboxBytes"].default == 5 * 1024 * 1024
    assert BY_NAME["telemetryOutboxAge"].default.days == 30


def live(installation: Installation, receiver: PostHogServer) -> str:
    """Run the application once; the ID that it sent with."""
    before = len(receiver.events)
    process = installation.lifebeat("run")
    eventually(lambda: len(receiver.events) > before)
    end(process)
    return str(receiver.events[-1]["distinct_id"])


def copied(installation: Installation, to: Path) -> Installation:
    """The same directories on another machine."""
    to.mkdir()
    copy = Installation(to, installation.receiver)
    shutil.rmtree(copy.config)
    shutil.copytree(installation.config, copy.config)
    return copy


def test_a_move_stays_the_same(installation: Installation, receiver: PostHogServer, tmp_path: Path) -> None:
    """With its directories taken along it is the same installation on another machine."""
    first = live(installation, receiver)
    assert live(copied(installation, tmp_path / "moved"), receiver) == first


def test_a_copy_that_is_another(installation: Installation, receiver: PostHogServer, tmp_path: Path) -> None:
    """After ``rotate-id`` a copy is an installation of its own, and stays it."""
    first = live(installation, receiver)
    copy = copied(installation, tmp_path / "copy")
    assert copy.run("rotate-id")[0] == 0
    second = live(copy, receiver)
    assert second not in {first, live(installation, receiver)}
    assert live(copy, receiver) == second


def test_a_golden_image(installation: Installation, receiver: PostHogServer, tmp_path: Path) -> None:
    """Cleaned as the page says, what is made from an image are installations of their own."""
    first = live(installation, receiver)
    image = copied(installation, tmp_path / "image")
    for name in ("instance-id", "outbox.sqlite3*", "presence.*"):
        for path in image.config.glob(name):
            path.unlink()
    config = json.loads((image.config / "config.json").read_text())
    config.pop("telemetryInstanceId")
    (image.config / "config.json").write_text(json.dumps(config))
    machines = [live(copied(image, tmp_path / f"machine-{number}"), receiver) for number in range(2)]
    assert len({first, *machines}) == 3


def test_erased(installation: Installation, receiver: PostHogServer) -> None:
    """After the files that it names are deleted nothing of the old installation is left."""
    first = live(installation, receiver)
    assert installation.run("setconfig", "telemetryEnabled", "false")[0] == 0
    for name in ("instance-id", "outbox.sqlite3*"):
        for path in installation.config.glob(name):
            path.unlink()
    path = installation.config / "config.json"
    config = json.loads(path.read_text())
    config.pop("telemetryInstanceId")
    path.write_text(json.dumps(config))
    assert "nothing was recorded" in installation.run("log")[1]
    assert not any(first in one.read_text(errors="replace") for one in installation.config.iterdir() if one.is_file())

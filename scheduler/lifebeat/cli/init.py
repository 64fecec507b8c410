"""``lifebeat init``: a config directory to edit, and the lines for one's own code."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.errors import LifebeatError
from lifebeat.settings.layers import CONFIG_FILES, JOB_FILE
from lifebeat.storage import safe_file

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from lifebeat.cli.options import CommandLine


class HostCode(NamedTuple):
    """Where the lines for one kind of host go.

    Attributes:
        file: The file, from the host's own directory.
        run: What starts it.
    """

    file: str
    run: str


# The code itself is made from examples/ by `make docs`.
HOSTS = {
    "flask": HostCode("app.py", "flask run"),
    "fastapi": HostCode("app.py", "uvicorn app:app"),
    "django": HostCode("notes/management/commands/runapscheduler.py", "python manage.py runapscheduler"),
    "asyncio": HostCode("main.py", "python main.py"),
    "celery": HostCode("notes.py", "celery -A notes worker"),
    "standalone": HostCode("main.py", "python main.py run"),
}
CONFIG_FILE = "config.yaml"
_SCHEMAS = ("config", "jobs", "overlay")
_SETTINGS = """\
# yaml-language-server: $schema=schema/config.schema.json
# Settings of this installation: every one, with its default. Remove the # before a line to change it; what is written
# here overrules what the application says in lifebeat.attach(). Check your edits: lifebeat check
"""
_OWN_JOB = """\

  # A job of your own: remove the # before these lines, and allow its module with attach(..., allow=["myapp.jobs"]) and
  # lifebeat check --allow myapp.jobs. All fields, with completion in editors: schema/jobs.schema.json.
  # nightly-report:
  #   description: Writes the report of the day before.
  #   run: myapp.jobs:report            # def report(format): ... in myapp/jobs.py
  #   cron: "0 3 * * *"
  #   timezone: Europe/Stockholm
  #   args: {format: pdf}
"""
_IGNORED = f"""\
# This installation's state: events that wait, their ledger, who runs.
lifebeat/
# Its settings. At the first start its random telemetryInstanceId is written into them; with a copy of that, two
# installations would count as one.
{CONFIG_FILE}
"""


def add_commands(line: CommandLine) -> None:
    """Add the command."""
    line.add("init", init).add_argument(
        "--host", choices=sorted(HOSTS), help="make nothing, and print the lines for this kind of host instead"
    )


def init(args: argparse.Namespace) -> int:
    """Make a config directory to edit, or with --host print the lines for your own code; nothing is overwritten."""
    from lifebeat.settings.source import config_dir

    if args.host:
        return _print_code(args.host, as_json=args.json)
    directory = config_dir(args.config or args.arguments.get("config_dir"), os.environ)
    files = _files()
    there = [name for name in (*files, *CONFIG_FILES) if os.path.lexists(directory / name)]
    if there:
        for name in dict.fromkeys(there):
            console.complain(f"{directory / name}: is there already")
        console.complain("nothing was written; name another directory with --config DIR")
        return PROBLEM
    for name, text in files.items():
        _write(directory / name, text)
    if args.json:
        console.say_json({"directory": safe_file.absolute(directory), "files": list(files)})
    else:
        _say_made(directory)
    return DONE


def _files() -> dict[str, str]:
    """Return what is made, by its name in the config directory."""
    made = {CONFIG_FILE: _SETTINGS + _unset(_shipped("defaults.yaml")), JOB_FILE: _shipped(JOB_FILE) + _OWN_JOB}
    made |= {name: _shipped(name) for name in (f"schema/{kind}.schema.json" for kind in _SCHEMAS)}
    return {**made, ".gitignore": _IGNORED}


def _unset(defaults: str) -> str:
    """Return the settings without the head of their file, each behind a ``#`` that is to be removed."""
    settings = defaults[defaults.index("\n\n") + 1 :]
    return re.sub(r"^(?:# )?(?=\w+:(?: \S+)?$)", "#", settings, flags=re.MULTILINE)


def _shipped(name: str) -> str:
    from lifebeat.jobfile.reader import packaged, shipped_data

    return shipped_data(packaged().parent / name).decode()


def _write(path: Path, text: str) -> None:
    try:
        safe_file.make_directory(path.parent, 0o755)
        safe_file.write(path, text.encode(), mode=0o644, unless=path.exists)
    except OSError as error:
        raise LifebeatError(f"{path}: cannot be written: {error.strerror or error}") from None


def _say_made(directory: Path) -> None:
    about = {
        CONFIG_FILE: "the settings, each with its default, behind a #",
        JOB_FILE: "what runs, and when: the three jobs of telemetry, and one of your own behind a #",
        "schema/": "completion and checks while you edit",
        ".gitignore": f"keeps the state and {CONFIG_FILE}, which gets this installation's random ID, out of git",
    }
    console.say(console.table((safe_file.absolute(directory), ""), about.items()))
    console.say(f"\nCheck your edits: lifebeat check --config {directory}")
    console.say(f"The lines for your code: lifebeat init --host {'|'.join(HOSTS)}")


def _print_code(host: str, *, as_json: bool) -> int:
    code, place = _shipped(f"hosts/{host}.py"), HOSTS[host]
    if as_json:
        console.say_json({"host": host, "file": place.file, "run": place.run, "code": code})
    else:
        console.say(f"# {place.file}, started with: {place.run}\n{code}", end="")
    return DONE

"""``lifebeat prove-off``: the whole life in a child process with telemetry off, and what it attempted."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat import installation
from lifebeat.cli import console
from lifebeat.cli.console import DONE, PROBLEM
from lifebeat.errors import LifebeatError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from lifebeat.cli.options import CommandLine

_LIMIT = 16 * 1024 * 1024


def add_commands(line: CommandLine) -> None:
    """Add the command."""
    line.add("prove-off", prove_off)


def prove_off(args: argparse.Namespace) -> int:
    """Run the whole life with telemetry off, and show what it attempted: connections, look-ups, files, threads.

    It lives on a copy of the config in a scratch directory; the application's own jobs are left out.
    """
    from lifebeat.cli.application import Application

    application = Application(args)
    with tempfile.TemporaryDirectory(prefix="lifebeat-proof-") as scratch:
        _copy(application.files(), application.config_dir, Path(scratch))
        attempts = prove(Path(scratch), os.environ, allow=application.allow)
    own = sum(not spec.is_telemetry for spec in application.load().specs)
    if args.json:
        console.say_json(attempts)
    elif attempts:
        console.say(console.table(("attempted", "what"), [(one["kind"], one["what"]) for one in attempts]))
    else:
        console.say("Telemetry was off for a whole life of 1 s: start, heartbeats, flush, stop.")
        console.say("Attempted: no connection, no look-up, no file, no database, no process, no thread.")
        if own:
            console.say(f"Left out: {console.counted(own, 'job')} of the application's own.")
    console.show_problems(application.problems)
    return PROBLEM if attempts else DONE


def _copy(files: list[Path], config_dir: Path, scratch: Path) -> None:
    """Copy what can be read; of the rest the application would have nothing either."""
    from lifebeat.storage import safe_file

    for path in files:
        with contextlib.suppress(safe_file.CannotRead):
            data = safe_file.read(path, limit=_LIMIT)
            if data is not None:
                copy = scratch / path.relative_to(config_dir)
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(data)


def prove(
    config_dir: Path, environ: Mapping[str, str], *, allow: Sequence[str] = (), off: bool = True
) -> list[dict[str, str]]:
    """Live a whole life in a child and return what it attempted.

    Args:
        config_dir: The config directory; with telemetry off it stays as it is.
        environ: The environment of the child.
        allow: The modules that the job file may name.
        off: Whether telemetry is turned off for it; the proof of the proof turns it not off.

    Raises:
        LifebeatError: The child failed.
    """
    left_out = ("LIFEBEAT_CONFIG_DIR", "LIFEBEAT_ENGINE", "LIFEBEAT_DATABASE", "STATE_DIRECTORY", "TELEMETRY_STATE_DIR")
    child = {name: value for name, value in environ.items() if name not in left_out}
    child |= {"PYTHONDONTWRITEBYTECODE": "1"} | ({"TELEMETRY_ENABLED": "false"} if off else {})
    python = installation.interpreter()
    if not python:
        raise LifebeatError("this program cannot start Python; prove it with an installed Lifebeat: lifebeat prove-off")
    command = [*python, "-m", "lifebeat.cli.watched", str(config_dir), *allow]
    done = subprocess.run(command, env=child, capture_output=True, text=True, check=False)  # noqa: S603 - our own module
    try:
        attempts: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.splitlines() or ["no word"])[-1]
        raise LifebeatError(f"the life could not be lived (exit code {done.returncode}): {last}") from None
    return attempts

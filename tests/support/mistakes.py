"""Mistakes that people make in job files, one file each, and what Lifebeat says to them."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, NamedTuple

from lifebeat.jobfile import reader as jobfile
from lifebeat.settings import layers

if TYPE_CHECKING:
    from collections.abc import Generator

    from lifebeat.errors import Problem

HOST_JOBS = '''
"""A host's jobs, to be named in job files."""

from collections.abc import Iterator
from subprocess import run

LIMIT = 10


def pages() -> Iterator[int]:
    """Yield pages, and do nothing when it is called."""
    yield 1


def clean(days: int = 30) -> None:
    """Remove what is old."""


def report(to: str, *, weekly: bool = False) -> None:
    """Send a report."""
'''
BROKEN = "import a_module_that_is_missing\n"


class Mistake(NamedTuple):
    """One kind of mistake.

    Attributes:
        name: What was done.
        text: The job file.
        line: The line that the first message must name.
    """

    name: str
    text: str
    line: int


def job(fields: str, name: str = "clean") -> str:
    lines = [f"    {line}" for line in dedent(fields).strip().splitlines()]
    return "\n".join(["jobs:", f"  {name}:", *lines, ""])


RUN = "run: myapp.jobs:clean\n"
MISTAKES = (
    Mistake("A word misspelled", job(RUN + "evry: 1h"), 4),
    Mistake("A word of APScheduler's", job(RUN + "every: 1h\nmisfire_grace_time: 60"), 5),
    Mistake("A word of another tool's", job(RUN + "schedule: 0 4 * * *"), 4),
    Mistake("No trigger", job(RUN), 2),
    Mistake("Two triggers", job(RUN + "every: 1h\ncron: 0 4 * * *"), 5),
    Mistake("A field that does not go with the trigger", job(RUN + "when: start\njitter: 5m"), 5),
    Mistake("Nothing to run", job("every: 1h"), 2),
    Mistake("A function without its module", job("run: clean\nevery: 1h"), 3),
    Mistake("A path in place of a module", job("run: myapp/jobs.py:clean\nevery: 1h"), 3),
    Mistake("A module that is not allowed", job("run: os:system\nevery: 1h"), 3),
    Mistake("A module that there is not", job("run: myapp.job:clean\nevery: 1h"), 3),
    Mistake("A module that cannot be imported", job("run: myapp.broken:clean\nevery: 1h"), 3),
    Mistake("A function that there is not", job("run: myapp.jobs:claen\nevery: 1h"), 3),
    Mistake("Something that is no function", job("run: myapp.jobs:LIMIT\nevery: 1h"), 3),
    Mistake("A generator", job("run: myapp.jobs:pages\nevery: 1h"), 3),
    Mistake("A function of another module", job("run: myapp.jobs:run\nevery: 1h"), 3),
    Mistake("What is none of telemetry's jobs", job("run: lifebeat_jobs.telemetry:status\nevery: 1h"), 3),
    Mistake("A function by its dotted name", job("run: myapp.jobs.clean\nevery: 1h"), 3),
    Mistake("An argument misspelled", job(RUN + "every: 1h\nargs: {dais: 7}"), 5),
    Mistake("An argument missing", job("run: myapp.jobs:report\nevery: 1h"), 3),
    Mistake("Arguments as a list", job(RUN + "every: 1h\nargs: [7]"), 5),
    Mistake("An interval without a unit", job(RUN + "every: 90"), 4),
    Mistake("An interval in words", job(RUN + "every: 1 day"), 4),
    Mistake("An interval of ISO 8601", job(RUN + "every: PT15M"), 4),
    Mistake("A cron expression as an interval", job(RUN + "every: 0 4 * * *"), 4),
    Mistake("An interval of nothing", job(RUN + "every: 0s"), 4),
    Mistake("A clock time as an interval", job(RUN + "every: 24:00"), 4),
    Mistake("A jitter as long as the interval", job(RUN + "every: 10m\njitter: 1h"), 5),
    Mistake("Too few cron fields", job(RUN + "cron: 0 4 * *"), 4),
    Mistake("Six cron fields", job(RUN + "cron: 0 0 4 * * *"), 4),
    Mistake("A cron expression without quotes", job(RUN + "cron: */5 * * * *"), 4),
    Mistake("The start as a cron expression", job(RUN + "cron: '@reboot'"), 4),
    Mistake("A time zone in the cron expression", job(RUN + "cron: CRON_TZ=Europe/Berlin 0 4 * * *"), 4),
    Mistake("A last day, as Quartz has it", job(RUN + "cron: 0 4 L * *"), 4),
    Mistake("An hour that there is not", job(RUN + "cron: 0 24 * * *"), 4),
    Mistake("A day of the week that there is not", job(RUN + "cron: 0 4 * * mo-fr"), 4),
    Mistake("A date that never comes", job(RUN + "cron: 0 4 30 2 *"), 4),
    Mistake("A moment without a time", job(RUN + "at: tomorrow"), 4),
    Mistake("A moment of an application's life that there is not", job(RUN + "when: stop"), 4),
    Mistake("A time zone misspelled", job(RUN + "cron: 0 4 * * *\ntimezone: Europe/Berln"), 5),
    Mistake("A time zone's abbreviation", job(RUN + "cron: 0 4 * * *\ntimezone: CEST"), 5),
    Mistake("A moment beyond the calendar", job(RUN + "at: 9999-12-31T23:59\ntimezone: America/New_York"), 4),
    Mistake("A time zone as a number", job(RUN + "cron: 0 4 * * *\ntimezone: +02:00"), 5),
    Mistake("Neither yes nor no", job(RUN + "every: 1h\nenabled: maybe"), 5),
    Mistake("Not a whole number", job(RUN + "every: 1h\nmax_instances: 1.5"), 5),
    Mistake("Once per what?", job(RUN + "every: 1h\nonce: cluster"), 5),
    Mistake("Retries as a number", job(RUN + "every: 1h\nretry: 3"), 5),
    Mistake("A variable of a shell", job(RUN + "every: $INTERVAL"), 4),
    Mistake("A template", job(RUN + "every: {{ interval }}"), 4),
    Mistake("The switch in the job file", "telemetryEnabled: false\n" + job(RUN + "every: 1h"), 1),
    Mistake("A setting that there is not", job(RUN + "every: ${telemetryInterval}"), 4),
    Mistake("A setting of another kind", job(RUN + "every: ${telemetryHost}"), 4),
    Mistake("Two jobs of one name", "jobs:\n" + 2 * "  clean:\n    run: myapp.jobs:clean\n    every: 1h\n", 5),
    Mistake("One field twice", job(RUN + "every: 1h\nevery: 2h"), 5),
    Mistake("Jobs as a list", "jobs:\n  - run: myapp.jobs:clean\n    every: 1h\n", 2),
    Mistake("A job that is not below jobs", "clean:\n  run: myapp.jobs:clean\n  every: 1h\n", 1),
    Mistake("A name with a space", job(RUN + "every: 1h", name="clean up"), 2),
    Mistake("Indented with a tab", "jobs:\n  clean:\n\trun: myapp.jobs:clean\n", 3),
    Mistake("A quote that does not end", job(RUN + 'every: "1h'), 5),
    Mistake("A merge key", "jobs:\n  first: &base {run: 'myapp.jobs:clean', every: 1h}\n  clean: {<<: *base}\n", 3),
    Mistake("A tag", job(RUN + "every: !!python/object/apply:os.system [ls]"), 4),
    Mistake("A second document", job(RUN + "every: 1h") + "---\njobs: {}\n", 5),
)


@contextmanager
def host() -> Generator[Path]:
    """A directory with the host's modules in it, which can be imported; nothing of it is left."""
    with tempfile.TemporaryDirectory() as made:
        package = Path(made, "myapp")
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "jobs.py").write_text(HOST_JOBS)
        (package / "broken.py").write_text(BROKEN)
        sys.path.insert(0, made)
        try:
            yield Path(made)
        finally:
            sys.path.remove(made)
            for name in [name for name in sys.modules if name.partition(".")[0] == "myapp"]:
                del sys.modules[name]


def problems(text: str, directory: Path) -> list[Problem]:
    """What Lifebeat says to a job file."""
    path = directory / "jobs.yaml"
    path.write_text(text)
    settings = layers.merge([layers.packaged()])
    return list(jobfile.load(path, settings, allow=["myapp"], import_disabled=True).problems)


def said() -> dict[str, list[Problem]]:
    """What Lifebeat says to each mistake."""
    with host() as directory:
        return {one.name: problems(one.text, directory) for one in MISTAKES}

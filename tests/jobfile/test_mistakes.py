"""What is said to mistakes in a job file: where, what, what is allowed, what to do."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import pytest
from apscheduler.schedulers.background import BackgroundScheduler

import lifebeat
import mistakes
from lifebeat.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifebeat.testing import PostHogServer
    from mistakes import Mistake

REMEDY = re.compile(
    r"did you mean|expected |takes |give it one of|there are|write |such as|remove|must be|is it on the path"
    r"|allows it with"
    r"|is not shorter than|it ends the process|name it there"
    r"|is not known here|names a day that never comes|which is missing|use an overlay|holds one|may be given|check"
    r"|missing a required argument|name a function|goes with|indented|use `every`"
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """A host's directory."""
    with mistakes.host() as made:
        yield made


@pytest.mark.parametrize("mistake", mistakes.MISTAKES, ids=[one.name for one in mistakes.MISTAKES])
def test_each_mistake(directory: Path, mistake: Mistake) -> None:
    """Each mistake gives one message, which names its line and a way out of it."""
    found = mistakes.problems(mistake.text, directory)
    assert [problem.line for problem in found] == [mistake.line], found
    assert REMEDY.search(found[0].message), found


def test_what_is_right(directory: Path) -> None:
    """The files without their mistake are plans without a problem."""
    text = mistakes.job(mistakes.RUN + "every: 1h\njitter: 5m\nphase: 10m\nargs: {days: 7}\nonce: application")
    assert mistakes.problems(text, directory) == []


def test_all_of_them_at_once(directory: Path) -> None:
    """Mistakes in several jobs are all named in one go, in the order of the file."""
    said = mistakes.said()
    inside = [one for one in mistakes.MISTAKES if said[one.name][0].message.startswith("job 'clean': ")]
    jobs = [one.text.replace("  clean:", f"  job{number}:", 1) for number, one in enumerate(inside)]
    found = mistakes.problems("jobs:\n" + "".join(job.removeprefix("jobs:\n") for job in jobs), directory)
    assert len(inside) >= 30
    assert [re.sub("first on line [0-9]+", "first on line 4", one.message) for one in found] == [
        said[one.name][0].message.replace("'clean'", f"'job{number}'", 1) for number, one in enumerate(inside)
    ]


STARTUP = "  startup: {run: 'lifebeat_jobs.telemetry:startup', when: start}\n"


def test_no_mistake_lets_a_host_send(
    directory: Path, tmp_path: Path, receiver: PostHogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host starts and stops with each mistake in its heartbeat, beside a good startup: no connection, no event.

    A mistake that is the host's own raises at ``attach``; the host may go on all the same.
    """
    monkeypatch.setenv("LIFEBEAT_TEST_MODE", "loopback")
    schedulers = list[Any]()
    for number, one in enumerate(mistakes.MISTAKES):
        text = one.text.replace("myapp.jobs:clean", "lifebeat_jobs.telemetry:heartbeat")
        config = tmp_path / str(number)
        config.mkdir()
        (config / "jobs.yaml").write_text(text.replace("jobs:\n", f"jobs:\n{STARTUP}", 1))
        scheduler: Any = BackgroundScheduler(timezone="UTC")
        with contextlib.suppress(ConfigError):
            handle = lifebeat.attach(
                scheduler, app_name="notes", app_version="1", api_key="phc_x", host=receiver.url, config_dir=config,
                allow="myapp", signals=False,
            )  # fmt: skip
            assert handle.status()["telemetry"] == ("off" if one.name == "The switch in the job file" else "paused")
        scheduler.start()
        schedulers.append(scheduler)
    for scheduler in schedulers:
        scheduler.shutdown()
    assert receiver.connections == 0
    assert list(tmp_path.rglob("*.sqlite3")) == []

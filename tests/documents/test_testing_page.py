"""``docs/testing.md``: its tests are tests."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from lifebeat.errors import ConfigError
from lifebeat.testing.context import make_context
from lifebeat.testing.fixtures import job_context, posthog
from lifebeat_jobs import events
from test_docs import in_language

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import CodeType

__all__ = ["job_context", "posthog"]
FILES = {one.text.splitlines()[0]: one.text for one in in_language("python") if one.page == "docs/testing.md"}


def code(file: str) -> CodeType:
    """A file of the page, compiled as one of its own."""
    return compile(FILES[file], file, "exec", dont_inherit=True)


@pytest.fixture
def jobs() -> Iterator[dict[str, Any]]:
    """The page's jobs, as long as a test needs them."""
    names: dict[str, Any] = {"__name__": "notes.jobs"}
    exec(code("# notes/jobs.py"), names)
    yield names
    del events.registry["exported"]


@pytest.mark.parametrize("file", ["# tests/test_jobs.py", "# tests/test_dates.py"])
def test_tests_of_the_page_pass(file: str, jobs: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Each test on the page, with the fixtures that it asks for."""
    names = dict(jobs)
    exec(code(file), names)
    [test] = [value for name, value in names.items() if name.startswith("test_")]
    test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters})


def test_context_refuses_a_setting_that_is_not_valid(tmp_path: Path) -> None:
    """A test with a wrong setting is said so, where it would be paused otherwise."""
    with pytest.raises(ConfigError, match="telemetryHeartbeatInterval"):
        make_context(tmp_path, telemetryHeartbeatInterval="soon")


def test_context_sends_nothing_elsewhere(tmp_path: Path) -> None:
    """A host that is not this machine is off: a test cannot send to the world by mistake."""
    assert not make_context(tmp_path, telemetryHost="https://posthog.example.org").read_consent().is_on

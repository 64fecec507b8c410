"""What is imported when: as little as the process needs, and nothing of sending where nothing is sent."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lifebeat

if TYPE_CHECKING:
    from hosts import Installation

SOURCES = Path(lifebeat.__file__).parent
FOREIGN = {"apscheduler", "posthog", "requests", "tzlocal", "urllib3", "yaml", "lifebeat_jobs"}
HEAVY = {
    "argparse",
    "asyncio",
    "concurrent.futures",
    "email",
    "hashlib",
    "http",
    "http.client",
    "http.server",
    "importlib.metadata",
    "json",
    "logging",
    "multiprocessing",
    "platform",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "urllib.request",
    "uuid",
    "zoneinfo",
}
SENDING = {"posthog", "requests", "urllib3", "sqlite3", "http.client", "urllib.request"}


def imported_by(statement: str) -> set[str]:
    """The modules that an interpreter has, which started with the standard library and our source only."""
    program = f"import sys; sys.path.append({str(SOURCES.parent)!r}); {statement}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split())


def test_importing_lifebeat_imports_next_to_nothing() -> None:
    """``import lifebeat`` needs three modules of ours, and neither a dependency nor a heavy part of the library."""
    found = imported_by("import lifebeat")
    assert {name for name in found if name.startswith("lifebeat")} == {
        "lifebeat",
        "lifebeat.errors",
        "lifebeat.version",
    }
    assert found & (FOREIGN | HEAVY) == set()


@pytest.mark.parametrize(
    "module",
    [
        "text.durations",
        "schedule.instants",
        "schedule.cron",
        "settings.layers",
        "settings.source",
        "settings.switch",
        "text",
        "settings.table",
    ],
)
def test_importing_the_settings_imports_no_dependency(module: str) -> None:
    """What settings and instants are made of can be had without any dependency, and reads no file of the library."""
    assert imported_by(f"import lifebeat.{module}") & FOREIGN == set()


def test_a_name_that_is_not_there() -> None:
    """The late names do not hide a wrong one."""
    with pytest.raises(AttributeError, match="module 'lifebeat' has no attribute 'atach'"):
        getattr(lifebeat, "atach")  # noqa: B009 - a checker would see through the plain spelling


def test_every_public_name_is_there() -> None:
    """Each name of ``__all__`` can be imported, the late ones too."""
    names = ", ".join(lifebeat.__all__)
    done = subprocess.run([sys.executable, "-c", f"from lifebeat import {names}"], timeout=20, check=False)
    assert done.returncode == 0


HOST = """
    import sys, json
    from apscheduler.schedulers.background import BackgroundScheduler
    before = set(sys.modules)
    import lifebeat

    scheduler = BackgroundScheduler()
    handle = lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", allow=["json"])
    scheduler.start()
    handle.flush(0.1)
    scheduler.shutdown()
    lived = sorted(set(sys.modules) - before)
    handle.status()
    print(json.dumps([lived, sorted(set(sys.modules) - before)]))
"""
JOB = "jobs:\n  own: {run: 'json:dumps', args: {obj: 1}, every: 24h}\n"


def imported_by_a_host(installation: Installation, **environ: str) -> tuple[set[str], set[str]]:
    """The modules that a host has after its whole life and had not before; and those after a look at the status."""
    process = installation.script(HOST, **environ)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    lived, looked = json.loads(out.splitlines()[-1])
    return set(lived), set(looked)


@pytest.mark.parametrize("way", ["TELEMETRY_ENABLED", "DO_NOT_TRACK", "config.json", "own job"])
def test_off_imports_nothing_of_sending(installation: Installation, way: str) -> None:
    """With telemetry off, no part of a host's life, nor a look at the status, imports what sends or stores."""
    if way == "config.json":
        installation.write(telemetryEnabled=False)
    if way == "own job":
        (installation.config / "jobs.yaml").write_text(JOB)
    environ = {"TELEMETRY_ENABLED": {"TELEMETRY_ENABLED": "no"}, "config.json": {}}.get(way, {"DO_NOT_TRACK": "1"})
    lived, looked = imported_by_a_host(installation, **environ)
    assert looked & (SENDING | {"argparse"}) == set()
    assert [name for name in lived if name.startswith("lifebeat_jobs")] == []
    assert "lifebeat.embedding" in lived
    assert ("yaml" in lived) == (way == "own job")


def test_on_imports_them(installation: Installation) -> None:
    """The same host with telemetry on has them, so that the look sees what there is to see."""
    lived, _ = imported_by_a_host(installation)
    assert {*SENDING, "lifebeat_jobs.telemetry"} <= lived


# -- who may import what ---------------------------------------------------------------------------------------------


def imports(path: Path, *, early: bool) -> set[str]:
    """The top-level packages that a file imports: as it is imported itself, or anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if not early else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_the_host_side_knows_nothing_of_telemetry() -> None:
    """No file of the host side imports the telemetry jobs, but commands do, late."""
    files = sorted(SOURCES.rglob("*.py"))
    assert [file.name for file in files if "lifebeat_jobs" in imports(file, early=True)] == []
    late = {file.name for file in files if "lifebeat_jobs" in imports(file, early=False)}
    assert {name for name in late if name != "cli.py" and not name.endswith("commands.py")} == set()


def test_nobody_imports_what_sends_early() -> None:
    """No file of the host side imports PostHog, Requests or YAML as it is imported itself."""
    for file in sorted(SOURCES.rglob("*.py")):
        assert imports(file, early=True) & {"posthog", "requests", "yaml", "sqlite3"} == set(), file.name


@pytest.mark.parametrize("module", ["lifecycle.life", "host.host", "engines", "once.protocol"])
def test_no_engine_is_imported_unless_it_is_used(module: str) -> None:
    """What runs on one machine has nothing of an engine beyond it in memory, and needs none of them installed."""
    program = f"import sys, lifebeat.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    found = {name.partition(".")[0] for name in done.stdout.split()}
    assert found & {"procrastinate", "psycopg", "celery", "redis", "kombu"} == set()

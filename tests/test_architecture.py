"""The house: imports only go down, no circle of files, and each outside library is known to one room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {
    "errors": 0,
    "clock": 0,
    "log": 0,
    "version": 0,
    "pyinstaller": 0,
    "text": 1,
    "storage": 2,
    "schedule": 2,
    "settings": 3,
    "context": 4,
    "record": 4,
    "installation": 5,
    "jobfile": 5,
    "once": 5,
    "consent": 6,
    "registration": 6,
    "lifecycle": 7,
    "handle": 8,
    "embedding": 9,
    "engines": 10,
    "host": 10,
    "testing": 10,
    "cli": 11,
    "__init__": 12,
    "__main__": 12,
}
JOBS_REACH = 5  # lifebeat_jobs imports these floors and below
LIBRARIES = {
    "apscheduler": {"registration"},
    "yaml": {"text"},
    "sqlite3": {"storage"},
    "fcntl": {"storage"},
    "requests": {"lifebeat_jobs"},
    "urllib3": {"lifebeat_jobs"},
    "posthog": {"lifebeat_jobs"},
    "procrastinate": {"engines"},
    "psycopg": {"engines"},
    "celery": {"engines"},
    "redis": {"engines"},
}
# Each is in docs/why.md, with what would break and the test that would tell.
REACHES = {
    ("lifebeat.registration.executor", "_do_submit_job"),
    ("lifebeat.registration.executor", "_run_job_success"),
    ("lifebeat_jobs.connections", "_new_conn"),
    ("lifebeat_jobs.connections", "_dns_host"),
    ("lifebeat.cli.options", "_actions"),
}
_PUBLIC = {"_replace", "_asdict", "_make", "_fields", "_exit"}  # as the standard library says
# What is not right yet, so that the list can only get shorter.
UPWARD: set[tuple[str, str]] = set()
KNOWN_ELSEWHERE: set[tuple[str, str]] = set()


def files() -> dict[str, Path]:
    """Every module by its dotted name."""
    found: dict[str, Path] = {}
    for top, package in (("scheduler", "lifebeat"), ("jobs", "lifebeat_jobs")):
        for path in (ROOT / top / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT / top).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


FILES = files()


def imports_of(name: str) -> set[str]:
    """What a module imports, late and type-only imports included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{one.name}" for one in node.names}
            found |= {one if one in FILES else node.module for one in inside}
    return found - {"lifebeat"}


def room_of(name: str) -> str:
    """The room that a module belongs to."""
    parts = name.split(".")
    return parts[0] if parts[0] == "lifebeat_jobs" else (parts[1] if len(parts) > 1 else "__init__")


IMPORTS = {name: imports_of(name) for name in FILES}


def test_every_room_has_a_floor() -> None:
    """A new room is put on a floor on purpose."""
    assert {room_of(name) for name in FILES} - {"lifebeat_jobs"} <= set(FLOORS)


def test_imports_only_go_down() -> None:
    """A room imports rooms below it, or itself."""
    upward: set[tuple[str, str]] = set()
    for name, imported in IMPORTS.items():
        here = room_of(name)
        for other in imported & set(FILES):
            there = room_of(other)
            if there in (here, "__init__"):
                continue
            if here == "lifebeat_jobs":
                if FLOORS[there] > JOBS_REACH and name != "lifebeat_jobs":
                    upward.add((name, other))
            elif there == "lifebeat_jobs" or FLOORS[there] >= FLOORS[here]:
                upward.add((name, other))
    assert upward == UPWARD


def test_no_circles() -> None:
    """No file imports itself by way of others, type-only imports included."""
    below: dict[str, set[str]] = {}

    def reach(name: str, path: tuple[str, ...]) -> set[str]:
        if name in path:
            pytest.fail("circle: " + " -> ".join((*path[path.index(name) :], name)))
        if name not in below:
            mine = IMPORTS[name] & set(FILES)
            below[name] = mine.union(*(reach(other, (*path, name)) for other in mine))
        return below[name]

    for name in FILES:
        if name != "lifebeat":
            reach(name, ())


def test_each_library_is_known_to_one_room() -> None:
    """Whoever changes a library, or its version, looks into one folder."""
    elsewhere = {
        (name, library)
        for name, imported in IMPORTS.items()
        for library in {one.partition(".")[0] for one in imported} & set(LIBRARIES)
        if room_of(name) not in LIBRARIES[library]
    }
    assert elsewhere == KNOWN_ELSEWHERE


def names_of_ours() -> set[str]:
    """Every name that a file of ours defines: functions, classes, attributes, fields."""
    own: set[str] = set()
    for path in FILES.values():
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(one.name)
            elif isinstance(one, ast.Attribute | ast.Name) and isinstance(one.ctx, ast.Store):
                own.add(one.attr if isinstance(one, ast.Attribute) else one.id)
            elif isinstance(one, ast.Constant) and isinstance(one.value, str):
                own.add(one.value)  # slots
    return own


def test_no_other_private_part_is_reached_into() -> None:
    """Whoever updates a dependency knows where to look."""
    reaches = {reach for _, reach in REACHES}
    ours = names_of_ours() - reaches
    found: set[tuple[str, str]] = set()
    for name, path in FILES.items():
        for one in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked = one.attr if isinstance(one, ast.Attribute) else one.name if isinstance(one, ast.FunctionDef) else ""
            if asked.startswith("_") and not asked.startswith("__") and asked not in ours | _PUBLIC:
                found.add((name, asked))
    assert found == REACHES

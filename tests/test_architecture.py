"""The house: imports only go down, no circle of files, and each outside library is known to one room."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("architecture")  # the house is parsed once, not once in each worker

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
    "history": 6,
    "steering": 6,
    "registration": 6,
    "lifecycle": 7,
    "handle": 8,
    "embedding": 9,
    "engines": 10,
    "host": 10,
    "view": 10,
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
# One door each: the calls, and who makes them. A room stands for all in it.
DOORS = {
    "Thread": {"lifebeat.storage.threads", "testing"},
    "register_at_fork": {"lifebeat.storage.forks"},
    "abspath": {"lifebeat.storage.safe_file"},
    "get_close_matches": {"lifebeat.text.hints"},
}
FILES_OPENED_BY = {
    "storage",
    "testing",
    # What the kernel writes, which is there or not, and never waits.
    "lifebeat.clock",
    "lifebeat.once.processes",
    "lifebeat.host.health",
    "lifebeat_jobs.privacy",
    # A scratch directory of the command's own.
    "lifebeat.cli.demo",
    "lifebeat.cli.proof",
    # The null device.
    "lifebeat.cli.main",
}
OPENING = {"open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes"}
WALL_CLOCK = {"time", "now", "time_ns"}  # called, on a clock, on time or on datetime
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


@cache
def all_trees() -> dict[str, ast.Module]:
    """Every module, parsed."""
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


@cache
def all_nodes() -> dict[str, list[ast.AST]]:
    """What every module consists of."""
    return {name: list(ast.walk(tree)) for name, tree in all_trees().items()}


def imports_of(name: str) -> set[str]:
    """What a module imports, late and type-only imports included."""
    found: set[str] = set()
    for node in all_nodes()[name]:
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


@cache
def all_imports() -> dict[str, set[str]]:
    """What every module imports."""
    return {name: imports_of(name) for name in FILES}


def test_every_room_has_a_floor() -> None:
    """A new room is put on a floor on purpose."""
    assert {room_of(name) for name in FILES} - {"lifebeat_jobs"} <= set(FLOORS)


def test_imports_only_go_down() -> None:
    """A room imports rooms below it, or itself."""
    upward: set[tuple[str, str]] = set()
    for name, imported in all_imports().items():
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
            mine = all_imports()[name] & set(FILES)
            below[name] = mine.union(*(reach(other, (*path, name)) for other in mine))
        return below[name]

    for name in FILES:
        if name != "lifebeat":
            reach(name, ())


def test_each_library_is_known_to_one_room() -> None:
    """Whoever changes a library, or its version, looks into one folder."""
    elsewhere = {
        (name, library)
        for name, imported in all_imports().items()
        for library in {one.partition(".")[0] for one in imported} & set(LIBRARIES)
        if room_of(name) not in LIBRARIES[library]
    }
    assert elsewhere == KNOWN_ELSEWHERE


def names_of_ours() -> set[str]:
    """Every name that a file of ours defines: functions, classes, attributes, fields."""
    own: set[str] = set()
    for nodes in all_nodes().values():
        for one in nodes:
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
    for name, nodes in all_nodes().items():
        for one in nodes:
            asked = one.attr if isinstance(one, ast.Attribute) else one.name if isinstance(one, ast.FunctionDef) else ""
            if asked.startswith("_") and not asked.startswith("__") and asked not in ours | _PUBLIC:
                found.add((name, asked))
    assert found == REACHES


def calls_in(nodes: list[ast.AST]) -> dict[str, list[ast.Call]]:
    """Every call by the last part of its name."""
    found: dict[str, list[ast.Call]] = {}
    for one in nodes:
        if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute | ast.Name):
            found.setdefault(one.func.attr if isinstance(one.func, ast.Attribute) else one.func.id, []).append(one)
    return found


@cache
def all_calls() -> dict[str, dict[str, list[ast.Call]]]:
    """What every module calls."""
    return {name: calls_in(found) for name, found in all_nodes().items()}


def callers_of(*calls: str) -> set[str]:
    """Every module that makes one of the calls."""
    return {name for name, made in all_calls().items() if made.keys() & set(calls)}


@pytest.mark.parametrize(("call", "allowed"), DOORS.items())
def test_there_is_one_door(call: str, allowed: set[str]) -> None:
    """What is bounded, guarded or worded in one place is not done beside it."""
    assert {name for name in callers_of(call) if not {name, room_of(name)} & allowed} == set()


def test_files_are_opened_in_one_room() -> None:
    """A pipe, a device or a huge file in the place of a file hangs nobody who reads by way of ``storage``."""
    elsewhere = {name for name in callers_of(*OPENING) if room_of(name) not in FILES_OPENED_BY}
    assert elsewhere == {name for name in FILES_OPENED_BY if "." in name}


def is_reading(node: ast.AST, known: set[str]) -> bool:
    """Whether something is made of what a wall clock says: a call, a ``Moment.wall``, or a name for one of these."""
    return any(
        (isinstance(one, ast.Attribute) and one.attr == "wall")
        or (isinstance(one, ast.Name) and one.id in known)
        or (isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute) and one.func.attr in WALL_CLOCK)
        for one in ast.walk(node)
    )


def differences_in(tree: ast.AST) -> set[str]:
    """The functions that take the difference of two readings of a wall clock."""
    found: set[str] = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        known: set[str] = set()
        for one in ast.walk(function):
            if isinstance(one, ast.Assign) and is_reading(one.value, set()):
                known |= {target.id for target in one.targets if isinstance(target, ast.Name)}
        for one in ast.walk(function):
            if isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub):
                found |= {function.name} if is_reading(one.left, known) and is_reading(one.right, known) else set()
    return found


def test_no_length_is_a_difference_of_wall_clock_times() -> None:
    """Lengths are told by boot time; only between two boots there is no other clock than the one on the wall."""
    found = {(name, function) for name, tree in all_trees().items() for function in differences_in(tree)}
    assert found == {("lifebeat.clock", "between")}


@pytest.mark.parametrize(
    "body",
    [
        "return time.time() - began.wall",
        "began = clock.time()\n    work()\n    return clock.time() - began",
        "return (datetime.now(tz=UTC) - datetime.now(tz=UTC)).total_seconds()",
    ],
)
def test_such_a_difference_would_be_found(body: str) -> None:
    """The test above sees one however it is written."""
    assert differences_in(ast.parse(f"def length():\n    {body}")) == {"length"}


def test_no_two_test_files_have_one_name() -> None:
    """Where they had, pytest could not collect all of them at once, as ``make soak`` does."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))

"""``deploy/posthog/dashboard.py`` against the API of a project: made once, updated the second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dashboard import KEY, template, tiles
from lifebeat.testing import PostHogServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lifebeat.testing.project import Project

PERSONAL = "phx_test"


@pytest.fixture
def server() -> Iterator[PostHogServer]:
    """A PostHog with the API of its project 7."""
    with PostHogServer() as found:
        found.project(7, personal_api_key=PERSONAL)
        yield found


@pytest.fixture
def project(server: PostHogServer) -> Project:
    """That project."""
    return server.project(7)


def run(server: PostHogServer | None, *args: str, key: str = PERSONAL) -> tuple[int, str, str]:
    """Run the script; its exit code, output and errors."""
    where = [] if server is None else ["--host", server.url]
    done = subprocess.run(
        [sys.executable, "-m", "dashboard", "--project", "7", *where, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), KEY: key},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_it_makes_one(server: PostHogServer, project: Project) -> None:
    """The first run makes the dashboard with every query, and has the project discard client addresses."""
    code, out, err = run(server)
    assert (code, err) == (0, "")
    assert project.settings["anonymize_ips"] is True
    [made] = project.dashboards.values()
    assert made["name"] == "Lifebeat"
    found = {one["name"]: one for one in project.tiles(made["id"])}
    assert list(found) == [tile.name for tile in tiles()]
    for tile in tiles():
        assert found[tile.name]["description"] == tile.description
        assert found[tile.name]["query"]["source"] == {"kind": "HogQLQuery", "query": tile.query}
    assert f"dashboard {made['id']} made" in out
    sent = [request.json() for request in server.requests if request.method == "POST"]
    assert sent == [{"template": template("Lifebeat")}]


def test_the_second_run_changes_nothing(server: PostHogServer, project: Project) -> None:
    """Run again, it finds everything as it should be."""
    run(server)
    changes = list(project.changes)
    code, out, _ = run(server)
    assert (code, "is as it should be" in out) == (0, True)
    assert project.changes == changes


def test_an_edited_query_is_put_right(server: PostHogServer, project: Project) -> None:
    """What somebody changed or took away is put right; what others have added stays."""
    run(server)
    [number] = project.dashboards
    own = project.add_insight(number, "Ours", {"kind": "TrendsQuery"})
    first, second, *_ = project.tiles(number)
    first["query"] = {"kind": "broken"}
    del project.insights[second["id"]]
    code, out, _ = run(server)
    assert (code, out.count("updated"), out.count("added")) == (0, 1, 1)
    assert project.insights[first["id"]]["query"] == tiles()[0].node()
    assert project.insights[own]["query"] == {"kind": "TrendsQuery"}
    assert len(project.tiles(number)) == len(tiles()) + 1
    assert len(project.dashboards) == 1


def test_among_many_dashboards(server: PostHogServer, project: Project) -> None:
    """It finds its own on a later page, and leaves one of that name that was deleted."""
    for number in range(150):
        project.add_dashboard(f"other {number}")
    project.add_dashboard("Lifebeat", deleted=True)
    own = project.add_dashboard("Lifebeat")
    code, _, _ = run(server)
    assert code == 0
    assert len(project.tiles(own)) == len(tiles())
    assert len(project.dashboards) == 152


def test_two_of_one_name(server: PostHogServer, project: Project) -> None:
    """Which of two it is cannot be known: it changes none and says what to do."""
    project.settings["anonymize_ips"] = True
    numbers = [project.add_dashboard("Lifebeat"), project.add_dashboard("Lifebeat")]
    code, _, err = run(server)
    assert (code, "--name" in err, all(str(one) in err for one in numbers)) == (1, True, True)
    assert project.changes == []


def test_a_dry_run_asks_nobody(server: PostHogServer) -> None:
    """It prints what would be sent, without a key and without a connection."""
    code, out, _ = run(server, "--dry-run", key="")
    assert code == 0
    assert json.loads(out) == {"anonymize_ips": True, "template": template("Lifebeat")}
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "words"), [(401, "does not know the key"), (403, "scopes"), (404, "no such project"), (429, "too often")]
)
def test_refusals(server: PostHogServer, status: int, words: str) -> None:
    """A refusal is said in one line that says what to do; the key is not shown."""
    server.answer(status)
    code, _, err = run(server, key="phx_secret")
    assert (code, words in err, err.count("\n"), "phx_secret" in err) == (1, True, 1, False)


def test_a_wrong_key(server: PostHogServer, project: Project) -> None:
    """A key of somebody else changes nothing."""
    assert run(server, key="phx_other")[0] == 1
    assert run(server, key="")[0] == 1
    assert project.changes == []


def test_nobody_there() -> None:
    """A host that does not answer, and one that is none, are said as such."""
    code, _, err = run(None, "--host", "http://127.0.0.1:1")
    assert (code, "refused" in err, "Traceback" in err) == (1, True, False)
    assert run(None, "--host", "eu.posthog.com")[0] == 2


def test_the_key_is_no_argument() -> None:
    """A key in a list of processes would be no secret: there is no option for it."""
    assert "--key" not in run(None, "--help")[1]

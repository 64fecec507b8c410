"""``deploy/posthog/dashboard.py`` against the API of a project: made once, updated the second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest

from dashboard import holds, pieces, template, tiles
from lifebeat.testing import PostHogServer
from project import serve
from projectapi import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from project import Project

PERSONAL = "phx_test"


@pytest.fixture
def server() -> Iterator[PostHogServer]:
    """A PostHog."""
    with PostHogServer() as found:
        yield found


@pytest.fixture(autouse=True)
def project(server: PostHogServer) -> Project:
    """The API of its project 7."""
    return serve(server, 7, PERSONAL)


def run(server: PostHogServer | None, *args: str, key: str = PERSONAL) -> tuple[int, str, str]:
    """Run the script; its exit code, output and errors."""
    where = [] if server is None else ["--host", server.url]
    done = subprocess.run(
        [sys.executable, "-m", "dashboard", "--project", "7", *where, *args],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), KEY: key},
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_first_run_makes_the_dashboard(server: PostHogServer, project: Project) -> None:
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


def test_it_makes_one_where_keys_may_not_use_templates(server: PostHogServer, project: Project) -> None:
    """Where PostHog takes templates from its own pages only, the dashboard is made piece by piece, and is the same."""
    project.templates = False
    code, _, err = run(server)
    assert (code, err) == (0, "")
    [made] = project.dashboards.values()
    assert (made["name"], made["description"]) == ("Lifebeat", template("Lifebeat")["dashboard_description"])
    found = [{field: one[field] for field in ("name", "description", "query")} for one in project.tiles(made["id"])]
    assert found == [{"name": one.name, "description": one.description, "query": one.node()} for one in tiles()]


def test_both_ways_make_the_same(server: PostHogServer, project: Project) -> None:
    """From the template and piece by piece come the same tags, insights, sizes and places."""
    made: list[object] = []
    for name, templates in (("Lifebeat", True), ("Another", False)):
        project.templates = templates
        assert run(server, "--name", name)[0] == 0
        shown = project.shown(max(project.dashboards))
        insights = [(tile["insight"]["name"], tile["insight"]["query"], tile["layouts"]) for tile in shown["tiles"]]
        made.append((shown["description"], shown["tags"], insights))
    assert made[0] == made[1]
    [_, tags, insights] = cast("tuple[str, list[str], list[tuple[str, object, object]]]", made[0])
    assert tags == ["lifebeat"]
    assert [layout for *_, layout in insights] == [tile["layouts"] for tile in template("Lifebeat")["tiles"]]


def test_a_tile_that_was_moved_stays(server: PostHogServer, project: Project) -> None:
    """Where somebody has put an insight it stays; one that has no place yet gets ours, as after a run cut short."""
    project.templates = False
    run(server)
    [number] = project.dashboards
    moved, fresh, *_ = project.shown(number)["tiles"]
    elsewhere = {"sm": {"x": 0, "y": 90, "w": 12, "h": 3}}
    project.layouts[moved["id"]] = elsewhere
    del project.layouts[fresh["id"]]
    code, out, _ = run(server)
    assert (code, "1 insights put" in out, "as it should be" in out) == (0, True, False)
    assert project.layouts[moved["id"]] == elsewhere
    assert project.layouts[fresh["id"]] == fresh["layouts"]


@pytest.mark.parametrize("templates", [True, False])
def test_the_second_run_changes_nothing(server: PostHogServer, project: Project, templates: bool) -> None:
    """Run again, it finds everything as it should be, also where PostHog has filled in fields of its own."""
    project.templates = templates
    run(server)
    changes = list(project.changes)
    for insight in project.insights.values():
        insight["query"] |= {"tableSettings": None, "version": 1}
        insight["query"]["source"] |= {"filters": None}
    code, out, _ = run(server)
    assert (code, "is as it should be" in out) == (0, True)
    assert project.changes == changes


def test_a_run_that_was_cut_short(server: PostHogServer, project: Project) -> None:
    """What was done is said; the next run does the rest, on the same dashboard."""
    project.templates = False
    project.scopes = {"project:write", "dashboard:write"}
    code, out, err = run(server)
    assert (code, "discards" in out, "missing required scope 'insight:write'" in err) == (1, True, True)
    project.scopes = {"*"}
    assert run(server)[0] == 0
    [number] = project.dashboards
    assert len(project.tiles(number)) == len(tiles())


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


def test_own_dashboard_is_found_among_many(server: PostHogServer, project: Project) -> None:
    """It finds its own on a later page, and leaves one of that name that was deleted."""
    for number in range(150):
        project.add_dashboard(f"other {number}")
    project.add_dashboard("Lifebeat", deleted=True)
    own = project.add_dashboard("Lifebeat")
    code, _, _ = run(server)
    assert code == 0
    assert len(project.tiles(own)) == len(tiles())
    assert len(project.dashboards) == 152


def test_two_dashboards_of_one_name_change_nothing(server: PostHogServer, project: Project) -> None:
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
    assert json.loads(out) == {
        "anonymize_ips": True,
        "template": template("Lifebeat"),
        "piece by piece": pieces("Lifebeat"),
    }
    assert server.requests == []


def test_a_dry_run_prints_what_is_sent(server: PostHogServer, project: Project) -> None:
    """Piece by piece, what is posted is what was printed, but for the IDs that nobody knows before."""
    told = json.loads(run(server, "--dry-run")[1])["piece by piece"]
    project.templates = False
    run(server)
    [number] = project.dashboards
    posted = [request.json() for request in server.requests if request.method == "POST"][1:]  # after the template
    assert posted == [told["dashboard"], *({**one, "dashboards": [number]} for one in told["insights"])]
    placed = [request.json() for request in server.requests if request.method == "PATCH"][-1]
    assert [one["layouts"] for one in placed["tiles"]] == told["layouts"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "as told"), (401, "does not know the key"), (404, "no such project"), (429, "later, in 52 s"), (503, "503")],
)
def test_refusal_says_what_to_do_and_hides_the_key(server: PostHogServer, status: int, words: str) -> None:
    """A refusal is said in one line that says what to do; the key is not shown."""
    server.answer(status, {"Retry-After": "52"} if status == 429 else None)
    code, _, err = run(server, key="phx_secret")
    assert (code, words in err, err.count("\n"), "phx_secret" in err) == (1, True, 1, False)


@pytest.mark.parametrize(
    ("scopes", "lacks"),
    [
        (set[str](), "project:read"),
        ({"project:read"}, "project:write"),
        ({"project:write"}, "dashboard:read"),
        ({"project:write", "dashboard:read"}, "dashboard:write"),
    ],
)
def test_a_key_that_may_not(server: PostHogServer, project: Project, scopes: set[str], lacks: str) -> None:
    """The scope that is missing is named, with those that are needed in all."""
    project.scopes = scopes
    code, _, err = run(server)
    assert (code, f"'{lacks}'" in err, "project:write, dashboard:write, insight:write" in err) == (1, True, True)
    assert project.dashboards == {}


def test_the_scopes_that_are_named_suffice(server: PostHogServer, project: Project) -> None:
    """With the three scopes of the message and of the page, both ways lead to a dashboard."""
    project.scopes = {"project:write", "dashboard:write", "insight:write"}
    assert run(server)[0] == 0
    project.templates = False
    assert run(server, "--name", "Another")[0] == 0
    assert len(project.insights) == 2 * len(tiles())


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("phx_other", "does not know the key"),
        ("", "is not set"),
        ("phc_project", "only takes events"),
        ("phx_a b", "copy it again"),
        ("phx_ä", "copy it again"),
    ],
)
def test_wrong_key_changes_nothing(server: PostHogServer, project: Project, key: str, words: str) -> None:
    """Another's key, none, a project's and a mangled one change nothing, and each is said."""
    code, _, err = run(server, key=key)
    assert (code, words in err, "Traceback" in err) == (1, True, False)
    assert project.changes == []


def test_a_redirect_is_not_followed(server: PostHogServer) -> None:
    """Another host is named but not asked: the key goes only where it was told to."""
    with PostHogServer() as other:
        serve(other, 7, PERSONAL)
        server.answer(301, {"Location": f"{other.url}/api/projects/7/"})
        code, _, err = run(server)
        assert (code, f"points to '{other.url}" in err, other.connections) == (1, True, 0)


@pytest.mark.parametrize("body", [b"<html>log in</html>", b"[]", b"{}"])
def test_answer_that_is_not_posthogs_is_named(server: PostHogServer, body: bytes) -> None:
    """An answer that is not PostHog's is said as such."""
    server.answer(200, body=body)
    code, _, err = run(server)
    assert (code, "answer is no" in err, "Traceback" in err) == (1, True, False)


def test_host_that_does_not_answer_is_named() -> None:
    """A host that does not answer is said as such."""
    code, _, err = run(None, "--host", "http://127.0.0.1:1")
    assert (code, "refused" in err, "Traceback" in err) == (1, True, False)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("eu.posthog.com", "is no URL"),
        ("https://[", "is no URL"),
        ("https://eu.i.posthog.com", "the app is at 'https://eu.posthog.com'"),
    ],
)
def test_a_host_that_is_none(host: str, words: str) -> None:
    """What cannot be the app's address, the one for events above all, is a mistake of usage."""
    code, _, err = run(None, "--host", host)
    assert (code, words in err) == (2, True)


def test_additional_fields_are_no_difference() -> None:
    """Fields that are more do not matter, values and list lengths do."""
    assert holds({"a": {"b": [1, {"c": 2, "d": 3}]}, "e": 4}, {"a": {"b": [1, {"c": 2}]}})
    for other in ({"a": {"b": [1]}}, {"a": {"b": [1, {"c": 3}]}}, {"a": None}, {}, None):
        assert not holds(other, {"a": {"b": [1, {"c": 2}]}})


def test_the_key_is_no_argument() -> None:
    """A key in a list of processes would be no secret: there is no option for it."""
    assert "--key" not in run(None, "--help")[1]

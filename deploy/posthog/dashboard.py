"""Make or update the maintainer's dashboard in a PostHog project, and let the project discard client addresses.

    export POSTHOG_PERSONAL_API_KEY=phx_…     # scopes: project:write, dashboard:write, insight:write
    python dashboard.py --host https://us.posthog.com --project 12345 --dry-run
    python dashboard.py --host https://us.posthog.com --project 12345

With ``--publish DIR`` it changes nothing there, and writes a page and a CSV of counts for those who sent them.

The host is the app's, not the one that events go to. Run it as often as you like: what is there is updated, what others
have put on the dashboard stays. Needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import publish
from projectapi import KEY, Json, Problem, Project, Refused, personal_key

if TYPE_CHECKING:
    from collections.abc import Iterator

QUERIES = Path(__file__).parent / "queries"
PUBLISHED = Path(__file__).with_name("publish.hogql")
DONE, PROBLEM = 0, 1
TAGS = ["lifebeat"]
DESCRIPTION = (
    "How many installations run, which versions, for how long. Made by Lifebeat's deploy/posthog/dashboard.py, "
    "which finds it by its name, and the insights on it by theirs."
)


@dataclass(frozen=True)
class Tile:
    """One query of the dashboard.

    Attributes:
        name: Its title, by which it is found again.
        description: What it answers.
        display: How PostHog draws it.
        columns: The columns of its answer.
        query: The HogQL.
    """

    name: str
    description: str
    display: str
    columns: tuple[str, ...]
    query: str

    def insight(self) -> Json:
        """What PostHog keeps of it."""
        return {"name": self.name, "description": self.description, "query": self.node()}

    def node(self) -> Json:
        """The query as PostHog keeps it."""
        across, *along = self.columns if len(self.columns) > 1 else ("", *self.columns)
        settings: Json = {"yAxis": [{"column": column} for column in along]}
        if across:
            settings["xAxis"] = {"column": across}
        return {
            "kind": "DataVisualizationNode",
            "source": {"kind": "HogQLQuery", "query": self.query},
            "display": self.display,
            "chartSettings": settings,
        }


def read(path: Path) -> Tile:
    """A query file: comments that say its title, what it answers, ``display:`` and ``columns:``; then the HogQL."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("--").strip() for line in lines if line.startswith("--")]
    settings = dict(one.split(": ", 1) for one in comments if one.startswith(("display: ", "columns: ")))
    words = [one for one in comments[1:] if one.split(": ")[0] not in settings]
    return Tile(comments[0], " ".join(words), settings["display"], tuple(settings["columns"].split(", ")), hogql(path))


def hogql(path: Path) -> str:
    """The HogQL of a file, without its comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--")).strip()


def tiles() -> list[Tile]:
    """Every query, in the order of the files."""
    return [read(path) for path in sorted(QUERIES.glob("*.hogql"))]


def template(name: str) -> Json:
    """The dashboard as PostHog makes one from."""
    rows = [{"type": "INSIGHT", **tile.insight(), "layouts": layouts(number)} for number, tile in enumerate(tiles())]
    return {
        "template_name": name,
        "dashboard_description": DESCRIPTION,
        "dashboard_filters": {},
        "tags": TAGS,
        "tiles": rows,
    }


def layouts(number: int) -> Json:
    """Where the tile of that number stands: two in a row."""
    return {"sm": {"x": number % 2 * 6, "y": number // 2 * 5, "w": 6, "h": 5}}


def pieces(name: str) -> Json:
    """The bodies with which it is made where PostHog takes no template; IDs are known only then."""
    return {
        "dashboard": {"name": name, "description": DESCRIPTION, "tags": TAGS},
        "insights": [tile.insight() for tile in tiles()],
        "layouts": [layouts(number) for number in range(len(tiles()))],
    }


def bring_about(project: Project, name: str) -> Iterator[str]:
    """Do what is to be done; each thing, once it is done, in words.

    Raises:
        Problem: It cannot be done.
    """
    if not project.ask("GET", "").get("anonymize_ips"):
        project.ask("PATCH", "", {"anonymize_ips": True})
        yield "the project discards client addresses from now on"
    found = project.dashboards(name)
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise Problem(f"there are several dashboards {name!r} ({numbers}); rename all but one, or give another --name")
    yield from _update(project, found[0]) if found else _make(project, name)


def _make(project: Project, name: str) -> Iterator[str]:
    wanted = template(name)
    try:
        made = project.ask("POST", "dashboards/create_from_template_json/", {"template": wanted})
    except Refused as refused:
        # Today's PostHog takes this request from its own pages only, whatever a key's scopes: then piece by piece.
        if "does not support personal api key" not in refused.detail.lower():
            raise
        made = project.ask("POST", "dashboards/", pieces(name)["dashboard"])
        yield f"dashboard {made['id']} made"
        yield from _update(project, made["id"])
    else:
        yield f"dashboard {made['id']} made, with {len(wanted['tiles'])} insights"


def _update(project: Project, number: int) -> Iterator[str]:
    there = _there(project, number)
    done: list[str] = []
    for tile in tiles():
        wanted, insight = tile.insight(), there.get(tile.name, {}).get("insight")
        if holds(insight, wanted):
            continue
        if insight is None:
            project.ask("POST", "insights/", {**wanted, "dashboards": [number]})
        else:
            project.ask("PATCH", f"insights/{insight['id']}/", wanted)
        done.append(f"{tile.name!r} {'added' if insight is None else 'updated'}")
        yield done[-1]
    unplaced = _unplaced(_there(project, number) if done else there)
    if unplaced:
        project.ask("PATCH", f"dashboards/{number}/", {"tiles": unplaced})
        yield f"{len(unplaced)} insights put in their places"
    elif not done:
        yield f"dashboard {number} is as it should be"


def _unplaced(there: dict[str, Json]) -> list[Json]:
    """Our tiles that have no place yet, with the one that they get; where somebody has put one, it stays."""
    ours = [(there.get(tile.name), layouts(number)) for number, tile in enumerate(tiles())]
    return [{"id": found["id"], "layouts": layout} for found, layout in ours if found and not found.get("layouts")]


def _there(project: Project, number: int) -> dict[str, Json]:
    """The tiles of a dashboard by the names of their insights."""
    found = project.ask("GET", f"dashboards/{number}/")["tiles"]
    return {tile["insight"]["name"]: tile for tile in found if tile.get("insight")}


def holds(found: Any, wanted: Any) -> bool:
    """Whether what was found is what is wanted, but for fields that PostHog has added."""
    match wanted, found:
        case dict(), dict():
            there = cast("Json", found)
            return all(key in there and holds(there[key], value) for key, value in cast("Json", wanted).items())
        case [*those], [*these]:
            return len(these) == len(those) and all(map(holds, these, those))
        case _:
            return bool(found == wanted)


def app_url(given: str) -> str:
    """The address of an app, checked.

    Raises:
        ArgumentTypeError: It cannot be one.
    """
    try:
        scheme, host = urlsplit(given).scheme, urlsplit(given).hostname or ""
    except ValueError:
        scheme, host = "", ""
    if scheme not in {"https", "http"} or not host:
        raise argparse.ArgumentTypeError(f"{given!r} is no URL; it takes one such as https://eu.posthog.com")
    if host.endswith(".i.posthog.com"):
        app = given.replace(".i.posthog.com", ".posthog.com")
        raise argparse.ArgumentTypeError(f"{given!r} takes events; the app is at {app!r}")
    return given


def at_least_two(given: str) -> int:
    """A threshold, checked.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not given.isascii() or not given.isdigit() or int(given) < 2:  # noqa: PLR2004 - 1 would hide nobody
        raise argparse.ArgumentTypeError(f"{given!r} is no threshold; expected a whole number from 2")
    return int(given)


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit code: 0 done, 1 a problem, 2 usage."""
    options = argparse.ArgumentParser(
        description="Make or update the maintainer's dashboard in a PostHog project, or publish counts.",
        epilog=f"The personal API key stands in {KEY}. Exit codes: 0 done, 1 a problem, 2 usage.",
    )
    options.add_argument(
        "--host", type=app_url, default="https://us.posthog.com", help="the app's URL (default %(default)s)"
    )
    options.add_argument("--project", type=int, required=True, help="the project's number")
    options.add_argument("--name", default="Lifebeat", help="the dashboard's name (default %(default)s)")
    options.add_argument("--dry-run", action="store_true", help="print what would be sent, and ask nobody")
    options.add_argument(
        "--publish", type=Path, metavar="DIR", help="write a page and a CSV of counts there, and change no dashboard"
    )
    options.add_argument(
        "--threshold", type=at_least_two, default=10, metavar="N", help="its smallest group (default %(default)s)"
    )
    args = options.parse_args(argv)
    query = {"query": {"kind": "HogQLQuery", "query": hogql(PUBLISHED)}}
    if args.dry_run:
        planned = {"anonymize_ips": True, "template": template(args.name), "piece by piece": pieces(args.name)}
        print(json.dumps(query if args.publish else planned, indent=2))
        return DONE
    try:
        project = Project(args.host, args.project, personal_key(os.environ))
        if args.publish:
            found = project.ask("POST", "query/", query)["results"]
            print(publish.write(args.publish, args.name, found, args.threshold))
            return DONE
        for line in bring_about(project, args.name):
            print(line)
    except Problem as problem:
        print(f"dashboard: {problem}", file=sys.stderr)
        return PROBLEM
    except (KeyError, TypeError, ValueError) as error:
        print(f"dashboard: PostHog's answer is not of the form that this script knows: {error!r}", file=sys.stderr)
        return PROBLEM
    return DONE


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough, as in `… --dry-run | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    sys.exit(code)

"""Make or update the maintainer's dashboard in a PostHog project, and let the project discard client addresses.

    export POSTHOG_PERSONAL_API_KEY=phx_…     # scopes: project, dashboard and insight, read and write
    python dashboard.py --host https://us.posthog.com --project 12345 --dry-run
    python dashboard.py --host https://us.posthog.com --project 12345

The host is the app's, not the one that events go to. Run it as often as you like: what is there is updated, what others
have put on the dashboard stays. Needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QUERIES = Path(__file__).parent / "queries"
KEY = "POSTHOG_PERSONAL_API_KEY"
DONE, PROBLEM = 0, 1
TIMEOUT = 30.0
ADVICE = {
    401: f"PostHog does not know the key in {KEY}",
    403: f"the key in {KEY} may not do this; it takes the scopes project, dashboard and insight, read and write",
    404: "no such project there; --project is the number in the app's address, --host the app's own",
    429: "PostHog is asked too often; try again in a minute",
}

Json = dict[str, Any]


class Problem(Exception):  # noqa: N818 - it is said to the person who runs this
    """Something that the person who runs this has to know."""


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
    told = dict(one.split(": ", 1) for one in comments if one.startswith(("display: ", "columns: ")))
    words = [one for one in comments[1:] if one.split(": ")[0] not in told]
    query = "\n".join(line for line in lines if not line.startswith("--")).strip()
    return Tile(comments[0], " ".join(words), told["display"], tuple(told["columns"].split(", ")), query)


def tiles() -> list[Tile]:
    """Every query, in the order of the files."""
    return [read(path) for path in sorted(QUERIES.glob("*.hogql"))]


def template(name: str) -> Json:
    """The dashboard as PostHog makes one from."""
    rows = [
        {
            "type": "INSIGHT",
            "name": tile.name,
            "description": tile.description,
            "query": tile.node(),
            "layouts": {"sm": {"x": number % 2 * 6, "y": number // 2 * 5, "w": 6, "h": 5}},
        }
        for number, tile in enumerate(tiles())
    ]
    return {
        "template_name": name,
        "dashboard_description": "How many installations run, which versions, for how long. Made by Lifebeat's "
        "deploy/posthog/dashboard.py, which finds it by its name, and the insights on it by theirs.",
        "dashboard_filters": {},
        "tags": ["lifebeat"],
        "tiles": rows,
    }


class Project:
    """A project's API.

    Args:
        host: The app's URL.
        number: The project's ID.
        key: A personal API key.
    """

    def __init__(self, host: str, number: int, key: str) -> None:
        self._root = f"{host.rstrip('/')}/api/projects/{number}/"
        self._host = host.rstrip("/")
        self._key = key

    def ask(self, method: str, place: str, body: Json | None = None) -> Json:
        """One request.

        Raises:
            Problem: It was refused, or nobody answered.
        """
        url = place if place.startswith(("http:", "https:")) else self._root + place
        if place.startswith("/"):
            url = self._host + place
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - main() looked at the scheme
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - as above
                found: Json = json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise Problem(f"{method} {url}: {error.code}: {ADVICE.get(error.code, said)}") from None
        except (OSError, ValueError) as error:
            raise Problem(f"{method} {url}: {getattr(error, 'reason', None) or error}") from None
        return found

    def dashboards(self, name: str) -> list[Json]:
        """The dashboards of that name."""
        found: list[Json] = []
        place: str | None = "dashboards/?limit=100"
        while place:
            page = self.ask("GET", place)
            found += [one for one in page["results"] if one["name"] == name and not one.get("deleted")]
            place = page.get("next")
        return found


def bring_about(project: Project, name: str) -> list[str]:
    """Do what is to be done; what was done, in words.

    Raises:
        Problem: It cannot be done.
    """
    done: list[str] = []
    if not project.ask("GET", "").get("anonymize_ips"):
        project.ask("PATCH", "", {"anonymize_ips": True})
        done.append("the project discards client addresses from now on")
    found = project.dashboards(name)
    if len(found) > 1:
        numbers = ", ".join(str(one["id"]) for one in found)
        raise Problem(f"there are several dashboards {name!r} ({numbers}); rename all but one, or give another --name")
    if found:
        return done + _update(project, found[0]["id"])
    made = project.ask("POST", "dashboards/create_from_template_json/", {"template": template(name)})
    return [*done, f"dashboard {made['id']} made, with {len(tiles())} insights"]


def _update(project: Project, number: int) -> list[str]:
    there = {
        tile["insight"]["name"]: tile["insight"]
        for tile in project.ask("GET", f"dashboards/{number}/")["tiles"]
        if tile.get("insight")
    }
    done: list[str] = []
    for tile in tiles():
        wanted = {"name": tile.name, "description": tile.description, "query": tile.node()}
        insight = there.get(tile.name)
        if insight is None:
            project.ask("POST", "insights/", {**wanted, "dashboards": [number]})
            done.append(f"{tile.name!r} added")
        elif any(insight.get(field) != value for field, value in wanted.items()):
            project.ask("PATCH", f"insights/{insight['id']}/", wanted)
            done.append(f"{tile.name!r} updated")
    return done or [f"dashboard {number} is as it should be"]


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit code: 0 done, 1 a problem, 2 usage."""
    options = argparse.ArgumentParser(
        description="Make or update the maintainer's dashboard in a PostHog project.",
        epilog=f"The personal API key stands in {KEY}. Exit codes: 0 done, 1 a problem, 2 usage.",
    )
    options.add_argument("--host", default="https://us.posthog.com", help="the app's URL (default %(default)s)")
    options.add_argument("--project", type=int, required=True, help="the project's number")
    options.add_argument("--name", default="Lifebeat", help="the dashboard's name (default %(default)s)")
    options.add_argument("--dry-run", action="store_true", help="print what would be sent, and ask nobody")
    args = options.parse_args(argv)
    if not args.host.startswith(("https://", "http://")):
        options.error(f"--host: {args.host!r} is no URL; it takes one such as https://eu.posthog.com")
    if args.dry_run:
        print(json.dumps({"anonymize_ips": True, "template": template(args.name)}, indent=2))
        return DONE
    key = os.environ.get(KEY, "").strip()
    if not key:
        print(f"{KEY} is not set; make a key in PostHog under Settings, Personal API keys", file=sys.stderr)
        return PROBLEM
    try:
        for line in bring_about(Project(args.host, args.project, key), args.name):
            print(line)
    except Problem as problem:
        print(f"dashboard: {problem}", file=sys.stderr)
        return PROBLEM
    return DONE


if __name__ == "__main__":
    sys.exit(main())

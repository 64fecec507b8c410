"""A PostHog project as its API shows it: settings, dashboards, insights. What ``deploy/posthog/dashboard.py`` needs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from lifebeat.testing import Answer

if TYPE_CHECKING:
    from lifebeat.testing import PostHogServer, Request

Json = dict[str, Any]
_PAGE = 100
_TEMPLATE = "dashboards/create_from_template_json"
_TEMPLATE_FIELDS = {"template_name": str, "dashboard_description": str, "dashboard_filters": dict, "tiles": list}
_UNKNOWN_KEY = "Personal API key found in request Authorization header is invalid."


def serve(server: PostHogServer, number: int, personal_api_key: str) -> Project:
    """Have a receiver answer as the app behind it: one project, as a maintainer's scripts see it."""
    made = Project(number, personal_api_key)
    for method in ("GET", "POST", "PATCH"):
        server.serve(method, f"/api/projects/{number}/", lambda request: Answer(*made.answer(request)))
    return made


class Project:
    """One project; what its callers did to it can be read and set.

    Attributes:
        settings: The project's own settings, such as ``anonymize_ips``.
        dashboards: The dashboards by their ID: name, description, tags, deleted.
        insights: The insights by their ID: name, description, query, and the dashboards that they are on.
        layouts: Where tiles stand, by the tile's ID; a tile that nobody has placed has none.
        changes: Every request that changed something: its method and path.
        scopes: What the key may do, such as ``insight:read``; ``write`` includes ``read``, ``*`` everything.
        results: What any query finds.
        queries: The queries that were asked.
        templates: Whether a key may make a dashboard from a template. In PostHog's source of 2026 it may not, whatever
            its scopes; the request exists for the app's own pages.
    """

    def __init__(self, number: int, personal_api_key: str) -> None:
        self.settings: Json = {"id": number, "name": "Default project", "anonymize_ips": False}
        self.dashboards: dict[int, Json] = {}
        self.insights: dict[int, Json] = {}
        self.layouts: dict[int, Json] = {}
        self.changes: list[tuple[str, str]] = []
        self.scopes = {"*"}
        self.results: list[list[Any]] = []
        self.queries: list[str] = []
        self.templates = True
        self._key = personal_api_key
        self._prefix = f"/api/projects/{number}/"
        self._last = 100

    def add_dashboard(self, name: str, **fields: Any) -> int:
        """A dashboard that somebody has made; its ID."""
        number = self._next()
        empty: Json = {"description": "", "tags": [], "deleted": False}
        self.dashboards[number] = {"id": number, "name": name, **empty, **fields}
        return number

    def add_insight(self, dashboard: int, name: str, query: Json, description: str = "") -> int:
        """An insight that somebody has put on a dashboard; its ID."""
        number = self._next()
        self.insights[number] = {
            "id": number, "name": name, "description": description, "query": query, "dashboards": [dashboard]
        }  # fmt: skip
        return number

    def tiles(self, dashboard: int) -> list[Json]:
        """The insights on a dashboard."""
        return [one for one in self.insights.values() if dashboard in one["dashboards"]]

    def shown(self, number: int) -> Json:
        """A dashboard as the API shows it: its fields, and its tiles with their insights and layouts."""
        numbers = [(_tile(one["id"]), one) for one in self.tiles(number)]
        tiles = [{"id": tile, "insight": one, "layouts": self.layouts.get(tile, {})} for tile, one in numbers]
        return {**self.dashboards[number], "tiles": tiles}

    def answer(self, request: Request) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        status, found = self._answer(request)
        if request.method != "GET" and "/query/" not in request.path and status < 300:
            self.changes.append((request.method, request.path))
        return status, json.dumps(found).encode()

    def _answer(self, request: Request) -> tuple[int, Json]:
        given = request.header("Authorization")
        if given is None:
            return _error(401, "not_authenticated", "Authentication credentials were not provided.")
        if given != f"Bearer {self._key}":
            return _error(401, "authentication_failed", _UNKNOWN_KEY)
        url = urlsplit(request.path)
        place = url.path.removeprefix(self._prefix).strip("/")
        lacking = self._lacking(request.method, place)
        if lacking:
            return _error(403, "permission_denied", lacking)
        try:
            return self._allowed(request.method, place, request.json() if request.body else {}, parse_qs(url.query))
        except (KeyError, TypeError, ValueError) as error:
            return _error(400, "invalid_input", f"not valid: {error!r}")

    def _lacking(self, method: str, place: str) -> str:
        """Why the key may not do this; empty where it may."""
        if place == _TEMPLATE and not self.templates:
            return "This action does not support personal API key access"
        kinds = {"dashboards": "dashboard", "insights": "insight", "query": "query"}
        kind = kinds.get(place.partition("/")[0], "project")
        needed = f"{kind}:{'read' if method == 'GET' or kind == 'query' else 'write'}"
        if self.scopes & {"*", needed, f"{kind}:write"}:
            return ""
        return f"API key missing required scope '{needed}'"

    def _allowed(self, method: str, place: str, body: Json, query: dict[str, list[str]]) -> tuple[int, Json]:
        match (method, place):
            case "GET" | "PATCH", "":
                self.settings |= body
                return 200, self.settings
            case "GET", "dashboards":
                return 200, self._page(query)
            case "POST", "dashboards":
                told = {"description": body.get("description", ""), "tags": body.get("tags", [])}
                return 201, self.shown(self.add_dashboard(body["name"], **told))
            case "POST", "dashboards/create_from_template_json":
                return 200, self.shown(self._from_template(body["template"]))
            case "POST", "insights":
                return 201, self.insights[self._insight(body)]
            case _:
                return self._one(method, place, body)

    def _page(self, query: dict[str, list[str]]) -> Json:
        offset = int(query.get("offset", ["0"])[0])
        rows = [one for one in self.dashboards.values() if not one["deleted"]]
        following = f"{self._prefix}dashboards/?limit={_PAGE}&offset={offset + _PAGE}"
        more = following if len(rows) > offset + _PAGE else None
        return {"count": len(rows), "next": more, "results": rows[offset : offset + _PAGE]}

    def _from_template(self, template: Json) -> int:
        for field, kind in _TEMPLATE_FIELDS.items():
            if not isinstance(template[field], kind) or not template["tiles"]:
                raise ValueError(f"template: {field!r} is {template[field]!r}")
        told = {"description": template["dashboard_description"], "tags": template.get("tags", [])}
        number = self.add_dashboard(template["template_name"], **told)
        for tile in template["tiles"]:
            if tile["type"] == "INSIGHT":
                made = self.add_insight(number, tile["name"], tile["query"], tile.get("description", ""))
                self.layouts[_tile(made)] = tile["layouts"]
        return number

    def _insight(self, body: Json) -> int:
        [dashboard] = body["dashboards"]
        return self.add_insight(dashboard, body["name"], body["query"], body.get("description", ""))

    def _one(self, method: str, place: str, body: Json) -> tuple[int, Json]:
        if (method, place) == ("POST", "query"):
            self.queries.append(body["query"]["query"])
            return 200, {"results": self.results}
        found = re.fullmatch(r"(dashboards|insights)/(\d+)", place)
        kind, number = (found[1], int(found[2])) if found else ("", 0)
        if kind == "dashboards" and number in self.dashboards and method in {"GET", "PATCH"}:
            self._place(number, body.get("tiles", []))
            return 200, self.shown(number)
        if kind == "insights" and number in self.insights and method == "PATCH":
            self.insights[number] |= body
            return 200, self.insights[number]
        return _error(404, "not_found", "Not found.")

    def _place(self, number: int, tiles: list[Json]) -> None:
        known = {_tile(one["id"]) for one in self.tiles(number)}
        for tile in tiles:
            if tile["id"] not in known:
                raise ValueError(f"dashboard {number} has no tile {tile['id']}")
            self.layouts[tile["id"]] = tile["layouts"]

    def _next(self) -> int:
        self._last += 1
        return self._last


def _tile(insight: int) -> int:
    return insight + 1000


def _error(status: int, code: str, detail: str) -> tuple[int, Json]:
    kind = "authentication_error" if status in {401, 403} else "invalid_request"
    return status, {"type": kind, "code": code, "detail": detail, "attr": None}

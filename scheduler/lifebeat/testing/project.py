"""A PostHog project as its API shows it: settings, dashboards, insights. What ``deploy/posthog/dashboard.py`` needs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from lifebeat.testing import Request

Json = dict[str, Any]
_PAGE = 100


class Project:
    """One project; what its callers did to it can be read and set.

    Attributes:
        settings: The project's own settings, such as ``anonymize_ips``.
        dashboards: The dashboards by their ID: name, description, deleted.
        insights: The insights by their ID: name, description, query, and the dashboards that they are on.
        changes: Every request that changed something: its method and path.
    """

    def __init__(self, number: int, personal_api_key: str) -> None:
        self.settings: Json = {"id": number, "name": "Default project", "anonymize_ips": False}
        self.dashboards: dict[int, Json] = {}
        self.insights: dict[int, Json] = {}
        self.changes: list[tuple[str, str]] = []
        self._key = personal_api_key
        self._prefix = f"/api/projects/{number}/"
        self._last = 100

    def add_dashboard(self, name: str, **fields: Any) -> int:
        """A dashboard that somebody has made; its ID."""
        number = self._next()
        self.dashboards[number] = {"id": number, "name": name, "description": "", "deleted": False, **fields}
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

    def answer(self, request: Request) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        status, found = self._answer(request)
        if request.method != "GET" and status < 300:  # noqa: PLR2004 - 2xx
            self.changes.append((request.method, request.path))
        return status, json.dumps(found).encode()

    def _answer(self, request: Request) -> tuple[int, Json]:
        given = dict(request.headers).get("Authorization")
        if given is None:
            return 401, {"detail": "Authentication credentials were not provided."}
        if given != f"Bearer {self._key}":
            return 403, {"detail": "Invalid personal API key."}
        return self._allowed(request)

    def _allowed(self, request: Request) -> tuple[int, Json]:
        url = urlsplit(request.path)
        method, place = request.method, url.path.removeprefix(self._prefix).strip("/")
        body: Json = json.loads(request.body) if request.body else {}
        match (method, place):
            case "GET", "":
                return 200, self.settings
            case "PATCH", "":
                self.settings |= body
                return 200, self.settings
            case "GET", "dashboards":
                return 200, self._page(parse_qs(url.query))
            case "POST", "dashboards/create_from_template_json":
                return self._create(body)
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

    def _create(self, body: Json) -> tuple[int, Json]:
        template = body.get("template")
        if not template or "template_name" not in template:
            return 400, {"detail": "a template with its template_name is required"}
        found: Json = template
        number = self.add_dashboard(found["template_name"], description=found.get("dashboard_description", ""))
        for tile in found.get("tiles", []):
            if tile.get("type") == "INSIGHT":
                self.add_insight(number, tile["name"], tile["query"], tile.get("description", ""))
        return 200, self._dashboard(number)

    def _insight(self, body: Json) -> int:
        [dashboard] = body["dashboards"]
        return self.add_insight(dashboard, body["name"], body["query"], body.get("description", ""))

    def _one(self, method: str, place: str, body: Json) -> tuple[int, Json]:
        found = re.fullmatch(r"(dashboards|insights)/(\d+)", place)
        kind, number = (found[1], int(found[2])) if found else ("", 0)
        if kind == "dashboards" and number in self.dashboards and method == "GET":
            return 200, self._dashboard(number)
        if kind == "insights" and number in self.insights and method == "PATCH":
            self.insights[number] |= body
            return 200, self.insights[number]
        return 404, {"detail": "Not found."}

    def _dashboard(self, number: int) -> Json:
        tiles = [{"id": one["id"] + 1000, "insight": one} for one in self.tiles(number)]
        return {**self.dashboards[number], "tiles": tiles}

    def _next(self) -> int:
        self._last += 1
        return self._last

"""The API of a PostHog project, with a personal API key."""

from __future__ import annotations

import json
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, cast
from urllib.request import HTTPErrorProcessor, Request, build_opener

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from http.client import HTTPResponse

KEY = "POSTHOG_PERSONAL_API_KEY"
TIMEOUT = 30.0
PAGE = 100
ADVICE = {
    400: "is deploy/posthog as old as your PostHog?",
    401: f"PostHog does not know the key in {KEY}; make one under Settings, Personal API keys",
    403: f"the key in {KEY} takes the scopes project:write, dashboard:write, insight:write (--publish: query:read), "
    "and access to the project",
    404: "no such project there; --project is the number in the app's address, --host the address of the app itself",
    429: "PostHog is asked too often; try again later",
}

Json = dict[str, Any]


class Problem(Exception):
    """Something that the person who runs this has to know."""


class Refused(Problem):
    """PostHog answered, but not with success.

    Attributes:
        status: The HTTP status.
        detail: What PostHog said.
    """

    def __init__(self, place: str, status: int, detail: str, headers: Message) -> None:
        self.status, self.detail = status, detail
        advice = ADVICE.get(401 if "Personal API key found" in detail else status, "")
        if headers["Location"]:
            advice = f"it points to {headers['Location']!r}; if that is yours, give its beginning as --host"
        if headers["Retry-After"]:
            advice += f", in {headers['Retry-After']} s"
        super().__init__(": ".join(part for part in (place, f"{status} {detail}".strip(), advice) if part))


class _AsItIs(HTTPErrorProcessor):
    """Every answer is given back: above all no redirect is followed, which would take the key elsewhere."""

    def http_response(self, request: Request, response: HTTPResponse) -> HTTPResponse:  # noqa: ARG002 - its parameter
        return response

    https_response = http_response


def personal_key(environ: Mapping[str, str]) -> str:
    """The key from the environment.

    Raises:
        Problem: There is none, or it is another kind of key.
    """
    key = environ.get(KEY, "").strip()
    if not key:
        raise Problem(f"{KEY} is not set; make a key in PostHog under Settings, Personal API keys")
    if key.startswith("phc_"):
        raise Problem(f"{KEY} holds a project's key (phc_…), which only takes events; a personal one begins with phx_")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Problem(f"{KEY} holds characters that no key has; copy it again")
    return key


class Project:
    """A project's API.

    Args:
        host: The app's URL.
        number: The project's ID.
        key: A personal API key.
    """

    def __init__(self, host: str, number: int, key: str) -> None:
        self._root = f"{host.rstrip('/')}/api/projects/{number}/"
        self._key = key
        self._opener = build_opener(_AsItIs())

    def ask(self, method: str, place: str, body: Json | None = None) -> Json:
        """One request; ``place`` is below the project.

        Raises:
            Problem: It was refused, or nobody answered, or not a PostHog.
        """
        url = self._root + place
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = Request(url, data, headers, method=method)  # noqa: S310 - main() looked at the scheme
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                status, said = answer.status, answer.read()
        except (OSError, HTTPException) as error:
            raise Problem(f"{method} {url}: {getattr(error, 'reason', None) or error or 'no answer'}") from None
        try:
            found: Any = json.loads(said)
        except ValueError:
            found = None
        if status >= 300:  # noqa: PLR2004 - all that is not success
            raise Refused(f"{method} {url}", status, self._detail(found), answer.headers)
        if not isinstance(found, dict):
            raise Problem(f"{method} {url}: the answer is no JSON object; is --host the address of the app?")
        return cast("Json", found)

    def _detail(self, found: Any) -> str:
        said = cast("Json", found).get("detail", "") if isinstance(found, dict) else ""
        return " ".join(str(said).replace(self._key, "phx_…").split())[:300]

    def dashboards(self, name: str) -> list[int]:
        """The IDs of the dashboards of that name."""
        found: list[int] = []
        offset = 0
        while True:
            page = self.ask("GET", f"dashboards/?limit={PAGE}&offset={offset}")
            found += [one["id"] for one in page["results"] if one["name"] == name and not one.get("deleted")]
            offset += len(page["results"])
            if not page.get("next") or not page["results"]:
                return found

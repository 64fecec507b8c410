"""The page, made of what the commands give programs with ``--json``; it reads and changes nothing else."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from lifebeat.history import FAILED
from lifebeat.jobfile.targets import is_telemetry
from lifebeat.version import __version__
from lifebeat.view.elements import Markup, element, joined, pairs, table
from lifebeat.view.style import FILE_POLICY, STYLE
from lifebeat.view.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Collection

SHOWN, MOST_SHOWN = 200, 5000  # events and runs, newest first
_MORNING = 6
DONE = {
    "off": "Telemetry is turned off. What was pending will not be sent.",
    "accept": "Accepted: what this version wants to send is sent from now on.",
    "start": "A run was ordered; it begins within two seconds where the application runs.",
    "pause": "The job is paused.",
    "resume": "The job is resumed.",
}


class Document(TypedDict):
    """What the page shows. Times are in ISO 8601 in UTC.

    Attributes:
        now: When it was looked at.
        application: Its name and version.
        summary: How it stands, in one sentence.
        status: As ``lifebeat status --json``.
        settings: As ``lifebeat config --layers --json``.
        plan: As ``lifebeat plan --json``.
        runs: As ``lifebeat runs --json``, and no more than were asked for.
        more_runs: Whether there are older ones.
        last: The latest run of each job.
        failed: The runs of the last day that did not end well.
        events: As ``lifebeat log --json``, but ``body`` as the bytes that are sent, and no more than were asked for.
        more_events: Whether there are older ones.
        preview: What would be sent now, the exact bytes of each event.
        timeline: What ``timeline`` draws.
        problems: What is wrong, and what cannot be seen; a line each.
    """

    now: str
    application: str
    summary: str
    status: dict[str, Any]
    settings: list[dict[str, Any]]
    plan: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    more_runs: bool
    last: dict[str, dict[str, Any]]
    failed: list[dict[str, Any]]
    events: list[dict[str, Any]]
    more_events: bool
    preview: list[str]
    timeline: dict[str, dict[str, Any]]
    problems: list[str]


class Page:
    """One page.

    Args:
        document: What it shows.
        actions: The actions that it has buttons for: names of ``DONE``.
        token: What each form carries, so that no other page can send one.
        shown: How many events and runs were asked for; ``None`` in a file, where no more can be.
    """

    def __init__(
        self,
        document: Document,
        *,
        actions: Collection[str] = (),
        token: str | None = None,
        shown: int | None = None,
    ) -> None:
        self._document = document
        self._buttons = actions
        self._token = token
        self._shown = shown

    def html(self, *, done: str | None = None, error: str | None = None) -> str:
        """Return the page.

        Args:
            done: The action that was carried out.
            error: Why one was not.
        """
        document = self._document
        sections = {
            "Jobs": self._jobs(),
            "Timeline": timeline(document["timeline"], _hours(document["now"]), _half_hours(document["now"])),
            "Runs": self._runs(),
            "Events": self._events(),
            "Preview": self._preview(),
            "Who decided": self._settings(),
        }
        links = [element("li", element("a", name, href=f"#{_id(name)}")) for name in sections]
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=FILE_POLICY),
            element("title", f"{document['application']}: telemetry and jobs"),
            element("style", Markup(STYLE)),
        )
        body = element(
            "body",
            element("a", "Skip to the content", class_="skip", href="#content"),
            element(
                "header",
                element("h1", f"{document['application']}: telemetry and jobs"),
                element("p", document["summary"], class_="summary"),
                self._notes(done, error),
                element("nav", element("ul", *links), aria_label="Parts of this page"),
            ),
            element(
                "main",
                self._facts(),
                *(joined(element("h2", name, id=_id(name)), made) for name, made in sections.items()),
                id="content",
            ),
            element("footer", "Times are in UTC. Seen at ", _time(document["now"]), f", by Lifebeat {__version__}."),
        )
        return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"

    def _notes(self, done: str | None, error: str | None) -> Markup:
        notes = [element("p", DONE[done], class_="note", role="status")] if done in DONE else []
        wrong = [*([error] if error else []), *self._document["problems"]]
        return joined(*notes, *(element("p", one, class_="note bad", role="alert") for one in wrong))

    # -- the first screen --------------------------------------------------------------------------------------------

    def _facts(self) -> Markup:
        status = self._document["status"]
        state = status["telemetry"]
        off = self._button("off", "Turn telemetry off") if state != "off" else None
        facts: list[tuple[str, Any]] = [
            ("Telemetry", joined(element("strong", state), f", by {status['source'] or status['reason']} ", off)),
            ("Last delivered", self._last_delivered()),
            ("Pending", self._pending()),
            ("Next heartbeat", _time(status["next_heartbeat"]) if status["next_heartbeat"] else "none"),
            ("Failed, last day", self._failed()),
            ("An update would add", self._added()),
        ]
        return pairs(facts)

    def _last_delivered(self) -> Any:
        latest = next((one for one in self._document["events"] if one["state"] == "delivered"), None)
        if latest is None:
            return "nothing yet"
        return joined(
            element("a", latest["event"], href=f"#{latest['uuid']}", aria_label=f"{latest['event']}: its exact bytes"),
            " ",
            _time(latest["finished_at"]),
            f" to {self._document['status']['host']}",
        )

    def _pending(self) -> Any:
        status = self._document["status"]
        if not status["waiting"]:
            return "nothing"
        since, then = status["waiting_since"], status["next_attempt"]
        words = [f"{status['waiting']} events", *([", since ", _time(since)] if since else [])]
        return joined(*words, *(["; next attempt ", _time(then)] if then else []))

    def _failed(self) -> Any:
        failed: dict[str, list[dict[str, Any]]] = {}
        for one in self._document["failed"]:
            failed.setdefault(one["job"], []).append(one)
        if not failed:
            return "nothing"
        return joined(
            *(
                element(
                    "p",
                    element("strong", job),
                    f" {runs[0]['outcome']} ",
                    _time(runs[0]["instant"]),
                    f": {runs[0]['reason']}" if runs[0]["reason"] else None,
                    f"; {len(runs)} times" if len(runs) > 1 else None,
                    class_="bad",
                )
                for job, runs in failed.items()
            )
        )

    def _added(self) -> Any:
        added = self._document["status"]["unaccepted"]
        if not added:
            return "nothing: all that this version sends was agreed to"
        return joined(f"{', '.join(added)}; not sent before it is accepted ", self._button("accept", "Accept"))

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _jobs(self) -> Markup:
        last = self._document["last"]
        rows = [self._job(job, last.get(job["job"])) for job in self._document["plan"]]
        headings = ["job", "when", "last run", "next run", *(["do"] if self._steers else [])]
        return table("Each job of the job file", headings, rows)

    def _job(self, job: dict[str, Any], last: dict[str, Any] | None) -> list[Any]:
        ran = (
            "none remembered" if last is None else joined(_outcome(last), " ", _time(last["begun"] or last["instant"]))
        )
        coming = _time(job["next"][0]["starts"]) if job["next"] else "-"
        paused = job["paused"]
        if paused:
            until = joined("paused until ", _time(paused["until"])) if paused["until"] else "paused until it is resumed"
            coming = joined(element("strong", until), f": {paused['why']}" if paused["why"] else None)
        return [job["job"], job["when"], ran, coming, *([self._steering(job)] if self._steers else [])]

    @property
    def _steers(self) -> bool:
        return not {"start", "pause", "resume"}.isdisjoint(self._buttons)

    def _steering(self, job: dict[str, Any]) -> Markup:
        name = job["job"]
        own = job["enabled"] and not is_telemetry(job["run"])  # which is not started by hand
        start = self._button("start", "Start", job=name) if own else None
        if job["paused"]:
            return joined(start, self._button("resume", "Resume", job=name))
        return joined(start, self._pausing(name) if "pause" in self._buttons else None)

    def _pausing(self, name: str) -> Markup:
        now = _moment(self._document["now"])
        morning = now.replace(hour=_MORNING, minute=0, second=0, microsecond=0)
        choices = [
            ("", "until it is resumed"),
            ((now + timedelta(hours=1)).isoformat(timespec="seconds"), "for an hour"),
            ((morning + timedelta(days=1)).isoformat(), "until tomorrow, 06:00 UTC"),
            ((morning + timedelta(days=7 - now.weekday())).isoformat(), "until Monday, 06:00 UTC"),
        ]
        options = [element("option", text, value=value) for value, text in choices]
        chosen = element("select", *options, name="until")
        form = self._form(
            "pause",
            element("label", "How long ", chosen),
            element("label", "Why ", element("input", name="why", maxlength=200)),
            element("button", f"Pause {name}"),
            job=name,
        )
        return element("details", element("summary", "Pause…", aria_label=f"Pause… {name}"), form)

    def _runs(self) -> Markup:
        runs = self._document["runs"]
        rows = [
            [
                _time(one["begun"] or one["instant"]),
                one["job"],
                "by hand" if one["by_hand"] else _time(one["instant"]),
                _outcome(one),
                "" if one["seconds"] is None else f"{one['seconds']:.3f} s",
                one["attempts"],
                one["process"],
                one["reason"] or "",
            ]
            for one in runs
        ]
        headings = ["began", "job", "planned for", "outcome", "took", "attempts", "process", "reason"]
        return self._part(
            table(f"The newest {len(rows)} runs", headings, rows), "runs", "runs", more=self._document["more_runs"]
        )

    def _events(self) -> Markup:
        rows = [
            [
                _time(one["recorded_at"]),
                one["event"],
                joined(one["state"], *([" ", _time(one["finished_at"])] if one["finished_at"] else [])),
                one["attempts"],
                " ".join(str(said) for said in (one["status"], one["answer"]) if said is not None),
                _exact(one),
            ]
            for one in self._document["events"]
        ]  # fmt: skip
        made = table(
            f"The newest {len(rows)} recorded events, and what became of each",
            ["recorded", "event", "state", "attempts", "answer", "what is sent"],
            rows,
        )
        return self._part(made, "events", "log", more=self._document["more_events"])

    def _part(self, made: Markup, of: str, command: str, *, more: bool) -> Markup:
        if not more:
            return made
        otherwise = element("code", f"lifebeat {command} --count N")
        if self._shown is None or self._shown >= MOST_SHOWN:
            return joined(made, element("p", "There are older ones: ", otherwise))
        following = min(self._shown * 5, MOST_SHOWN)
        link = element("a", f"show {following} {of}", href=f"?shown={following}#{of}")
        return joined(made, element("p", "There are older ones: ", link))

    def _preview(self) -> Markup:
        bodies = [element("pre", body, tabindex=0) for body in self._document["preview"]]
        return joined(element("p", "The exact bytes of each event, as it would be sent now:"), *bodies)

    def _settings(self) -> Markup:
        status, rows = self._document["status"], [_setting(one) for one in self._document["settings"]]
        names = ("reason", "source", "application", "instance_id", "identity", "api_key", "state_dir", "also_used_by")
        words = [(name.replace("_", " "), status[name]) for name in names if status.get(name)]
        rule = "Of telemetryEnabled off wins at any layer, of all else the highest layer that says something."
        headings = ["key", "value", "set by", "layers, lowest first"]
        return joined(pairs(words), element("p", rule), table("Each setting, and what each layer says", headings, rows))

    # -- forms -------------------------------------------------------------------------------------------------------

    def _button(self, action: str, text: str, **fields: str) -> Markup | None:
        if action not in self._buttons:
            return None
        label = " ".join((text, *fields.values())) if fields else None
        return self._form(action, element("button", text, aria_label=label), **fields)

    def _form(self, action: str, *children: Any, **fields: str) -> Markup:
        hidden = {"act": action, **fields} | ({"token": self._token} if self._token else {})
        return element("form", *map(_hidden, hidden.items()), *children, method="post")


def _hidden(field: tuple[str, str]) -> Markup:
    return element("input", type="hidden", name=field[0], value=field[1])


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _time(text: str | None) -> Markup | str:
    if text is None:
        return "-"
    return element("time", text[:19].replace("T", " "), datetime=text)


def _exact(event: dict[str, Any]) -> Markup:
    summary = element("summary", "exact bytes", aria_label=f"exact bytes of {event['uuid']}")
    # A browser opens what a link's target lies in.
    return element("details", summary, element("pre", event["body"], tabindex=0, id=event["uuid"]))


def _outcome(run: dict[str, Any]) -> Markup:
    kind = "bad" if run["outcome"] in FAILED else "ok" if run["outcome"] == "ok" else None
    return element("span", run["outcome"], class_=kind)


def _setting(one: dict[str, Any]) -> list[Any]:
    heard = [element("div", _heard(said)) for said in one["layers"]]
    return [one["key"], "-" if one["value"] is None else one["value"], one["source"] or "no layer", joined(*heard)]


def _heard(said: dict[str, Any]) -> str:
    value = said["value"] if said["valid"] else "(not valid)"
    return f"{said['layer']}: {value}{' (counts)' if said['counts'] else ''}"


def _half_hours(now: str) -> float:
    moment = _moment(now)
    return (moment.minute * 60 + moment.second) / 1800


def _hours(now: str) -> list[str]:
    first = _moment(now).replace(minute=0, second=0) - timedelta(days=1)
    hours = [first + timedelta(hours=hour) for hour in range(0, 48, 6)]
    return [f"{one:%H:%M}" if number % 4 else f"{one:%a %H:%M}" for number, one in enumerate(hours)]

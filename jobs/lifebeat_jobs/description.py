"""What would be sent, in words and as bytes: the notice, previews, the page for users, the contract, warnings."""

from __future__ import annotations

import gzip
import inspect
import json
import re
import shlex
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lifebeat.installation import interpreter
from lifebeat.storage.safe_file import absolute, printable
from lifebeat_jobs import agreement, events, identity, rules
from lifebeat_jobs.answers import shown
from lifebeat_jobs.privacy import leak_in, this_machine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from lifebeat.context import JobContext
    from lifebeat.settings.table import Settings
    from lifebeat_jobs.outbox import Outbox
    from lifebeat_jobs.privacy import Machine

_IDENTITIES = {
    identity.INSTALLATION: "Events carry a random ID of the installation, derived from nothing.",
    identity.MONTHLY: "Events carry a random ID that changes every month; two months cannot be connected.",
    identity.NONE: "No two events carry the same ID; how old the installation is, is sent in groups of weeks.",
}
_AGE = {"age": "How many weeks old the installation is."}
_FIELDS = ("field", "value", "why")
_PAGE = """\
# Telemetry of {name}

{name} sends anonymous telemetry to {host}: when it starts, every {every} while it runs, and when it stops. Nothing else
is ever sent than what is listed here; each value is a version, a whole number, yes or no, or a word of a closed list.
{identity}

## Turn it off

Each of these does; what is still pending is then never sent. `DIR` is the application's config directory.

- `lifebeat setconfig telemetryEnabled false --config DIR`
- `"telemetryEnabled": false` in `DIR/config.json`
- `TELEMETRY_ENABLED=false` in the environment
- `DO_NOT_TRACK=1` in the environment

## See it

- what would be sent now: `lifebeat preview --request --config DIR`
- what was sent: `lifebeat log --config DIR`

## With every event

{shared}

## The events

{events}

## Protocol fields

{protocol}
"""


def surroundings(settings: Settings, sent_as: str, machine: Machine) -> dict[str, str]:
    """Return the properties that every event has; one that names this machine is left out."""
    found = events.surroundings(settings, sent_as)
    if leak_in([found["release"]], machine):
        found["release"] = rules.clean_release(settings.release_version or settings.app_version)
    return {name: rules.UNKNOWN if leak_in([value], machine) else value for name, value in found.items()} | {
        "instance_id": sent_as
    }


def command(context: JobContext, *words: str) -> str:
    """Return a whole command for this installation, with interpreter and directory, as a shell takes it."""
    directory, python = printable(Path(absolute(context.config_dir))), interpreter()
    return shlex.join([*python, *(["-m"] if python else []), "lifebeat", *words, "--config", directory])


def notice(context: JobContext) -> tuple[str, ...]:
    """Return the words of the one line that is said before anything is collected."""
    settings, forms = context.read_settings(), events.declared()
    return (
        settings.app_name or "This application",
        shown(settings.host),
        ", ".join(forms),
        _every(settings),
        ", ".join(dict.fromkeys(name for form in forms.values() for name in form)),
        command(context, "preview"),
        command(context, "setconfig", "telemetryEnabled", "false"),
    )


def previews(context: JobContext, outbox: Outbox, now: datetime, name: str | None) -> list[str]:
    """Return the events that would be sent now; those of the host's own with an example of each value."""
    settings = context.settings
    sent_as = identity.sender(settings, outbox, context.instance_id or str(uuid.uuid4()), now, create=False)
    age = identity.age(settings, outbox, context.clock)
    hours, days = events.hours_and_days(context.uptime)
    known: dict[str, Any] = dict(surroundings(settings, sent_as, this_machine()))
    known |= {"uptime_hours": hours, "uptime_days": days, "total_runtime_hours": hours, "total_runtime_days": days}
    made, trim = list[str](), agreement.trimmer(outbox, settings)
    for event, forms in agreement.known_forms(outbox).items():
        if name not in {None, event}:
            continue
        form = forms[0] if age is None else events.without_id(forms[0])
        example = {"age": age, "app_version": known["app_version"]}
        own = {field: known.get(field, example.get(field, rule.example())) for field, rule in form.items()}
        body = events.wire(event, sent_as, own, now, events.uuid7(now))
        permitted = trim(body)
        if permitted is not None:
            made.append(json.dumps(permitted))
    return made


def requests(context: JobContext, bodies: Sequence[str], now: datetime) -> str:
    """Return the requests in which events would be sent, one for each ``distinct_id``; their bodies are sent zipped."""
    settings = context.settings
    grouped: dict[str, list[Any]] = {}
    for body in map(json.loads, bodies):
        grouped.setdefault(body["distinct_id"], []).append(body)
    parts, texts = urlsplit(settings.host), list[str]()
    for batch in grouped.values():
        text = events.envelope(batch, settings.api_key or "", now)
        headers = {
            "Host": parts.netloc.rpartition("@")[2],
            **events.HEADERS,
            "Content-Length": str(len(gzip.compress(text.encode()))),
        }
        lines = [
            f"POST {parts.path.rstrip('/')}{events.PATH} HTTP/1.1",
            *(f"{name}: {headers[name]}" for name in headers),
        ]
        texts.append("\n".join([*lines, "", text]))
    return "\n\n".join(texts)


def contract() -> str:
    """Return what can be sent, as JSON that changes only when that does."""
    document = {
        "events": {
            name: {field: str(rule) for field, rule in sorted(form.items())}
            for name, form in sorted(events.declared().items())
        },
        "protocol": {**events.PROTOCOL, "$lib_version": "Lifebeat's version"},
        "envelope": sorted(events.ENVELOPE_REASONS),
        "headers": {**events.HEADERS, "User-Agent": "lifebeat/<version>"},
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def page(context: JobContext, outbox: Outbox) -> str:
    """Return TELEMETRY.md for the application's own users."""
    settings = context.settings
    shared, kinds = events.form_of(events.Event), {kind.name: kind for kind in events.kinds()}
    sections = [
        _section(event, kinds.get(event), {one: rule for one, rule in found[0].items() if one not in shared})
        for event, found in agreement.known_forms(outbox).items()
    ]
    reasons = events.PROTOCOL_REASONS.items()
    return _PAGE.format(
        name=settings.app_name or "This application",
        host=shown(settings.host),
        every=_every(settings),
        identity=_IDENTITIES[identity.mode_of(settings)],
        shared=_table(_rows(events.Event, shared if settings.identity != identity.NONE else events.without_id(shared))),
        events="\n\n".join(sections),
        protocol=_table(((f"`{key}`", f"`{json.dumps(events.PROTOCOL[key])}`", why) for key, why in reasons), _FIELDS),
    )


def warnings(settings: Settings) -> list[str]:
    """Return which versions are sent otherwise than they were set."""
    made = {
        "appVersion": (settings.app_version, rules.clean_version(settings.app_version), "a version such as 1.4.2"),
        "releaseVersion": (
            settings.release_version,
            rules.clean_release(settings.release_version, settings.app_name),
            "a version, a Git tag such as v1.4.2, `git describe` output, or a commit SHA",
        ),
    }
    return [
        f"{key}: {given!r} is sent as {sent!r}; expected {expected}"
        for key, (given, sent, expected) in made.items()
        if given is not None and given != sent
    ]


def meanings(kind: type[events.Event]) -> dict[str, str]:
    """Return what the docstring of an event says about each property."""
    section = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in found}


def summary(kind: type[events.Event]) -> str:
    """Return what the docstring of an event says about it."""
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:")[0].replace("``", "`")


def _section(name: str, kind: type[events.Event] | None, own: rules.Form) -> str:
    intro = "" if kind is None else f"{summary(kind)}\n\n"
    body = _table(_rows(kind, own)) if own else "No properties besides those of all events."
    return f"### {name}\n\n{intro}{body}"


def _rows(kind: type[events.Event] | None, form: rules.Form) -> Iterable[Sequence[str]]:
    meaning = _AGE if kind is None else {**_AGE, **meanings(kind)}
    return [(f"`{name}`", meaning.get(name, ""), str(rule)) for name, rule in form.items()]


def _table(rows: Iterable[Sequence[str]], headings: Sequence[str] = ("property", "meaning", "holds")) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _every(settings: Settings) -> str:
    from lifebeat.text.durations import format_duration

    return format_duration(settings.heartbeat_interval)

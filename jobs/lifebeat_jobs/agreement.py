"""What an installation has agreed to send: a later version that wants more sends only that, until it is accepted.

The list is kept in the outbox's notes, and so are the forms of what was recorded: another process, or a later version,
checks an event against the form that it was recorded in.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lifebeat.version import __version__
from lifebeat_jobs import events, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lifebeat.settings.table import Settings
    from lifebeat_jobs.outbox import Outbox
    from lifebeat_jobs.rules import Form

Fields = dict[str, list[str]]
"""Properties by the event's name."""

SEND = "send"
_AGREED, _WITHHELD, _FORMS = "agreed", "withheld", "forms"
_MOST_FORMS = 8  # of one event


def agree(outbox: Outbox, settings: Settings) -> None:
    """Keep what this version sends as agreed to, if the installation has not agreed to anything yet."""
    agreed = {"of": version(settings), "events": _declared()}
    outbox.note_once(_AGREED, json.dumps(agreed))


def trimmer(outbox: Outbox, settings: Settings) -> Callable[[dict[str, Any]], dict[str, Any] | None]:
    """Return what takes off an event all that was not agreed to, and gives ``None`` if the event itself was not.

    Within the version that was agreed to, what is declared only now belongs to it.
    """
    agreed: dict[str, Any] = json.loads(outbox.note(_AGREED) or "{}")
    sends_all = _sends_all(settings, agreed)

    def trim(body: dict[str, Any]) -> dict[str, Any] | None:
        if sends_all:
            return body
        if body["event"] not in agreed["events"]:
            return None
        allowed = {"age", *agreed["events"][body["event"]]}
        properties = {name: value for name, value in body["properties"].items() if name in allowed}
        return {**body, "properties": properties}

    return trim


def permit(outbox: Outbox, settings: Settings, body: dict[str, Any]) -> dict[str, Any] | None:
    """Return an event trimmed to what was agreed to, and remember what was taken off it."""
    agreed: dict[str, Any] = json.loads(outbox.note(_AGREED) or "{}")
    wanted = {body["event"]: sorted(body["properties"].keys() - {"age"})}
    extra = _beyond(wanted, agreed.get("events", {}))
    if extra and _sends_all(settings, agreed):
        _keep(outbox, settings, wanted)
    elif extra:
        _note(outbox, _WITHHELD, _merged(json.loads(outbox.note(_WITHHELD) or "{}"), extra))
    return trimmer(outbox, settings)(body)


def unaccepted(outbox: Outbox, settings: Settings) -> Fields:
    """Return what waits for ``lifebeat accept``: what this version wants to send besides."""
    agreed: dict[str, Any] = json.loads(outbox.note(_AGREED) or "{}")
    if not agreed or _sends_all(settings, agreed):
        return {}
    wanted = _merged(_declared(), json.loads(outbox.note(_WITHHELD) or "{}"))
    return _beyond(wanted, agreed["events"])


def accept(outbox: Outbox, settings: Settings) -> Fields:
    """Agree to all that this version wants to send, and return what is new in it."""
    added = unaccepted(outbox, settings)
    _keep(outbox, settings, _merged(_declared(), added))
    _note(outbox, _WITHHELD, {})
    return added


def remember_form(outbox: Outbox, body: dict[str, Any]) -> None:
    """Keep the form in which an event was recorded."""
    forms = events.declared()[body["event"]]
    form = {name: rule for name, rule in {**forms, "age": events.AGE}.items() if name in body["properties"]}
    kept: dict[str, list[Any]] = json.loads(outbox.note(_FORMS) or "{}")
    data, former = rules.as_data(form), kept.get(body["event"], [])
    data = json.loads(json.dumps(data))
    if data not in former:
        _note(outbox, _FORMS, {**kept, body["event"]: [*former, data][-_MOST_FORMS:]})


def known_forms(outbox: Outbox) -> dict[str, list[Form]]:
    """Return the forms in which an event may leave: the declared ones, and those in which some were recorded.

    Of a shipped event that can only be less than what is declared: a change of the notes can add nothing to it.
    """
    found = {name: [form, events.without_id(form)] for name, form in events.declared().items()}
    shipped = {kind.name: events.form_of(kind) | {"age": events.AGE} for kind in events.CATALOGUE}
    for name, kept in json.loads(outbox.note(_FORMS) or "{}").items():
        for form in map(rules.from_data, kept):
            if form is not None and form.items() <= shipped.get(name, form).items():
                found.setdefault(name, []).append(form)
    return found


def named(fields: Fields) -> list[str]:
    """Return fields as people read them: ``heartbeat.uptime_hours``."""
    return [f"{name}.{field}" for name in fields for field in fields[name]]


def version(settings: Settings) -> list[str | None]:
    """Return which version this is, of the application and of Lifebeat."""
    return [settings.app_version, __version__]


def _sends_all(settings: Settings, agreed: dict[str, Any]) -> bool:
    return settings.new_fields == SEND or agreed.get("of") in (None, version(settings))


def _declared() -> Fields:
    return {name: sorted({*form, *events.PROTOCOL}) for name, form in events.declared().items()}


def _keep(outbox: Outbox, settings: Settings, more: Fields) -> None:
    former: dict[str, Any] = json.loads(outbox.note(_AGREED) or "{}")
    _note(outbox, _AGREED, {"of": version(settings), "events": _merged(former.get("events", {}), more)})


def _beyond(wanted: Fields, agreed: Fields) -> Fields:
    extra = {name: sorted({*fields} - {*agreed.get(name, ())}) for name, fields in wanted.items()}
    return {name: fields for name, fields in extra.items() if fields}


def _merged(*lists: Fields) -> Fields:
    names: Iterable[str] = dict.fromkeys(name for one in lists for name in one)
    return {name: sorted({field for one in lists for field in one.get(name, ())}) for name in names}


def _note(outbox: Outbox, key: str, value: Any) -> None:
    outbox.set_note(key, json.dumps(value))

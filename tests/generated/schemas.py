"""JSON Schemas of the files that people edit, made from the tables that the loader reads them by.

Draft 7, with patterns that are the same in Python and ECMAScript: that is what editors understand.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lifebeat.jobfile.fields import FIELDS, TRIGGERS, Field
from lifebeat.schedule import cron
from lifebeat.settings import table as settings
from lifebeat.settings.table import KEYS, Key, Kind
from lifebeat.text import durations

DRAFT = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]

_NULL: Schema = {"type": "null"}
_BLANK: Schema = {"type": "string", "pattern": r"^\s*$"}
_REFERENCE: Schema = {"$ref": "#/definitions/reference"}


def _any_case(word: str) -> str:
    return "".join(f"[{letter.upper()}{letter}]" if letter.isalpha() else letter for letter in word)


def _one_of(words: list[str]) -> str:
    return f"(?:{'|'.join(words)})"


def _number(low: int, high: int) -> str:
    """Whole numbers in a range, with leading zeros up to three digits, as cron reads them."""
    tens = [(ten, max(low, ten), min(high, ten + 9)) for ten in range(0, high + 1, 10)]
    return "|".join(f"{f'0?{ten // 10}' if ten else '0{0,2}'}[{first % 10}-{last % 10}]" for ten, first, last in tens)


def _cron_field(field: cron.Field) -> str:
    value = _one_of([_number(field.low, field.high), *map(_any_case, field.words)])
    part = rf"(?:\*|{value}(?:-{value})?)(?:/0{{0,2}}[1-9]\d{{0,2}})?"
    return rf"(?:\?|(?:{part}(?:,(?=\S)|(?=\s|$)))+)"


_SHORTHANDS = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"]
_FIVE = r"\s+".join(map(_cron_field, cron.FIELDS))
_CRON = rf"^\s*(?:{_FIVE}|@{_one_of([*map(_any_case, _SHORTHANDS)])})\s*$"
_MONTH_DAY = r"(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?"
_MOMENT = rf"^\d{{4}}-{_MONTH_DAY}(?:[T ]{_TIME}(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)?)?$"
_SPAN: Schema = {"type": "string", "pattern": durations.PATTERN, "maxLength": 40}
_LENGTH: Schema = {**_SPAN, "pattern": "^(?=.*[1-9])" + durations.PATTERN.removeprefix("^")}
_BOOLEAN: Schema = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        {
            "type": "string",
            "pattern": f"^{_one_of([_any_case(word) for word in sorted(settings.TRUE | settings.FALSE)])}$",
        },
    ]
}
_DIGITS = "^[1-9][0-9]{{0,{more}}}$"

_UP_TO_9999: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 9999},
        {"type": "string", "pattern": _DIGITS.format(more=3)},
    ]
}

# Sharper than the fragments in the tables, or written for editors whose patterns know no `(?i:…)`.
KIND_SCHEMAS: dict[str, Schema] = {
    settings.BOOLEAN.name: _BOOLEAN,
    settings.TEXT.name: {
        "anyOf": [
            {"type": "number"},
            {"type": "string", "maxLength": 200, "pattern": r"^(?=.*\S)[^\u0000-\u001f\u007f]*$"},
        ]
    },
    settings.URL.name: {
        "type": "string",
        "pattern": r'^[Hh][Tt][Tt][Pp][Ss]?://(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[1-9]\d{0,4})?(?:/[!-"$->@-~]*)?$',
    },
    settings.UUID.name: {
        "type": "string",
        "pattern": "^(?=.*[1-9A-Fa-f])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
    },
    settings.DURATION.name: _LENGTH,
    settings.PROJECT_KEY.name: {
        "anyOf": [
            {"type": "number"},
            {"type": "string", "maxLength": 200, "pattern": r"^(?!\s*ph[abd-z]_)(?=.*\S)[^\u0000-\u001f\u007f]*$"},
        ]
    },
    settings.COUNT.name: {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
            {"type": "string", "pattern": _DIGITS.format(more=11)},
        ]
    },
}
_ARGUMENTS: Schema = {
    "type": "object",
    "additionalProperties": {"if": {"type": "string", "pattern": r"\$\{"}, "then": _REFERENCE},
}
FIELD_SCHEMAS: dict[str, Schema] = {
    "every": _LENGTH,
    "timeout": _LENGTH,
    "jitter": _SPAN,
    "misfire_grace": _SPAN,
    "phase": {"anyOf": [{"enum": ["installation", "start"]}, _SPAN]},
    "cron": {"type": "string", "maxLength": 200, "pattern": _CRON},
    "at": {"type": "string", "pattern": _MOMENT},
    "timezone": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*$"},
    "enabled": _BOOLEAN,
    "coalesce": _BOOLEAN,
    "max_instances": _UP_TO_9999,
    "args": _ARGUMENTS,
    "retry": {
        "type": "object",
        "properties": {"attempts": {"anyOf": [_UP_TO_9999, _REFERENCE]}, "wait": {"anyOf": [_LENGTH, _REFERENCE]}},
        "required": ["attempts"],
        "additionalProperties": False,
    },
    "description": {"type": ["string", "number", "boolean"], "maxLength": 500, "pattern": r"^(?![\s\S]*\$\{)"},
}


def config_schema() -> Schema:
    """``config.json`` and ``config.yaml``: our settings, and whatever else the application keeps there."""
    return {
        "$schema": DRAFT,
        "title": "Lifebeat settings",
        "description": "Other keys are the application's own, and are left alone.",
        "type": ["object", "null"],
        "properties": _settings(),
    }


def jobs_schema() -> Schema:
    """``jobs.yaml``: the jobs and nothing else."""
    return {
        "$schema": DRAFT,
        "title": "Lifebeat job file",
        "type": ["object", "null"],
        "properties": {"jobs": _jobs(_complete_job())},
        "additionalProperties": False,
        "definitions": _definitions(),
    }


def overlay_schema() -> Schema:
    """``deployments/<name>.yaml``: settings, and changes to the jobs; null removes a job or a field."""
    changed: Schema = {**_job(), "oneOf": [*map(_given, TRIGGERS), _no_trigger()]}
    return {
        "$schema": DRAFT,
        "title": "Lifebeat overlay for one deployment",
        "type": ["object", "null"],
        "properties": {**_settings(), "jobs": _jobs({"anyOf": [_NULL, changed]}, ids=False)},
        "additionalProperties": False,
        "definitions": _definitions(),
    }


def _settings() -> Schema:
    return {key.name: _setting(key) for key in KEYS}


def _setting(key: Key) -> Schema:
    told: Schema = {"description": f"{key.help} Takes {key.kind.allowed}. In the environment: {key.variable}."}
    if key.default is not None:
        told["default"] = written(key.default)
    unsaid = [] if key.kind is settings.BOOLEAN else [_NULL, _BLANK]
    return {**told, "anyOf": [_kind(key.kind), *unsaid]}


def written(default: Any) -> Any:
    """A default as a person would write it in a file."""
    return durations.format_duration(default) if isinstance(default, timedelta) else default


def _kind(kind: Kind) -> Schema:
    return KIND_SCHEMAS.get(kind.name, kind.schema)


def _definitions() -> Schema:
    return {
        "reference": {
            "description": "The value of a setting.",
            "enum": [f"${{{key.name}}}" for key in KEYS],
        }
    }


def _jobs(job: Schema, *, ids: bool = True) -> Schema:
    named: Schema = {"propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"}} if ids else {}
    return {"description": "The jobs, by their ID.", "type": ["object", "null"], **named, "additionalProperties": job}


def _complete_job() -> Schema:
    job = _job()
    switch = job["properties"]["enabled"]
    switch["anyOf"] = [one for one in switch["anyOf"] if one is not _NULL]  # open, it is a mistake
    return {**job, "allOf": [_given("run"), *job["allOf"]], "oneOf": [_given(word) for word in TRIGGERS]}


def _job() -> Schema:
    return {
        "type": "object",
        "properties": {one.name: _field(one) for one in FIELDS},
        "additionalProperties": False,
        "allOf": [_only_its_fields(word) for word in TRIGGERS],
    }


def _field(one: Field) -> Schema:
    told = f"{one.help} Takes {one.allowed}. Default: {one.default}."
    if one.is_mapping:
        return {"description": told, "anyOf": [FIELD_SCHEMAS.get(one.name, one.schema), _NULL]}
    return {"description": told, "anyOf": [_explained(FIELD_SCHEMAS.get(one.name, one.schema), one), _REFERENCE, _NULL]}


def _explained(fragment: Schema, one: Field) -> Schema:
    """With words for editors that would show the pattern otherwise; to others the word means nothing."""
    return {**fragment, "patternErrorMessage": f"It takes {one.allowed}."} if "pattern" in fragment else fragment


def _given(word: str) -> Schema:
    return {"required": [word], "properties": {word: {"not": _NULL}}}


def _no_trigger() -> Schema:
    return {"properties": dict.fromkeys(TRIGGERS, _NULL)}


def _only_its_fields(word: str) -> Schema:
    others = [one.name for one in FIELDS if one.name not in TRIGGERS and word not in one.triggers]
    return {"if": _given(word), "then": {"properties": dict.fromkeys(others, _NULL)}}

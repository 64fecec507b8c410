"""The shipped JSON Schemas against the loader: what one accepts the other accepts, but for what is listed here."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from lifebeat import cli, jobfile, layers
from lifebeat.jobfile import FIELDS, TRIGGERS
from lifebeat.settings import KEYS, Settings

SCHEMAS = Path(__file__).parent.parent / "config" / "schema"
GIVEN: dict[str, Any] = {
    "telemetryApiKey": "phc_x",
    "telemetryInstanceId": "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11",
    "telemetryStateDir": "state",
    "appName": "notes",
    "appVersion": "1.4.2",
    "releaseVersion": "1.4.2",
}
SETTINGS = layers.merge([layers.packaged(), layers.from_arguments(GIVEN)])

# What a schema cannot know. The loader's message, an example, and why.
ONLY_THE_LOADER_REFUSES = {
    r"is not shorter than the interval": ("every: 1m, jitter: 2m", "two durations are compared"),
    r"is longer than \d+d": ("every: 9999w", "a duration is computed"),
    r"must be longer than no time": ("every: 0.0001ms", "a duration is computed: less than a microsecond is none"),
    r"names a day that never comes": ("cron: '0 0 30 2 *'", "takes a calendar"),
    r"runs backwards": ("cron: '0 5-3 * * *'", "two numbers are compared"),
    r"is not a moment; it takes one": ("at: 2027-02-30", "takes a calendar"),
    r"is not a time zone": ("every: null, cron: '@daily', timezone: Europe/Stokholm", "the names change every year"),
    r"is ambiguous": ("every: 1h, args: {a: 010}", "a schema sees the value after YAML has read it, not what was written"),
    r"'\$\{\w+\}' |the setting|(?:jitter|every|timeout|cron|when|once|at|phase|run|timezone|enabled|coalesce)"
    r".*'(?:notes|1\.4\.2|True|1 day.*|1000)'": ("every: '${appName}'", "the value behind a reference is not in the file"),
    r"is not a whole number": ("every: 1h, max_instances: 1.0", "to JSON Schema 1.0 is a whole number"),
    r"is not a boolean": ("every: 1h, enabled: 1.0", "to JSON Schema 1.0 is 1"),
    r"is not allowed|there is no module|has no '|cannot be called": ("every: 1h, args: {b: 1}", "takes the application's code"),
}


def anything(a: Any = None) -> None:
    """What the jobs of these tests run."""


def validator(kind: str) -> Any:
    """The shipped schema of a kind of file."""
    schema = json.loads((SCHEMAS / f"{kind}.schema.json").read_text(encoding="utf-8"))
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


JOBS, OVERLAY, CONFIG = validator("jobs"), validator("overlay"), validator("config")

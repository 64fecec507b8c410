"""The shipped JSON Schemas against the loader: what one accepts the other accepts, but for what is listed here."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from lifebeat.cli import main as cli
from lifebeat.jobfile import reader as jobfile
from lifebeat.jobfile.fields import FIELDS, TRIGGERS
from lifebeat.settings import layers
from lifebeat.settings.table import KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED = Path(__file__).parents[2] / "config"
GIVEN = {
    "telemetryApiKey": "phc_x",
    "telemetryInstanceId": "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11",
    "telemetryStateDir": "state",
    "appName": "notes",
    "appVersion": "1.4.2",
    "releaseVersion": "1.4.2",
}
SETTINGS = layers.merge([layers.packaged(), layers.from_arguments(GIVEN)])

# What the loader refuses and a schema cannot know: its message (and the line), an example, and why.
ONLY_THE_LOADER_REFUSES = {
    "is not shorter than the interval": ("{every: 1m, jitter: 2m}", "two durations are compared"),
    r"is longer than \d+d": ("{every: 9999w}", "a duration is computed"),
    "must be greater than zero": ("{every: 0.0001ms}", "a duration is computed: less than a microsecond is none"),
    "which is not shorter than the .* to the next run": (
        "{every: 20s, retry: {attempts: 3, wait: 10s}}",
        "durations are computed and compared",
    ),
    "names a day that never comes": ("{cron: '0 0 30 2 *'}", "it takes a calendar"),
    "runs backwards": ("{cron: '0 5-3 * * *'}", "two numbers are compared"),
    "has a step of": ("{cron: '*/90 * * * *'}", "two numbers are compared"),
    "is not a moment; expected one": ("{at: 2027-02-30}", "it takes a calendar"),
    "is not a time zone": ("{cron: '@daily', timezone: Europe/Stokholm}", "the names change from year to year"),
    "is ambiguous": ("{every: 1h, args: {a: 010}}", "a schema sees what YAML makes of a text, not what was written"),
    r"\$\{[a-z]+[A-Za-z]+\}": ("{every: '${appName}'}", "the value behind a reference is in another file"),
    "is not a count": ("{every: 1h, max_instances: 1.0}", "for JSON Schema 1.0 is a whole number"),
    r"'1\.0' is not a boolean": ("{every: 1h, enabled: 1.0}", "for JSON Schema 1.0 is 1"),
    "is not allowed|there is no module|has no '|cannot be called": ("{every: 1h, args: {b: 1}}", "it takes the code"),
    "duplicate key": ("{every: 1h, every: 2h}", "a schema sees what YAML makes of it: the last one"),
}
# What the loader takes and a schema refuses, since nobody should write it so.
ONLY_THE_SCHEMA_REFUSES = {
    "{at: 2027-W09-1}": "one spelling of a moment is enough",
    "{every: ' 1h '}": "blanks around a value in quotes",
    "{every: 1h, enabled: ' yes'}": "blanks around a value in quotes",
}


def anything(a: Any = None) -> None:
    """What the jobs of these tests run."""


class Core(yaml.SafeLoader):
    """YAML 1.2 as editors read it, where only true and false are booleans."""


_NUMBER = list("-+.0123456789")
_RESOLVERS: tuple[tuple[str, str, list[str]], ...] = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", _NUMBER),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$", _NUMBER),
)
_core: Any = Core
_core.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _RESOLVERS:
    _core.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)


def validator(kind: str) -> Any:
    """The shipped schema of a kind of file."""
    return Draft7Validator(json.loads((SHIPPED / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8")))


JOBS, OVERLAY, CONFIG = validator("jobs"), validator("overlay"), validator("config")


def refused_by(schema: Any, text: str) -> list[str]:
    """What a schema has against a YAML text."""
    return [
        f"{list(one.absolute_path)}: {one.message[:200]}" for one in schema.iter_errors(yaml.load(text, Loader=Core))
    ]


def problems_of(text: str, overlay: str | None = None) -> list[str]:
    """What the loader has against a job file, each message with the line that it is about."""
    with tempfile.TemporaryDirectory() as directory:
        path, over = Path(directory, "jobs.yaml"), Path(directory, "overlay.yaml")
        path.write_text(text, encoding="utf-8")
        if overlay is not None:
            over.write_text(overlay, encoding="utf-8")
        found = jobfile.load(path, SETTINGS, overlay=over if overlay else None, allow=[__name__])
    return [f"{one.message} <- {one.text}" for one in found.problems]


def problems_in_config(values: dict[str, Any]) -> list[str]:
    """What the loader has against a ``config.json``."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "config.json")
        path.write_text(json.dumps(values), encoding="utf-8")
        return [one.message for one in layers.merge([layers.packaged(), layers.from_file(path)]).problems]


# -- the property ----------------------------------------------------------------------------------------------------

DURATIONS = ["90s", "15m", "24h", "7d", "1w", "500ms", "1h30m", "1.5h", "'2h'", "${telemetryHeartbeatInterval}"]
NO_DURATIONS = ["90", "'90'", "24:00", "-5s", "1 h", "h", "1y", "soon", "true", "9999w", "${appName}", "1h${appName}"]
BOOLEANS = ["true", "false", "yes", "No", "ON", "'off'", "1", "0", "${telemetryEnabled}"]
NO_BOOLEANS = ["maybe", "2", "t", "1.0", "''", "${telemetryEnable}", "${telemetryHost}"]
GOOD = {
    "run": [f"{__name__}:anything", f"'{__name__}:anything'"],
    "when": ["start", "shutdown", "'start'"],
    "every": DURATIONS,
    "cron": ["'0 3 * * *'", "'*/5 8-18 1,15 jan,JUN-aug mon-fri'", "'@daily'", "'5/10 007 ? * 7'", "0 3 1 1 0"],
    "at": [
        "2027-03-01",
        "2027-03-01T09:30",
        "2027-03-01 09:30:15.5",
        "'2027-03-01T09:30:00+02:00'",
        "2027-03-01T09:30Z",
    ],
    "enabled": BOOLEANS,
    "args": ["{}", "{a: 1}", "{a: '${appName}'}", "{a: {b: ['x ${y}', null]}}", "{a: 'no'}", "null"],
    "phase": ["installation", "start", "0s", *DURATIONS],
    "jitter": ["0s", "0.5s", "'1s'", "1ms"],
    "timezone": ["UTC", "Europe/Stockholm", "America/Argentina/Buenos_Aires", "Etc/GMT+1"],
    "coalesce": BOOLEANS,
    "misfire_grace": ["0s", *DURATIONS],
    "max_instances": ["1", "9999", "'3'", "${telemetryOutboxEvents}"],
    "timeout": DURATIONS,
    "retry": ["{attempts: 3, wait: 10s}", "{attempts: '2', wait: 1.5h}", "null"],
    "on_failure": [f"{__name__}:anything"],
    "once": ["process", "application"],
    "description": ["What it is for.", "5", "true", "'${appName}'", "ö"],
}
BAD = {
    "run": ["myapp.jobs", "'test_schemas:'", "5", "a:b:c", "os:system", f"{__name__}:nothing", "'a b:c'"],
    "when": ["stop", "Start", "true", "${appName}"],
    "every": ["0s", "0.0001ms", *NO_DURATIONS],
    "cron": ["'* * * *'", "'60 * * * *'", "'1-60 * * * *'", "'0 24 * * *'", "'0 0 0 * *'", "'0 0 30 2 *'", "5",
             "'@reboot'", "'5-3 * * * *'", "'*/0 * * * *'", "'1,,2 * * * *'", "'1, * * * *'", "'0 0 * 13 *'",
             "'0 0 * * 8'", "'0 0 * * monday'"],
    "at": ["tomorrow", "2027-02-30", "2027-13-01", "09:30", "'2027-03-01T25:00'", "''"],
    "enabled": NO_BOOLEANS,
    "args": ["5", "[a]", "{b: 1}", "{a: 'x ${appName}'}", "{a: '${nothing}'}", "{a: no}", "{a: 24:00}"],
    "phase": ["Installation", "random", *NO_DURATIONS],
    "jitter": ["1000w", *NO_DURATIONS],
    "timezone": ["Europe/Stokholm", "5", "'../etc'", "''", "CET DST"],
    "coalesce": NO_BOOLEANS,
    "misfire_grace": NO_DURATIONS,
    "max_instances": ["0", "-1", "10000", "1.5", "1.0", "many", "'0'", "${telemetryHost}"],
    "timeout": ["0s", *NO_DURATIONS],
    "retry": ["3", "{}", "{attempts: 0}", "{wait: 10s}", "{attempts: 3, wait: soon}", "{attempts: 3, often: 1}", "[3]"],
    "on_failure": ["myapp.jobs", "os:system", f"{__name__}:nothing"],
    "once": ["once", "Application", "true", "1"],
    "description": ["x" * 501, "'see ${appName}'", "'${nothing}'"],
}  # fmt: skip
EVERYWHERE = ["null", "~", "[]", "{}", "[1h]", "{a: b}"]
UNKNOWN = ["intervall", "on", "Every", "max-instances"]


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, str]:
    """A job that is right, or one that somebody has then had a go at."""
    word = draw(st.sampled_from(TRIGGERS))
    optional = [one.name for one in FIELDS if one.name not in {*TRIGGERS, "run"} and word in one.triggers]
    names = ["run", word, *draw(st.lists(st.sampled_from(optional), unique=True, max_size=4))]
    job = {name: draw(st.sampled_from(GOOD[name])) for name in names}
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from([*names, *GOOD, *UNKNOWN]))
        job[name] = draw(st.sampled_from([*GOOD.get(name, []), *BAD.get(name, []), *EVERYWHERE]))
        if draw(st.booleans()):
            job.pop(draw(st.sampled_from(sorted(job))))
    return job


@st.composite
def job_files(draw: st.DrawFn) -> str:
    """The text of a job file."""
    ids = st.sampled_from([*"abcdefghij", "nightly-report", "a.b_c", "7", "A" * 100, "A" * 101, "-a", "a b", "'ö'"])
    found = draw(st.dictionaries(ids, jobs(), max_size=2))
    lines = [
        f"  {job_id}:\n" + "".join(f"    {name}: {value}\n" for name, value in job.items())
        for job_id, job in found.items()
    ]
    return "jobs:\n" + "".join(lines) + draw(st.sampled_from([""] * 9 + ["job: {}\n"]))


def disagreement(refused: list[str], problems: list[str]) -> list[str]:
    """Where schema and loader differ in a way that is not listed."""
    if refused and not problems:
        return [f"only the schema refuses: {one}" for one in refused]
    if problems and not refused:
        return [f"only the loader refuses: {one}" for one in problems if not _is_listed(one)]
    return []


def _is_listed(problem: str) -> bool:
    return any(re.search(message, problem) for message in ONLY_THE_LOADER_REFUSES)


def check_job_file(text: str) -> None:
    """Hold the schema against the loader on one job file."""
    refused, problems = refused_by(JOBS, text), problems_of(text)
    event("refused" if refused else "refused by the loader only" if problems else "accepted")
    assert disagreement(refused, problems) == [], f"\n{text}"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(job_files())
def test_the_job_schema_accepts_what_the_loader_accepts(text: str) -> None:
    """On 200 generated job files schema and loader say the same, but for what is listed."""
    check_job_file(text)


@pytest.mark.soak
@settings(max_examples=1000, deadline=None)
@given(job_files())
def test_the_job_schema_accepts_what_the_loader_accepts_at_length(text: str) -> None:
    """The same on 2,000 job files, other ones each time."""
    check_job_file(text)


VALUES: dict[str, list[Any]] = {
    "boolean": [True, False, 0, 1, "yes", "OFF", "tRuE", 2, "maybe", "", [], {}],
    "text": ["notes", "1.4.2", 1.4, 7, "x" * 200, "x" * 201, "", "  ", "a\nb", True, [], {}],
    "URL": ["https://eu.i.posthog.com", "HTTP://localhost:8000/ph", "http://[::1]:9", "http://10.0.0.1/", "posthog.com",
            "ftp://a.b", "https://", "https://u@a.b", "https://a.b?c=d", "https://a.b/#c", "https://a b",
            "http://a:0", 5],
    "UUID": ["6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11", "6F0E1C52-5B7E-4C63-9C0F-3A3D3F0D9A11", "x", "", 5,
             "00000000-0000-0000-0000-000000000000", "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a1"],
    "project key": ["phc_x", "phx_x", "other", "x" * 201, "", "  ", "a\nb", 5, True, []],
    "choice": ["installation", "monthly", "none", "ask", "send", "None", "", 5, True, []],
    "length of time": ["2s", "0s", "0h0m", "90", 90, "-1h", "24:00", "", True, []],
    "duration": ["2s", "500ms", "1h30m", "90", 90, "0s", "-1h", "24:00", "", True, []],
    "number": [1, 1000, "5000", 0, -1, 1.5, "0", "x", True, 10**12, []],
}  # fmt: skip
SETTING = st.sampled_from(KEYS).flatmap(
    lambda key: st.tuples(st.just(key.name), st.sampled_from([*VALUES[key.kind.name], None]))
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(SETTING, max_size=3).map(dict[str, Any]))
def test_the_config_schema_accepts_what_the_loader_accepts(values: dict[str, Any]) -> None:
    """On 200 generated config files schema and loader say the same; a stop that may take hours is beyond a schema."""
    refused = [one.message for one in CONFIG.iter_errors({"adminChannel": "music", **values})]
    problems = [one for one in problems_in_config({"adminChannel": "music", **values}) if "longer than 60s" not in one]
    assert disagreement(refused, problems) == [], values


# -- the lists -------------------------------------------------------------------------------------------------------


def _with_run(job: str) -> str:
    return f"jobs:\n  a: {{run: '{__name__}:anything', {job.strip('{')}\n"


@pytest.mark.parametrize(("message", "example"), [(key, one[0]) for key, one in ONLY_THE_LOADER_REFUSES.items()])
def test_what_only_the_loader_refuses(message: str, example: str) -> None:
    """Each difference that is listed is one: the schema has nothing against it, the loader has, in these words."""
    text = _with_run(example)
    assert refused_by(JOBS, text) == []
    (problem,) = problems_of(text)
    assert re.search(message, problem)


@pytest.mark.parametrize("example", ONLY_THE_SCHEMA_REFUSES)
def test_what_only_the_schema_refuses(example: str) -> None:
    """Each difference that is listed is one: the loader takes it, the schema does not."""
    text = _with_run(example)
    assert refused_by(JOBS, text)
    assert problems_of(text) == []


# -- overlays --------------------------------------------------------------------------------------------------------

BASE = f"""
jobs:
  report: {{run: "{__name__}:anything", cron: "0 3 * * *", timezone: Europe/Stockholm}}
  beat: {{run: "{__name__}:anything", every: 24h, phase: 3h}}
"""


@pytest.mark.parametrize(
    "overlay",
    [
        "jobs: {report: null}",
        "jobs: {report: {cron: '0 * * * *', timezone: null}}",
        "jobs: {beat: {every: 6h}}",
        "jobs: {beat: {phase: null, description: Less often.}}",
        "jobs: {beat: {every: null, phase: null, at: 2027-03-01}}",
        "telemetryHeartbeatInterval: 1h\njobs: {beat: {every: '${telemetryHeartbeatInterval}'}}",
        f"jobs: {{more: {{run: '{__name__}:anything', when: start}}}}",
        "telemetryEnabled: false",
        "jobs:",
        "",
    ],
)
def test_overlays_that_are_right(overlay: str) -> None:
    """An overlay changes settings and single fields, removes with null, and adds whole jobs: both accept it."""
    assert refused_by(OVERLAY, overlay) == []
    assert problems_of(BASE, overlay) == []


@pytest.mark.parametrize(
    "overlay",
    [
        "jobs: {beat: {every: 24:00}}",
        "jobs: {beat: {evry: 6h}}",
        "jobs: {beat: {every: 6h, cron: '0 3 * * *'}}",
        "jobs: {beat: {cron: '0 3 * * *', phase: 3h}}",
        "jobs: {beat: 6h}",
        "jobs: [beat]",
        "telemetryEnable: false",
        "beat: {every: 6h}",
    ],
)
def test_overlays_that_are_wrong(overlay: str) -> None:
    """Unknown words, wrong values, two triggers and fields that do not go with the trigger: both refuse them."""
    assert refused_by(OVERLAY, overlay)
    assert problems_of(BASE, overlay)


# -- what is shipped -------------------------------------------------------------------------------------------------


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for key, value in schema.items():  # pyright: ignore[reportUnknownVariableType]
            if key == "pattern" and isinstance(value, str):
                yield value
            yield from _patterns(value)
    elif isinstance(schema, list):
        for item in schema:  # pyright: ignore[reportUnknownVariableType]
            yield from _patterns(item)


@pytest.mark.parametrize("schema", [JOBS, OVERLAY, CONFIG], ids=["jobs", "overlay", "config"])
def test_the_schemas_are_schemas(schema: Any) -> None:
    """Each is valid draft 7, and its patterns hold nothing that JavaScript's regular expressions lack."""
    Draft7Validator.check_schema(schema.schema)
    patterns = list(_patterns(schema.schema))
    assert patterns
    assert [one for one in patterns if re.search(r"\(\?[^:=!]|\\[^dsSwb.?*+$()|/\[\]{}^\\u-]|[*+?}]\+", one)] == []


def test_the_shipped_files_keep_their_schemas() -> None:
    """The job file, the defaults and the overlays that are shipped are right, and name the schema that says so."""
    checked: list[tuple[Path, Any]] = [(SHIPPED / "jobs.yaml", JOBS), (SHIPPED / "defaults.yaml", CONFIG)]
    for path, schema in [*checked, *((one, OVERLAY) for one in (SHIPPED / "deployments").glob("*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        assert refused_by(schema, text) == []
        (named,) = re.findall(r"^# yaml-language-server: \$schema=(.+)$", text, re.MULTILINE)
        assert json.loads((path.parent / named).read_text(encoding="utf-8")) == schema.schema


def test_the_defaults_say_what_holds_without_them() -> None:
    """``defaults.yaml`` as a config file changes no setting."""
    with_them = layers.merge([layers.packaged(), layers.from_file(SHIPPED / "defaults.yaml")])
    without = layers.merge([layers.packaged()])
    assert with_them.problems == ()
    assert {key.name: with_them.value(key.name) for key in KEYS} == {key.name: without.value(key.name) for key in KEYS}


@pytest.mark.parametrize("kind", ["jobs", "config", "overlay"])
def test_schema_prints_what_is_shipped(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``lifebeat schema`` prints the schema, and nothing else."""
    assert cli.main(["schema", kind]) == cli.DONE
    assert json.loads(capsys.readouterr().out) == validator(kind).schema

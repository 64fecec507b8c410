"""A job file as its engineer meets it: all problems at once, each with its place, and what is strange as warnings."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from lifebeat.jobfile import reader
from lifebeat.jobfile.spec import Retry
from lifebeat.schedule.triggers import Every
from lifebeat.settings import layers
from lifebeat.settings.source import ConfigSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lifebeat.jobfile.spec import JobFile

NOW = datetime(2027, 1, 1, tzinfo=UTC)
HOST_JOBS = """
import contextlib
import functools
import subprocess
from subprocess import run

from hostjobs_below import elsewhere


def good(days=30):
    pass


async def good_async():
    pass


def generator():
    yield


async def async_generator():
    yield


@contextlib.contextmanager
def manager():
    yield


@contextlib.asynccontextmanager
async def async_manager():
    yield


class Report:
    pass


class Pages:
    def __call__(self):
        yield

    def below(self):
        yield


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


pages = Pages()
pages_below = pages.below
logged_generator = logged(generator)
logged_manager = logged(manager)
kept_generator = functools.lru_cache(generator)
prepared_generator = functools.partial(logged_generator)
logged_job = logged(good_async)


def größe():
    pass


def _private():
    pass


shell = functools.partial(subprocess.run, "true")
prepared = functools.partial(good, days=7)


def failed(job, error):
    pass


heard = good
"""
TELEMETRY = "lifebeat_jobs.telemetry"
TWO_HEARTBEATS = "jobs:\n" + "".join(
    f"  {name}: {{run: '{TELEMETRY}:heartbeat', every: 1h, once: application}}\n" for name in "ab"
)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A config directory beside the host's modules."""
    (tmp_path / "hostjobs.py").write_text(HOST_JOBS)
    (tmp_path / "hostjobs_below.py").write_text("def elsewhere():\n    pass\n")
    (tmp_path / "hostexits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "hostcancels.py").write_text("import asyncio\nraise asyncio.CancelledError('over\\n\\x1b here')\n")
    (tmp_path / "hostasks.py").write_text("def __getattr__(name):\n    raise RuntimeError(name)\n")
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))
    for name in ("hostjobs", "hostjobs_below", "hostexits", "hostcancels", "hostasks"):
        sys.modules.pop(name, None)


def load(directory: Path, text: str, *, host: str = "https://us.i.posthog.com", allow: tuple[str, ...] = ()) -> JobFile:
    """Read a job file of this text."""
    path = directory / "jobs.yaml"
    path.write_text(text, encoding="utf-8")
    settings = layers.merge([layers.packaged(), layers.from_arguments({"telemetryHost": host})])
    return reader.load(path, settings, allow=["hostjobs", "hostexits", "hostcancels", "hostasks", *allow], now=NOW)


def job(fields: str) -> str:
    """A job file with one job of the host's."""
    return f"jobs:\n  a: {{run: 'hostjobs:good', {fields}}}\n"


def messages(found: JobFile) -> list[str]:
    """What is wrong, from the line on."""
    return [f"{one.line}:{one.column}: {one.message}" for one in found.problems]


# -- all at once -----------------------------------------------------------------------------------------------------


def test_every_check_runs_that_has_what_it_needs(directory: Path) -> None:
    """Two jobs with five mistakes: five problems, each at its place."""
    found = load(
        directory,
        "jobs:\n"
        "  heartbeat:\n"
        f"    run: {TELEMETRY}:heartbeet\n"
        "    every: 24 bananas\n"
        "    jiter: 10m\n"
        "  other:\n"
        "    run: os:system\n"
        "    every: 1h\n"
        '    cron: "0 3 * * *"\n',
    )
    assert [(one.line, one.column) for one in found.problems] == [(3, 10), (4, 12), (5, 5), (7, 10), (9, 11)]
    assert "did you mean 'lifebeat_jobs.telemetry:heartbeat'?" in messages(found)[0]
    assert {one.line for one in found.host_problems} == {7, 9}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("at: '9999-12-31T23:59', timezone: America/New_York", "is beyond the calendar"),
        ("at: '0001-01-01', timezone: Asia/Tokyo", "is beyond the calendar"),
        ("every: 1h, on_failure: 'hostexits:f'", "on_failure: importing 'hostexits' failed: it ends the process"),
        ("every: 1h, args: {a: &x [*x]}", "the alias *x is not defined before it"),
        ("every: 1h, on_failure: 'hostcancels:f'", "importing 'hostcancels' failed: CancelledError: over here"),
        ("every: 1h, on_failure: 'hostasks:f'", "'hostasks:f' cannot be looked at: RuntimeError: f"),
        pytest.param(f"every: {'9' * 5000}d", "is too long for a duration", id="5000 digits"),
        ('every: "1h\\e[31m\\u2028"', "'1h\\x1b[31m\\u2028' is not a duration"),
    ],
)
def test_whatever_is_raised_is_that_jobs_problem(directory: Path, fields: str, message: str) -> None:
    """An impossible moment or a module that ends the process is a located problem, and no traceback."""
    found = load(directory, job(fields))
    assert message in messages(found)[0]
    assert len(found.problems) == 1
    assert len(messages(found)[0]) < 1100


@pytest.mark.parametrize("module", ["hostjobs", "hostasks"])
def test_a_module_that_interrupts_is_a_problem_of_its_job(directory: Path, module: str) -> None:
    """A KeyboardInterrupt that is raised in another thread than the main one is no Ctrl-C."""
    (directory / f"{module}.py").write_text(
        "def __getattr__(name):\n    raise KeyboardInterrupt\n" * (module == "hostasks") or "raise KeyboardInterrupt\n"
    )
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(load, directory, f"jobs:\n  a: {{run: '{module}:good', every: 1h}}\n").result()
    assert "KeyboardInterrupt" in messages(found)[0]
    with pytest.raises(KeyboardInterrupt):
        load(directory, f"jobs:\n  a: {{run: '{module}:good', every: 1h}}\n")


def test_all_faults_of_one_fields_values_are_told(directory: Path) -> None:
    """Ambiguous values and arguments that the function does not take, each at its place."""
    text = "jobs:\n  a:\n    run: hostjobs:good\n    every: 1h\n    args:\n"
    found = load(directory, f"{text}      days: no\n      tooo: [010]\n")
    assert [(one.line, one.column) for one in found.problems] == [(6, 13), (7, 7), (7, 14)]
    found = load(directory, f"{text}      dais: 1\n      tooo: 2\n")
    assert [(one.line, one.column) for one in found.problems] == [(6, 7), (7, 7)]


def test_the_other_jobs_are_fine(directory: Path) -> None:
    """One job's problem is that job's."""
    text = job("at: '9999-12-31T23:59', timezone: America/New_York") + "  b: {run: 'hostjobs:good', every: 1h}\n"
    assert [spec.id for spec in load(directory, text).specs] == ["b"]


def test_keys_and_tags_are_told_with_the_rest(directory: Path) -> None:
    """A key that stands twice and a tag do not hide what else is wrong."""
    found = load(
        directory, "jobs:\n  a:\n    run: hostjobs:good\n    run: hostjobs:good\n    every: !x 1h\n    evry: 1\n"
    )
    assert [one.line for one in found.problems] == [4, 5, 6]


# -- functions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("hostjobs:generator", "is a generator"),
        ("hostjobs:async_generator", "is a generator"),
        ("hostjobs:manager", "is a context manager"),
        ("hostjobs:async_manager", "is a context manager"),
        ("hostjobs:logged_generator", "is a generator"),
        ("hostjobs:logged_manager", "is a context manager"),
        ("hostjobs:kept_generator", "is a generator"),
        ("hostjobs:prepared_generator", "is a generator"),
        ("hostjobs:pages", "is a generator"),
        ("hostjobs:pages_below", "is a generator"),
        ("hostjobs:Report", "is not a function"),
        ("hostjobs:_private", "without a leading underscore"),
        ("hostjobs:run", "is defined in 'subprocess'"),
        ("hostjobs:elsewhere", "is defined in 'hostjobs_below'"),
        ("hostjobs:shell", "is defined in 'subprocess'; name it there (subprocess:run)"),
        (f"{TELEMETRY}:status", "is no job; of lifebeat_jobs there are: "),
        ("lifebeat_jobs.outbox:_connect", "leading underscore"),
        ("lifebeat_jobs.outbox:open", "is no job"),
        ("lifebeat_jobs_of_mine:run", "is not allowed"),
        ("a.b.c", "write a.b:c"),
        ("a/b.py:c", "write a.b:c"),
        ("a.b:c()", "write a.b:c"),
        ("python -m a.b", "write a:b"),
    ],
)
def test_what_no_job_can_be(directory: Path, run: str, message: str) -> None:
    """A job is a function of its own module that does something when it is called."""
    (problem,) = load(directory, f"jobs:\n  a: {{run: '{run}', every: 1h}}\n").problems
    assert message in problem.message


@pytest.mark.parametrize("name", ["good", "good_async", "prepared", "heard", "logged_job", "größe"])
def test_what_a_job_can_be(directory: Path, name: str) -> None:
    """Functions, coroutine functions, and functions that were given arguments or another name where they are."""
    assert load(directory, f"jobs:\n  a: {{run: 'hostjobs:{name}', every: 1h}}\n").problems == ()


def test_a_job_may_be_imported_from_a_module_that_is_allowed(directory: Path) -> None:
    """A package that collects its jobs opens nothing that could not be named anyway."""
    text = "jobs:\n  a: {run: 'hostjobs:elsewhere', every: 1h}\n"
    assert load(directory, text, allow=("hostjobs_below",)).problems == ()


# -- words that people bring -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cron: */5 * * * *", 'write cron: "*/5 * * * *"'),
        ("cron: * * * * *", 'write cron: "* * * * *"'),
        ("cron: @daily", 'write cron: "@daily"'),
        ("cron: '@reboot'", "write when: start"),
        ("cron: '@every 1h'", "write every: 1h"),
        ("cron: CRON_TZ=Europe/Berlin 0 3 * * *", 'write cron: "0 3 * * *" and timezone: Europe/Berlin'),
        ("cron: TZ=UTC 0 3 * * *", 'write cron: "0 3 * * *" and timezone: UTC'),
        ("cron: 0 0 4 * * ?", 'write cron: "0 4 * * ?"'),
        ("cron: 0 0 4 * * ? 2027", 'write cron: "0 4 * * ?"'),
        ("cron: 0 4 L * *", "a last day (L)"),
        ("cron: 0 4 15W * *", "a nearest working day (W)"),
        ("cron: 0 4 * * 5L", "a last day (L)"),
        ("cron: 0 4 * * 'fri#1'", "a numbered weekday (#)"),
        ("cron: H 4 * * *", "a hashed value (H)"),
        ("every: 1 day", "write 1d"),
        ("every: 24 h", "write 24h"),
        ("every: 24H", "write 24h"),
        ("every: P1D", "write 1d"),
        ("every: PT15M", "write 15m"),
        ("every: hourly", "write 1h"),
        ("every: 0 3 * * *", 'write cron: "0 3 * * *"'),
        ("every: {{ interval }}", "is not filled in here"),
        ("every: '{{ interval }}'", "is not filled in here"),
        ("every: $interval", "is not filled in here; write the value, or ${key}"),
        ("every: $TELEMETRY_HEARTBEAT_INTERVAL", "or ${telemetryHeartbeatInterval} for that of a setting"),
        ("every: ${TELEMETRY_HEARTBEAT_INTERVAL}", "did you mean 'telemetryHeartbeatInterval'?"),
        ("every: ${INTERVAL:-24h}", "is not filled in here"),
        ("every: ${{ env.INTERVAL }}", "is not filled in here"),
        ("when: '@reboot'", "did you mean 'start'?"),
        ("when: onStartup", "did you mean 'start'?"),
        ("when: pre-stop", "did you mean 'shutdown'?"),
        ("when: daily", 'write cron: "@daily"'),
        ("when: 2027-03-01T09:30", "write at: 2027-03-01T09:30"),
        ("at: in 5 minutes", "write every: 5m"),
        ("at: 0 3 * * *", 'write cron: "0 3 * * *"'),
        ("at: '09:30'", 'write cron: "30 9 * * *"'),
        ("at: start", "write when: start"),
        ("every: start", "write when: start"),
        ("every: month", 'write cron: "@monthly"'),
        ("every: P1M", 'write cron: "@monthly"'),
        ("every: 1 hour and 30 minutes", "write 1h30m"),
        ("every: 2027-03-01", "write at: 2027-03-01"),
        ("cron: daily", 'write cron: "@daily"'),
        ("cron: 5m", "write every: 5m"),
        ("cron: rate(5 minutes)", "write every: 5m"),
        ("cron: every day at 3pm", 'write cron: "0 15 * * *"'),
        ("cron: Mon..Fri *-*-* 03:00:00", 'write cron: "0 3 * * mon-fri"'),
        ("cron: 0 3 * * * root /bin/x", 'what runs is named by `run:`; write cron: "0 3 * * *"'),
        ("cron: 0 3 * * * /bin/x", 'what runs is named by `run:`; write cron: "0 3 * * *"'),
        ("cron: 0 3 * * * Europe/Berlin", 'write timezone: Europe/Berlin; write cron: "0 3 * * *"'),
        ("cron: cron(0 3 * * ? *)", 'write cron: "0 3 * * ?"'),
        ("cron: 0 0 4 ? * 2-6", "days of the week count from Sunday as 0; write cron"),
        ("cron: 0 15 10 L-3 * ?", "a last day (L)"),
        ("cron: 0 3 * * Monday", "write mon"),
        ("cron: '@midnite'", "did you mean '@midnight'?"),
        ("cron: 0~59 3 * * *", "a random value (~)"),
        ("cron: ? * * * *", 'write cron: "? * * * *"'),
        ("cron:\n      - */5 * * * *", 'write "*/5 * * * *"'),
        ("args: {days: ${runHistory}}\n    every: 1h", 'write days: "${runHistory}"'),
        ("every: “1h”", "is no quote in YAML"),
        ("every:\u00a01h", "U+00A0, which looks like a space"),
        ("every: 1h\n    timeout: never", "write null, or nothing, for no limit"),
        ("every: 1h\n    once: leader", "did you mean 'application'?"),
        ("every: 1h\n    jitter: off", "write null, or nothing"),
        ("fixedRate: 5m", "did you mean 'every'?"),
        ("OnCalendar: daily", "did you mean 'cron'?"),
        ("day_of_week: mon", "did you mean 'cron'?"),
        ("every: 1h\n    startingDeadlineSeconds: 5", "did you mean 'misfire_grace'?"),
        ("every: 1h\n    suspend: true", "did you mean 'enabled'?"),
        ("cron: 0 3 * * *\n    timezone: europe/BERLIN", "did you mean 'Europe/Berlin'?"),
        ("cron: 0 3 * * *\n    timezone: New York", "did you mean 'America/New_York'?"),
        ("cron: 0 3 * * *\n    timezone: utc", "did you mean 'UTC'?"),
        ("cron: 0 3 * * *\n    timezone: right/UTC", "is not a time zone"),
        ("cron: 0 3 * * *\n    timezone: +00:00", "such as UTC"),
        ("every: 1h\n    timezone: CEST", "such as Europe/Berlin"),
        ("cron: 0 3 * * *\n    timezone: '+02:00'", "such as Etc/GMT-2"),
        ("every: 1h\n    args: {dais: 1}", "did you mean 'days'?"),
        ("every: 1h\n    retries: 3", "did you mean 'retry'?"),
        ("every: 1h\n    retry: 3", "such as {attempts: 3, wait: 10s}"),
        ("every: 1h\n    timeout-minutes: 3", "did you mean 'timeout'"),
    ],
)
def test_the_nearest_right_form_is_said(directory: Path, text: str, message: str) -> None:
    """What crontab, Quartz, CI files and compose write so is told as it is written here."""
    found = load(directory, f"jobs:\n  a:\n    run: hostjobs:good\n    {text}\n")
    assert any(message in one for one in messages(found)), messages(found)


@pytest.mark.parametrize(
    "text",
    ["telemetryEnabled: false", "telemetryEnabled:", "telemetry_enabled: no", "telemetry: {enabled: false}"],
)
def test_an_off_switch_in_the_job_file_counts(directory: Path, text: str) -> None:
    """It says where it belongs, and off is off all the same."""
    found = load(directory, f"{text}\n{job('every: 1h')}")
    assert found.opted_out is not None
    assert found.opted_out.startswith(f"{directory}/jobs.yaml:1 (")
    assert "belongs in config.yaml or config.json: write 'telemetryEnabled: false'" in messages(found)[0]


@pytest.mark.parametrize(
    "text",
    [
        "settings: {telemetryEnabled: false}\n" + job("every: 1h"),
        "services: {app: {environment: [A=b, TELEMETRY_ENABLED=false]}}\n" + job("every: 1h"),
        "x: {env: {DO_NOT_TRACK: '1'}}\n" + job("every: 1h"),
        job("every: 1h, telemetryEnabled: false"),
        "jobs:\n  telemetryEnabled: false\n" + job("every: 1h").removeprefix("jobs:\n"),
    ],
)
def test_an_off_switch_anywhere_in_the_job_file_counts(directory: Path, text: str) -> None:
    """No key of a job file is another's, so that what says off is heard wherever it was written."""
    found = load(directory, text)
    assert found.opted_out is not None
    assert any("counts as off, and belongs in config.yaml" in one for one in messages(found))


@pytest.mark.parametrize("fields", ["every: 1h, args: {telemetry: off}", "every: 1h, disabled: true"])
def test_what_is_the_hosts_own_turns_nothing_off(directory: Path, fields: str) -> None:
    """Arguments of a function, and a job's own switch, say nothing about telemetry."""
    assert load(directory, job(fields)).opted_out is None


def test_a_setting_in_the_job_file_is_sent_where_it_belongs(directory: Path) -> None:
    """Another setting turns nothing off."""
    found = load(directory, f"telemetryHost: https://eu.i.posthog.com\n{job('every: 1h')}")
    assert found.opted_out is None
    assert "'telemetryHost' is a setting: write 'telemetryHost' into config.yaml or config.json" in messages(found)[0]


# -- what is strange -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"jobs:\n  a: {{run: '{TELEMETRY}:heartbeat', every: 1h}}\n", "write `once: application`"),
        (f"jobs:\n  a: {{run: '{TELEMETRY}:startup', every: 1h, once: application}}\n", "meant for `when: start`"),
        (
            f"jobs:\n  a: {{run: '{TELEMETRY}:shutdown', when: start, once: application}}\n",
            "meant for `when: shutdown`",
        ),
        (f"jobs:\n  a: {{run: '{TELEMETRY}:heartbeat', when: start, once: application}}\n", "meant for `every:`"),
        (f"jobs:\n  a: {{run: '{TELEMETRY}:heartbeat', every: 30s, once: application}}\n", "it counts as 1m"),
        (job("at: '2026-12-31T23:59'"), "is past, and never comes again"),
        (job("every: 1ms"), "1ms is less than a second"),
        (job("every: 1h"), "no job of lifebeat_jobs is in it: telemetry is off"),
        (TWO_HEARTBEATS, "is run by 'a' already"),
    ],
)
def test_what_is_strange_is_a_warning(directory: Path, text: str, message: str) -> None:
    """It is said with its place, and runs all the same."""
    found = load(directory, text)
    assert found.problems == ()
    assert found.specs
    assert any(message in one.message for one in found.warnings), found.warnings


@pytest.mark.parametrize(("host", "expected"), [("http://127.0.0.1:9", "1s"), ("https://us.i.posthog.com", "1m")])
def test_heartbeats_are_a_minute_apart_but_towards_this_machine(directory: Path, host: str, expected: str) -> None:
    """The floor holds where it matters."""
    text = f"jobs:\n  a: {{run: '{TELEMETRY}:heartbeat', every: 1s, once: application}}\n"
    (spec,) = load(directory, text, host=host).specs
    assert isinstance(spec.trigger, Every)
    assert spec.trigger.interval == timedelta(seconds=1 if expected == "1s" else 60)


def test_retry_and_on_failure(directory: Path) -> None:
    """They are read, checked and part of the job."""
    (spec,) = load(directory, job("every: 1h, retry: {attempts: 3}, on_failure: 'hostjobs:failed'")).specs
    assert (spec.retry, spec.on_failure) == (Retry(3, timedelta(seconds=10)), "hostjobs:failed")
    (problem,) = load(directory, job("every: 1h, on_failure: 'os:system'")).problems
    assert "on_failure: the module 'os' is not allowed" in problem.message


# -- files -----------------------------------------------------------------------------------------------------------


def test_the_shipped_file_is_the_same_in_both_forms(tmp_path: Path) -> None:
    """A start reads the JSON form; people read the YAML form."""
    settings = ConfigSource(tmp_path, environ={}, modules={}).read()
    path = reader.job_file(tmp_path)
    assert path.name == "jobs.json"
    found = reader.load(path, settings)
    assert found.specs == reader.load(reader.packaged(), settings).specs
    assert (len(found.specs), found.problems, found.warnings) == (3, (), ())


def test_check_looks_at_every_overlay(directory: Path) -> None:
    """A mistake for production is found on a laptop, and only there where one is named."""
    (directory / "deployments").mkdir()
    (directory / "deployments" / "production.yaml").write_text("jobs: {heartbeat: {evry: 6h}}\n")
    (directory / "deployments" / "staging.yaml").write_text("telemetryHost: nowhere\n")
    source = ConfigSource(directory, environ={}, modules={})
    found = [str(one) for one in reader.check(source).problems]
    assert [one.removeprefix(f"{directory}/").partition(":")[0] for one in found] == [
        "deployments/production.yaml",
        "deployments/staging.yaml",
    ]
    named = ConfigSource(directory, environ={}, modules={}, deployment="staging")
    assert len(reader.check(named).problems) == 1


@pytest.mark.parametrize("kind", ["directory", "pipe", "large"])
def test_a_job_file_that_is_none(directory: Path, kind: str) -> None:
    """It is one problem, and nobody waits on it."""
    import os

    path = directory / "jobs.yaml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(3 << 30)
    (problem,) = reader.load(path, layers.merge([layers.packaged()])).problems
    assert "jobs.yaml: cannot be read: it " in str(problem)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            "every: 30s, retry: {attempts: 3, wait: 10s}",
            "retry: the waits add up to 30s, which is not shorter than the 30s",
        ),
        ('cron: "*/5 * * * *", retry: {attempts: 9999, wait: 1s}', "not shorter than the 5m"),
        ("every: 31s, retry: {attempts: 3, wait: 10s}", ""),
        ("every: 1s, retry: {attempts: 1, wait: 10s}", ""),
        ("when: start, retry: {attempts: 5, wait: 10s}", ""),
    ],
)
def test_a_retry_has_to_fit_the_interval(directory: Path, fields: str, words: str) -> None:
    """Retries that would still wait when the next run comes are refused, at their place."""
    problems = load(directory, job(fields)).problems
    assert [words in str(problem) for problem in problems] == [True] * bool(words)


def test_off_covers_telemetrys_jobs_whatever_the_file_says(directory: Path) -> None:
    """Without ``enabled``, or with a yes there, telemetry's jobs are off where the installation is; others go on."""
    run = f"run: '{TELEMETRY}:heartbeat', every: 24h"
    text = f"jobs:\n  a: {{{run}}}\n  b: {{{run}, enabled: true}}\n  c: {{run: 'hostjobs:good', every: 1h}}\n"
    (directory / "jobs.yaml").write_text(text)
    off = layers.merge([layers.packaged(), layers.from_arguments({"telemetryEnabled": False})])
    found = reader.load(directory / "jobs.yaml", off, allow=["hostjobs"], now=NOW)
    assert [(spec.id, spec.enabled) for spec in found.specs] == [("a", False), ("b", False), ("c", True)]
    said_here = load(directory, f"telemetry: {{enabled: no}}\n{text}")
    assert [spec.enabled for spec in said_here.specs] == [False, False, True]


@pytest.mark.parametrize("written", ["", "null", "~"])
def test_a_switch_that_is_left_open_is_a_mistake(directory: Path, written: str) -> None:
    """``enabled:`` with nothing behind it does not count as on."""
    found = load(directory, f"jobs:\n  a:\n    run: {TELEMETRY}:startup\n    when: start\n    enabled: {written}\n")
    assert "enabled: " in found.problems[0].message
    assert "expected true or false" in found.problems[0].message

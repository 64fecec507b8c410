"""The YAML job file as frozen ``JobSpec``s; everything that is wrong is found at once, with its place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from lifebeat.errors import ConfigError, Problem
from lifebeat.jobfile import targets
from lifebeat.schedule.instants import (
    At,
    AtShutdown,
    AtStart,
    Cron,
    CronInstants,
    Every,
    Phase,
    Trigger,
    to_instant,
    zone,
)
from lifebeat.settings.layers import JOB_FILE
from lifebeat.settings.table import BY_NAME, Settings, parse_bool
from lifebeat.text import durations
from lifebeat.text.document import Mapping, Node, Reader, Scalar, value_of
from lifebeat.text.document import Sequence as NodeSequence
from lifebeat.text.durations import format_duration, parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SHUTDOWN_TIMEOUT = timedelta(seconds=10)

Once = Literal["process", "application"]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_REFERENCE = re.compile(r"\$\{([^{}$]*)\}")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job of the job file, complete: every option has its value.

    Attributes:
        id: Its name in the file.
        run: The function, as ``module:function``.
        trigger: When it runs.
        enabled: Whether it runs at all.
        args: The keyword arguments that the function is called with.
        jitter: The longest random delay on top of each instant.
        coalesce: Whether several missed runs become one.
        misfire_grace: How late a run may start; ``None`` for however late.
        max_instances: How many runs of it may be under way at once in a process.
        timeout: How long a run may take; ``None`` for as long as it likes.
        once: Whether each process runs it, or one of the application's.
        description: What it is for.
        source: The file and line where it is written.
    """

    id: str
    run: str
    trigger: Trigger
    enabled: bool = True
    args: dict[str, Any] = field(default_factory=dict[str, Any])
    jitter: timedelta = timedelta(0)
    coalesce: bool = True
    misfire_grace: timedelta | None = None
    max_instances: int = 1
    timeout: timedelta | None = None
    once: Once = "process"
    description: str = ""
    source: str = field(default="", compare=False)

    @property
    def is_telemetry(self) -> bool:
        """Whether it belongs to the telemetry job module that Lifebeat ships, and not to the host."""
        return self.run.startswith((f"{targets.ALWAYS_ALLOWED}.", f"{targets.ALWAYS_ALLOWED}:"))


class JobFile(NamedTuple):
    """What was read.

    Attributes:
        path: The job file.
        specs: The jobs without a fault, in the order of the file.
        problems: Everything that is wrong.
        host_problems: Those of them that are in the host's own jobs, and not in telemetry's.
    """

    path: Path
    specs: tuple[JobSpec, ...]
    problems: tuple[Problem, ...]
    host_problems: tuple[Problem, ...]


class Field(NamedTuple):
    """One field of a job.

    Attributes:
        name: The word.
        allowed: What it takes, in words.
        default: What holds where it is not given, in words.
        help: What it means.
        parse: Reads what was written (a text, or the value of a setting); ``ValueError`` says why not.
        triggers: The trigger words that it goes with.
        schema: The same rule as a JSON Schema fragment.
    """

    name: str
    allowed: str
    default: str
    help: str
    parse: Callable[[Any], Any]
    triggers: tuple[str, ...]
    schema: dict[str, Any]


MOST_PROBLEMS = 100  # more nobody reads at once, and looking for what was meant takes its time
TRIGGERS = ("when", "every", "cron", "at")
_TIMED = ("every", "cron", "at")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _parse_run(value: Any) -> str:
    targets.check_form(_text(value))
    return _text(value)


def _parse_when(value: Any) -> str:
    if value not in {"start", "shutdown"}:
        meant = _OTHER_MOMENTS.get(_text(value).lower())
        hint = f" (did you mean {meant!r}?)" if meant else _near(value, _MOMENTS)
        raise ValueError(f"{_text(value)!r} is not a moment; it takes start or shutdown{hint}")
    return _text(value)


_MOMENTS = ("start", "shutdown")
_OTHER_MOMENTS = {
    **dict.fromkeys(("startup", "started", "boot", "begin", "init"), "start"),
    **dict.fromkeys(("stop", "stopped", "end", "exit", "quit", "finish"), "shutdown"),
}


def _near(value: Any, words: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(_text(value).lower(), list(words), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _duration(value: Any, *, zero: bool = False) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return parse_duration(_text(value), zero=zero)
    except ValueError as error:
        raise ValueError(f"{_text(value)!r} {error}") from None


def _parse_interval(value: Any) -> timedelta:
    return _duration(value)


def _parse_span(value: Any) -> timedelta:
    return _duration(value, zero=True)


def _parse_phase(value: Any) -> Phase:
    if value == "installation":
        return "installation"
    if value == "start":
        return "start"
    try:
        return _duration(value, zero=True)
    except ValueError as error:
        hint = _near(value, ("installation", "start"))
        raise ValueError(f"{error}; or one of the words installation and start{hint}") from None


def _parse_boolean(value: Any) -> bool:
    try:
        return parse_bool(value)
    except ValueError as error:
        raise ValueError(f"{value!r} {error}") from None


def _parse_count(value: Any) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", _text(value)):
        raise ValueError(f"{_text(value)!r} is not a count; it takes a whole number from 1 to 9999")
    return int(value)


def _parse_once(value: Any) -> str:
    if value not in {"process", "application"}:
        hint = _near(value, ("process", "application"))
        raise ValueError(f"{_text(value)!r} is not a scope; it takes process or application{hint}")
    return _text(value)


def _parse_zone(value: Any) -> str:
    zone(_text(value))
    return _text(value)


def _parse_words(value: Any) -> str:
    text = _text(value)
    if len(text) > 500:  # noqa: PLR2004
        raise ValueError(f"has {len(text)} characters; a description has at most 500")
    return text


def _parse_moment(value: Any) -> datetime:
    try:
        return datetime.fromisoformat(_text(value))
    except ValueError:
        raise ValueError(f"{_text(value)!r} is not a moment; it takes one such as 2027-03-01T09:30") from None


_DURATION = {"type": "string", "pattern": durations.PATTERN}
_ZERO = "a duration such as 90s or 15m, or 0s"
FIELDS: tuple[Field, ...] = (
    Field(
        "run",
        "module:function",
        "required",
        "The function that runs. Only modules that the host allowed may be named; `lifebeat_jobs` always may.",
        _parse_run,
        TRIGGERS,
        {"type": "string", "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"},
    ),
    Field(
        "when",
        "start or shutdown",
        "one of when, every, cron, at is required",
        "Once when the scheduler starts, or once when it has stopped.",
        _parse_when,
        ("when",),
        {"enum": list(_MOMENTS)},
    ),
    Field(
        "every",
        durations.ALLOWED,
        "one of when, every, cron, at is required",
        "An interval, on a fixed grid that is counted from the Unix epoch: no restart resets it.",
        _parse_interval,
        ("every",),
        _DURATION,
    ),
    Field(
        "cron",
        "five cron fields",
        "one of when, every, cron, at is required",
        "Minute, hour, day of the month, month, day of the week (0 and 7 are Sunday), in `timezone`.",
        _text,
        ("cron",),
        {"type": "string", "minLength": 1},
    ),
    Field(
        "at",
        "a moment such as 2027-03-01T09:30",
        "one of when, every, cron, at is required",
        "Once, at that moment in `timezone`. A moment that has passed when the process starts is not made up for.",
        _parse_moment,
        ("at",),
        {"type": "string"},
    ),
    Field(
        "enabled",
        "true or false",
        "true",
        "Whether it runs at all.",
        _parse_boolean,
        TRIGGERS,
        {"type": ["boolean", "string"]},
    ),
    Field(
        "args",
        "a mapping",
        "no arguments",
        "The keyword arguments of the function, held against its signature before anything runs.",
        _text,
        TRIGGERS,
        {"type": "object"},
    ),
    Field(
        "phase",
        "installation, start, or a duration",
        "0s",
        "Shifts the grid of `every`: `installation` by an offset of this installation's own, so that a fleet is "
        "spread evenly; `start` counts from the process's start; a duration is a fixed offset.",
        _parse_phase,
        ("every",),
        {"type": "string"},
    ),
    Field(
        "jitter",
        _ZERO,
        "0s",
        "The longest random delay on top of each instant. It does not accumulate.",
        _parse_span,
        ("every", "cron"),
        _DURATION,
    ),
    Field(
        "timezone",
        "a name such as Europe/Stockholm",
        "UTC",
        "The time zone of `cron` and `at`.",
        _parse_zone,
        ("cron", "at"),
        {"type": "string"},
    ),
    Field(
        "coalesce",
        "true or false",
        "true",
        "Whether several missed runs become one, the latest.",
        _parse_boolean,
        _TIMED,
        {"type": ["boolean", "string"]},
    ),
    Field(
        "misfire_grace",
        _ZERO,
        "however late",
        "How late a run may start before it is left out.",
        _parse_span,
        _TIMED,
        _DURATION,
    ),
    Field(
        "max_instances",
        "a whole number from 1 to 9999",
        "1",
        "How many runs of it may be under way at once in a process.",
        _parse_count,
        _TIMED,
        {"type": "integer", "minimum": 1, "maximum": 9999},
    ),
    Field(
        "timeout",
        durations.ALLOWED,
        f"none; {format_duration(SHUTDOWN_TIMEOUT)} for `when: shutdown`",
        "How long a run may take: an async function is cancelled then, any other is left behind and reported.",
        _parse_interval,
        TRIGGERS,
        _DURATION,
    ),
    Field(
        "once",
        "process or application",
        "process",
        "`process`: each process runs it. `application`: one of all processes of this installation does; for "
        "`when: start` the first one in, for `when: shutdown` the last one out.",
        _parse_once,
        TRIGGERS,
        {"enum": ["process", "application"]},
    ),
    Field(
        "description",
        "a text of at most 500 characters",
        "none",
        "What it is for.",
        _parse_words,
        TRIGGERS,
        {"type": "string", "maxLength": 500},
    ),
)
_BY_NAME = {one.name: one for one in FIELDS}
_OTHER_WORDS = {
    "interval": "every", "seconds": "every", "minutes": "every", "hours": "every", "schedule": "cron",
    "crontab": "cron", "trigger": "every", "on": "when", "event": "when", "date": "at", "run_date": "at",
    "function": "run", "func": "run", "task": "run", "command": "run", "job": "run", "kwargs": "args",
    "arguments": "args", "params": "args", "tz": "timezone", "offset": "phase", "misfire_grace_time": "misfire_grace",
    "disabled": "enabled", "active": "enabled", "concurrency": "max_instances", "comment": "description",
    "name": "description",
}  # fmt: skip


def job_file(config_dir: Path) -> Path:
    """The job file of a config directory: its own, else the one that Lifebeat ships."""
    own = config_dir / JOB_FILE
    return own if own.exists() else packaged()


def packaged() -> Path:
    """The job file that Lifebeat ships."""
    from lifebeat import config

    return Path(config.__path__[0]) / JOB_FILE


def load(
    path: Path,
    settings: Settings,
    *,
    overlay: Path | None = None,
    allow: Sequence[str] = (),
    import_disabled: bool = False,
) -> JobFile:
    """Read and check a job file and the overlay on it.

    Args:
        path: The job file.
        settings: What ``${key}`` refers to.
        overlay: The deployment's overlay; ``None`` for none.
        allow: The modules that ``run:`` may name, besides ``lifebeat_jobs``.
        import_disabled: Whether the functions of jobs that are not enabled are looked at too.
    """
    loader = _Loader(settings, tuple(allow), import_disabled=import_disabled)
    return loader.load(path, overlay)


_Entry: TypeAlias = tuple[Scalar, Node]


class _Loader:
    def __init__(self, settings: Settings, allow: tuple[str, ...], *, import_disabled: bool) -> None:
        self.settings = settings
        self.allow = allow
        self.import_disabled = import_disabled
        self.readers: dict[str, Reader] = {}
        self.problems: list[Problem] = []
        self.host_problems: list[Problem] = []

    def load(self, path: Path, overlay: Path | None) -> JobFile:
        jobs = self._jobs(path, foreign=("jobs",))
        if overlay is not None and overlay.exists():
            jobs = self._overlaid(jobs, self._jobs(overlay, foreign=("jobs", *BY_NAME)))
        specs = [self._spec(key, node) for key, node in jobs if not self.is_full]
        order = {source: number for number, source in enumerate(self.readers)}
        self.problems.sort(key=lambda one: (order.get(one.source, 0), one.line or 0, one.column or 0))
        if self.is_full:
            rest = Problem(str(path), f"there are more mistakes than these {MOST_PROBLEMS}; mend them first")
            self.problems[MOST_PROBLEMS:] = [rest]
            self.host_problems.append(rest)
        found = tuple(spec for spec in specs if spec is not None)
        return JobFile(path, found, tuple(self.problems), tuple(self.host_problems))

    @property
    def is_full(self) -> bool:
        """Whether there are more problems than anybody reads at once."""
        return len(self.problems) > MOST_PROBLEMS

    def _jobs(self, path: Path, foreign: tuple[str, ...]) -> list[_Entry]:
        try:
            reader = Reader(str(path), path.read_bytes())
            self.readers[reader.source] = reader
            return self._top(reader, foreign)
        except OSError as error:
            self._whole(Problem(str(path), f"cannot be read: {error.strerror}"), "")
        except ConfigError as error:
            text = self.readers[str(path)].text if str(path) in self.readers else ""
            for problem in error.problems:
                self._whole(problem, text)
        return []

    def _whole(self, problem: Problem, text: str) -> None:
        """A file that cannot be read as a whole: the host's concern if a job of its own is in it."""
        self.problems.append(problem)
        if re.search(r"\brun[\"']?\s*:\s*[\"']?(?!lifebeat_jobs\b)\w", text):
            self.host_problems.append(problem)

    def _top(self, reader: Reader, words: tuple[str, ...]) -> list[_Entry]:
        root = reader.read()
        if root is None:
            return []
        if not isinstance(root, Mapping):
            raise ConfigError(reader.problem("holds no mapping; it takes `jobs:` with a job below it", 1, 1))
        for name, key in root.keys.items():
            if name not in words and not self.is_full:
                hint = _near(name, words) or " (a job stands below `jobs:`, indented)"
                self.report(key, f"unknown word {name!r}{hint}", host=False)
        jobs = root.items.get("jobs")
        if jobs is None or _is_null(jobs):
            return []
        if not isinstance(jobs, Mapping):
            raise ConfigError(reader.problem("`jobs:` takes a mapping of jobs by their ID", jobs.line, jobs.column))
        return [(jobs.keys[name], node) for name, node in jobs.items.items()]

    def _overlaid(self, base: list[_Entry], over: list[_Entry]) -> list[_Entry]:
        """The overlay's fields on those of the job file; null removes a job or a field."""
        merged = {key.text: (key, node) for key, node in base}
        for key, node in over:
            if _is_null(node):
                if merged.pop(key.text, None) is None:
                    hint = _near(key.text, [one.text for one, _ in base])
                    self.report(key, f"there is no job {key.text!r} to remove{hint}", host=False)
            elif key.text in merged and isinstance(node, Mapping) and isinstance(merged[key.text][1], Mapping):
                first, fields = merged[key.text]
                merged[key.text] = (first, _fields_overlaid(fields, node))
            else:
                merged[key.text] = (key, node)
        return list(merged.values())

    def report(self, node: Node, message: str, *, host: bool) -> None:
        problem = self.readers[node.source].problem(message, node.line, node.column)
        self.problems.append(problem)
        if host:
            self.host_problems.append(problem)

    def _spec(self, key: Scalar, node: Node) -> JobSpec | None:
        job = _Job(self, key, node)
        return job.spec()

    def refer(self, text: str) -> Any:
        """The value of ``${key}``, or the text itself."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            if "${" in text:
                raise ValueError(f"{text!r}: ${{key}} stands for a whole value and cannot be part of a text")
            return text
        name = match.group(1)
        if name not in BY_NAME:
            hint = _near_key(name) or f"; there are {', '.join(BY_NAME)}"
            raise ValueError(f"{text!r}: there is no setting {name!r}{hint}")
        value = self.settings.value(name)
        if value is None:
            raise ValueError(f"{text!r}: the setting {name!r} has no value; give it one in config")
        return value


def _near_key(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, list(BY_NAME), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class _Job:
    """Reads one job; each problem is reported at the field that has it."""

    def __init__(self, loader: _Loader, key: Scalar, node: Node) -> None:
        self.loader = loader
        self.key = key
        self.node = node
        self.faults = 0
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, Any] = {}
        self.meant: set[str] = set()

    def spec(self) -> JobSpec | None:
        if not _ID.fullmatch(self.key.text):
            self._fault(self.key, "the ID takes letters, digits, '-', '_' and '.', at most 100 of them")
        if not isinstance(self.node, Mapping):
            self._fault(self.node, "takes fields such as `run:` and `every:`, indented below it")
            return None
        self._read_fields(self.node)
        trigger = self._trigger()
        if trigger is not None and not self.faults:
            self._check(trigger)
        if self.faults or trigger is None:
            return None
        spec = self._complete(trigger)
        self._check_target(spec)
        return None if self.faults else spec

    def _fault(self, node: Node, message: str) -> None:
        self.faults += 1
        run = self.node.items.get("run") if isinstance(self.node, Mapping) else None
        telemetry = isinstance(run, Scalar) and run.text.startswith(targets.ALWAYS_ALLOWED)
        self.loader.report(node, f"job {self.key.text!r}: {message}", host=not telemetry)

    def _read_fields(self, node: Mapping) -> None:
        for name, item in node.items.items():
            if self.loader.is_full:
                return
            if name not in _BY_NAME:
                self._unknown(node.keys[name])
            elif name == "args":
                self._guard(name, item, partial(self._args, item))
            elif not _is_null(item):
                self._guard(name, item, partial(self._scalar, name, item))

    def _unknown(self, key: Scalar) -> None:
        meant = _meant(key.text)
        self.meant.update(meant)
        hint = f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else f"; there are {', '.join(_BY_NAME)}"
        self._fault(key, f"unknown field {key.text!r}{hint}")

    def _guard(self, name: str, item: Node, read: Callable[[], Any]) -> None:
        self.nodes[name] = item
        try:
            self.values[name] = read()
        except ValueError as error:
            at = next((one for one in error.args if isinstance(one, Node)), item)  # deep in args it has its own place
            self._fault(at, f"{name}: {error.args[0]}")

    def _scalar(self, name: str, item: Node) -> Any:
        one = _BY_NAME[name]
        if not isinstance(item, Scalar):
            what = "a list" if isinstance(item, NodeSequence) else "a mapping"
            raise ValueError(f"is {what}; it takes {one.allowed}")  # noqa: TRY004 - one kind of refusal
        return one.parse(self.loader.refer(item.text))

    def _args(self, item: Node) -> dict[str, Any]:
        if _is_null(item):
            return {}
        if not isinstance(item, Mapping):
            raise ValueError("takes a mapping, such as {format: pdf}")  # noqa: TRY004 - one kind of refusal
        return {name: self._argument(one) for name, one in item.items.items()}

    def _argument(self, item: Node) -> Any:
        if isinstance(item, Scalar) and "${" in item.text:
            return self.loader.refer(item.text)
        return value_of(item)

    def _trigger(self) -> Trigger | None:
        given = [name for name in TRIGGERS if name in self.nodes]
        if len(given) != 1:
            if given:
                node = self.nodes[given[1]]
                self._fault(node, f"has {' and '.join(given)}; exactly one of when, every, cron, at may be given")
            elif not self.meant.intersection(TRIGGERS):
                self._fault(self.key, "never runs; give it one of when, every, cron, at")
            return None
        return self._build(given[0]) if given[0] in self.values else None

    def _build(self, word: str) -> Trigger:
        value = self.values[word]
        timezone = self.values.get("timezone", "UTC")
        match word:
            case "when":
                return AtStart() if value == "start" else AtShutdown()
            case "every":
                return Every(value, self.values.get("phase", timedelta(0)))
            case "cron":
                return Cron(value, timezone)
            case _:
                return At(value if value.tzinfo else value.replace(tzinfo=zone(timezone)))

    def _check(self, trigger: Trigger) -> None:
        word = next(name for name in TRIGGERS if name in self.values)
        for name, node in self.nodes.items():
            if name not in TRIGGERS and word not in _BY_NAME[name].triggers:
                goes_with = " or ".join(_BY_NAME[name].triggers)
                self._fault(node, f"{name}: has no meaning with `{word}:`; it goes with {goes_with}")
        jitter = self.values.get("jitter", timedelta(0))
        if isinstance(trigger, Every) and jitter >= trigger.interval:
            written = f"{format_duration(jitter)} is not shorter than the interval {format_duration(trigger.interval)}"
            self._fault(self.nodes["jitter"], f"jitter: {written}")
        if isinstance(trigger, Cron):
            self._check_cron(trigger)

    def _check_cron(self, cron: Cron) -> None:
        try:
            if CronInstants(cron).after(to_instant(datetime.now(tz=zone("UTC")))) is None:
                self._fault(self.nodes["cron"], f"cron: {cron.expression!r} names a day that never comes")
        except ValueError as error:
            self._fault(self.nodes["cron"], f"cron: {error}")

    def _complete(self, trigger: Trigger) -> JobSpec:
        values = {name: value for name, value in self.values.items() if name not in (*TRIGGERS, "phase", "timezone")}
        if isinstance(trigger, AtShutdown):
            values.setdefault("timeout", SHUTDOWN_TIMEOUT)
        if "run" not in values:
            self._fault(self.key, "has no `run:`; it takes a function as module:function")
            values["run"] = ""
        return JobSpec(self.key.text, trigger=trigger, source=f"{self.key.source}:{self.key.line}", **values)

    def _check_target(self, spec: JobSpec) -> None:
        if self.faults:
            return
        try:
            targets.check_allowed(spec.run, self.loader.allow)
            known = spec.run in targets.SHIPPED and not spec.args
            if self.loader.import_disabled or (spec.enabled and not known):
                self._check_args(targets.find(spec.run), spec)
        except ValueError as error:
            self._fault(self.nodes["run"], f"run: {error}")

    def _check_args(self, target: targets.Target, spec: JobSpec) -> None:
        try:
            targets.check_arguments(target, spec.args)
        except ValueError as error:
            self._fault(self.nodes.get("args", self.nodes["run"]), f"args: {error}")


def _meant(name: str) -> list[str]:
    """The fields that somebody may have meant who wrote ``name``."""
    import difflib

    near = difflib.get_close_matches(name.lower(), [*_BY_NAME, *_OTHER_WORDS], 3)
    return list(dict.fromkeys(_OTHER_WORDS.get(word, word) for word in near))


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.plain and node.text.lower() in {"", "~", "null"}


def _fields_overlaid(base: Node, over: Mapping) -> Mapping:
    assert isinstance(base, Mapping)
    items, keys = dict(base.items), dict(base.keys)
    if any(name in TRIGGERS for name in over.items):
        for name in TRIGGERS:
            items.pop(name, None)
    for name, node in over.items.items():
        items[name], keys[name] = node, over.keys[name]
    removed = {name for name, node in items.items() if _is_null(node) and name in _BY_NAME}
    items = {name: node for name, node in items.items() if name not in removed}
    return Mapping(base.source, base.line, base.column, base.size, items, keys)

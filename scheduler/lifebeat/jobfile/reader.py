"""The YAML job file as frozen ``JobSpec``s; everything that is wrong is found at once, with its place."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lifebeat.errors import ConfigError, Problem
from lifebeat.jobfile import targets
from lifebeat.jobfile.fields import FIELD_BY_NAME, OTHER_WORDS, TRIGGERS, near
from lifebeat.jobfile.spec import MOST_PROBLEMS, SHUTDOWN_TIMEOUT, JobFile, JobSpec
from lifebeat.schedule.instants import (
    At,
    AtShutdown,
    AtStart,
    Cron,
    CronInstants,
    Every,
    Trigger,
    to_instant,
    zone,
)
from lifebeat.settings.layers import JOB_FILE
from lifebeat.settings.table import BY_NAME, Settings
from lifebeat.text.document import Mapping, Node, Reader, Scalar, value_of
from lifebeat.text.document import Sequence as NodeSequence
from lifebeat.text.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_REFERENCE = re.compile(r"\$\{([^{}$]*)\}")


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
                hint = near(name, words) or " (a job stands below `jobs:`, indented)"
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
                    hint = near(key.text, [one.text for one, _ in base])
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
            if name not in FIELD_BY_NAME:
                self._unknown(node.keys[name])
            elif name == "args":
                self._guard(name, item, partial(self._args, item))
            elif not _is_null(item):
                self._guard(name, item, partial(self._scalar, name, item))

    def _unknown(self, key: Scalar) -> None:
        meant = _meant(key.text)
        self.meant.update(meant)
        hint = (
            f" (did you mean {' or '.join(map(repr, meant))}?)" if meant else f"; there are {', '.join(FIELD_BY_NAME)}"
        )
        self._fault(key, f"unknown field {key.text!r}{hint}")

    def _guard(self, name: str, item: Node, read: Callable[[], Any]) -> None:
        self.nodes[name] = item
        try:
            self.values[name] = read()
        except ValueError as error:
            at = next((one for one in error.args if isinstance(one, Node)), item)  # deep in args it has its own place
            self._fault(at, f"{name}: {error.args[0]}")

    def _scalar(self, name: str, item: Node) -> Any:
        one = FIELD_BY_NAME[name]
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
            if name not in TRIGGERS and word not in FIELD_BY_NAME[name].triggers:
                goes_with = " or ".join(FIELD_BY_NAME[name].triggers)
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

    near = difflib.get_close_matches(name.lower(), [*FIELD_BY_NAME, *OTHER_WORDS], 3)
    return list(dict.fromkeys(OTHER_WORDS.get(word, word) for word in near))


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
    removed = {name for name, node in items.items() if _is_null(node) and name in FIELD_BY_NAME}
    items = {name: node for name, node in items.items() if name not in removed}
    return Mapping(base.source, base.line, base.column, base.size, items, keys)

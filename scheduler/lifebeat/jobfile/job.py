"""One job of the job file: its fields read, each check run that has what it needs, each problem at its field."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from lifebeat.errors import in_words
from lifebeat.jobfile import elsewhere, targets
from lifebeat.jobfile.fields import FIELD_BY_NAME, TRIGGERS, check_moment
from lifebeat.jobfile.spec import MOST_PROBLEMS, SHUTDOWN_TIMEOUT, JobSpec
from lifebeat.schedule.instants import MICROSECOND, to_instant, zone
from lifebeat.schedule.triggers import At, AtShutdown, AtStart, Cron, CronInstants, Every, Trigger
from lifebeat.settings import layers, switch
from lifebeat.settings.table import BY_NAME, KEYS, is_loopback
from lifebeat.text.durations import format_duration
from lifebeat.text.hints import asked, did_you_mean
from lifebeat.text.nodes import Mapping, Node, Scalar, Sequence, faults, value_of

if TYPE_CHECKING:
    import collections.abc
    from datetime import datetime

    from lifebeat.errors import Problem
    from lifebeat.jobfile.spec import Retry
    from lifebeat.settings.table import Settings

HEARTBEAT_FLOOR = timedelta(minutes=1)
_SHORTEST = timedelta(seconds=1)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_REFERENCE = re.compile(r"\$\{([^{}$]*)\}")
_NEVER_NULL = ("args", "enabled")  # a switch that was left open must not count as on
_STARTUP, _HEARTBEAT, _SHUTDOWN = targets.SHIPPED

Fields: TypeAlias = dict[str, tuple[Scalar, Node]]


class Job:
    """Reads one job.

    Args:
        key: Its ID, and where it stands.
        node: What stands behind it.
        settings: What ``${key}`` refers to.
        allow: The modules that may be named.
        now: What is past.
        import_disabled: Whether its function is looked at although it is not enabled.

    Attributes:
        problems: What is wrong.
        warnings: What is strange.
        opted_out: Where a switch stands in it that says off, though it belongs in a config file; ``None`` for nowhere.
    """

    def __init__(
        self,
        key: Scalar,
        node: Node | Fields,
        settings: Settings,
        *,
        allow: collections.abc.Sequence[str],
        now: datetime,
        import_disabled: bool,
    ) -> None:
        self.key = key
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.opted_out: str | None = None
        self._node = node
        self._fields: Fields = node if isinstance(node, dict) else node.named() if isinstance(node, Mapping) else {}
        self._settings = settings
        self._allow = allow
        self._now = now
        self._import_disabled = import_disabled
        self._values: dict[str, Any] = {}
        self._meant: set[str] = set()

    @property
    def is_telemetry(self) -> bool:
        """Return whether it is one of telemetry's, as far as can be seen."""
        run = self._fields.get("run", (None, None))[1]
        return isinstance(run, Scalar) and targets.is_telemetry(run.text)

    def read(self) -> JobSpec | None:
        """Return the job, complete; ``None`` if anything is wrong with it, whatever that is."""
        try:
            return self._read()
        except BaseException as error:  # one job's problem is no other's
            if targets.is_ctrl_c(error):
                raise
            self._fault(self.key, f"cannot be read: {in_words(error)}")
            return None

    def _read(self) -> JobSpec | None:
        if not _ID.fullmatch(self.key.text):
            self._fault(self.key, "the ID takes letters, digits, '-', '_' and '.', at most 100 of them")
        if not isinstance(self._node, (Mapping, dict)):
            if self._heard(self.key, self._node):
                return None
            self._fault(self._node, "expected fields such as `run:` and `every:`, indented below it")
            return None
        if isinstance(self._node, Mapping):
            for message, node in islice(faults(self._node, deep=False), MOST_PROBLEMS + 1):
                self._fault(node, message)
        self._read_fields()
        trigger = self._trigger()
        self._check_fields(trigger)
        self._check_functions()
        if self.problems or trigger is None:
            return None
        return self._complete(trigger)

    # -- fields ------------------------------------------------------------------------------------------------------

    def _read_fields(self) -> None:
        for name, (key, node) in self._fields.items():
            if len(self.problems) > MOST_PROBLEMS:
                return
            if name == "<<" and key.plain:
                self._meant.update(FIELD_BY_NAME)
            elif name not in FIELD_BY_NAME:
                self._unknown(key, node)
            elif not self._is_refused(node) and (name in _NEVER_NULL or not node.is_null):
                self._read_field(name, node)

    def _unknown(self, key: Scalar, node: Node) -> None:
        if self._heard(key, node):
            return
        meant = elsewhere.fields(key.text, FIELD_BY_NAME)
        self._meant.update(meant)
        hint = asked(meant) or f"; expected one of {', '.join(FIELD_BY_NAME)}"
        self._fault(key, f"unknown field {key.text!r}{hint}")

    def _heard(self, key: Scalar, node: Node) -> bool:
        """Report a switch that says off, where it does not belong; return whether it is one."""
        found = off_switch(key.text, key, node)
        if found is not None:
            name, problem = found
            self.opted_out = self.opted_out or f"{problem.source}:{problem.line} ({name})"
            self.problems.append(problem)
        return found is not None

    def _is_refused(self, node: Node) -> bool:
        found = list(islice(faults(node), MOST_PROBLEMS + 1))
        for message, at in found:
            self._fault(at, message)
        return bool(found)

    def _read_field(self, name: str, node: Node) -> None:
        try:
            self._values[name] = FIELD_BY_NAME[name].parse(self._written(name, node))
        except ValueError as error:
            self._fault(node, f"{name}: {error}")

    def _written(self, name: str, node: Node) -> Any:
        field = FIELD_BY_NAME[name]
        if field.is_mapping:
            if node.is_null:
                return {}
            if not isinstance(node, Mapping):
                raise ValueError(f"expected {field.allowed}")
            return {key: self._argument(name, value) for key, (_, value) in node.named().items()}
        if not isinstance(node, Scalar):
            what = "a list" if isinstance(node, Sequence) else "a mapping"
            raise ValueError(f"is {what}; expected {field.allowed}")  # noqa: TRY004 - one kind of refusal
        _refuse_templates(node.text)
        return self._refer(node.text)

    def _argument(self, name: str, node: Node) -> Any:
        try:
            return self._refer(node.text) if isinstance(node, Scalar) and "${" in node.text else value_of(node)
        except ValueError as error:
            at = next((one for one in error.args if isinstance(one, Node)), node)
            self._fault(at, f"{name}: {error.args[0]}")
            return None

    def _refer(self, text: str) -> Any:
        """Return the value of ``${key}``, or the text itself."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            if "${" in text:
                raise ValueError(f"{text!r}: ${{key}} stands for a whole value and cannot be part of a text")
            return text
        name = match.group(1)
        if name not in BY_NAME:
            hint = _near_setting(name) or f"; there are {', '.join(BY_NAME)}"
            raise ValueError(f"{text!r}: there is no setting {name!r}{hint}")
        value = self._settings.value(name)
        if value is None:
            raise ValueError(f"{text!r}: the setting {name!r} has no value; give it one in config")
        return value

    # -- checks, each where the fields are that it needs -------------------------------------------------------------

    def _trigger(self) -> Trigger | None:
        given = self._given()
        if len(given) != 1:
            if given:
                node = self._fields[given[1]][1]
                self._fault(node, f"has {' and '.join(given)}; exactly one of when, every, cron, at may be given")
            elif not self._meant.intersection(TRIGGERS):
                self._fault(self.key, "never runs; give it one of when, every, cron, at")
            return None
        is_zone_known = "timezone" in self._values or not self._is_given("timezone")
        return self._build(given[0]) if given[0] in self._values and is_zone_known else None

    def _given(self) -> list[str]:
        return [name for name in TRIGGERS if self._is_given(name)]

    def _is_given(self, name: str) -> bool:
        return name in self._fields and not self._fields[name][1].is_null

    def _build(self, word: str) -> Trigger:
        value, timezone = self._values[word], self._values.get("timezone", "UTC")
        match word:
            case "when":
                return AtStart() if value == "start" else AtShutdown()
            case "every":
                return Every(value, self._values.get("phase", timedelta(0)))
            case "cron":
                return Cron(value, timezone)
            case _:
                return At(value if value.tzinfo else value.replace(tzinfo=zone(timezone)))

    def _check_fields(self, trigger: Trigger | None) -> None:
        given = self._given()
        for name in self._fields:
            if len(given) == 1 and name in FIELD_BY_NAME and name not in TRIGGERS and self._is_given(name):
                goes_with = FIELD_BY_NAME[name].triggers
                if given[0] not in goes_with:
                    message = f"{name}: has no meaning with `{given[0]}:`; it goes with {' or '.join(goes_with)}"
                    self._fault(self._fields[name][1], message)
        match trigger:
            case Every(interval):
                self._check_interval(interval)
                self._check_retry(interval)
            case Cron():
                self._check_cron(trigger)
            case At(moment):
                self._check_moment(moment)
            case _:
                pass

    def _check_interval(self, interval: timedelta) -> None:
        jitter = self._values.get("jitter", timedelta(0))
        if jitter >= interval:
            written = f"{format_duration(jitter)} is not shorter than the interval {format_duration(interval)}"
            self._fault(self._fields["jitter"][1], f"jitter: {written}")
        if interval < _SHORTEST:
            self._doubt(self._fields["every"][1], f"every: {format_duration(interval)} is less than a second")

    def _check_retry(self, interval: timedelta) -> None:
        """Refuse retries that would still be waiting when the next run comes."""
        retry: Retry | None = self._values.get("retry")
        waits = timedelta(0) if retry is None else retry.longest
        if waits >= interval:
            message = (
                f"retry: the waits add up to {format_duration(waits)}, which is not shorter than the "
                f"{format_duration(interval)} to the next run; expected fewer attempts or a shorter wait"
            )
            self._fault(self._fields["retry"][1], message)

    def _check_cron(self, cron: Cron) -> None:
        try:
            instants = CronInstants(cron)
            at = instants.after(to_instant(self._now))
            if at is None:
                self._fault(self._fields["cron"][1], f"cron: {cron.expression!r} names a day that never comes")
            elif "retry" in self._values and (following := instants.after(at)) is not None:
                self._check_retry((following - at) * MICROSECOND)
        except ValueError as error:
            self._fault(self._fields["cron"][1], f"cron: {error}")

    def _check_moment(self, moment: datetime) -> None:
        node = self._fields["at"][1]
        try:
            check_moment(moment)
        except ValueError as error:
            self._fault(node, f"at: '{moment:%Y-%m-%dT%H:%M}' {error}")
            return
        if moment < self._now:
            self._doubt(node, f"at: {moment.isoformat(timespec='minutes')} is past, and never comes again")

    def _check_functions(self) -> None:
        if "run" not in self._fields and "run" not in self._meant:
            self._fault(self.key, "has no `run:`; expected a function as module:function")
        target = self._target("run")
        on_failure = self._target("on_failure")
        if on_failure is not None:
            for _, message in islice(targets.argument_faults(on_failure, targets.FAILURE_ARGUMENTS), 1):
                self._fault(self._fields["on_failure"][1], f"on_failure: {message}")
        if target is None or ("args" in self._fields and "args" not in self._values):
            return
        whole = self._fields.get("args", self._fields["run"])[1]
        places = {name: key for name, (key, _) in whole.named().items()} if isinstance(whole, Mapping) else {}
        for name, message in targets.argument_faults(target, self._values.get("args", {})):
            self._fault(places.get(name or "", whole), f"args: {message}")

    def _target(self, name: str) -> targets.Target | None:
        """Return a function that is allowed; ``None`` for one that is not, or is not looked at."""
        run = self._values.get(name)
        if run is None:
            return None
        try:
            targets.check_allowed(run, self._allow)
            is_known = run in targets.SHIPPED and not self._values.get("args")
            is_wanted = self._import_disabled or (self._values.get("enabled", True) and not is_known)
            if not is_wanted:
                return None
            target = targets.find(run)
            targets.check_kind_and_owner(run, target, self._allow)
        except ValueError as error:
            self._fault(self._fields[name][1], f"{name}: {error}")
            return None
        except BaseException as error:  # what a module makes of being asked for a name
            if targets.is_ctrl_c(error):
                raise
            self._fault(self._fields[name][1], f"{name}: {run!r} cannot be looked at: {in_words(error)}")
            return None
        return target

    # -- the whole ---------------------------------------------------------------------------------------------------

    def _complete(self, trigger: Trigger) -> JobSpec:
        values = {name: value for name, value in self._values.items() if name not in (*TRIGGERS, "phase", "timezone")}
        if isinstance(trigger, AtShutdown):
            values.setdefault("timeout", SHUTDOWN_TIMEOUT)
        source = f"{self.key.source}:{self.key.line}"
        spec = JobSpec(self.key.text, trigger=self._slowed(trigger), source=source, **values)
        self._look_at_telemetry(spec)
        return spec

    def _slowed(self, trigger: Trigger) -> Trigger:
        """Keep heartbeats a minute apart, but towards this machine."""
        if not isinstance(trigger, Every) or trigger.interval >= HEARTBEAT_FLOOR:
            return trigger
        if self._values["run"] != _HEARTBEAT or is_loopback(self._settings.host):
            return trigger
        written = format_duration(trigger.interval)
        self._doubt(self._fields["every"][1], f"every: {written} is too often for telemetry; it counts as 1m")
        return trigger._replace(interval=HEARTBEAT_FLOOR)

    def _look_at_telemetry(self, spec: JobSpec) -> None:
        moments = {_STARTUP: (AtStart, "start"), _SHUTDOWN: (AtShutdown, "shutdown")}
        kind, word = moments.get(spec.run, (Every, ""))
        name = next(iter(self._given()))
        if spec.run in moments and not isinstance(spec.trigger, kind):
            self._doubt(self._fields[name][1], f"{name}: {spec.run} is meant for `when: {word}`")
        if spec.run == _HEARTBEAT and name == "when":
            self._doubt(self._fields[name][1], f"when: {spec.run} is meant for `every:`")
        if spec.is_telemetry and spec.once == "process":
            self._doubt(self.key, "each process sends it for itself; write `once: application` to have it sent once")

    def _fault(self, node: Node, message: str) -> None:
        self.problems.append(node.document.problem(f"job {self.key.text!r}: {message}", node))

    def _doubt(self, node: Node, message: str) -> None:
        self.warnings.append(node.document.problem(f"job {self.key.text!r}: {message}", node))


def off_switch(name: str, key: Scalar, node: Node) -> tuple[str, Problem] | None:
    """Return a switch for telemetry that says off in a job file, wherever in it: its name and its problem.

    In a job file no key is another's, so that below a word that is not known here every key is looked at.
    """
    for near, at, value in layers.flattened(name, key, node):
        words = [(near, layers.written(value))]
        if isinstance(value, Sequence):
            words = [
                (one.text.partition("=")[0], one.text.partition("=")[2])
                for one in value.items
                if isinstance(one, Scalar)
            ]
        for word, written in words:
            if switch.is_worth_a_look(word) and switch.says_off(word, written):
                right = f"{switch.ENABLED}: false"
                message = f"{word!r} counts as off, and belongs in config.yaml or config.json: write {right!r}"
                return word, at.document.problem(message, at)
        inner = value.named().items() if isinstance(value, Mapping) else ()
        if found := next(filter(None, (off_switch(word, at, below) for word, (at, below) in inner)), None):
            return found
    return None


def _refuse_templates(text: str) -> None:
    """Refuse what other tools fill in or write, and say how it is written here.

    Raises:
        ValueError: It is something of the kind.
    """
    if odd := re.search("[\u2018\u2019\u201c\u201d\u00ab\u00bb\u201e]", text[:1]):
        raise ValueError(f"{text!r} begins with {odd[0]}, which is no quote in YAML; write \" or '")
    other = re.search(r"\$\{\{|\{\{|\{%|\$\(|<%|^%\(|^\$\w+$|\$\{\w+:?[-+?]", text)
    if other:
        inside = re.search(r"\w*(?:TELEMETRY_\w+|telemetry\w+)", text)
        name = _setting_of(inside[0]) if inside else None
        raise ValueError(
            f"{text!r} is not filled in here; write the value, or ${{{name or 'key'}}} for that of a setting"
        )


def _setting_of(name: str) -> str | None:
    return next((key.name for key in KEYS if name in {key.name, key.variable}), None)


def _near_setting(name: str) -> str:
    known = _setting_of(name)
    return asked([known]) if known else did_you_mean(name, BY_NAME)

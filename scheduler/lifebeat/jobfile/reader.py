"""The job file and its overlay as frozen ``JobSpec``s; everything that is wrong is found at once, with its place."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from lifebeat import text
from lifebeat.errors import Problem
from lifebeat.jobfile import targets
from lifebeat.jobfile.fields import FIELD_BY_NAME, TRIGGERS
from lifebeat.jobfile.job import Job, off_switch
from lifebeat.jobfile.spec import MOST_PROBLEMS, Findings, JobFile
from lifebeat.settings import switch
from lifebeat.settings.layers import JOB_FILE
from lifebeat.settings.table import BY_NAME, Settings
from lifebeat.storage import safe_file
from lifebeat.text.hints import did_you_mean
from lifebeat.text.nodes import Mapping, Node, Scalar, faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lifebeat.jobfile.job import Fields
    from lifebeat.jobfile.spec import JobSpec
    from lifebeat.settings.source import ConfigSource
    from lifebeat.text.nodes import Document

_OWN_JOBS = re.compile(r"\brun[\"']?\s*:\s*[\"']?(?!lifebeat_jobs\b)\w")


def job_file(config_dir: Path) -> Path:
    """Return the job file of a config directory: its own, else the one that Lifebeat ships."""
    own = config_dir / JOB_FILE
    return own if safe_file.fingerprint(own) is not None or own.is_symlink() else shipped()


def packaged() -> Path:
    """Return the job file that Lifebeat ships, as people read it."""
    from lifebeat import config

    return Path(config.__path__[0]) / JOB_FILE


def shipped() -> Path:
    """Return the same as JSON, so that a start needs no parser of YAML."""
    return packaged().with_suffix(".json")


def load(
    path: Path,
    settings: Settings,
    *,
    overlay: Path | None = None,
    allow: Sequence[str] = (),
    import_disabled: bool = False,
    now: datetime | None = None,
) -> JobFile:
    """Read and check a job file and the overlay on it.

    Args:
        path: The job file.
        settings: What ``${key}`` refers to.
        overlay: The deployment's overlay; ``None`` for none.
        allow: The modules that ``run:`` may name, besides ``lifebeat_jobs``.
        import_disabled: Whether the functions of jobs that are not enabled are looked at too.
        now: What is past; ``None`` for this moment.
    """
    files = _Files()
    jobs = files.read(path, ("jobs",))
    if overlay is not None:
        files.overlay(jobs, files.read(overlay, ("jobs", *BY_NAME), is_optional=True))
    specs: list[JobSpec] = []
    for key, fields in jobs.values():
        job = Job(
            key,
            fields,
            settings,
            allow=allow,
            now=now or datetime.now(tz=UTC),
            import_disabled=import_disabled,
        )
        spec = job.read()
        specs += [spec] if spec else []
        files.problems += job.problems
        files.host_problems += [] if job.is_telemetry else job.problems
        files.warnings += job.warnings
        files.opted_out = files.opted_out or job.opted_out
        if len(files.problems) > MOST_PROBLEMS:
            break
    files.warnings += list(_look_at_all(path, specs, jobs)) if not files.problems else []
    if settings.opted_out or files.opted_out:  # off covers telemetry's jobs, whatever the file says of them
        specs = [replace(spec, enabled=False) if spec.is_telemetry else spec for spec in specs]
    return JobFile(path, tuple(specs), *files.sorted(path), files.opted_out)


def check(source: ConfigSource, *, allow: Sequence[str] = ()) -> Findings:
    """Check settings and jobs with every overlay that there is, unless a deployment is named.

    Args:
        source: Where the settings come from.
        allow: The modules that ``run:`` may name.
    """
    problems, warnings = dict[Problem, None](), dict[Problem, None]()
    for one in source.each_deployment():
        settings = one.read()
        found = load(job_file(one.config_dir), settings, overlay=one.overlay, allow=allow, import_disabled=True)
        problems |= dict.fromkeys((*settings.problems, *found.problems))
        warnings |= dict.fromkeys((*settings.warnings, *found.warnings))
    return Findings(tuple(problems), tuple(warnings))


def _look_at_all(path: Path, specs: list[JobSpec], jobs: _Jobs) -> Iterator[Problem]:
    """Yield what is strange about the jobs together."""
    first: dict[str, JobSpec] = {}
    for spec in specs:
        if spec.run in targets.SHIPPED:
            key = jobs[spec.id][0]
            if spec.run in first:
                message = f"job {spec.id!r}: {spec.run} is run by {first[spec.run].id!r} already; remove one"
                yield key.document.problem(message, key)
            first.setdefault(spec.run, spec)
    if not first:
        message = f"no job of {targets.TELEMETRY} is in it: telemetry is off; `lifebeat init` writes one with its jobs"
        yield Problem(safe_file.printable(path), message)


class _Files:
    """What the files hold, and everything that is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.host_problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.opted_out: str | None = None
        self._sources: list[str] = []

    def read(self, path: Path, words: tuple[str, ...], *, is_optional: bool = False) -> _Jobs:
        """Return the jobs of a file by their ID."""
        source = safe_file.printable(path)
        self._sources.append(source)
        try:
            data = shipped_data(path) if path == shipped() else safe_file.read(path, limit=text.limit(path))
        except safe_file.CannotRead as error:
            self._refuse(Problem(source, f"cannot be read: {error.reason}"), "")
            return {}
        if data is None:
            if not is_optional:
                self._refuse(Problem(source, "cannot be read: it is not there"), "")
            return {}
        document = text.parse(source, data)
        if document.problems:
            self._refuse(document.problems[0], document.text)
            return {}
        return self._jobs(document, words)

    def overlay(self, jobs: _Jobs, over: _Jobs) -> None:
        """Lay the overlay's fields on those of the job file; null removes a job or a field."""
        there = list(jobs)
        for name, (key, node) in over.items():
            if isinstance(node, Node) and node.is_null:
                if jobs.pop(name, None) is None:
                    self._report(key, f"there is no job {name!r} to remove{did_you_mean(name, there)}")
            elif name in jobs and isinstance(node, Mapping) and isinstance(base := jobs[name][1], Mapping):
                for message, at in (*faults(base, deep=False), *faults(node, deep=False)):
                    self._report(at, f"job {name!r}: {message}")
                jobs[name] = (jobs[name][0], _overlaid(base.named(), node.named()))
            else:
                jobs[name] = (key, node)

    def sorted(self, path: Path) -> tuple[tuple[Problem, ...], tuple[Problem, ...], tuple[Problem, ...]]:
        """Return problems, host's problems and warnings in the order of the files."""

        def place(one: Problem) -> tuple[int, int, int]:
            at = self._sources.index(one.source) if one.source in self._sources else 0
            return at, one.line or 0, one.column or 0

        self.problems.sort(key=place)
        if len(self.problems) > MOST_PROBLEMS:
            message = f"more than {MOST_PROBLEMS} problems; showing the first {MOST_PROBLEMS}"
            rest = Problem(safe_file.printable(path), message)
            self.problems[MOST_PROBLEMS:] = [rest]
            self.host_problems.append(rest)
        return tuple(self.problems), tuple(self.host_problems), tuple(sorted(self.warnings, key=place))

    def _refuse(self, problem: Problem, written: str) -> None:
        """Note what is wrong with a file as a whole: the host's concern if a job of its own is in it."""
        self.problems.append(problem)
        if _OWN_JOBS.search(written):
            self.host_problems.append(problem)

    def _report(self, node: Node, message: str) -> None:
        self.problems.append(node.document.problem(message, node))

    def _jobs(self, document: Document, words: tuple[str, ...]) -> _Jobs:
        root = document.root
        if root is None or root.is_null:
            return {}
        if not isinstance(root, Mapping):
            self._refuse(
                document.problem("holds no mapping; expected `jobs:` with a job below it", root), document.text
            )
            return {}
        self._refuse_keys(root)
        for name, (key, node) in root.named().items():
            if name not in words and len(self.problems) <= MOST_PROBLEMS:
                self._unknown(name, key, node, words)
        jobs = root.named().get("jobs", (None, None))[1]
        if jobs is None or jobs.is_null:
            return {}
        if not isinstance(jobs, Mapping):
            self._refuse(document.problem("`jobs:` expected a mapping of jobs by their ID", jobs), document.text)
            return {}
        self._refuse_keys(jobs)
        return {name: (key, node) for name, (key, node) in jobs.named().items()}

    def _refuse_keys(self, node: Mapping) -> None:
        found = [
            at.document.problem(message, at) for message, at in islice(faults(node, deep=False), MOST_PROBLEMS + 1)
        ]
        self.problems += found
        if found and _OWN_JOBS.search(node.document.text):
            self.host_problems += found

    def _unknown(self, name: str, key: Scalar, node: Node, words: tuple[str, ...]) -> None:
        """Report a word that does not belong at the top; a switch that says off is heard all the same."""
        if found := off_switch(name, key, node):
            near, problem = found
            self.opted_out = self.opted_out or f"{problem.source}:{problem.line} ({near})"
            self.problems.append(problem)
            return
        setting = name if name in BY_NAME else switch.meant(name)
        if setting is not None:
            self._report(key, f"{name!r} is a setting: write {setting!r} into config.yaml or config.json")
        else:
            hint = did_you_mean(name, words) or " (jobs belong below `jobs:`, indented)"
            self._report(key, f"unknown word {name!r}{hint}")


_Jobs = dict[str, "tuple[Scalar, Node | Fields]"]


def shipped_data(path: Path) -> bytes:
    """Return the content of a file that Lifebeat ships, also from within an archive."""
    from lifebeat import config

    data: bytes = config.__spec__.loader.get_data(str(path))
    return data


def _overlaid(base: Fields, over: Fields) -> Fields:
    is_moved = any(name in TRIGGERS for name in over)
    fields = {name: field for name, field in base.items() if not (is_moved and name in TRIGGERS)} | over
    return {name: field for name, field in fields.items() if name not in FIELD_BY_NAME or not field[1].is_null}

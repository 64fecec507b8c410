"""The parts of the pages that are made from the code: settings, job fields, commands, events."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import mistakes
from lifebeat.cli import main as cli
from lifebeat.context import JobContext
from lifebeat.jobfile.fields import FIELDS, TRIGGERS
from lifebeat.settings import layers
from lifebeat.settings.table import KEYS
from lifebeat.text import parse
from lifebeat.text.nodes import value_of
from lifebeat_jobs import events, rules
from schemas import written

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from lifebeat.errors import Problem
    from lifebeat.jobfile.fields import Field
    from lifebeat.settings.table import Key


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def attributes(documented: type) -> dict[str, str]:
    """What the ``Attributes:`` section of a docstring says about each attribute."""
    section = inspect.cleandoc(documented.__doc__ or "").partition("\nAttributes:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section, re.MULTILINE)
    return {name: _code(" ".join(text.split())) for name, text in found}


def _code(docstring: str) -> str:
    return docstring.replace("``", "`")


# -- settings --------------------------------------------------------------------------------------------------------


def settings_table() -> str:
    """Each setting in its three spellings."""
    rows = [
        (f"[`{key.name}`](#{key.name.lower()})", f"`{key.variable}`", f"`{key.attribute}`", _default(key))
        for key in KEYS
    ]
    return table(("in files", "in the environment", "in code: `settings.…`", "default"), rows)


def _default(key: Key) -> str:
    return "none" if key.default is None else f"`{json.dumps(written(key.default)).strip(chr(34))}`"


def settings_sections() -> str:
    """Each setting in full."""
    return "\n\n".join(_setting(key) for key in KEYS)


def _setting(key: Key) -> str:
    spellings = f"`{key.name}` · `{key.variable}` · `settings.{key.attribute}`"
    masked = "\n- Masked where it is shown." if key.secret else ""
    return (
        f"### {key.name}\n\n{key.help}\n\n"
        f"- Spelled: {spellings}\n- Takes: {key.kind.allowed}\n- Default: {_default(key)}{masked}"
    )


def ci_variables() -> str:
    """The variables by which a CI environment is known."""
    return ", ".join(f"`{name}`" for name in layers.CI_VARIABLES)


def defaults_file() -> str:
    """``config/defaults.yaml``: every setting with its meaning and its default."""
    head = (
        "# yaml-language-server: $schema=schema/config.schema.json\n"
        "# Every setting with its default. Put the lines that you change into config/config.yaml, and only those:\n"
        "# what stands in a config file overrules what the application says in lifebeat.attach().\n"
    )
    return head + "".join(f"\n{_default_lines(key)}" for key in KEYS)


def _default_lines(key: Key) -> str:
    help_ = "".join(f"# {line}\n" for line in _wrapped(f"{key.help} Takes {key.kind.allowed}."))
    if key.default is None:
        return f"{help_}# {key.name}:\n"
    return f"{help_}{key.name}: {json.dumps(written(key.default)).strip(chr(34))}\n"


def _wrapped(text: str, width: int = 110) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


# -- job file --------------------------------------------------------------------------------------------------------


def fields_table() -> str:
    """Which field goes with which trigger."""
    rows = [
        (f"[`{one.name}`](#{one.name})", *("yes" if word in one.triggers else "" for word in TRIGGERS), one.default)
        for one in FIELDS
        if one.name not in TRIGGERS
    ]
    return table(("field", *(f"`{word}`" for word in TRIGGERS), "default"), rows)


def fields_sections() -> str:
    """Each field in full."""
    return "\n\n".join(_field(one) for one in FIELDS)


def _field(one: Field) -> str:
    goes = "every trigger" if one.triggers == TRIGGERS else " and ".join(f"`{word}`" for word in one.triggers)
    line = "" if one.name in TRIGGERS else f"\n- Goes with: {goes}"
    return f"### {one.name}\n\n{one.help}\n\n- Takes: {one.allowed}\n- Default: {one.default}{line}"


def job_context() -> str:
    """What a job function is told."""
    return table(("`context.…`", "what it is"), [(f"`{name}`", told) for name, told in attributes(JobContext).items()])


def jobs_as_json(path: Path) -> str:
    """Return the shipped job file as JSON, which a start reads without a parser of YAML."""
    document = parse(str(path), path.read_bytes())
    assert document.root is not None
    return json.dumps(value_of(document.root), indent=2) + "\n"


# -- commands --------------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """The parser of each command."""
    return dict(cli.command_line().commands)


def _actions(parser: Any) -> list[argparse.Action]:
    return [one for one in parser._actions if one.dest != "help"]


def _shared() -> set[str]:
    first, *others = ({_spelled(one) for one in _actions(parser)} for parser in commands().values())
    return first.intersection(*others)


def _spelled(action: argparse.Action) -> str:
    if action.option_strings:
        number = action.nargs if isinstance(action.nargs, int) else 1
        value = f" {action.metavar or action.dest.upper()}" * number
        return f"{', '.join(action.option_strings)}{value}"
    name = str(action.metavar or "|".join(action.choices or ()) or action.dest)
    return f"[{name}]" if action.nargs == "?" else name


def _options(actions: Iterable[argparse.Action]) -> str:
    return table(("argument", "meaning"), [(f"`{_spelled(one)}`", one.help or "") for one in actions])


def shared_options() -> str:
    """The options that every command takes."""
    shared, parsers = _shared(), list(commands().values())
    return _options(one for one in _actions(parsers[0]) if _spelled(one) in shared)


def commands_sections() -> str:
    """Each command in full."""
    return "\n\n".join(_command(name, parser) for name, parser in commands().items())


def _command(name: str, parser: Any) -> str:
    shared = _shared()
    own = [one for one in _actions(parser) if _spelled(one) not in shared]
    usage = " ".join([name, *(_in_usage(one) for one in own)])
    text = f"## {name}\n\n```text\nlifebeat {usage}\n```\n\n{inspect.cleandoc(parser.description or '')}"
    return f"{text}\n\n{_options(own)}" if own else text


def _in_usage(action: argparse.Action) -> str:
    return f"[{_spelled(action)}]" if action.option_strings else _spelled(action)


def exit_codes() -> str:
    """What the exit codes mean."""
    return table(("code", "meaning"), [(str(code), meaning) for code, meaning in cli.EXIT_CODES.items()])


# -- events ----------------------------------------------------------------------------------------------------------


def shared_properties() -> str:
    """The properties of every event."""
    return _properties(events.Event)


def channels() -> str:
    """The words that count as a version."""
    return ", ".join(f"`{word}`" for word in rules.CHANNELS)


def events_sections() -> str:
    """Each event in full."""
    return "\n\n".join(_event(kind) for kind in events.CATALOGUE)


def _event(kind: type[events.Event]) -> str:
    told = _code(inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:")[0])
    own = _properties(kind) if attributes(kind) else "No properties besides those of all events."
    return f"### {kind.name}\n\n{told}\n\n{own}"


def _properties(kind: type[events.Event]) -> str:
    form = events.form_of(kind)
    rows = [(f"`{name}`", told, str(form[name])) for name, told in attributes(kind).items()]
    return table(("property", "meaning", "takes"), rows)


def protocol() -> str:
    """The protocol fields with the reason for each."""
    rows = [
        (f"`{name}`", "Lifebeat's version" if name == "$lib_version" else f"`{json.dumps(value)}`", reason)
        for name, value in events.PROTOCOL.items()
        for reason in [events.PROTOCOL_REASONS[name]]
    ]
    return table(("field", "value", "why"), rows)


def envelope() -> str:
    """Return what goes around the events."""
    rows = [(f"`{name}`", reason) for name, reason in events.ENVELOPE_REASONS.items()]
    return table(("field", "what it is"), rows)


def headers() -> str:
    """Return the headers of a request."""
    made = {"Host": "the host of `telemetryHost`", "Content-Length": "the length of the body"}
    made |= {name: f"`{value}`" for name, value in events.HEADERS.items()}
    made["User-Agent"] = "`lifebeat/` and Lifebeat's version"
    return table(("header", "value"), [(f"`{name}`", value) for name, value in made.items()])


def example() -> str:
    """Return one event as it goes over the wire, but for Lifebeat's version."""
    instance_id = "6f0e1c52-5b7e-4c63-9c0f-3a3d3f0d9a11"
    shown: dict[str, Any] = {
        "instance_id": instance_id,
        "os_platform": "linux",
        "os_release": "6.8.0",
        "python_version": "3.12.4",
    }
    shown |= {"app_version": "1.4.2", "release": "1.4.2", "uptime_hours": 51, "uptime_days": 2}
    rules = events.form_of(events.Heartbeat)
    event = events.Heartbeat(**{name: shown.get(name, rule.example()) for name, rule in rules.items()})
    instant = datetime(2027, 3, 1, 9, 30, tzinfo=UTC)
    event_id = events.uuid7(instant, instance_id, event.name, events.timestamp(instant))
    body = events.serialize(event, instant, event_id)
    body["properties"]["$lib_version"] = "…"
    return f"```json\n{json.dumps(body, indent=2, ensure_ascii=False)}\n```"


# -- mistakes --------------------------------------------------------------------------------------------------------


def mistakes_table() -> str:
    """Each kind of mistake in a job file: the line that is wrong, and what is said."""
    said = mistakes.said()
    rows = [(one.name, _shown(one), _told(said[one.name][0])) for one in mistakes.MISTAKES]
    return table(("mistake", "the line", "the message"), rows)


def _shown(one: mistakes.Mistake) -> str:
    line = one.text.splitlines()[one.line - 1] if one.line <= len(one.text.splitlines()) else ""
    return f"`{line.strip()}`" if line.strip() else ""


def _told(problem: Problem) -> str:
    return f"`jobs.yaml:{problem.line}:{problem.column}: {problem.message}`"


# -- hosts -----------------------------------------------------------------------------------------------------------

_LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json"}


def section(path: Path, heading: str) -> str:
    """What a page has below a heading, for another page that is to say the same."""
    return path.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0].strip()


def list_of_pages(root: Path) -> str:
    """``llms.txt``: what it is, and every page with what it is for, for programs that read."""
    about = (root / "README.md").read_text(encoding="utf-8").split("\n\n")[1]
    lines = [f"# Lifebeat\n\n> {_in_a_line(about)}\n\n## Pages\n"]
    for path in sorted([*root.glob("docs/**/*.md"), *root.glob("deploy/*/README.md")]):
        title, first = path.read_text(encoding="utf-8").removeprefix("# ").split("\n\n")[:2]
        lines.append(
            f"- [{title}]({path.relative_to(root).as_posix()}): {_in_a_line(first).partition('. ')[0].rstrip('.:')}"
        )
    return "\n".join(lines) + "\n"


def _in_a_line(text: str) -> str:
    return " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).split())


def source(path: Path) -> str:
    """A file as a block of code."""
    return f"```{_LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8').strip()}\n```"

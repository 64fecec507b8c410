"""Writes what is made from the code: the schemas, the defaults, and the marked parts of the pages.

``make docs`` writes the files; with ``--check`` it names those that differ and exits 1.
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pages
import reference
import schemas

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "docs/start.md": {
        "install": partial(pages.section, ROOT / "README.md", "Install"),
        "host": partial(pages.source, ROOT / "examples/standalone/main.py"),
    },
    "docs/reference.md": {"reference": reference.reference},
    "docs/settings.md": {
        "settings": pages.settings_table,
        "ci": pages.ci_variables,
        "each setting": pages.settings_sections,
    },
    "docs/jobs.md": {
        "fields": pages.fields_table,
        "context": pages.job_context,
        "each field": pages.fields_sections,
    },
    "docs/commands.md": {
        "options": pages.shared_options,
        "exit codes": pages.exit_codes,
        "commands": pages.commands_sections,
    },
    "docs/mistakes.md": {"mistakes": pages.mistakes_table},
    "docs/events.md": {
        "all": pages.shared_properties,
        "channels": pages.channels,
        "events": pages.events_sections,
        "protocol": pages.protocol,
        "example": pages.example,
        "envelope": pages.envelope,
        "headers": pages.headers,
    },
}
HOSTS = "docs/hosts"
HOST_CODE = {  # what `lifebeat init --host` prints
    "flask": "examples/flask_apscheduler/app.py",
    "fastapi": "examples/fastapi_lifespan/app.py",
    "django": "examples/django_apscheduler/notes/management/commands/runapscheduler.py",
    "asyncio": "examples/asyncio_script/main.py",
    "celery": "examples/celery_worker/notes.py",
    "standalone": "examples/standalone/main.py",
}
MARK = r"<!-- made from the code: (.*?) -->"
SCHEMAS: dict[str, Callable[[], schemas.Schema]] = {
    "config/schema/config.schema.json": schemas.config_schema,
    "config/schema/jobs.schema.json": schemas.jobs_schema,
    "config/schema/overlay.schema.json": schemas.overlay_schema,
}
DEFAULTS = "config/defaults.yaml"
JOBS = "config/jobs.json"


def generated() -> dict[str, str]:
    """Every generated file as it should be, by its path from the project's root."""
    made = {path: json.dumps(schema(), indent=2) + "\n" for path, schema in SCHEMAS.items()}
    made[DEFAULTS] = pages.defaults_file()
    made[JOBS] = pages.jobs_as_json(ROOT / "config/jobs.yaml")
    made |= {f"config/hosts/{host}.py": _there(ROOT / path) or "" for host, path in HOST_CODE.items()}
    made["llms.txt"] = pages.list_of_pages(ROOT)
    for path, parts in {**PAGES, **hosts()}.items():
        made[path] = filled((ROOT / path).read_text(encoding="utf-8"), parts)
    return made


def hosts() -> dict[str, dict[str, Callable[[], str]]]:
    """The pages of the hosts: their parts are the files of the example of that name."""
    found: dict[str, dict[str, Callable[[], str]]] = {}
    for page in sorted((ROOT / HOSTS).glob("[a-z]*.md")):
        marked = re.findall(MARK, page.read_text(encoding="utf-8"))
        found[f"{HOSTS}/{page.name}"] = {
            name: partial(pages.source, ROOT / "examples" / page.stem / name) for name in marked
        }
    return found


def filled(page: str, parts: dict[str, Callable[[], str]]) -> str:
    """A page with its marked parts made anew.

    Raises:
        ValueError: A part has no place in the page, or the page a place for a part that there is not.
    """
    marked = re.findall(MARK, page)
    if sorted(marked) != sorted(parts):
        raise ValueError(f"the page has places for {sorted(marked)}; there are the parts {sorted(parts)}")
    for name, make in parts.items():
        start, end = f"<!-- made from the code: {name} -->\n", "<!-- end -->"
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n{make()}\n\n{end}{rest.partition(end)[2]}"
    return page


def differing() -> list[str]:
    """The files that are not as they should be."""
    return [path for path, text in generated().items() if _there(ROOT / path) != text]


def _there(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def main(arguments: list[str]) -> int:
    """Write the files, or with ``--check`` say which differ."""
    stale = differing()
    if arguments == ["--check"]:
        sys.stdout.writelines(f"{path} is not what the code says; run: make docs\n" for path in stale)
        return 1 if stale else 0
    for path in stale:
        (ROOT / path).parent.mkdir(exist_ok=True)
        (ROOT / path).write_text(generated()[path], encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

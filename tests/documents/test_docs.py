"""What the documents say is so: their examples work, their references are complete, their links lead somewhere."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import generate
import lifebeat
import pages
from lifebeat.cli import main as cli
from lifebeat.jobfile import reader as jobfile
from lifebeat.jobfile.fields import FIELDS
from lifebeat.settings import layers
from lifebeat.settings.table import KEYS
from lifebeat_jobs import events
from test_schemas import CONFIG, JOBS, OVERLAY, refused_by

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
OWN_JOBS = "# myapp/jobs.py\n"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def _blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    name = str(page.relative_to(ROOT))
    return [Block(name, text.count("\n", 0, one.start()) + 1, one.group(1), one.group(2)) for one in found]


BLOCKS = [block for page in DOCUMENTS for block in _blocks(page)]


def named(block: Block) -> str:
    """A block's place, for the name of its test."""
    return f"{block.page}:{block.line}"


def read(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def in_language(language: str) -> list[Block]:
    """Every block in a language."""
    return [block for block in BLOCKS if block.language == language]


# -- made from the code ----------------------------------------------------------------------------------------------


def test_generated_files_are_what_the_code_says() -> None:
    """Schemas, defaults and the marked parts of the pages are as ``make docs`` writes them."""
    assert generate.differing() == []


def test_a_part_without_a_place_is_an_error() -> None:
    """A page that has lost the place of a part cannot be taken for one that is up to date."""
    page = "<!-- made from the code: one -->\nold\n<!-- end -->\nrest\n"
    filled = generate.filled(page, {"one": lambda: "new"})
    assert filled == "<!-- made from the code: one -->\n\nnew\n\n<!-- end -->\nrest\n"
    with pytest.raises(ValueError, match="two"):
        generate.filled(page, {"one": lambda: "new", "two": lambda: "newer"})


# -- complete --------------------------------------------------------------------------------------------------------


def test_every_setting_is_documented() -> None:
    """The settings page has each key in its three spellings."""
    page = read("docs/settings.md")
    missing = [key.name for key in KEYS if f"`{key.name}` · `{key.variable}` · `settings.{key.attribute}`" not in page]
    assert missing == []


def test_every_field_is_documented() -> None:
    """The job file's page has a section for each field."""
    assert {one.name for one in FIELDS} <= set(_headings(read("docs/jobs.md")))


def test_every_command_is_documented() -> None:
    """The commands' page has a section for each command, and every exit code."""
    page = read("docs/commands.md")
    assert set(pages.commands()) <= set(_headings(page))
    assert [code for code in cli.EXIT_CODES if f"| {code} |" not in page] == []


@pytest.mark.parametrize("page", ["README.md", "docs/events.md"])
def test_every_event_and_property_is_documented(page: str) -> None:
    """README and the catalogue name each event and each of its properties."""
    names = {name for kind in events.CATALOGUE for name in (kind.name, *events.form_of(kind))}
    assert [name for name in sorted(names) if f"`{name}`" not in read(page) and name not in _headings(read(page))] == []


def test_every_protocol_field_has_its_reason() -> None:
    """What is sent for PostHog's sake is declared with a reason, and in the catalogue."""
    assert events.PROTOCOL.keys() == events.PROTOCOL_REASONS.keys()
    assert [name for name in events.PROTOCOL if f"`{name}`" not in read("docs/events.md")] == []


def test_every_variable_and_argument_is_documented() -> None:
    """Each ``LIFEBEAT_…`` variable that the code looks at, and each argument of ``attach``, is named in a page."""
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "scheduler").rglob("*.py"))
    names = set(re.findall(r"\"(LIFEBEAT_[A-Z_]+)\"", code)) | set(inspect.signature(lifebeat.attach).parameters)
    told = "".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", told)] == []


def _said_by_the_code() -> str:
    """Every text in the code, one a line."""
    found: list[str] = []
    for path in [*(ROOT / "scheduler").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")]:
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found += [one.value for one in nodes if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return "\n".join(found)


def test_what_a_page_quotes_is_what_is_said() -> None:
    """What a reader looks up by symptom is written as the commands and the ledger write it."""
    text, quoted = _said_by_the_code(), list[str]()
    for page in ("docs/troubleshooting.md", "docs/networks.md"):
        for heading in ("what `lifebeat status` says", "it says"):
            rows = read(page).partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
            quoted += [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row.split("|")[1])]
    parts = [part.strip() for phrase in quoted if phrase != "waiting" for part in phrase.split("…") if part.strip()]
    assert len(parts) > 10
    assert [part for part in parts if part not in text] == []


# -- the examples work -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The module of own jobs as the page prints it, where it can be imported."""
    (block,) = (one for one in in_language("python") if one.text.startswith(OWN_JOBS))
    directory = tmp_path_factory.mktemp("host")
    (directory / "myapp").mkdir()
    (directory / "myapp" / "jobs.py").write_text(block.text, encoding="utf-8")
    _forget_myapp()  # another test's, in the same process
    sys.path.insert(0, str(directory))
    yield "myapp.jobs"
    sys.path.remove(str(directory))
    _forget_myapp()


def _forget_myapp() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "myapp"]:
        del sys.modules[name]


def _file_of(block: Block) -> str:
    match = re.search(r"^# (config/\S+\.yaml)\b", block.text, re.MULTILINE)
    assert match, f"{named(block)}: a comment must name the file that this is, such as # config/jobs.yaml"
    return match.group(1)


def _job_file_before(block: Block, directory: Path) -> Path:
    """The job file that an overlay is laid on: the last one above it on its page, else the shipped one."""
    above = [one for one in in_language("yaml") if one.page == block.page and one.line < block.line]
    texts = [one.text for one in above if _file_of(one) == "config/jobs.yaml"]
    if not texts:
        return jobfile.packaged()
    path = directory / "jobs.yaml"
    path.write_text(texts[-1], encoding="utf-8")
    return path


# What is on the pages of the hosts is run as a whole, in test_examples.py.
@pytest.mark.parametrize("block", [one for one in in_language("yaml") if "hosts/" not in one.page], ids=named)
def test_yaml_examples_load(block: Block, own_jobs: str, tmp_path: Path) -> None:
    """Every YAML example is accepted by the loader and by the schema; jobs are held against the functions printed."""
    file = _file_of(block)
    path = tmp_path / "example.yaml"
    path.write_text(block.text, encoding="utf-8")
    if file == "config/jobs.yaml":
        settings = layers.merge([layers.packaged()])
        found = jobfile.load(path, settings, allow=[own_jobs])
        assert (found.problems, refused_by(JOBS, block.text)) == ((), [])
        return
    is_overlay = file.startswith("config/deployments/")
    settings = layers.merge([layers.packaged(), layers.from_file(path)])
    assert (settings.problems, refused_by(OVERLAY if is_overlay else CONFIG, block.text)) == ((), [])
    if is_overlay:
        assert jobfile.load(_job_file_before(block, tmp_path), settings, overlay=path, allow=[own_jobs]).problems == ()


@pytest.mark.parametrize("block", in_language("python"), ids=named)
def test_python_examples_compile(block: Block) -> None:
    """Every Python example is Python."""
    compile(block.text, named(block), "exec")


def _command_lines() -> Iterator[tuple[str, str]]:
    for block in in_language("sh"):
        for number, line in enumerate(block.text.splitlines(), block.line + 1):
            command = re.match(r"(?:[A-Z_]+=\S* +)*(lifebeat .*)", line)
            if command:
                yield f"{block.page}:{number}", command.group(1)
    for page in DOCUMENTS:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        yield from ((page.name, found) for found in re.findall(r"`(lifebeat [^`]+)`", prose))


COMMAND_LINES = sorted(set(_command_lines()))


@pytest.mark.parametrize(("place", "line"), COMMAND_LINES, ids=[": ".join(one) for one in COMMAND_LINES])
def test_commands_are_understood(place: str, line: str) -> None:
    """Every command in the documents is one that the parser takes; a bare name is the name of a command."""
    words = shlex.split(re.split(r" [|>] ", line)[0], comments=True)[1:]
    if len(words) == 1:
        assert words[0] in pages.commands(), place
    else:
        assert callable(cli.command_line().parse(words).run), place


# -- links -----------------------------------------------------------------------------------------------------------


def _headings(page: str) -> list[str]:
    outside = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", outside, re.MULTILINE)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that is there, and a heading in it."""
    for link in _links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in map(_anchor, _headings(target.read_text(encoding="utf-8"))), link


def test_tests_that_are_named_exist() -> None:
    """A page that names a test as its proof names one that there is."""
    for page in DOCUMENTS:
        for file, name in re.findall(r"`tests/([\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{page.name}: {file}::{name}"


def test_every_page_begins_with_what_it_is_for() -> None:
    """The first sentence of a page says what its reader can do after it; README's says what Lifebeat is."""
    pages = [page for page in DOCUMENTS if page != ROOT / "README.md"]
    assert [str(page) for page in pages if "\n\nAfter this page " not in page.read_text(encoding="utf-8")[:200]] == []


def test_every_page_can_be_found() -> None:
    """README links to every page of the documents, or to one that does."""
    reached = {ROOT / "README.md"}
    for _ in DOCUMENTS:
        reached |= {(page.parent / link.partition("#")[0]).resolve() for page in reached for link in _links(page)}
        reached &= set(DOCUMENTS) | {ROOT / "README.md"}
    assert [str(page.relative_to(ROOT)) for page in DOCUMENTS if page not in reached] == []

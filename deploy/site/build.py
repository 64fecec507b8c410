"""Builds the documentation site: ``build/site/html``, from the pages as they lie in the tree, with Zensical.

Zensical takes the pages of one folder, and ours link to each other and to files all over the tree. So the pages and
what they link to, are copied into a folder in which every link is as it was. A link to no page or heading is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INTO = ROOT / "build" / "site"
CONFIG = Path(__file__).with_name("zensical.toml")


def pages() -> list[Path]:
    """Every page, by its path from the root."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").glob("*/README.md")]
    return sorted(path.relative_to(ROOT) for path in found)


def linked_from(page: Path) -> set[Path]:
    """What a page links to that is a file and no page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)}
    found = {((ROOT / page).parent / link).resolve() for link in links if link}
    return {path.relative_to(ROOT) for path in found if path.is_file() and path.suffix != ".md"}


def main() -> int:
    """Copy and build; the exit code of Zensical."""
    shutil.rmtree(INTO, ignore_errors=True)
    for path in {*pages(), *(file for page in pages() for file in linked_from(page))}:
        (INTO / "pages" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, INTO / "pages" / path)
    shutil.copyfile(CONFIG, INTO / CONFIG.name)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", CONFIG.name]
    return subprocess.run(command, cwd=INTO, check=False).returncode  # noqa: S603 - the words are ours


if __name__ == "__main__":
    sys.exit(main())

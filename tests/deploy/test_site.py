"""The documentation site: every page is in its navigation, and a link that leads nowhere fails the build."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

from artifacts import ROOT

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ROOT / "deploy" / "site" / "zensical.toml"
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").glob("*/README.md")]


def test_each_page_is_in_the_navigation_once() -> None:
    """A page that is added is sorted in on purpose."""
    nav: Any = tomllib.loads(CONFIG.read_text())["project"]["nav"]
    found = re.findall(r"'([^']+\.md)'", str(nav))
    assert sorted(found) == sorted(path.relative_to(ROOT).as_posix() for path in PAGES)


def built(directory: Path, text: str) -> int:
    """The exit code of a build of one page with our settings."""
    (directory / "pages").mkdir(exist_ok=True)
    (directory / "pages" / "README.md").write_text(text)
    head, _, rest = CONFIG.read_text().partition("nav = [")
    (directory / "zensical.toml").write_text(head + rest.partition("\n]\n")[2])
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", "zensical.toml"]
    return subprocess.run(command, cwd=directory, capture_output=True, timeout=50, check=False).returncode


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """Neither a page that is not there nor a heading that is not there passes."""
    assert built(tmp_path, "# One\n\n[here](#one)\n") == 0
    assert built(tmp_path, "# One\n\n[nowhere](two.md)\n") != 0
    assert built(tmp_path, "# One\n\n[nowhere](#two)\n") != 0

"""Tells PyInstaller what an import of Lifebeat needs; PyInstaller finds this by the wheel's entry point."""

from __future__ import annotations

from pathlib import Path


def hook_directories() -> list[str]:
    """Return the directories in which PyInstaller looks for hooks."""
    return [str(Path(__file__).parent)]

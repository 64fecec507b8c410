"""TEMPORARY STUB by the lead; the helper's file replaces it."""
from __future__ import annotations
import os
from dataclasses import dataclass
from pathlib import Path
from collections.abc import Mapping
ID_FILE = "instance-id"
@dataclass(frozen=True)
class StateDir:
    path: Path | None
    reason: str
def state_dir(*, setting: str | None, environ: Mapping[str, str], config_dir: Path, app_name: str | None, create: bool = False) -> StateDir:
    p = Path(setting) if setting else config_dir
    if create:
        p.mkdir(parents=True, exist_ok=True)
    return StateDir(p, "stub")
def make(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
def read_id(path: Path) -> str | None:
    return path.read_text().strip() if path.exists() else None
def agree_on_id(path: Path, candidate: str) -> str:
    path.write_text(candidate)
    return candidate

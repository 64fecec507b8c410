"""Applications that are shipped as one program: what PyInstaller makes of a host lives a whole life."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import TYPE_CHECKING

from artifacts import ROOT, Venv, build, copy_project, run
from lifebeat import installation
from lifebeat.testing import telemetry_allowed

if TYPE_CHECKING:
    import pytest

    from lifebeat.testing import PostHogServer

APPLICATION = """
import sys
from apscheduler.schedulers.background import BackgroundScheduler
import lifebeat

scheduler = BackgroundScheduler()
host, config = sys.argv[1:]
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", api_key="phc_test", host=host, config_dir=config)
scheduler.start()
scheduler.shutdown()
"""


def test_a_program_made_by_pyinstaller(tmp_path: Path, receiver: PostHogServer) -> None:
    """Without a word of the application's own, it has the shipped job file and the job modules in it."""
    venv = Venv.make(tmp_path / "venv")
    wheel = build(copy_project(tmp_path / "clone"), tmp_path / "wheel", "--wheel")
    venv.install("--constraint", ROOT / "dev.lock", "pyinstaller", wheel)
    (tmp_path / "notes.py").write_text(APPLICATION)
    run(venv.python, *("-m", "PyInstaller", "--noconfirm", "--log-level", "WARN", "notes.py"), cwd=tmp_path)
    program = tmp_path / "dist" / "notes" / "notes"
    command = [program, receiver.url, tmp_path / "config"]
    done = subprocess.run(command, env=telemetry_allowed(), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, receiver.names()) == (0, ["startup", "shutdown"]), done.stderr


def test_a_zip_of_an_application_has_the_files_that_are_shipped(tmp_path: Path) -> None:
    """From within an archive schema and init find their files, and a command that is shown starts that Lifebeat."""
    source = tmp_path / "source"
    for name in ("scheduler/lifebeat", "jobs/lifebeat_jobs"):
        shutil.copytree(ROOT / name, source / Path(name).name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "config", source / "lifebeat" / "config")
    (source / "__main__.py").write_text(
        "import lifebeat\n"
        'for words in (["schema", "jobs"], ["init", "--config", "made"]):\n'
        '    assert lifebeat.main([*words], app_name="notes", app_version="1.4.2") == 0, words\n'
        "from lifebeat.installation import interpreter\n"
        "print(*interpreter())\n"
    )
    zipapp.create_archive(source, tmp_path / "notes.pyz")
    shown = run(sys.executable, tmp_path / "notes.pyz", cwd=tmp_path, environ=telemetry_allowed())
    assert (tmp_path / "made" / "jobs.yaml").exists()
    assert shown.endswith(f"env PYTHONPATH={tmp_path / 'notes.pyz'} {sys.executable}\n")


def test_a_program_of_pyinstallers_is_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started with ``-m lifebeat`` it would be the application once more: no command that is shown says so."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert installation.interpreter() == []

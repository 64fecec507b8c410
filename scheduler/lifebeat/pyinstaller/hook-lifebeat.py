"""What PyInstaller cannot see: the shipped config, and modules that are named by a job file or imported late."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules


def _is_used(name: str) -> bool:
    return not name.startswith(("lifebeat.testing", "lifebeat.pyinstaller"))


datas = collect_data_files("lifebeat.config")
hiddenimports = [*collect_submodules("lifebeat", filter=_is_used), *collect_submodules("lifebeat_jobs")]

"""One answer to "may I": on, off or paused, made from settings and job file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lifebeat.context import Consent

if TYPE_CHECKING:
    from lifebeat.jobfile.spec import JobFile
    from lifebeat.settings.table import Settings


def decide(settings: Settings, found: JobFile) -> Consent:
    """Return whether telemetry may record and send.

    Args:
        settings: The merged settings.
        found: The job file with its problems.
    """
    switch = settings.sources["telemetryEnabled"]
    if settings.opted_out:
        return Consent("off", switch, switch)
    problems = (*settings.problems, *found.problems)
    if problems:
        return Consent("paused", f"until this is fixed: {problems[0]}", problems[0].source)
    if not any(spec.is_telemetry and spec.enabled for spec in found.specs):
        return Consent("off", f"{found.path} has no telemetry job that is enabled", str(found.path))
    return Consent("on", f"telemetryEnabled: {switch}", switch)

"""The checks of ``deploy/``: its scripts can be imported."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "deploy/posthog"))

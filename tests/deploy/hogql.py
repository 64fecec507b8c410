"""HogQL as ClickHouse takes it, as far as our queries differ: properties, numbers, and the time that is now."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


def rewrite(query: str, now: datetime) -> str:
    """The query for ClickHouse, at a time that stands still."""
    moment = f"toDateTime64('{now:%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
    query = re.sub(r"\btoInt\(([^()]*)\)", r"accurateCastOrNull(\1, 'Int64')", query)
    query = re.sub(r"\bproperties\.(\w+)", _extraction, query)
    return re.sub(r"\bnow\(\)", moment, query)


def _extraction(found: re.Match[str]) -> str:
    """A property as text, without its quotes; NULL where it is not there."""
    raw = f"nullIf(nullIf(JSONExtractRaw(properties, '{found[1]}'), ''), 'null')"
    return f"trim(BOTH '\"' FROM {raw})"

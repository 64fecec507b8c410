"""The merged settings as people and programs see them: each value, the layer that set it, and every layer's own."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lifebeat.cli import console
from lifebeat.settings.table import KEYS

if TYPE_CHECKING:
    from lifebeat.settings.table import Key, LayerValue, Settings


def written(key: Key, value: Any) -> Any:
    """Return a value as a file would have it; that of a secret key is masked."""
    from lifebeat.text.durations import format_duration

    if value is None:
        return None
    if key.secret:
        return console.masked(str(value))
    if isinstance(value, bool | int):
        return value
    return format_duration(value) if isinstance(value, timedelta) else str(value)


def as_list(settings: Settings, *, with_layers: bool) -> list[dict[str, Any]]:
    """Return each key with its value and its source, for programs; with the value of each layer, lowest first."""
    return [_as_dict(key, settings, with_layers=with_layers) for key in KEYS]


def _as_dict(key: Key, settings: Settings, *, with_layers: bool) -> dict[str, Any]:
    value = settings.value(key.name)
    row = {"key": key.name, "value": written(key, value), "source": _source(key, settings)}
    if not with_layers:
        return row
    said = settings.layer_values[key.name]
    counts = _counting(said, settings.sources[key.name])
    layers = [
        {"layer": one.layer, "value": written(key, one.value), "valid": _is_valid(key, one), "counts": one is counts}
        for one in said
    ]
    return {**row, "layers": layers}


def _source(key: Key, settings: Settings) -> str | None:
    return None if settings.value(key.name) is None else settings.sources[key.name]


def _counting(said: tuple[LayerValue, ...], sources: str) -> LayerValue | None:
    """Return what counts: the last value of the layer that decided."""
    return next((one for one in reversed(said) if one.layer == sources and one.value is not None), None)


def _is_valid(key: Key, one: LayerValue) -> bool:
    """Return whether a value can be read; a switch that cannot counts as off, and is no less wrong."""
    try:
        key.kind.parse(one.written)
    except ValueError:
        return False
    return True


def as_table(settings: Settings) -> str:
    """Return a table of the merged settings."""
    rows = [(key.name, cell(written(key, settings.value(key.name))), _source(key, settings)) for key in KEYS]
    return console.table(("key", "value", "set by"), rows)


def layers_as_table(settings: Settings, labels: list[str]) -> str:
    """Return what each layer says about each key, lowest first; ``>`` is before the one that counts.

    Args:
        settings: The merged settings.
        labels: Every layer that was asked, lowest first, those that said nothing too.
    """
    rows: list[tuple[str, Any, str]] = []
    for row in as_list(settings, with_layers=True):
        for number, one in enumerate(row["layers"]):
            mark = ">" if one["counts"] else " "
            rows.append(("" if number else row["key"], f"{mark} {_heard(one)}", one["layer"]))
        if not row["layers"]:
            rows.append((row["key"], "  -", "no layer"))
    asked = "\n".join(f"  {label}" for label in dict.fromkeys(labels))
    table = console.table(("key", "  value", "set by"), rows)
    return f"{table}\n\nLayers, lowest first; of telemetryEnabled off wins, of all else the highest:\n{asked}"


def _heard(one: dict[str, Any]) -> str:
    """Return a value in words, without what was written where it is not valid: it may be a key in the wrong place."""
    if one["valid"]:
        return cell(one["value"])
    return "(not valid)" if one["value"] is None else f"(not valid, counts as {cell(one['value'])})"


def cell(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None else str(value)

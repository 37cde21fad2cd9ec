"""TOML of users, and tables of settings: parsed, nested by their dotted keys, laid over each other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from bench.errors import SettingsError
from bench.inputs import opened
from bench.old_names import current

DEEPEST = 32  # tables and lists within each other


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, table by table; neither is changed.

    A table whose `kind` is another one than before replaces it: the keys of one proposer mean nothing to the next.
    """
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        if both and "kind" in value and "kind" in out[key]:
            both = value["kind"] == out[key]["kind"]
        out[key] = merged(out[key], value) if both else value
    return out


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, its keys in today's spelling. Raises SettingsError naming the file."""
    with opened(path, error=SettingsError) as file:
        return current(parsed_toml(file.read(), str(path)))  # type: ignore[no-any-return]


def parsed_toml(data: bytes, where: str) -> dict[str, Any]:
    """Parse TOML, nested no deeper than settings are. Raises SettingsError, which begins with `where`."""
    try:
        table = layer = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SettingsError(f"{where}: {what}") from None
    values: list[Any] = [layer]
    for _ in range(DEEPEST):
        values = [v for each in values for v in (each.values() if isinstance(each, dict) else each)
                  if isinstance(v, (dict, list))]  # fmt: skip
        if not values:
            return table
    raise SettingsError(f"{where}: nested too deeply, over {DEEPEST} tables and lists")


def anchored(value: Any, folder: Path) -> Any:
    """Make every `./` or `../` string of a user's file absolute: it names paths relative to the file."""
    if isinstance(value, dict):
        return {key: anchored(inner, folder) for key, inner in value.items()}
    if isinstance(value, str) and value.startswith(("./", "../")):
        return str((folder / value).resolve())
    return value


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nest dotted keys: {"run.seed": 0} -> {"run": {"seed": 0}}."""
    out: dict[str, Any] = {}
    for dotted, value in flat.items():
        *path, last = dotted.split(".")
        table = reduce(lambda table, part: table.setdefault(part, {}) if isinstance(table, dict) else None, path, out)
        if not isinstance(table, dict) or isinstance(table.get(last), dict):
            raise SettingsError(
                f"{dotted:.200}: one setting gives it a value, another one a table; leave one of them out"
            )
        table[last] = value
    return out


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables into dotted keys: {"run": {"seed": 0}} -> {"run.seed": 0}."""
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out

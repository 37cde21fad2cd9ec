"""Tables of bench.toml with the code's defaults: for `bench config show`, and to compare the options of two runs.

A factory names the class of its table (`bench.settings.takes`); where it names none, a table stays as it stands. A
`proposer`, however deep, is of the class that the factory of its kind names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from bench import registry
from bench.errors import BenchError, SettingsError, UnknownName
from bench.settings import PERTURB, Resolved, flattened, merged, parse_table

INNER = {"start", "network"}  # options that name a pipeline: whose boxes, or whose tokens, one goes on from
LOADERS: dict[str, Callable[[str], Any]] = {
    "pipelines": registry.pipeline_factory,
    "train": lambda name: registry.load(registry.PIPELINES, name, "tasks"),
    "label": lambda name: registry.load(registry.LABEL_SOURCES, name),
}


def without_masks(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take `masks` out of a pipeline's options where it names a mask maker: the rest, and its table or {}."""
    masks = options.get("masks")
    if not isinstance(masks, Mapping) or "kind" not in masks:
        return dict(options), {}
    return {key: value for key, value in options.items() if key != "masks"}, dict(masks)


def with_start(options: Mapping[str, Any], resolved: Resolved, dataset: str, chain: tuple[str, ...]) -> dict[str, Any]:
    """Lay the tables of the pipelines that `start` and `network` name under them, for one that goes on from others.

    `start = "clipvg"` is short for a table with that `kind`; a word that is no pipeline's name stays. `chain` are the
    pipelines that start from each other. Raises SettingsError for one that starts from itself.
    """
    out = dict(options)
    for key in INNER & options.keys():
        start = options[key]
        table = {"kind": start} if isinstance(start, str) else start
        kind = table.get("kind") if isinstance(table, Mapping) else None
        if (
            not isinstance(table, Mapping)
            or not isinstance(kind, str)
            or kind not in registry.names(registry.PIPELINES)
        ):
            continue
        if kind in chain:
            raise SettingsError(
                f"bench.toml [pipelines.{chain[0]}]: {key}: {' starts from '.join((*chain, kind))}; name another "
                "pipeline"
            )
        whole = merged(resolved.table("pipelines", kind, dataset), table)
        out[key] = with_start(whole, resolved, dataset, (*chain, kind))
    return out


def complete(
    section: str, name: str, table: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Fill a table (without its `on`) with the defaults of its class, as JSON has it.

    `options` are those of the pipeline, by which a training has parts. Raises SettingsError for a table that does not
    fit, UnknownName, MissingPackage.
    """
    if section == "pipelines" and PERTURB in table:
        rest = {key: value for key, value in table.items() if key != PERTURB}
        return complete(section, name, rest, options) | ({PERTURB: table[PERTURB]} if table[PERTURB] else {})
    table, masks = without_masks(table) if section == "pipelines" else (table, {})
    if masks:
        made = {"kind": masks.pop("kind")}
        of: Any = getattr(registry.load(registry.MASKS, made["kind"]), "table", None)
        where = f"bench.toml [pipelines.{name}.masks]"
        made |= parse_table(of, masks, where).model_dump(mode="json") if of else masks
        return complete(section, name, table, options) | {"masks": made}
    model: Any = getattr(LOADERS[section](name), "table", None)
    where = f"bench.toml [{section}.{name}]"
    if not isinstance(model, type):
        parts: dict[str, type[BaseModel]] = model(options or {}) if model else {}
        filled = {part: parse_table(each, table.get(part, {}), f"{where}.{part}") for part, each in parts.items()}
        return {**table, **{part: each.model_dump(mode="json") for part, each in filled.items()}}
    whole: dict[str, Any] = _with_proposers(parse_table(model, table, where).model_dump(mode="json"), where)
    return whole


def same_options(pipeline: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two tables mean the same once the code's defaults are filled in."""
    if one == other:  # the usual case, in which no pipeline is imported
        return True
    try:
        return complete("pipelines", pipeline, one) == complete("pipelines", pipeline, other)
    except BenchError:
        return False


def in_force(resolved: Resolved, section: str = "") -> dict[str, dict[str, Any]]:
    """List every setting, or those of a dotted `section`: key -> {"value", "from"}.

    `from` is code, bench.toml, the path of a user's file, or flag. Raises UnknownName for an unknown section, and
    SettingsError for a table that does not fit.
    """
    values = resolved.settings.model_dump()
    written = flattened(values)
    for group in LOADERS:
        for name in sorted({*_registered(group), *values[group]}):
            if section in ("", group) or f"{section}.".startswith(f"{group}.{name}."):
                options = resolved.settings.pipelines.get(name, {})
                values[group][name] = _filled(group, name, values[group].get(name, {}), options)
    rows = {
        key: {"value": value, "from": resolved.origin.get(key, "code") if key in written else "code"}
        for key, value in flattened(values).items()
        if not section or f"{key}.".startswith(f"{section}.")
    }
    if not rows:
        parts = [key.split(".") for key in flattened(values)]
        known = {".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}
        known |= {f"{group}.{name}" for group in LOADERS for name in _registered(group)}
        raise UnknownName("section", section, known, hint="`bench config show` shows every section")
    return rows


def _registered(group: str) -> list[str]:
    if group == "label":
        return registry.names(registry.LABEL_SOURCES)
    return [name for name in registry.names(registry.PIPELINES) if group == "pipelines" or registry.has(name, "tasks")]


def _filled(group: str, name: str, table: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Complete a table and keep its lines for data sets; what cannot be imported here stays as it stands."""
    rest = {key: value for key, value in table.items() if key != "on"}
    try:
        filled = complete(group, name, rest, options)
    except SettingsError:
        raise
    except BenchError:
        filled = rest
    return filled | {key: value for key, value in table.items() if key == "on"}


def _with_proposers(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_with_proposers(inner, where) for inner in value]
    if not isinstance(value, dict):
        return value
    out = {key: _with_proposers(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(proposer := out.get("proposer"), dict) and "kind" in proposer:
        rest = {key: inner for key, inner in proposer.items() if key != "kind"}
        model = getattr(registry.load(registry.PROPOSERS, proposer["kind"]), "table", None)
        if model is not None:
            rest = parse_table(model, rest, f"{where}.proposer").model_dump(mode="json")
        out["proposer"] = {"kind": proposer["kind"], **rest}
    return out

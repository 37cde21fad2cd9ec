"""A study: pipelines x splits x settings, as the pairs that `bench run` goes through, each a run of its own.

    pipelines = ["yolo-clip", "clipvg"]
    splits = ["refcoco-val", "file:mine.jsonl"]
    run = { seed = 0 }                              # as [run] of bench.toml
    weights = { clipvg = "best.pth" }               # by pipeline, data set, or both

    [[variant]]                                     # optional; pairs that no variant takes are run without one
    name = "rules"
    pipelines = ["yolo-clip"]
    set = { "ranker.relations" = "rules" }          # as --set

Relative paths start at the file. All of it is checked before the first pipeline is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from bench import registry
from bench.datasets.load import FILE, find_split, load_split
from bench.datasets.split import Split
from bench.errors import BenchError, SettingsError, UsageError
from bench.evaluation.identity import data_identity, identity_of, same_weights
from bench.evaluation.opening import dataset_of, pipeline_context
from bench.runs.opening import IdentityOf, latest_run
from bench.runs.shards import Rank
from bench.runs.store import Run
from bench.settings import (
    Resolved,
    RunSettings,
    Table,
    anchored,
    flattened,
    load_settings,
    merged,
    nested,
    parse_table,
    read_toml,
)
from bench.tables import complete

if TYPE_CHECKING:
    from bench.grounding import PipelineContext

Part = TypeVar("Part", bound="Variant")
Weights = str | Mapping[str, str | Mapping[str, str]]


class Variant(Table):
    """[[variant]]: settings under a name, for all of the study's pairs unless it lists its own."""

    name: str = ""
    pipelines: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    on: str = Field("", description="data set whose lines of bench.toml hold, as --on")
    weights: Weights = Field("", description="as --weights; or by pipeline, by data set, or both")
    run: Mapping[str, Any] = Field(default_factory=dict, description="as [run] of bench.toml")
    set: Mapping[str, Any] = Field(default_factory=dict, description="as --set")


class Study(Variant):
    """A study file; `where` names it in messages, "" for a study made of the command line's own lists."""

    where: str = Field("", exclude=True)
    results: str = ""
    limit: int | None = Field(None, ge=1, description="only the first images, as --limit")
    variant: tuple[Variant, ...] = ()


@dataclass(frozen=True)
class Pair:
    """One pipeline on one split with the settings of one variant; `number` counts the study's pairs from 1."""

    number: int
    pipeline: str
    split: Split
    variant: str
    resolved: Resolved
    options: Mapping[str, Any]
    on: str | None

    @property
    def name(self) -> str:
        """The pipeline, with its variant in brackets."""
        return f"{self.pipeline} ({self.variant})" if self.variant else self.pipeline

    def __str__(self) -> str:
        return f"{self.name} on {self.split.name}"


def read_study(path: Path) -> Study:
    """Read a study file. Raises UsageError naming the file and the key."""
    folder, table = path.resolve().parent, anchored(read_toml(path), path.resolve().parent)
    # 1. Each variant on its own, so that an error names it.
    variants = table.get("variant", [])
    for number, each in enumerate(variants if isinstance(variants, list) else [], 1):
        if isinstance(each, dict):
            parse_table(Variant, each, f"{path}: [[variant]] {each.get('name') or number}")
            if not each.get("name"):
                raise SettingsError(f"{path}: [[variant]] {number}: it needs a name")
    if "where" in table:
        raise SettingsError(f"{path}: unknown key 'where'")
    study = parse_table(Study, {**table, "where": str(path)}, str(path))
    names = [variant.name for variant in study.variant]
    if double := next((name for name in names if names.count(name) > 1), ""):
        raise SettingsError(f"{path}: [[variant]] {double}: two have this name")
    # 2. Paths start at the file.
    results = str(folder / study.results) if study.results else ""
    moved = [_anchored(variant, folder) for variant in study.variant]
    return _anchored(study, folder).model_copy(update={"variant": tuple(moved), "results": results})


def _anchored(part: Part, folder: Path) -> Part:
    """Make `file:` splits and weights that are files absolute."""

    def absolute(text: str) -> str:
        key, equals, value = text.rpartition("=")
        path = folder / Path(value).expanduser()
        return f"{key}{equals}{path}" if value and path.exists() else text

    def each(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: each(inner) for key, inner in value.items()}
        return ",".join(map(absolute, value.split(",")))

    splits = tuple(
        f"{FILE}{folder / Path(name.removeprefix(FILE)).expanduser()}" if name.startswith(FILE) else name
        for name in part.splits
    )
    return part.model_copy(update={"splits": splits, "weights": each(part.weights)})


def plan(
    study: Study,
    config: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    on: str | None = None,
    limit: int | None = None,
    wanted: Callable[[int, str, str], bool] = lambda *_: True,
) -> list[Pair]:
    """Check a study whole, and list its pairs that are `wanted` (number, pipeline, split), their splits loaded.

    `flags` (dotted keys of bench.toml), `options` (of the pipelines), `on` and `limit` win over the study's. Raises
    UsageError naming the file and the key for what is unknown, not prepared, empty or there twice.
    """
    # 1. Every name is looked up before the first split is read.
    for part in (study, *study.variant):
        with naming(study, part, "pipelines"):
            for name in part.pipelines:
                registry.origin(registry.PIPELINES, name)
        with naming(study, part, "splits"):
            for name in part.splits:
                if not name.startswith(FILE):
                    find_split(name)
        with naming(study, part, "on"):
            if part.on:
                registry.origin(registry.DATASETS, part.on)
    if on is not None:
        registry.origin(registry.DATASETS, on)
    _check_lists(study)
    # 2. The pairs, and the splits of those that are wanted.
    rows = [
        (pipeline, split, variant)
        for pipeline in study.pipelines
        for split in study.splits
        for variant in [v for v in study.variant if _takes(v, pipeline, split)] or [Variant()]
    ]
    chosen = [(number, *row) for number, row in enumerate(rows, 1) if wanted(number, *row[:2])]
    if not chosen:
        raise UsageError(f"{study.where or 'bench run'}: --task, -p and -s choose none of the {len(rows)} pairs")
    base = load_settings(config, flags)
    most, splits = limit or study.limit, dict[str, Split]()
    for name in dict.fromkeys(split for _, _, split, _ in chosen):
        with naming(study, study, "splits"):
            split = load_split(name, base)
        splits[name] = split.limited(most) if most else split
    # 3. The settings of each; options that its pipeline does not know are refused before anything runs.
    pairs = []
    for number, pipeline, name, variant in chosen:
        split, place = splits[name], on or variant.on or study.on or None
        over = {f"run.{key}": value for key, value in {**study.run, **variant.run}.items()}
        over |= {"results": study.results} if study.results else {}
        resolved = load_settings(config, {**over, **(flags or {})}) if over else base
        own = merged(nested(flattened(study.set)), nested(flattened(variant.set)))
        for weights in (study.weights, variant.weights):
            own |= {"weights": one} if (one := _weights(weights, pipeline, dataset_of(split))) else {}
        pair = Pair(number, pipeline, split, variant.name, resolved, merged(own, options or {}), place)
        if (study.set or variant.set) and not ((run := stored(pair)) and run.already_done):
            with naming(study, variant if variant.set else study, "set"):
                table = resolved.table("pipelines", pipeline, place or dataset_of(split))
                complete("pipelines", pipeline, merged(table, own))
        pairs.append(pair)
    _refuse_same(study, pairs)
    return pairs


@contextmanager
def naming(study: Study, part: Variant, key: str) -> Iterator[None]:
    """Put the file and the key of a study before the message of an error inside the block."""
    try:
        yield
    except BenchError as error:
        if not study.where:
            raise
        place = f"[[variant]] {part.name}: {key}" if part is not study else key
        raise UsageError(f"{study.where}: {place}: {error}") from None


def _check_lists(study: Study) -> None:
    """Raise UsageError for a study without pairs, and for a variant or weights of what is not in it."""
    with naming(study, study, "pipelines and splits"):
        if not study.pipelines or not study.splits:
            raise UsageError("a study needs at least one of each")
    datasets = {dataset_of(name) if name.startswith(FILE) else find_split(name)[0].name for name in study.splits}
    for part in (study, *study.variant):
        for key, known in (("pipelines", study.pipelines), ("splits", study.splits)):
            with naming(study, part, key):
                if foreign := next((name for name in getattr(part, key) if name not in known), ""):
                    raise UsageError(f"{foreign} is not among those of the study")
        with naming(study, part, "weights"):
            by = part.weights if isinstance(part.weights, Mapping) else {}
            keys = {*by, *(key for inner in by.values() if isinstance(inner, Mapping) for key in inner)}
            if unknown := keys - {*study.pipelines, *datasets}:
                raise UsageError(f"{min(unknown)} is neither a pipeline nor a data set of the study")
        with naming(study, part, "run"):
            parse_table(RunSettings, part.run, "a setting of [run]")


def _takes(variant: Variant, pipeline: str, split: str) -> bool:
    return pipeline in (variant.pipelines or [pipeline]) and split in (variant.splits or [split])


def _weights(value: Weights, pipeline: str, dataset: str) -> str:
    """Choose the weights of a pipeline on a data set; "" where none are named."""
    while isinstance(value, Mapping):
        value = value.get(pipeline, value.get(dataset, ""))
    return value


def stored(pair: Pair) -> Run | None:
    """Return a pair's latest run, finished or with scenes pending; no pipeline is opened. Raises BenchError."""
    context, identity = _identified(pair)
    known = partial(same_weights, context=context)
    return latest_run(
        Path(pair.resolved.settings.results), identity, pair.split.protocol, pair.split.scenes, Rank(), known
    )


def _refuse_same(study: Study, pairs: Sequence[Pair]) -> None:
    """Raise UsageError when two variants make the same run."""
    known: dict[str, Pair] = {}
    for pair in pairs if study.variant else ():
        run = _identified(pair)[1]({}, {}).model_dump_json()
        if run in known:
            raise UsageError(f"{study.where}: [[variant]]: {known[run]} and {pair} have the same settings")
        known[run] = pair


def _identified(pair: Pair) -> tuple[PipelineContext, IdentityOf]:
    context = pipeline_context(pair.pipeline, pair.split, pair.resolved, pair.options, on=pair.on)
    deterministic = pair.resolved.settings.run.deterministic
    return context, partial(identity_of, context, data_identity(pair.split), deterministic)

"""Make the rows of the table that papers print: of published values, and of stored runs.

A row of ours is the runs of one pipeline under one word of training and the same settings: options that differ from
bench.toml's for the data set, number type and seed. Weights may differ from split to split where they were trained for
grounding (RefCOCO's weights on RefCOCO), unless two of them ran on one split: then each has a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bench.datasets.load import FILE
from bench.errors import UnknownName
from bench.reporting.boards import Run, histories, whole_row
from bench.reporting.marks import UNCHECKED, marks
from bench.reporting.published import OTHER_SPLITS, Published, published
from bench.reporting.published import UNCHECKED as HOW_UNCHECKED
from bench.reporting.rows import MASK_METRICS, Row, number_of
from bench.runs.record import RunRecord
from bench.settings import flattened, shipped_options

Metric = Literal["acc@0.5", "acc@0.7", "acc@0.9", "mean_iou", "mask_miou", "ciou"]
GROUPS = ("none", "zero-shot", "pseudo", "full", "mixed", "unknown")  # of training, in this order
TRAINED = ("pseudo", "full", "mixed")  # weights of these may belong to a data set
WEIGHTS = ("weights", "pretrained")  # keys of options


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A method. `values` in percent by split, `signs` beside them, `p` after Holm; `sources` are empty for ours."""

    name: str
    training: str
    values: Mapping[str, float]
    backbone: str = ""
    protocols: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)  # split -> source
    marks: tuple[tuple[str, str], ...] = ()
    signs: dict[str, str] = field(default_factory=dict)
    p: dict[str, float] = field(default_factory=dict)
    rows: Mapping[str, Row] = field(default_factory=dict)
    runs: Mapping[str, Run] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def published_rows(
    splits: Sequence[str], metric: Metric, wanted: Sequence[str] = (), trainings: Collection[str] = ()
) -> tuple[PaperRow, ...]:
    """Merge published entries of one method, backbone and training into rows; the first value of a split counts.

    Unless `wanted` names methods: those with values for at least half of the splits, no variants, and of one of the
    `trainings`, where these are known.
    """
    alike = {word for word in trainings if word in GROUPS[1:-1]} or set(GROUPS)
    merged: dict[tuple[str, str, str], list[Published]] = {}
    listed = {split: stem if (stem := split.removeprefix(FILE)) in OTHER_SPLITS else split for split in splits}
    for entry in published():
        if entry.metric == metric and any(name in entry.values for name in listed.values()):
            merged.setdefault((entry.method, entry.backbone, entry.training), []).append(entry)
    names = [name for name in wanted if name not in ("all", "none")]
    methods = {method for method, _, _ in merged}
    for name in names:
        if not any(_is_named(method, name) for method in methods):
            raise UnknownName("published method", name, methods)
    rows = []
    for (method, backbone, training), entries in merged.items():
        first = {split: e for e in reversed(entries) for split, key in listed.items() if key in e.values}
        usual = 2 * len(first) >= len(splits) and training in alike and not entries[0].variant
        if any(_is_named(method, name) for name in names) or "all" in wanted or (not wanted and usual):
            rows.append(
                PaperRow(
                    name=method,
                    training=training,
                    backbone=backbone,
                    values={split: first[split].values[listed[split]] for split in splits if split in first},
                    protocols=tuple(dict.fromkeys(first[split].protocol for split in splits if split in first)),
                    sources={s: f"{first[s].source} ({first[s].how})" for s in splits if s in first},
                    signs={split: UNCHECKED[0] for split, entry in first.items() if entry.how in HOW_UNCHECKED},
                )
            )
    return tuple(sorted(rows, key=lambda row: GROUPS.index(row.training)))


def _is_named(method: str, name: str) -> bool:
    return method.casefold() == name.casefold() or method.casefold().startswith(f"{name.casefold()},")


def own_rows(
    results: Path, splits: Sequence[str], metric: Metric, protocol: str, data: Mapping[str, str], notes: list[str]
) -> tuple[PaperRow, ...]:
    """Merge the stored runs into rows, as the head of this file says; `notes` collects what is left out.

    `data` is split -> fingerprint of the data that is meant; elsewhere the data that most runs are about.
    """
    # 1. The runs of these splits under one protocol, on one version of each split's data.
    latest = [runs[-1] for runs in histories(results, [])]
    runs = [run for run in latest if run[0].identity.data.split in splits and run[0].protocol == protocol]
    given = [run for run in runs if run[0].proposals]
    perturbed = [run for run in runs if run[0].perturbed]
    runs = [run for run in runs if not run[0].proposals and not run[0].perturbed]
    if given:
        notes.append(f"left out: {len(given)} runs that chose among annotated boxes")
    if perturbed:
        notes.append(f"left out: {len(perturbed)} runs on perturbed scenes")
    versions = {split: Counter(_data(record) for record, _ in runs if _split(record) == split) for split in splits}
    for split, counted in versions.items():
        kept = data.get(split) or next((version for version, _ in counted.most_common(1)), "")
        if others := sum(counted.values()) - counted[kept]:
            notes.append(f"left out: {others} runs on other data of the name {split} than data {kept[:8]}")
            runs = [run for run in runs if _split(run[0]) != split or _data(run[0]) == kept]
    if metric in MASK_METRICS:
        runs = _by_the_same_masks(runs, notes)
    # 2. Families of runs; where one has two weights on a split, each weights is a family.
    families: dict[tuple[Any, ...], list[Run]] = {}
    for record, folder in sorted(runs, key=lambda run: run[0].finished or ""):
        families.setdefault(_family(record, whole_row(results, [(record, folder)], ())), []).append((record, folder))
    for key, members in list(families.items()):
        pairs = {(_split(record), _weights(record)) for record, _ in members}
        if max(Counter(split for split, _ in pairs).values()) > 1:
            del families[key]
            for record, folder in members:
                families.setdefault((*key, _weights(record)), []).append((record, folder))
    # 3. A row each, named by what tells it from the others of its pipeline.
    rows = [_own_row(results, members, metric) for members in families.values()]
    names = _labels(rows)
    rows = [replace(row, name=name) for row, name in zip(rows, names, strict=True)]
    return tuple(sorted(rows, key=lambda row: (GROUPS.index(row.training), row.name)))


def _by_the_same_masks(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Return the runs with masks, of each split those that the ground-truth masks of most of them scored."""
    scored = [(run, run[0].metrics.masks.data) for run in runs if run[0].metrics and run[0].metrics.masks]
    counted = Counter((_split(run[0]), data) for run, data in scored)
    most: dict[str, str] = {}
    for (split, data), _ in counted.most_common():
        most.setdefault(split, data)
    kept = [run for run, data in scored if most[_split(run[0])] == data]
    if others := len(scored) - len(kept):
        notes.append(f"left out: {others} run{'s' * (others > 1)} scored by other ground-truth masks")
    return kept


def _split(record: RunRecord) -> str:
    return record.identity.data.split


def _data(record: RunRecord) -> str:
    return record.identity.data.fingerprint


def _weights(record: RunRecord) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(record.identity.weights.items()))


def _settings(record: RunRecord) -> dict[str, str]:
    """Return the settings that name a row: options that differ from bench.toml's, without weights; type and seed."""
    if record.provenance == "imported":
        return {}
    dataset = _split(record).rpartition("-")[0]
    usual = flattened(shipped_options(record.identity.pipeline, dataset))
    options = {
        key: str(value)
        for key, value in flattened(record.identity.options).items()
        if key.rpartition(".")[2] not in WEIGHTS and key.partition(".")[0] != "card" and usual.get(key) != value
    }
    return options | {"dtype": record.identity.dtype, "seed": str(record.identity.seed)}


def _family(record: RunRecord, row: Row) -> tuple[Any, ...]:
    """Return what the runs of a row share."""
    training = row["training_data"]
    pinned = () if training in TRAINED or record.provenance == "imported" else _weights(record)
    return record.name, record.provenance, row["submitted"] is None, training, tuple(_settings(record).items()), pinned


def _own_row(results: Path, members: Sequence[Run], metric: Metric) -> PaperRow:
    """Make the row of a family; the latest run of each split counts."""
    runs = {_split(record): (record, folder) for record, folder in members}
    rows = {split: whole_row(results, [run], ()) for split, run in runs.items()}
    record, first = members[-1][0], next(iter(rows.values()))
    names = dict.fromkeys(Path(name).name for row in rows.values() for name in row["weights_names"].values())
    hashes = dict.fromkeys(digest[:8] for row in rows.values() for digest in row["weights"].values())
    return PaperRow(
        name=record.name,
        training=first["training_data"],
        values={s: 100 * value for s, row in rows.items() if (value := number_of(row, metric)) is not None},
        protocols=(record.protocol,),
        marks=tuple(dict.fromkeys(mark for row in rows.values() for mark in marks(row))),
        rows=rows,
        runs=runs,
        facts={"training": first["training_data"], **_settings(record), "weights": ", ".join(names or hashes)},
    )


def _labels(rows: Sequence[PaperRow]) -> list[str]:
    """Name rows: the pipeline, and in brackets what tells several rows of it apart."""
    labels = []
    for row in rows:
        alike, words = [other for other in rows if other.name == row.name], []
        for key in dict.fromkeys(key for other in alike for key in other.facts):
            if len({other.facts.get(key) for other in alike}) > 1:
                alike = [other for other in alike if other.facts.get(key) == row.facts.get(key)]
                words += (
                    [row.facts[key] if key == "training" else f"{key} {row.facts[key]}"] if key in row.facts else []
                )
        labels.append(f"{row.name} ({', '.join(words)})" if words else row.name)
    for place, label in enumerate(labels):
        if labels.count(label) > 1:  # the whole of their facts is equal: name the runs' settings
            record = next(iter(rows[place].runs.values()))[0]
            labels[place] = f"{label} [{record.settings_hash[:8]}]"
    return labels

"""Scoring pseudo-labels by measurers: what `bench label score` does. What it leaves: bench/runs/reliability.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.datasets.label_sources import source_name, told_apart
from bench.datasets.labels import Labelled, load_labels, open_album
from bench.datasets.pseudo_files import list_format
from bench.datasets.reliability_files import IOU_RESULT, list_rows, read_iou_result, write_reliability_lists
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import dataset_of, open_pipeline
from bench.evaluation.progress import progress
from bench.evaluation.protocols import protocol
from bench.evaluation.reliability import Measured, Reliability, measure
from bench.grounding import Pipeline
from bench.hashing import sha256_file
from bench.reporting.reliability import drawing, summary
from bench.runs.files import make_folder
from bench.runs.provenance import environment, git_state, redacted, settings_hash
from bench.runs.reliability import Key, Pair, is_done, read_pairs, read_rows, rows_path, write_record, write_rows
from bench.settings import Resolved, merged
from bench.verbs.measurers import NO_NAME, Measurer, find_measurers

log = logging.getLogger("bench.label")


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    path: Path
    labelled: Labelled

    @property
    def file(self) -> Mapping[str, Any]:
        return self.labelled.files[0]


@dataclass
class _Scoring:
    """One call of `score_labels`: what is fixed for all its pairs, and the pairs that are done."""

    out: Path
    resolved: Resolved
    pipeline: str
    options: Mapping[str, Any]
    under: str
    lists: bool
    dataset: str
    head: Mapping[str, Any]
    order: Sequence[Key]
    pairs: dict[Key, Pair] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        run = self.resolved.settings.run
        where = environment(resolve_device(run.device), run.seed, run.deterministic)  # now, for torch is imported late
        return {**self.head, "environment": where, "pairs": [self.pairs[k] for k in self.order if k in self.pairs]}

    def write(self) -> None:
        record = self.record()
        write_record(self.out, record, drawing(f"Reliability of pseudo-labels of {record['split']}", record["pairs"]))


def score_labels(
    measurers: Sequence[str],
    paths: Sequence[Path],
    split_name: str,
    out: Path,
    resolved: Resolved,
    pipeline: str = "clipvg",
    options: Mapping[str, Any] | None = None,
    under: str = "iou",
    lists: bool = False,
) -> dict[str, Any]:
    """Every measurer (weights of `pipeline`) scores every label file about the split's pictures; the record.

    `options` are laid over [pipelines.NAME] of bench.toml; `under` names the protocol of the IoU; `lists` writes the
    official scorer's files too, in a folder for each pair. A pair that is done is not scored again.

    Raises UnknownName, UsageError, WeightsError, DataError as `load_labels` does, DeviceError, and RunError for `out`.
    """
    protocol(under)
    found = find_measurers(measurers, pipeline, resolved)
    sources = _sources(paths, split_name, resolved)
    dataset = dataset_of(sources[0].labelled.split)
    if lists:
        list_format(dataset)
    make_folder(out)
    head = {
        "command": " ".join(redacted()),
        "pipeline": pipeline,
        "split": sources[0].labelled.split.name,
        "protocol": under,
        "measurers": _described(found, dataset),
        "sources": [{"name": s.name, **s.file, "pictures": len(s.labelled.split.scenes)} for s in sources],
        "git": git_state(),
    }
    order = [(m.name, s.name) for m in found for s in sources]
    scoring = _Scoring(out, resolved, pipeline, options or {}, under, lists, dataset, head, order)
    earlier = read_pairs(out)
    for measurer in found:
        for source in sources:
            key = (measurer.name, source.name)
            if key in earlier and is_done(out, key, earlier[key], source.file["sha256"], _settings(scoring, measurer)):
                scoring.pairs[key] = earlier[key] | {"kind": measurer.kind(source.file)}
    for measurer in found:
        _score(scoring, measurer, sources)
    scoring.write()
    return scoring.record()


def show_official(path: Path, out: Path) -> dict[str, Any]:
    """The record of an official iou_result file, drawn and tabulated without any measurer. Raises DataError."""
    rows = read_iou_result(path)
    make_folder(out)
    source = path.name.removesuffix(IOU_RESULT).removesuffix(".pth")
    pair = {"measurer": "its measurer", "source": source, "kind": ""} | summary([row.iou for row in rows])
    pair["no_box"] = sum(row.prediction is None for row in rows)
    official = {"file": path.name, "sha256": sha256_file(path)}
    record = {"command": " ".join(redacted()), "from": official, "pairs": [pair]}
    write_record(out, record, drawing(f"Reliability, {path.name}", [pair]))
    return record


def _sources(paths: Sequence[Path], split_name: str, resolved: Resolved) -> list[_Source]:
    album = open_album(split_name, resolved)
    loaded = [load_labels(split_name, [path], resolved, album) for path in paths]
    names = [
        NO_NAME.sub("_", source_name(path, each.files[0]["rows"], each.provenance))
        for path, each in zip(paths, loaded, strict=True)
    ]
    apart = told_apart(names)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        same = [f"{path} is {new}" for path, new, old in zip(paths, apart, names, strict=True) if old == name]
        log.warning("several files are labels of the source %s: %s", name, ", ".join(same))
    return [_Source(*each) for each in zip(apart, paths, loaded, strict=True)]


def _described(measurers: Sequence[Measurer], dataset: str) -> list[dict[str, Any]]:
    """What the record says of each measurer; what is odd about one goes to the log as well."""
    described = []
    for m in measurers:
        data = m.data(dataset)
        if data == "other":
            log.warning("measurer %s was trained on %s, and these labels are about %s", m.name, m.dataset, dataset)
        elif data == "unknown":
            log.warning("measurer %s: nothing beside its weights says what they were trained on", m.name)
        said = m.trained_on or {}
        weights = Path(m.weights).name if m.sha256 else m.weights
        about = {"name": m.name, "weights": weights, "sha256": m.sha256, "trained_on": said.get("split")}
        described.append(about | {"labels": said.get("labels"), "measurer_data": data})
    return described


def _score(scoring: _Scoring, measurer: Measurer, sources: Sequence[_Source]) -> None:
    """Scores those of a measurer's pairs that are not done; its weights are opened for the first of them."""
    opened: Pipeline | None = None
    run = scoring.resolved.settings.run
    for source in sources:
        key, split = (measurer.name, source.name), source.labelled.split
        folder = rows_path(scoring.out, key).with_suffix("")
        # Of the lists, the one that is looked for is the last to be written.
        lists = scoring.lists and not (key in scoring.pairs and any(folder.glob(f"*{IOU_RESULT}")))
        if key in scoring.pairs and not lists:
            log.info("%s on %s: done before", *key)
            continue
        measured = _measured_before(scoring, key, source)
        if measured is None:
            options = {**scoring.options, "weights": measurer.weights}
            opened = opened or open_pipeline(scoring.pipeline, scoring.dataset, scoring.resolved, options)
            began = time.monotonic()
            with progress(f"{measurer.name} on {source.name}", len(split.scenes)) as advance:
                measured = measure(opened, split.scenes, split.pictures, run, under=scoring.under, advance=advance)
            pair = _pair(scoring, measurer, source, measured, opened)
            scoring.pairs[key] = pair | {"seconds": round(time.monotonic() - began, 2)}
            scoring.write()
        if lists:
            rows = list_rows(source.path, split.scenes, scoring.dataset)
            write_reliability_lists(folder, scoring.dataset, rows, measured.rows, measured.sizes)


def _measured_before(scoring: _Scoring, key: Key, source: _Source) -> Measured | None:
    """The rows of a pair that is done; None where its lists need sizes that only the decoded pictures know."""
    unknown = any(scene.width is None or scene.height is None for scene in source.labelled.split.scenes)
    if unknown or key not in scoring.pairs:
        return None
    return Measured({name: Reliability(*row) for name, row in read_rows(scoring.out, key).items()})


def _pair(scoring: _Scoring, measurer: Measurer, source: _Source, measured: Measured, pipeline: Pipeline) -> Pair:
    """Writes the pair's rows and says what they come to."""
    key = (measurer.name, source.name)
    return {
        "measurer": measurer.name,
        "source": source.name,
        "kind": measurer.kind(source.file),
        "measurer_sha256": dict(pipeline.card.sha256),
        "labels_sha256": source.file["sha256"],
        "settings": _settings(scoring, measurer),
        **write_rows(scoring.out, key, measured.rows),
        **summary([row.iou for row in measured.rows.values()]),
        "no_box": measured.no_box,
        "unreadable": measured.unreadable,
    }


def _settings(scoring: _Scoring, measurer: Measurer) -> str:
    """The hash of what a pair's numbers depend on besides its label file; the size of batches changes none."""
    run = scoring.resolved.settings.run
    table = merged(scoring.resolved.options(scoring.pipeline, scoring.dataset), scoring.options)
    options = {key: value for key, value in table.items() if key not in ("weights", "card")}
    device = resolve_device(run.device).partition(":")[0]
    numeric = {"device": device, "dtype": run.dtype, "seed": run.seed, "deterministic": run.deterministic}
    asked = {"pipeline": scoring.pipeline, "split": scoring.head["split"], "protocol": scoring.under}
    return settings_hash({"weights": measurer.sha256 or measurer.weights, "options": options} | asked | numeric)

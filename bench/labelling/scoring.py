"""Scoring pseudo-labels: what `bench label score` does. What it leaves: bench/runs/reliability.py.

A scorer is the weights that score them, with what their record says they were trained on.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.readers.label_sources import source_name, told_apart
from bench.datasets.readers.labels import Labelled, load_labels, open_album
from bench.errors import WeightsError
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import dataset_of, open_pipeline
from bench.evaluation.progress import progress
from bench.evaluation.protocols import protocol
from bench.evaluation.reliability import Measured, Reliability, measure
from bench.grounding import Pipeline
from bench.hashing import places_of, sha256_file
from bench.labelling.label_files import list_format
from bench.labelling.scorer_files import IOU_RESULT, list_rows, read_iou_result, write_reliability_lists
from bench.reporting.reliability_chart import reliability_chart
from bench.reporting.reliability_table import Kind, summary
from bench.runs.files import make_folder
from bench.runs.provenance import environment, git_state, redacted, settings_hash
from bench.runs.reliability import Key, Pair, is_done, read_pairs, read_rows, rows_path, write_record, write_rows
from bench.settings import Resolved, merged

log = logging.getLogger("bench.label")
NO_NAME = re.compile(r"[^\w.+-]+")  # what is replaced in names


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    path: Path
    labelled: Labelled

    @property
    def file(self) -> Mapping[str, Any]:
        return self.labelled.files[0]


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Weights under their unique name. `sha256` is that of their file, None for an id of the hub.

    `trained_on` is that part of the record beside the file ({"split", "labels", ...}), None where there is no record.
    """

    name: str
    weights: str
    sha256: str | None
    trained_on: Mapping[str, Any] | None

    def kind(self, source: Mapping[str, Any]) -> Kind:
        """SR when trained on this label file ({"file", "sha256"}), CR on others, "" when unknown.

        Files are compared by sha256, by name only where the record has no sha256. Weights trained on annotations are
        cross-source to every label file.
        """
        if self.trained_on is None:
            return ""
        for file in self.trained_on.get("labels") or ():
            known = "sha256" if file.get("sha256") else "file"
            if file.get(known) == source[known]:
                return "SR"
        return "CR"

    def described(self, dataset: str) -> dict[str, Any]:
        """Make the record's entry; other or unknown training data goes to the log as well."""
        record = self.trained_on or {}
        split = str(record.get("split", ""))
        own = "file" if split.startswith("file:") else split.rpartition("-")[0]
        data = "unknown" if not own else "same" if own == dataset else "other"
        if data == "other":
            log.warning("scorer %s was trained on %s, and these labels are about %s", self.name, own, dataset)
        elif data == "unknown":
            log.warning("scorer %s: nothing beside its weights says what they were trained on", self.name)
        return {
            "name": self.name,
            "weights": Path(self.weights).name if self.sha256 else self.weights,
            "sha256": self.sha256,
            "trained_on": record.get("split"),
            "labels": record.get("labels"),
            "scorer_data": data,
        }


def score_labels(
    weights: Sequence[str],
    paths: Sequence[Path],
    split_name: str,
    out: Path,
    resolved: Resolved,
    pipeline: str = "clipvg",
    options: Mapping[str, Any] | None = None,
    under: str = "iou",
    lists: bool = False,
) -> dict[str, Any]:
    """Score every label file about the split's images by every scorer (weights of `pipeline`); returns the record.

    `options` are laid over [pipelines.NAME] of bench.toml; `under` names the protocol of the IoU; `lists` writes the
    official scorer's files too, in a folder for each pair. A pair that is done is not scored again.

    Raises UnknownName, UsageError, WeightsError, DataError as `load_labels` does, DeviceError, and RunError for `out`.
    """
    protocol(under)
    scorers = _scorers(weights, pipeline, resolved)
    sources = _sources(paths, split_name, resolved)
    data, run = sources[0].labelled.split, resolved.settings.run
    dataset = dataset_of(data)
    if lists:
        list_format(dataset)
    make_folder(out)
    head = {
        "command": " ".join(redacted()),
        "pipeline": pipeline,
        "split": data.name,
        "protocol": under,
        "scorers": [scorer.described(dataset) for scorer in scorers],
        "sources": [{"name": s.name, **s.file, "images": len(s.labelled.split.scenes)} for s in sources],
        "git": git_state(),
    }
    # What a pair's numbers depend on besides its label file and the weights; the size of batches changes none.
    table = merged(resolved.table("pipelines", pipeline, dataset), options or {})
    fixed: dict[str, Any] = {"options": {key: value for key, value in table.items() if key not in ("weights", "card")}}
    fixed |= {"pipeline": pipeline, "split": data.name, "protocol": under, "dtype": run.dtype, "seed": run.seed}
    fixed |= {"device": resolve_device(run.device).partition(":")[0], "deterministic": run.deterministic}
    settings = {m.name: settings_hash({"weights": m.sha256 or m.weights, **fixed}) for m in scorers}
    order = [(scorer, source, (scorer.name, source.name)) for scorer in scorers for source in sources]
    earlier, pairs = read_pairs(out), dict[Key, Pair]()
    for scorer, source, key in order:
        if key in earlier and is_done(out, key, earlier[key], source.file["sha256"], settings[scorer.name]):
            pairs[key] = earlier[key] | {"kind": scorer.kind(source.file)}

    def store() -> dict[str, Any]:
        where = environment(resolve_device(run.device), run.seed, run.deterministic)  # now, for torch is imported late
        record: dict[str, Any] = {
            **head,
            "environment": where,
            "pairs": [pairs[key] for *_, key in order if key in pairs],
        }
        write_record(out, record, reliability_chart(f"Reliability of pseudo-labels of {data.name}", record["pairs"]))
        return record

    opened: tuple[str, Pipeline] | None = None  # a scorer's weights are opened for the first of its pairs
    for scorer, source, key in order:
        split, folder = source.labelled.split, rows_path(out, key).with_suffix("")
        # Of the lists, the one that is looked for is the last to be written.
        listed = not lists or (key in pairs and any(folder.glob(f"*{IOU_RESULT}")))
        if key in pairs and listed:
            log.info("%s on %s: done before", *key)
            continue
        # Lists need sizes, which only the decoded images may tell.
        sized = all(scene.width is not None and scene.height is not None for scene in split.scenes)
        if key in pairs and sized:
            measured = Measured({name: Reliability(*row) for name, row in read_rows(out, key).items()})
        else:
            if opened is None or opened[0] != scorer.name:
                opened = None  # two would not fit
                given = {**(options or {}), "weights": scorer.weights}
                opened = scorer.name, open_pipeline(pipeline, dataset, resolved, given)
            began = time.monotonic()
            with progress(f"{scorer.name} on {source.name}", len(split.scenes)) as advance:
                measured = measure(opened[1], split.scenes, split.images, run, under=under, advance=advance)
            pairs[key] = {
                "scorer": scorer.name,
                "source": source.name,
                "kind": scorer.kind(source.file),
                "scorer_sha256": dict(opened[1].card.sha256),
                "labels_sha256": source.file["sha256"],
                "settings": settings[scorer.name],
                **write_rows(out, key, measured.rows),
                **summary([row.iou for row in measured.rows.values()]),
                "no_box": measured.no_box,
                "unreadable": measured.unreadable,
                "seconds": round(time.monotonic() - began, 2),
            }
            store()
        if not listed:
            rows = list_rows(source.path, split.scenes, dataset)
            write_reliability_lists(folder, dataset, rows, measured.rows, measured.sizes)
    return store()


def show_official(path: Path, out: Path) -> dict[str, Any]:
    """Draw and tabulate an official iou_result file, without any scorer; returns the record. Raises DataError."""
    rows = read_iou_result(path)
    make_folder(out)
    source = path.name.removesuffix(IOU_RESULT).removesuffix(".pth")
    pair = {"scorer": "its scorer", "source": source, "kind": ""} | summary([row.iou for row in rows])
    pair["no_box"] = sum(row.prediction is None for row in rows)
    official = {"file": path.name, "sha256": sha256_file(path)}
    record = {"command": " ".join(redacted()), "from": official, "pairs": [pair]}
    write_record(out, record, reliability_chart(f"Reliability, {path.name}", [pair]))
    return record


def _sources(paths: Sequence[Path], split_name: str, resolved: Resolved) -> list[_Source]:
    album = open_album(split_name, resolved)
    loaded = [load_labels(split_name, [path], resolved, album) for path in paths]
    names = [
        NO_NAME.sub("_", source_name(path, each.files[0]["rows"], each.provenance))
        for path, each in zip(paths, loaded, strict=True)
    ]
    unique = told_apart(names)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        same = [f"{path} is {new}" for path, new, old in zip(paths, unique, names, strict=True) if old == name]
        log.warning("several files are labels of the source %s: %s", name, ", ".join(same))
    return [_Source(*each) for each in zip(unique, paths, loaded, strict=True)]


def _scorers(weights: Sequence[str], pipeline: str, resolved: Resolved) -> list[_Scorer]:
    """Find the scorers, in order, under unique names; an id of the hub is left to the pipeline to find.

    Raises WeightsError for a file that is nowhere, saying how to make one.
    """
    places = []
    for name in weights:
        tried = places_of(name, resolved)
        place = next((path for path in tried if path.is_file()), None)
        if place is None and (Path(name).suffix or name.count("/") != 1):
            raise WeightsError(
                f"--scorer {name}: no such weights (looked at {', '.join(map(str, tried))}); a scorer is made by "
                f"`bench train --pipeline {pipeline} --split NAME --labels FILE --out FOLDER`"
            )
        places.append(place)
    # Files' names without their suffix; where two are the same, the names of their folders, if these differ.
    stems = [place.stem if place else given.rpartition("/")[2] for given, place in zip(weights, places, strict=True)]
    folders = [place.resolve().parent.name if place else stem for place, stem in zip(places, stems, strict=True)]
    stems, folders = ([NO_NAME.sub("_", name) for name in names] for names in (stems, folders))
    names = [folder if stems.count(stem) > 1 and folder else stem for stem, folder in zip(stems, folders, strict=True)]
    unique = told_apart(names if len(set(names)) == len(names) else stems)
    return [
        _Scorer(name, str(place or given), sha256_file(place) if place else None, _trained_on(place))
        for name, given, place in zip(unique, weights, places, strict=True)
    ]


def _trained_on(weights: Path | None) -> Mapping[str, Any] | None:
    if weights is None:
        return None
    try:
        record = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    trained_on = record.get("trained_on") if isinstance(record, dict) else None
    return trained_on if isinstance(trained_on, dict) else None

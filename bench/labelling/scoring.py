"""Scoring pseudo-labels: what `bench label score` does. What it leaves: bench/runs/reliability.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.datasets.readers.labels import Labelled, load_labels, open_album, source_name
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import dataset_of, open_pipeline
from bench.evaluation.protocols import protocol
from bench.evaluation.reliability import Measured, Reliability
from bench.labelling.scorer_files import check_lists, list_rows, lists_are_written, write_reliability_lists
from bench.labelling.scorers import NO_NAME, find_scorers, kind_of, measure_rows, record_of, unique_names
from bench.reporting.reliability_chart import reliability_chart
from bench.reporting.reliability_table import summary
from bench.runs.provenance import environment, git_state, redacted, settings_hash
from bench.runs.reliability import Key, Pair, is_done, open_folder, read_rows, rows_path, write_record, write_rows
from bench.settings import Resolved, merged

log = logging.getLogger("bench.label")


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
    # 1. The scorers, and the label files under unique names.
    protocol(under)
    scorers = find_scorers(weights, pipeline, resolved)
    sources = _load_sources(paths, split_name, resolved)
    data, run = sources[0][2].split, resolved.settings.run
    dataset = dataset_of(data)
    if lists:
        check_lists(dataset)
    earlier, pairs = open_folder(out), dict[Key, Pair]()
    head = {
        "command": " ".join(redacted()),
        "pipeline": pipeline,
        "split": data.name,
        "protocol": under,
        "scorers": [record_of(scorer, dataset) for scorer in scorers],
        "sources": [{"name": name, **it.files[0], "images": len(it.split.scenes)} for name, _, it in sources],
        "git": git_state(),
    }
    # 2. What a pair's numbers depend on besides its label file and the weights; the size of batches changes none.
    table = merged(resolved.table("pipelines", pipeline, dataset), options or {})
    fixed: dict[str, Any] = {"options": {key: value for key, value in table.items() if key not in ("weights", "card")}}
    fixed |= {"pipeline": pipeline, "split": data.name, "protocol": under, "dtype": run.dtype, "seed": run.seed}
    fixed |= {"device": resolve_device(run.device).partition(":")[0], "deterministic": run.deterministic}
    settings = {s["name"]: settings_hash({"weights": s["sha256"] or s["weights"], **fixed}) for s in scorers}
    # 3. The pairs that are done.
    order = [(scorer, source, (scorer["name"], source[0])) for scorer in scorers for source in sources]
    for scorer, (_, _, labelled), key in order:
        file = labelled.files[0]
        if key in earlier and is_done(out, key, earlier[key], file["sha256"], settings[key[0]]):
            pairs[key] = earlier[key] | {"kind": kind_of(scorer, file)}

    def store() -> dict[str, Any]:
        where = environment(resolve_device(run.device), run.seed, run.deterministic)  # now, for torch is imported late
        done = [pairs[key] for *_, key in order if key in pairs]
        record: dict[str, Any] = {**head, "environment": where, "pairs": done}
        write_record(out, record, reliability_chart(f"Reliability of pseudo-labels of {data.name}", done))
        return record

    # 4. The others: a scorer's weights are opened for the first of its pairs.
    opened = None
    for scorer, (_, path, labelled), key in order:
        split, file, folder = labelled.split, labelled.files[0], rows_path(out, key).with_suffix("")
        listed = not lists or (key in pairs and lists_are_written(folder))
        if key in pairs and listed:
            log.info("%s on %s: done before", *key)
            continue
        # Lists need sizes, which only the decoded images may tell.
        sized = all(scene.width is not None and scene.height is not None for scene in split.scenes)
        if key in pairs and sized:
            measured = Measured({name: Reliability(*row) for name, row in read_rows(out, key).items()})
        else:
            if opened is None or opened[0] is not scorer:
                opened = None  # two would not fit
                own = {**(options or {}), "weights": scorer["weights"]}
                opened = scorer, open_pipeline(pipeline, dataset, resolved, own)
            began = time.monotonic()
            measured = measure_rows(opened[1], split, "{} on {}".format(*key), run, under)
            pairs[key] = {
                "scorer": key[0],
                "source": key[1],
                "kind": kind_of(scorer, file),
                "scorer_sha256": dict(opened[1].card.sha256),
                "labels_sha256": file["sha256"],
                "settings": settings[key[0]],
                **write_rows(out, key, measured.rows),
                **summary([row.iou for row in measured.rows.values()]),
                "no_box": measured.no_box,
                "unreadable": measured.unreadable,
                "seconds": round(time.monotonic() - began, 2),
            }
            store()
        # 5. The official scorer's files.
        if not listed:
            rows = list_rows(path, split.scenes, dataset)
            write_reliability_lists(folder, dataset, rows, measured.rows, measured.sizes)
    return store()


def _load_sources(paths: Sequence[Path], split_name: str, resolved: Resolved) -> list[tuple[str, Path, Labelled]]:
    """Load label files, each under a unique name of its source."""
    album = open_album(split_name, resolved)
    loaded = [load_labels(split_name, [path], resolved, album) for path in paths]
    names = [
        NO_NAME.sub("_", source_name(path, each.files[0]["rows"], each.provenance))
        for path, each in zip(paths, loaded, strict=True)
    ]
    unique = unique_names(names)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        same = [f"{path} is {new}" for path, new, old in zip(paths, unique, names, strict=True) if old == name]
        log.warning("several files are labels of the source %s: %s", name, ", ".join(same))
    return list(zip(unique, paths, loaded, strict=True))

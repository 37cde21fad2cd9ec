"""Scoring pseudo-labels: what `bench label score` does. What it leaves: bench/runs/reliability.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.datasets.readers.labels import Labelled, load_labels, open_album, source_name
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import OpenPipeline, dataset_of, open_pipeline
from bench.evaluation.protocols import protocol
from bench.evaluation.reliability import Measured, Reliability
from bench.labelling.scorer_files import (
    check_lists,
    list_rows,
    lists_are_written,
    store_record,
    write_reliability_lists,
)
from bench.labelling.scorers import NO_NAME, find_scorers, kind_of, measure_rows, record_of, unique_names
from bench.reporting.reliability_table import summary
from bench.runs.memo import Memo
from bench.runs.provenance import environment, git_state, redacted, settings_hash
from bench.runs.reliability import Key, Pair, read_rows, rows_are_intact, rows_path, write_rows
from bench.settings import Resolved, merged

log = logging.getLogger("bench.label")
ANSWERS = "answers.jsonl"  # of a pair that is not done, in its node


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
    data, run = sources[0][2][0], resolved.settings.run
    dataset = dataset_of(data)
    if lists:
        check_lists(dataset)
    pairs: dict[Key, Pair] = {}
    head = {
        "command": " ".join(redacted()),
        "pipeline": pipeline,
        "split": data.name,
        "protocol": under,
        "scorers": [record_of(scorer, dataset) for scorer in scorers],
        "sources": [{"name": name, **files[0], "images": len(split.scenes)} for name, _, (split, files, _) in sources],
        "git": git_state(),
    }
    # 2. What a pair's numbers depend on besides its label file and the weights; the size of batches changes none.
    table = merged(resolved.table("pipelines", pipeline, dataset), options or {})
    fixed: dict[str, Any] = {"options": {key: value for key, value in table.items() if key not in ("weights", "card")}}
    fixed |= {"pipeline": pipeline, "split": data.name, "protocol": under, "dtype": run.dtype, "seed": run.seed}
    fixed |= {"device": resolve_device(run.device).partition(":")[0], "deterministic": run.deterministic}
    settings = {s["name"]: settings_hash({"weights": s["sha256"] or s["weights"], **fixed}) for s in scorers}
    order = [(scorer, source, (scorer["name"], source[0])) for scorer in scorers for source in sources]

    def store() -> dict[str, Any]:
        where = environment(resolve_device(run.device), run.seed, run.deterministic)  # now, for torch is imported late
        done = [pairs[key] for *_, key in order if key in pairs]
        record: dict[str, Any] = {**head, "environment": where, "pairs": done}
        return store_record(out, record, f"Reliability of pseudo-labels of {data.name}")

    opened: tuple[Mapping[str, Any], OpenPipeline] | None = None

    def measured_by(scorer: Mapping[str, Any], labelled: Labelled, key: Key, store: Path | None = None) -> Measured:
        nonlocal opened
        if opened is None or opened[0] is not scorer:
            opened = None  # two would not fit
            own = {**(options or {}), "weights": scorer["weights"]}
            opened = scorer, open_pipeline(pipeline, dataset, resolved, own)
        return measure_rows(opened[1], labelled[0], "{} on {}".format(*key), run, under, store)

    new: dict[Key, Measured] = {}  # the pair that was scored last

    def pair_of(scorer: Mapping[str, Any], labelled: Labelled, key: Key, node: Path) -> Pair:
        began = time.monotonic()
        measured = measured_by(scorer, labelled, key, node / ANSWERS)
        new.clear()
        new[key] = measured
        assert opened is not None
        return {
            "scorer": key[0],
            "source": key[1],
            "kind": "",
            "scorer_sha256": dict(opened[1].card.sha256),
            "labels_sha256": labelled[1][0]["sha256"],
            "settings": settings[key[0]],
            **write_rows(out, key, measured.rows),
            **summary([row.iou for row in measured.rows.values()]),
            "no_box": measured.no_box,
            "unreadable": measured.unreadable,
            "seconds": round(time.monotonic() - began, 2),
        }

    # 3. Each pair once: its node in the memo is of these files and settings, and its rows are intact.
    memo = Memo(out / "nodes", title="label score", log=log)
    for scorer, (_, path, labelled), key in order:
        split, (file,), _ = labelled
        node = {"pair": key, "labels": file["sha256"], "settings": settings[key[0]]}
        work = partial(pair_of, scorer, labelled, key)
        name, pair = memo.run("score", node, "{} on {}".format(*key), work, partial(rows_are_intact, out))
        (out / "nodes" / name / ANSWERS).unlink(missing_ok=True)  # the pair's rows are stored
        pairs[key] = pair | {"kind": kind_of(scorer, file)}
        if key in new:
            store()
        # 4. The official scorer's files, which need sizes that perhaps only the decoded images have.
        folder = rows_path(out, key).with_suffix("")
        if lists and not lists_are_written(folder):
            sized = all(scene.width is not None and scene.height is not None for scene in split.scenes)
            if key in new:
                one = new[key]
            elif sized:
                one = Measured({name: Reliability(*row) for name, row in read_rows(out, key).items()})
            else:
                one = measured_by(scorer, labelled, key)
            write_reliability_lists(folder, dataset, list_rows(path, split.scenes, dataset), one.rows, one.sizes)
    return store()


def _load_sources(paths: Sequence[Path], split_name: str, resolved: Resolved) -> list[tuple[str, Path, Labelled]]:
    """Load label files, each under a unique name of its source."""
    album = open_album(split_name, resolved)
    loaded = [load_labels(split_name, [path], resolved, album) for path in paths]
    names = [
        NO_NAME.sub("_", source_name(path, files[0]["rows"], provenance))
        for path, (_, files, provenance) in zip(paths, loaded, strict=True)
    ]
    unique = unique_names(names)
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        same = [f"{path} is {new}" for path, new, old in zip(paths, unique, names, strict=True) if old == name]
        log.warning("several files are labels of the source %s: %s", name, ", ".join(same))
    return list(zip(unique, paths, loaded, strict=True))

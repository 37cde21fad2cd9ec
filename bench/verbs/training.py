"""Training a pipeline's weights from a split: what `bench train` does, and the record it leaves beside each file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.label_sources import sources_of
from bench.datasets.labels import Labelled, load_labels, open_album
from bench.datasets.load import load_split
from bench.datasets.remembered import Remembered
from bench.datasets.split import Split
from bench.errors import DataError, UsageError
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import dataset_of, pipeline_context
from bench.evaluation.validation import on_split
from bench.runs.files import make_folder, write_atomically
from bench.runs.provenance import environment, git_state, redacted
from bench.runs.shards import from_environment
from bench.settings import Resolved, merged
from bench.trainable import Trained, TrainingJob


def train_pipeline(
    pipeline: str,
    split_name: str,
    resolved: Resolved,
    part: str | None,
    validate: str | None,
    out: Path,
    limit: int | None,
    recipe: Mapping[str, Any],
    labels: Sequence[Path] = (),
    fresh: bool = False,
    curriculum: str | None = None,
    dry_run: bool = False,
) -> dict[str, Path]:
    """Train `part` of a pipeline (every part when None) on a split; part -> weights file under `out`.

    `recipe` is laid over [train.<pipeline>] of bench.toml. With `labels` the expressions come from these files and only
    the pictures from the split's data set. `fresh` begins anew instead of going on from what a stopped training left
    under `out`. `curriculum` (single, multi) chooses among the rows of `labels` first; with `dry_run` it only says what
    it would do, and {} comes back. Under torchrun or Slurm rank 0 alone writes records; the other ranks return {}.

    Raises UnknownName, UsageError, DataError, SettingsError.
    """
    _ = registry.curriculum(pipeline) if curriculum else registry.trainer(pipeline)  # refused before data is read
    if curriculum and not labels:
        raise UsageError(f"--curriculum {curriculum} chooses among pseudo-labels: name their files with --labels")
    if curriculum and part:
        raise UsageError(f"--part {part}: a curriculum trains whole networks; leave it out")
    if curriculum and fresh:
        raise UsageError(
            f"--fresh: what a curriculum has done lies in {out / 'nodes'}; delete that, or name another --out"
        )
    if dry_run and not curriculum:
        raise UsageError("--dry-run says what a curriculum would do: say --curriculum single or multi")
    if validate is None and not split_name.endswith("-train"):
        raise UsageError(f"say with --validate which split the score is taken on: {split_name} is no train split")
    album = open_album(split_name, resolved) if labels else None
    given = load_labels(split_name, labels, resolved, album) if labels else Labelled(load_split(split_name, resolved))
    split = given.split if limit is None else given.split.limited(limit)
    if not split.scenes:
        raise DataError(f"{split.name}: there is nothing to train on; the split has no scenes")
    validation = load_split(validate or split_name.removesuffix("-train") + "-val", resolved)
    if curriculum:  # many trainings look at the same pictures
        split = replace(split, pictures=Remembered(split.pictures))
        validation = replace(validation, pictures=Remembered(validation.pictures))
    rank = from_environment()
    make_folder(out)
    device = resolve_device(resolved.settings.run.device, rank.local)
    job = TrainingJob(
        scenes=split.scenes,
        pictures=split.pictures,
        validation=validation.scenes,
        validation_pictures=validation.pictures,
        recipe=merged(resolved.recipe(pipeline, dataset_of(split)), recipe),
        part=part,
        out=out,
        context=pipeline_context(pipeline, split, resolved, device=device),
        validate=on_split(validation.scenes, validation.pictures, resolved.settings.run),
        split_name=split.name,
        validation_name=validation.name,
        fingerprint=split.fingerprint,
        labels=given.files,
        fresh=fresh,
        settings=resolved.settings.run,
    )
    began, code = time.monotonic(), git_state()  # before the weights are written, which are files of the checkout too
    if curriculum:
        sources = sources_of(split_name, labels, resolved, limit, album)
        made = registry.curriculum(pipeline)(job, sources, curriculum, dry_run)
    else:
        made = registry.trainer(pipeline)(job)
    if rank.index:
        return {}
    for name, trained in made.items():
        record: dict[str, Any] = {"pipeline": pipeline, "part": name, "command": " ".join(redacted())}
        record |= _record(job, trained, split, validation, resolved, processes=rank.size)
        record |= {"seconds": round(time.monotonic() - began), "git": code}
        record["environment"] = environment(device, job.context.seed, resolved.settings.run.deterministic)
        write_atomically(trained.path.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    return {name: trained.path for name, trained in made.items()}


def _record(
    job: TrainingJob, trained: Trained, split: Split, validation: Split, resolved: Resolved, processes: int
) -> dict[str, Any]:
    """What one part was trained on, how, and how well it does; `training` is what its trainer says besides, for example
    on which split the best weights were chosen."""
    data: dict[str, Any] = {"split": split.name, "fingerprint": split.fingerprint, "pictures": len(split.scenes)}
    data["expressions"] = sum(len(scene.expressions) for scene in split.scenes)
    if job.labels:
        data["labels"] = [dict(file) for file in job.labels]
    return {
        "seed": job.context.seed,
        "device": job.context.device,
        "processes": processes,
        "trained_on": data,
        "validated_on": {"split": validation.name, "fingerprint": validation.fingerprint},
        "recipe": dict(trained.recipe),
        "started_from": _record_beside(trained.recipe.get("start_from"), resolved),
        "training": dict(trained.notes),
        "score": dict(trained.score),
    }


def _record_beside(weights: Any, resolved: Resolved) -> Any:
    """The record of the weights that a training went on from, if this program made them: the whole way is told."""
    if not weights:
        return None
    for place in (Path(str(weights)), resolved.folder / str(weights)):
        record = place.with_suffix(".json")
        if place.is_file() and record.is_file():
            return json.loads(record.read_text(encoding="utf-8"))
    return str(weights)

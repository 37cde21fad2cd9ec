"""Training a pipeline's weights from a split: what `bench train` does, and the record beside each weights file."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.images import CachedImages
from bench.datasets.load import load_split
from bench.datasets.readers.labels import Labelled, load_labels, open_album, sources_of
from bench.datasets.split import Split
from bench.errors import DataError, UnknownName, UsageError
from bench.evaluation.device import make_deterministic, resolve_device, seed_everything
from bench.evaluation.opening import dataset_of, pipeline_context
from bench.evaluation.validation import on_split
from bench.hashing import find_file
from bench.runs.files import make_folder, write_atomically
from bench.runs.provenance import environment, git_state, redacted
from bench.runs.shards import from_environment
from bench.settings import Resolved, merged
from bench.training.gradient_check import gradient_check
from bench.training.task import ExternalTraining, TaskFactory, Trained, TrainingJob, TrainTask
from bench.training.trainer import train

log = logging.getLogger("bench.train")


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
    tasks: Any = None,
) -> dict[str, Path]:
    """Train `part` of a pipeline (every part when None) on a split; return part -> weights file under `out`.

    `recipe` is laid over [train.<pipeline>] of bench.toml. With `labels` the expressions come from these files and only
    the images from the split's data set. `fresh` starts anew in place of resuming a stopped training under `out`.
    `curriculum` (single, multi) selects among the rows of `labels` first; with `dry_run` it only prints its plan and
    returns {}. `tasks` replaces what the method brings. Under torchrun or Slurm rank 0 alone writes records; the other
    ranks return {}.

    Raises UnknownName, UsageError, DataError, SettingsError.
    """
    tasks = tasks or registry.load(registry.PIPELINES, pipeline, "tasks")  # refused before data is read
    if curriculum:
        registry.load(registry.CURRICULA, curriculum)
    _refuse(split_name, part, validate, out, labels, fresh, curriculum, dry_run)
    album = open_album(split_name, resolved) if labels else None
    given = load_labels(split_name, labels, resolved, album) if labels else Labelled(load_split(split_name, resolved))
    split = given.split if limit is None else given.split.limited(limit)
    if not split.scenes:
        raise DataError(f"{split.name}: there is nothing to train on; the split has no scenes")
    validation = load_split(validate or split_name.removesuffix("-train") + "-val", resolved)
    if curriculum:  # many trainings use the same images
        split = replace(split, images=CachedImages(split.images))
        validation = replace(validation, images=CachedImages(validation.images))
    rank = from_environment()
    make_folder(out)
    table = merged(resolved.table("train", pipeline, dataset_of(split)), recipe)
    options = table.pop("curriculum", {})
    job = replace(
        _job(pipeline, split, validation, resolved, table, out),
        labels=given.files,
        fresh=fresh,
    )
    run = resolved.settings.run
    seed_everything(run.seed)
    if run.deterministic:
        make_deterministic()
    started, code = time.monotonic(), git_state()  # before the weights are written, which are files of the checkout too
    if curriculum:
        sources = sources_of(split_name, labels, resolved, limit, album)
        trained = registry.load(registry.CURRICULA, curriculum)(job, sources, tasks, options, dry_run)
    else:
        trained = _train_parts(job, tasks(job), part)
    if rank.index:
        return {}
    for name, one in trained.items():
        record: dict[str, Any] = {"pipeline": pipeline, "part": name, "command": " ".join(redacted())}
        record |= _record(job, one, split, validation, resolved, processes=rank.size)
        record |= {"seconds": round(time.monotonic() - started), "git": code}
        record["environment"] = environment(job.context.device, run.seed, run.deterministic)
        write_atomically(one.path.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    return {name: one.path for name, one in trained.items()}


def first_step(
    pipeline: str, split_name: str, resolved: Resolved, recipe: Mapping[str, Any], part: str | None, limit: int | None
) -> dict[str, Any]:
    """Return the first training step of a pipeline's part on a split (see gradient_check). Raises as training does."""
    tasks = registry.load(registry.PIPELINES, pipeline, "tasks")
    split = load_split(split_name, resolved)
    split = split if limit is None else split.limited(limit)
    table = merged(resolved.table("train", pipeline, dataset_of(split)), recipe)
    job = replace(_job(pipeline, split, split, resolved, table, Path()), saves=False)
    (factory,) = list(_chosen(tasks(job), part, pipeline).values())[:1]
    task = factory()
    if not isinstance(task, TrainTask):
        raise UsageError(f"--train-step {pipeline}: {task.trainer}'s own trainer takes its steps; none can be shown")
    return {"split": split.name, **gradient_check(task)}


def _job(
    pipeline: str, split: Split, validation: Split, resolved: Resolved, table: Mapping[str, Any], out: Path
) -> TrainingJob:
    run = resolved.settings.run
    device = resolve_device(run.device, from_environment().local)
    return TrainingJob(
        scenes=split.scenes,
        images=split.images,
        validation=validation.scenes,
        validation_images=validation.images,
        recipe=table,
        out=out,
        context=pipeline_context(pipeline, split, resolved, device=device),
        validate=on_split(validation.scenes, validation.images, run),
        split_name=split.name,
        validation_name=validation.name,
        fingerprint=split.fingerprint,
        settings=run,
    )


def _refuse(
    split_name: str,
    part: str | None,
    validate: str | None,
    out: Path,
    labels: Sequence[Path],
    fresh: bool,
    curriculum: str | None,
    dry_run: bool,
) -> None:
    """Raises UsageError for flags that do not go together."""
    if curriculum and not labels:
        raise UsageError(f"--curriculum {curriculum} selects among pseudo-labels: name their files with --labels")
    if curriculum and part:
        raise UsageError(f"--part {part}: a curriculum trains whole networks; leave it out")
    if curriculum and fresh:
        raise UsageError(
            f"--fresh: a curriculum's finished work is in {out / 'nodes'}; delete that, or name another --out"
        )
    if dry_run and not curriculum:
        raise UsageError("--dry-run prints the plan of a curriculum: add --curriculum single or multi")
    if validate is None and not split_name.endswith("-train"):
        raise UsageError(f"name with --validate the split to score on: {split_name} is no train split")


def _chosen(parts: Mapping[str, TaskFactory], part: str | None, pipeline: str) -> Mapping[str, TaskFactory]:
    if part is not None and part not in parts:
        raise UnknownName(f"part of {pipeline}", part, parts)
    return parts if part is None else {part: parts[part]}


def _train_parts(job: TrainingJob, parts: Mapping[str, TaskFactory], part: str | None) -> dict[str, Trained]:
    """Train each part in turn. What a part's trainer cannot do is refused by name before anything is trained."""
    tasks = {name: factory() for name, factory in _chosen(parts, part, job.context.name).items()}
    for name, task in tasks.items():
        if isinstance(task, ExternalTraining):
            where = f"{job.context.name}, part {name}: {task.trainer}'s own trainer"
            if from_environment().size > 1:
                raise UsageError(f"{where} runs in one process here; start `bench train` without torchrun or srun")
            if job.fresh:
                raise UsageError(f"{where} always starts anew; leave --fresh out")
    trained = {name: task.run() if isinstance(task, ExternalTraining) else train(task) for name, task in tasks.items()}
    return {name: one for name, one in trained.items() if one is not None}


def _record(
    job: TrainingJob, trained: Trained, split: Split, validation: Split, resolved: Resolved, processes: int
) -> dict[str, Any]:
    """What one part was trained on, how, and how well it does; `training` holds the trainer's notes, for example on
    which split the best weights were chosen."""
    data: dict[str, Any] = {"split": split.name, "fingerprint": split.fingerprint, "images": len(split.scenes)}
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
        "started_from": _start_record(trained.recipe.get("start_from"), resolved),
        "training": dict(trained.notes),
        "score": dict(trained.score),
    }


def _start_record(weights: Any, resolved: Resolved) -> Any:
    """The record of the weights that a training started from, if this program made them; else their name."""
    if not weights:
        return None
    path = find_file(str(weights), resolved)
    record = path and path.with_suffix(".json")
    return json.loads(record.read_text(encoding="utf-8")) if record and record.is_file() else str(weights)

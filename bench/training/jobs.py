"""Training a pipeline's weights from a split: what `bench train` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import registry
from bench.datasets.load import FILE, find_split, load_split
from bench.datasets.readers.labels import load_labels, open_album, sources_of
from bench.errors import DataError, UnknownName, UsageError
from bench.evaluation.decoding import CachedImages
from bench.evaluation.device import loading, make_deterministic, seed_everything
from bench.fetching.sources import refuse_missing
from bench.runs.shards import from_environment
from bench.settings import Resolved, merged

if TYPE_CHECKING:  # they import torch, which takes seconds: only once the request is known to be sound
    from bench.training.task import Trained, Training, TrainingJob, TrainTask


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
    on: str | None = None,
) -> dict[str, Path]:
    """Train `part` of a pipeline (every part when None) on a split; return part -> weights file under `out`.

    `recipe` is laid over [train.<pipeline>] of bench.toml. With `labels` the expressions come from these files and only
    the images from the split's data set. `fresh` starts anew in place of resuming a stopped training under `out`.
    `curriculum` (single, multi) selects among the rows of `labels` first; with `dry_run` it only prints its plan and
    returns {}. `tasks` replaces what the method brings, and `on` the data set whose tables of bench.toml hold. Under
    torchrun or Slurm rank 0 alone writes records; the other ranks return {}.

    Raises UnknownName, UsageError, DataError, SettingsError.
    """
    # 1. Refuse what does not go together before data is read, and data that is not there before torch is imported.
    registry.origin(registry.PIPELINES, pipeline)
    for name in (split_name, validate):
        if name is not None and not name.startswith(FILE):
            data, its_part = find_split(name)
            if not data.ready(its_part.name, resolved):
                load_split(name, resolved)  # it says how to prepare it
    if curriculum:
        registry.origin(registry.CURRICULA, curriculum)
    nodes = out / "nodes"
    for refused, why in (
        (
            curriculum and not labels,
            f"--curriculum {curriculum} selects among pseudo-labels: name their files with --labels",
        ),
        (curriculum and part, f"--part {part}: a curriculum trains whole networks; leave it out"),
        (
            curriculum and fresh,
            f"--fresh: a curriculum's finished work is in {nodes}; delete that, or name another --out",
        ),
        (dry_run and not curriculum, "--dry-run prints the plan of a curriculum: add --curriculum single or multi"),
        (
            validate is None and not split_name.endswith("-train"),
            f"name the split to score on with --validate SPLIT: {split_name} is not a data set's train split",
        ),
    ):
        if refused:
            raise UsageError(why)
    dataset = on or ("file" if split_name.startswith(FILE) else find_split(split_name)[0].name)
    lines = resolved.table("train", pipeline, dataset)
    refuse_missing(pipeline, merged(lines, recipe), resolved, resolved.settings.run.offline)
    # 2. Load the split, or the images of its data set with the expressions of `labels`, and the validation split.
    album = open_album(split_name, resolved) if labels else None
    split, files, _ = (
        load_labels(split_name, labels, resolved, album) if labels else (load_split(split_name, resolved), (), {})
    )
    split = split if limit is None else split.limited(limit)
    if not split.scenes:
        raise DataError(f"{split.name}: there is nothing to train on; the split has no scenes")
    validation = load_split(validate or split_name.removesuffix("-train") + "-val", resolved)
    if curriculum:  # many trainings use the same images
        split = replace(split, images=CachedImages(split.images))
        validation = replace(validation, images=CachedImages(validation.images))
    # 3. Make the job, and seed what draws at random outside the trainer.
    loading(f"{pipeline} to train on {split.name}")
    tasks = tasks or registry.load(registry.PIPELINES, pipeline, "tasks")
    from bench.training.setup import make_job, start_record, write_record
    from bench.training.task import TrainTask
    from bench.training.trainer import train

    job = make_job(pipeline, split, validation, resolved, recipe, out, on)
    table = dict(job.recipe)
    options = table.pop("curriculum", {})
    job = replace(job, recipe=table, labels=files, fresh=fresh)
    seed_everything(job.settings.seed)
    if job.settings.deterministic:
        make_deterministic()
    started = start_record(out)  # before the weights are written, which are files of the checkout too
    # 4. Train, part by part or by the curriculum.
    trained: dict[str, Trained | None] = {}
    if curriculum:
        sources = sources_of(split_name, labels, resolved, limit, album)
        select = registry.load(registry.CURRICULA, curriculum)
        trained = select(job, sources, tasks, options, dry_run)
    else:
        for name, task in chosen_tasks(job, tasks, part).items():
            trained[name] = train(task) if isinstance(task, TrainTask) else task.run()
    # 5. Write the records; only rank 0 has weights.
    made = {name: one for name, one in trained.items() if one is not None and not from_environment().index}
    for name, one in made.items():
        write_record(name, one, job, validation, resolved, started)
    return {name: one.path for name, one in made.items()}


def chosen_tasks(job: TrainingJob, tasks: Any, part: str | None) -> dict[str, TrainTask | Training]:
    """Make the tasks of the part, or of all. Raises UnknownName, and UsageError for what a part's trainer cannot do."""
    from bench.training.task import ExternalTraining

    parts = tasks(job)
    if part is not None and part not in parts:
        raise UnknownName(f"part of {job.context.name}", part, parts)
    chosen = {name: make() for name, make in parts.items() if part in (None, name)}
    for name, task in chosen.items():
        if isinstance(task, ExternalTraining):
            where = f"{job.context.name}, part {name}: {task.trainer}'s own trainer"
            if from_environment().size > 1:
                raise UsageError(f"{where} runs in one process here; start `bench train` without torchrun or srun")
            if job.fresh:
                raise UsageError(f"{where} always starts anew; leave --fresh out")
    return chosen

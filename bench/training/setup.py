"""Set up a training's job from settings and splits, and write the record of what it made."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.datasets.split import Split
from bench.errors import UsageError
from bench.evaluation.device import resolve_device
from bench.evaluation.opening import dataset_of, for_device, pipeline_context
from bench.evaluation.validation import on_split
from bench.hashing import find_file
from bench.runs.files import make_folder, write_atomically
from bench.runs.provenance import environment, git_state, redacted
from bench.runs.shards import from_environment
from bench.settings import Resolved, merged
from bench.tables import without_masks
from bench.training.task import Trained, TrainingJob


def make_job(
    pipeline: str,
    split: Split,
    validation: Split,
    resolved: Resolved,
    recipe: Mapping[str, Any],
    out: Path,
    on: str | None = None,
) -> TrainingJob:
    """Make the job of a pipeline's training; `recipe` is laid over [train.<pipeline>] of bench.toml.

    `on` names the data set whose lines of bench.toml hold, where they are not the split's own. Raises UsageError for a
    split whose expressions may mean nothing or several objects.
    """
    for each in (split, validation):
        if each.several:
            raise UsageError(
                f"{each.name}: some expressions refer to nothing or to several objects, and a training here needs one "
                "box for each; train on a file of the others"
            )
    device = resolve_device(resolved.settings.run.device, from_environment().local)
    run = for_device(resolved.settings.run, device)
    context = pipeline_context(pipeline, split, resolved, device=device, on=on)
    return TrainingJob(
        scenes=split.scenes,
        images=split.images,
        validation=validation.scenes,
        validation_images=validation.images,
        recipe=merged(resolved.table("train", pipeline, on or dataset_of(split)), recipe),
        out=out,
        context=replace(context, options=without_masks(context.options)[0]),  # validation is about boxes
        validate=on_split(validation.scenes, validation.images, run),
        split_name=split.name,
        validation_name=validation.name,
        validation_command=validation.argument,
        fingerprint=split.fingerprint,
        settings=run,
    )


def start_record(out: Path) -> dict[str, Any]:
    """Make the output folder; return the command, the time and the code's state before anything is written."""
    make_folder(out)
    return {"command": " ".join(redacted()), "seconds": time.monotonic(), "git": git_state()}


def write_record(
    name: str, trained: Trained, job: TrainingJob, validation: Split, resolved: Resolved, started: Mapping[str, Any]
) -> None:
    """Write beside the weights of the part `name` what they were trained on, how, and how well they do.

    `training` holds the trainer's notes, for example on which split the best weights were chosen.
    """
    data: dict[str, Any] = {"split": job.split_name, "fingerprint": job.fingerprint, "images": len(job.scenes)}
    data["expressions"] = sum(len(scene.expressions) for scene in job.scenes)
    if job.labels:
        data["labels"] = [dict(file) for file in job.labels]
    record = {
        "pipeline": job.context.name,
        "part": name,
        "command": started["command"],
        "seed": job.context.seed,
        "device": job.context.device,
        "processes": from_environment().size,
        "trained_on": data,
        "validated_on": {"split": validation.name, "fingerprint": validation.fingerprint},
        "recipe": dict(trained.recipe),
        "started_from": _start_record(trained.recipe.get("start_from"), resolved),
        "training": dict(trained.notes),
        "score": dict(trained.score),
        "seconds": round(time.monotonic() - started["seconds"]),
        "git": started["git"],
        "environment": environment(job.context.device, job.settings.seed, job.settings.deterministic),
    }
    write_atomically(trained.path.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())


def _start_record(weights: Any, resolved: Resolved) -> Any:
    """Return the record of the weights that a training started from, if this program made them; else their name."""
    if not weights:
        return None
    path = find_file(str(weights), resolved)
    record = path and path.with_suffix(".json")
    return json.loads(record.read_text(encoding="utf-8")) if record and record.is_file() else str(weights)

"""Training a pipeline's weights from a split: what `bench train` does, and the record it leaves beside each file."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import registry
from bench.datasets.load import load_split
from bench.errors import UsageError
from bench.evaluation.pipelines import dataset_of, pipeline_context
from bench.grounding import TrainingJob
from bench.runs.files import make_folder, write_atomically
from bench.runs.provenance import environment, git_state, redacted
from bench.settings import Resolved, merged


def train_pipeline(
    pipeline: str,
    split_name: str,
    resolved: Resolved,
    part: str | None,
    validate: str | None,
    out: Path,
    limit: int | None,
    recipe: Mapping[str, Any],
) -> dict[str, Path]:
    """Train `part` of a pipeline (every part when None) on a split; part -> weights file under `out`.

    `recipe` is laid over [train.<pipeline>] of bench.toml. Raises UnknownName, UsageError, DataError, SettingsError.
    """
    trainer = registry.trainer(pipeline)
    split = load_split(split_name, resolved)
    if limit is not None:
        split = split.limited(limit)
    if validate is None and not split_name.endswith("-train"):
        raise UsageError(f"say with --validate which split the score is taken on: {split_name} is no train split")
    validation = load_split(validate or split_name.removesuffix("-train") + "-val", resolved)
    make_folder(out)
    job = TrainingJob(
        scenes=split.scenes,
        pictures=split.pictures,
        validation=validation.scenes,
        validation_pictures=validation.pictures,
        recipe=merged(resolved.recipe(pipeline, dataset_of(split)), recipe),
        part=part,
        out=out,
        context=pipeline_context(pipeline, split, resolved),
    )
    began, code = time.monotonic(), git_state()  # before the weights are written, which are files of the checkout too
    made = trainer(job)
    for name, trained in made.items():
        record = {
            "pipeline": pipeline,
            "part": name,
            "command": " ".join(redacted()),
            "seed": job.context.seed,
            "device": job.context.device,
            "trained_on": {"split": split.name, "fingerprint": split.fingerprint, "pictures": len(split.scenes)},
            "validated_on": {"split": validation.name, "fingerprint": validation.fingerprint},
            "recipe": dict(trained.recipe),
            "started_from": _record_beside(trained.recipe.get("start_from"), resolved),
            "score": dict(trained.score),
            "seconds": round(time.monotonic() - began),
            "git": code,
            "environment": environment(job.context.device, job.context.seed, resolved.settings.run.deterministic),
        }
        write_atomically(trained.path.with_suffix(".json"), (json.dumps(record, indent=2) + "\n").encode())
    return {name: trained.path for name, trained in made.items()}


def _record_beside(weights: Any, resolved: Resolved) -> Any:
    """The record of the weights that a training went on from, if this program made them: the whole way is told."""
    if not weights:
        return None
    for place in (Path(str(weights)), resolved.folder / str(weights)):
        record = place.with_suffix(".json")
        if place.is_file() and record.is_file():
            return json.loads(record.read_text(encoding="utf-8"))
    return str(weights)

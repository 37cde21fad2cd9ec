"""Training yolo-clip: its parts are the detector and the CLIP, each by its own recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.errors import SettingsError, UnknownName
from bench.grounding import Trained, TrainingJob


def train(job: TrainingJob) -> Mapping[str, Trained]:
    """Train the part asked for, or both; [train.yolo-clip.<part>] of bench.toml is its recipe."""
    from pipelines.training.clip import train_clip
    from pipelines.training.detector import train_detector

    parts = {"detector": train_detector, "clip": train_clip}
    if job.part is not None and job.part not in parts:
        raise UnknownName("part of yolo-clip", job.part, parts)
    if unknown := job.recipe.keys() - parts.keys():
        raise SettingsError(
            f"bench.toml [train.{job.context.name}]: unknown key {min(unknown)!r}; parts: {list(parts)}"
        )
    wanted = parts if job.part is None else {job.part: parts[job.part]}
    return {name: trainer(replace(job, recipe=job.recipe.get(name, {}))) for name, trainer in wanted.items()}

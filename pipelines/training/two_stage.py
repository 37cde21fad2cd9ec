"""Training a two-stage pipeline: its parts are the detector, by the kind of its proposer, and the CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module

from bench.errors import SettingsError, UnknownName
from bench.training.task import Trained, TrainingJob

DETECTORS = {  # kind of proposer -> what trains one from nothing
    "yolo": "pipelines.training.yolo:train_yolo",
    "ssd": "pipelines.training.ssd:train_ssd",
    "detr": "pipelines.training.detr:train_detr",
}
CLIP = "pipelines.training.clip:train_clip"


def train(job: TrainingJob) -> Mapping[str, Trained]:
    """Train the part asked for, or all; [train.<pipeline>.<part>] of bench.toml is its recipe.

    Raises UnknownName, SettingsError, DataError.
    """
    kind = job.context.options.get("proposer", {}).get("kind")
    parts = ({"detector": DETECTORS[kind]} if kind in DETECTORS else {}) | {"clip": CLIP}
    if job.part is not None and job.part not in parts:
        raise UnknownName(f"part of {job.context.name}", job.part, parts)
    if unknown := job.recipe.keys() - parts.keys():
        raise SettingsError(
            f"bench.toml [train.{job.context.name}]: unknown key {min(unknown)!r}; parts: {list(parts)}"
        )
    wanted = parts if job.part is None else {job.part: parts[job.part]}
    made = {}
    for part, door in wanted.items():
        module, _, trainer = door.partition(":")
        made[part] = getattr(import_module(module), trainer)(replace(job, recipe=job.recipe.get(part, {})))
    return made

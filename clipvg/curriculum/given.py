"""What a curriculum does not make itself: the CLIP that all networks stand on, and measurers that are brought along."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from bench.errors import SettingsError
from bench.training.task import TrainingJob
from clipvg.training.recipe import ClipVGRecipe

log = logging.getLogger("bench.train")


def with_taught_clip(recipe: ClipVGRecipe, job: TrainingJob) -> ClipVGRecipe:
    """The recipe without a first lesson, for which one has to know every object of a picture; the CLIP of the
    pipeline's own weights, if it is of the same architecture, has had it. Raises SettingsError where there is none.
    """
    if not recipe.lesson.epochs or recipe.start_from:
        return recipe
    clip = job.context.options.get("clip") or {}
    if clip.get("model") != recipe.clip.model or not clip.get("pretrained"):
        raise SettingsError(
            f"bench.toml [train.{job.context.name}]: a first lesson needs to know every object of a picture, which "
            "pseudo-labels do not; set lesson.epochs = 0 and name a CLIP in clip.pretrained"
        )
    log.info("curriculum: all networks stand on the CLIP %s, which has had its lesson", clip["pretrained"])
    named = recipe.clip.model_copy(update={"pretrained": clip["pretrained"]})
    return recipe.model_copy(update={"clip": named, "lesson": recipe.lesson.model_copy(update={"epochs": 0})})


def trained_elsewhere(weights: Path, dataset: str) -> str:
    """A warning, which is logged too, where the record beside weights says another data set than `dataset`, or where
    there is none; empty where all is well.
    """
    try:
        split = str(json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))["trained_on"]["split"])
    except (OSError, ValueError, KeyError, TypeError):
        said = f"{weights}: no record beside it says what it was trained on; as a measurer it may know other pictures"
    else:
        if split.rpartition("-")[0] == dataset:
            return ""
        said = f"{weights}: trained on {split}, and measures labels of {dataset}"
    log.warning("curriculum: %s", said)
    return said

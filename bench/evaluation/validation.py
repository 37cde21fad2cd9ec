"""Validation of weights in training, by the code of `bench run`, in memory, for one process's share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from bench.errors import DataError
from bench.evaluation.answering import Gather, gather_answers
from bench.evaluation.metrics import compute
from bench.grounding import ImageSource, Pipeline, Scene
from bench.runs.numbers import Bootstrap
from bench.settings import RunSettings

NO_INTERVAL = Bootstrap(draws=1, seed=0, confidence=0.95)  # of the numbers below none is an interval

log = logging.getLogger("bench.train")


Validate = Callable[..., dict[str, float]]  # `validate` of a split: (pipeline, *, index, count, gather)


def validate(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    images: ImageSource,
    settings: RunSettings,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
) -> dict[str, float]:
    """Score a pipeline on `scenes`: "accuracy" (IoU >= 0.5), "mean_iou", "n", "accuracy/KIND"; unrounded fractions.

    With masks there is "mask_miou", too.

    `index`, `count` and `gather` are those of `gather_answers`; every process returns the same numbers. An image that
    cannot be decoded is a miss for each of its expressions. Raises DataError without expressions, and what
    `gather_answers` raises.
    """
    if not any(scene.expressions for scene in scenes):
        raise DataError("the validation split has no expressions; name another one with --validate")
    mine, rows = gather_answers(pipeline, scenes, images, settings, "validation", log, index, count, gather)
    metrics = compute(mine, rows, settings=NO_INTERVAL)
    kinds = {f"accuracy/{kind}": each.accuracy for kind, each in metrics.strata.get("kind", {}).items()}
    masks = {} if metrics.masks is None else {"mask_miou": metrics.masks.miou.value}
    return {"accuracy": metrics.accuracy, "mean_iou": metrics.mean_iou, **masks, "n": float(metrics.n), **kinds}


def on_split(scenes: Sequence[Scene], images: ImageSource, settings: RunSettings | None = None) -> Validate:
    """Bind `validate` to a split, for a TrainingJob."""
    return partial(validate, scenes=scenes, images=images, settings=settings or RunSettings())

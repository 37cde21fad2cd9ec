"""The score of weights in training: the evaluation of `bench run`, in memory and on this process's share of the scenes.

Answers, decoding, hits and IoU are the code that runs use (answering.py, decode.py, metrics.py), so a validation score
and the row of a later run on the same split are the same number.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from bench.errors import DataError
from bench.evaluation.answering import Gather, gathered
from bench.evaluation.metrics import compute
from bench.grounding import PictureSource, Pipeline, Scene
from bench.runs.record import Bootstrap
from bench.settings import RunSettings

NO_INTERVAL = Bootstrap(draws=1, seed=0, confidence=0.95)  # of the numbers below none is an interval

log = logging.getLogger("bench.train")


class Validate(Protocol):
    """Scores a pipeline on the validation split by the evaluation of `bench run` (bench/evaluation/validation.py)."""

    def __call__(
        self, pipeline: Pipeline, *, index: int = 0, count: int = 1, gather: Gather | None = None
    ) -> dict[str, float]:
        """Return "accuracy", "mean_iou", "n" and "accuracy/KIND" for each kind; fractions, unrounded.

        Process `index` of `count` scores its share; `gather` (accelerate's gather_object) joins the shares.
        """
        ...


def validate(
    pipeline: Pipeline,
    scenes: Sequence[Scene],
    pictures: PictureSource,
    settings: RunSettings,
    index: int = 0,
    count: int = 1,
    gather: Gather | None = None,
) -> dict[str, float]:
    """What `pipeline` reaches on `scenes`: "accuracy" (hits at IoU >= 0.5 over expressions), "mean_iou", "n" and, for
    each kind of expression, "accuracy/KIND"; fractions, unrounded.

    Process `index` of `count` asks about scenes index, index + count, ... `gather` takes this process's list and gives
    every process the lists of all in one, as accelerate's gather_object does; each expression then counts once, and
    every process returns the same numbers. Without it a share is scored for itself. A picture that cannot be read is
    a miss for each of its expressions, as in a run; it is named in the log.

    Raises DataError when there is nothing to ask or no picture can be read, BenchError when the gathered shares are not
    the whole split, and what `answers` raises.
    """
    if not any(scene.expressions for scene in scenes):
        raise DataError("the validation split has no expressions; name another one with --validate")
    mine, rows = gathered(pipeline, scenes, pictures, settings, "validation", log, index, count, gather)
    found = compute(mine, rows, settings=NO_INTERVAL)
    kinds = {f"accuracy/{kind}": each.accuracy for kind, each in found.strata.get("kind", {}).items()}
    return {"accuracy": found.accuracy, "mean_iou": found.mean_iou, "n": float(found.n), **kinds}


def on_split(scenes: Sequence[Scene], pictures: PictureSource, settings: RunSettings | None = None) -> Validate:
    """`validate` bound to a split: what a TrainingJob carries."""
    return partial(validate, scenes=scenes, pictures=pictures, settings=settings or RunSettings())

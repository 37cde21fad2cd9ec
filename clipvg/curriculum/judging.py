"""What a trial is worth: by labelled val as in the paper, or by something that nobody had to label.

Each criterion is Acc@0.5 by the harness's own evaluation; they differ in whose boxes count as true.

labelled    those of the validation split: the paper's, and a look at labels that an unsupervised method has not
held-out    the pseudo-boxes of pictures that no training saw
agreement   on the same pictures and phrases, the boxes that each measurer gives: noise of a source's own boxes is not
            rewarded, and neither is one measurer's own mistake
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.boxes import box_area_xyxy
from bench.datasets.fingerprint import fingerprint
from bench.evaluation.validation import Validate, on_split
from bench.grounding import Box, Scene
from bench.training.task import TrainingJob
from clipvg.curriculum.rows import Pool, scenes_of, selected


@dataclass(frozen=True, slots=True)
class Judge:
    """`said` is how records name it, `data` the fingerprint of what it asks about."""

    said: str
    data: str
    validate: Validate

    @property
    def identity(self) -> dict[str, str]:
        """What of it a training's result depends on."""
        return {"criterion": self.said, "data": self.data}


def by_labels(job: TrainingJob) -> Judge:
    """Acc@0.5 on the validation split."""
    return Judge(f"selected on labelled {job.validation_name}", fingerprint(job.validation), job.validate)


def by_held_out(job: TrainingJob, pools: Sequence[Pool]) -> Judge:
    """Acc@0.5 on the pseudo-boxes of the pictures held out. Raises DataError when there are none."""
    return _label_free(job, "selected on held-out pseudo-labels", _held_out(pools))


def by_agreement(job: TrainingJob, pools: Sequence[Pool], boxes: Mapping[str, Mapping[str, Box | None]]) -> Judge:
    """Share of the held-out phrases, over all measurers, for which a network's box is a measurer's (IoU >= 0.5).

    `boxes` is measurer -> row -> its box, xyxy pixels; a row without one, or with an empty one, does not count.
    """
    rows = []
    for scene in _held_out(pools):
        bare = replace(scene, expressions=())
        for expression in scene.expressions:
            for measurer, found in boxes.items():
                box = found.get(expression.id)
                if box is not None and box_area_xyxy(box) > 0:
                    rows.append((bare, replace(expression, id=f"{measurer}:{expression.id}", box=box)))
    return _label_free(job, "selected on agreement between measurers", scenes_of(rows))


def _held_out(pools: Sequence[Pool]) -> tuple[Scene, ...]:
    return selected([row for pool in pools for row in pool.held_out], pools)


def _label_free(job: TrainingJob, said: str, scenes: tuple[Scene, ...]) -> Judge:
    return Judge(said, fingerprint(scenes), on_split(scenes, job.pictures, job.settings))

"""The "gt proposals" protocol: a pipeline chooses among the annotated boxes of a picture, and its run says so.

How well a ranker ranks, apart from how well a detector detects (ReCLIP's table 2 and others). Never comparable with
boxes that a pipeline found itself, so the signature of such a run is another one.

    gt             all objects of a picture, where the data set annotates them (shapes)
    gt-referred    the boxes that the split's expressions are about: fewer candidates, so an easier choice
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.datasets.split import Split
from bench.errors import UsageError
from bench.grounding import Boxes, Scene


class AnnotatedBoxes:
    """The candidates of a split; satisfies `bench.grounding.Candidates`. None: there is no split, only a picture."""

    def __init__(self, split: Split | None) -> None:
        self._split = split
        self.taken = False

    def take(self) -> tuple[str, Callable[[str], Boxes]]:
        """The mark, and scene id -> (N, 4) xyxy pixels, each box once, sorted by its numbers.

        Raises UsageError outside a split.
        """
        if self._split is None:
            raise UsageError("annotated boxes as proposals need a split whose annotations are known: use `bench run`")
        scenes = {scene.id: scene for scene in self._split.scenes}
        known = all(scene.objects for scene in scenes.values())
        self.taken = True

        def of(scene_id: str) -> Boxes:
            scene = scenes[scene_id]
            boxes = [each.box for each in scene.objects] if known else _referred(scene)
            # The order of the annotations would tell which box is asked about first.
            return np.unique(np.array(boxes, np.float64).reshape(-1, 4), axis=0)

        return "gt" if known else "gt-referred", of


def _referred(scene: Scene) -> list[tuple[float, ...]]:
    return [box for expression in scene.expressions for box in (expression.box, *expression.also)]

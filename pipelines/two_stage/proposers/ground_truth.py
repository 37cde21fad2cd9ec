"""`kind = "ground-truth"`: the annotated boxes of an image as its proposals, the "gt proposals" protocol.

It measures the ranker alone. The harness hands the boxes out through `context.candidates`, and the card marks the run's
signature (bench/evaluation/opening.py), so no leaderboard sets it beside boxes that a detector found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bench.errors import UsageError
from bench.grounding import LoadedScene, PipelineContext
from bench.settings import Table
from pipelines.two_stage.proposers.proposals import Proposals, Proposer, opener


class GroundTruthOptions(Table):
    """[pipelines.*.proposer] of kind "ground-truth"."""

    whole_image: bool = Field(False, description="append the whole image as the last proposal")


class GroundTruthProposer(Proposer):
    """The annotated boxes, without class names, all equally likely, in an order that says nothing."""

    def __init__(self, options: GroundTruthOptions, context: PipelineContext) -> None:
        if context.candidates is None:
            raise UsageError('proposer.kind = "ground-truth" works inside `bench run` only')
        self.sha256 = {}
        self._whole_image = options.whole_image
        self.annotated, self._boxes = context.candidates.take()

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals` for each scene, by its id."""
        return [self._of(scene) for scene in scenes]

    def _of(self, scene: LoadedScene) -> Proposals:
        boxes = self._boxes(scene.id)
        if self._whole_image:
            height, width = scene.image.shape[:2]
            boxes = np.concatenate([boxes, [[0.0, 0.0, width, height]]])
        return Proposals(boxes, np.ones(len(boxes)), ("",) * len(boxes))


open_ground_truth = opener(GroundTruthOptions, GroundTruthProposer)

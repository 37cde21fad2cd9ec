"""`kind = "ground-truth"`: the annotated boxes of an image as its proposals, the "gt proposals" protocol.

It measures the ranker alone. The harness hands the boxes out through `context.candidates`, and the card marks the run's
signature (bench/evaluation/opening.py), so no leaderboard sets it beside a detector's boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field

from bench.errors import UsageError
from bench.grounding import LoadedScene, PipelineContext
from bench.settings import Table, parse_table, takes
from pipelines.two_stage.proposers.proposals import Proposals, SceneProposer


class GroundTruthOptions(Table):
    """[pipelines.*.proposer] of kind "ground-truth"."""

    whole_image: bool = Field(False, description="append the whole image as the last proposal")


@takes(GroundTruthOptions)
def open_ground_truth(table: Mapping[str, Any], where: str, context: PipelineContext) -> SceneProposer:
    """Open the annotated boxes: without class names, all equally likely, in an uninformative order."""
    options = parse_table(GroundTruthOptions, table, where)
    if context.candidates is None:
        raise UsageError('proposer.kind = "ground-truth" works inside `bench run` only')
    annotated, boxes_of = context.candidates.take()

    def propose(scene: LoadedScene) -> Proposals:
        boxes = scene.placed(boxes_of(scene.id))
        if options.whole_image:
            height, width = scene.image.shape[:2]
            boxes = np.concatenate([boxes, [[0.0, 0.0, width, height]]])
        return Proposals(boxes, np.ones(len(boxes)), ("",) * len(boxes))

    return SceneProposer("GroundTruthProposer", propose, annotated=annotated)

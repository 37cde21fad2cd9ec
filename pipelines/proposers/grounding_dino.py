"""GroundingDINO's boxes as proposals: its first choice is often the related object, yet the referent is nearly always
among its best ten (spec/pipelines.md 3.3), which leaves something for a ranker to do.

It is the one detector that has to be asked: a scene's proposals are the union of the best boxes of each of its
expressions, so what one expression may choose from depends on which others are asked about the same image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from bench.grounding import LoadedScene, PipelineContext
from pipelines.modern.grounding_dino import GroundingDino
from pipelines.proposers.proposals import Proposals, Proposer, ProposerOptions, opener


class GroundingDinoProposerOptions(ProposerOptions):
    """[pipelines.*.proposer] with `kind = "grounding-dino"`."""

    weights: str = Field("IDEA-Research/grounding-dino-tiny", description="an id of the hub, or a local folder")
    texts_in_batch: int = Field(8, ge=1, description="expressions of one image in a forward pass")
    boxes_per_text: int = Field(10, ge=1, description="the best of the 900 queries for each expression")
    top_k: int = Field(50, ge=1, description="of a scene")


class GroundingDinoProposer(Proposer):
    """The best boxes of every expression of a scene, without copies; a box's label is the expression that found it."""

    def __init__(self, options: GroundingDinoProposerOptions, context: PipelineContext) -> None:
        self.options = options
        self.detector = GroundingDino(options.weights, options.texts_in_batch, context)
        self.sha256 = self.detector.sha256
        self.parameters, self.accelerated = self.detector.parameters, self.detector.accelerated

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals` for each scene, from its image and its texts."""
        return [self._propose(scene) for scene in scenes]

    def _propose(self, scene: LoadedScene) -> Proposals:
        options = self.options
        boxes, scores, labels = [np.zeros((0, 4))], [np.zeros(0)], []
        for text, found in self.detector.find(scene.image, [query.text for query in scene.queries]).items():
            best = found.scores.topk(min(options.boxes_per_text, len(found.scores)))
            boxes.append(found.boxes[best.indices.cpu().numpy()])
            scores.append(best.values.double().cpu().numpy())
            labels += [text] * len(boxes[-1])
        together = Proposals(np.concatenate(boxes), np.concatenate(scores), tuple(labels))
        return options.tidied(together, scene.image)


open_grounding_dino = opener(GroundingDinoProposerOptions, GroundingDinoProposer)

"""Proposals that know their pixels: the masks of a segmentation model, and their boxes.

SAM's are without names and have seen no COCO; Mask2Former's and EoMT's are COCO's classes (spec/pipelines.md 6).
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.grounding import LoadedScene, PipelineContext
from pipelines.proposers.proposals import Proposals, Proposer, ProposerOptions, opener
from pipelines.segments.masks import MaskModel, MaskOptions


class MaskProposerOptions(MaskOptions, ProposerOptions):
    """[pipelines.*.proposer] with kind = "masks"."""


class MaskProposer(Proposer):
    """Boxes and masks of SAM, Mask2Former, EoMT and their like."""

    def __init__(self, options: MaskProposerOptions, context: PipelineContext) -> None:
        self.options = options
        self.model = MaskModel(options, context)
        self.sha256, self.parameters = self.model.sha256, self.model.parameters
        self.accelerated = self.model.accelerated

    def propose(self, scenes: Sequence[LoadedScene]) -> list[Proposals]:
        """One `Proposals`, with masks (N, H, W), for each scene's image."""
        return [self.options.tidied(self.model.find(scene.image), scene.image) for scene in scenes]


open_masks = opener(MaskProposerOptions, MaskProposer)

"""What cuts a batch of pictures into regions: superpixels, or a model's masks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

from bench.grounding import LoadedScene, Picture, PipelineContext
from bench.settings import Table, parse_table
from pipelines.segments.segmentation import Segmentation, segmentation_of
from pipelines.segments.superpixels import reduced, superpixels

THREADS = min(8, os.cpu_count() or 1)


class SegmentOptions(Table):
    """[pipelines.*.segments]."""

    method: Literal["slic", "watershed", "masks"] = "slic"
    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field((4, 8, 16, 32), min_length=1, description="superpixels")
    compactness: float | None = Field(None, ge=0, description="superpixels; None = 10 for slic, 0.001 for watershed")
    sigma: float = Field(1.0, ge=0, description="superpixels: pixels by which the picture is smoothed first")
    long_side: int = Field(0, ge=0, description="superpixels: larger pictures are reduced to it; 0 = never")
    masks: dict[str, Any] = Field(default_factory=dict, description="masks: which model, see segments/masks.py")


class Segmenter(Protocol):
    """Cuts each picture by itself: what comes out does not depend on the others of the batch.

    `sha256` maps weights files to hashes, `accelerated` is what `Acceleration.apply` returned for its network.
    """

    sha256: Mapping[str, str] = {}
    parameters: int = 0
    accelerated: frozenset[str] = frozenset()

    def segment(self, scenes: Sequence[LoadedScene]) -> list[Segmentation]:
        """One segmentation for each scene."""
        ...


def open_segmenter(options: SegmentOptions, where: str, context: PipelineContext) -> Segmenter:
    """The segmenter that the table declares; `where` names it in messages. Raises SettingsError, WeightsError."""
    if options.method != "masks":
        return Superpixels(options)
    from pipelines.segments.masks import MaskModel, MaskOptions

    return Masks(MaskModel(parse_table(MaskOptions, options.masks, f"{where}.masks"), context))


class Superpixels(Segmenter):
    """Superpixels at every level, a picture a thread: scikit-image lets go of the interpreter while it works."""

    def __init__(self, options: SegmentOptions) -> None:
        self.options = options

    def segment(self, scenes: Sequence[LoadedScene]) -> list[Segmentation]:
        """One segmentation for each scene."""
        with ThreadPoolExecutor(min(THREADS, max(1, len(scenes)))) as pool:
            return list(pool.map(self._cut, [scene.picture for scene in scenes]))

    def _cut(self, picture: Picture) -> Segmentation:
        options = self.options
        assert options.method != "masks"
        small = reduced(picture, options.long_side)
        levels = superpixels(small, options.method, options.levels, options.compactness, options.sigma)
        return segmentation_of((picture.shape[1], picture.shape[0]), levels)


class Masks(Segmenter):
    """One level: the masks of SAM, Mask2Former, EoMT and their like."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sha256, self.parameters, self.accelerated = model.sha256, model.parameters, model.accelerated

    def segment(self, scenes: Sequence[LoadedScene]) -> list[Segmentation]:
        """One segmentation for each scene."""
        found = [np.asarray(self.model.find(scene.picture).masks, bool) for scene in scenes]
        return [segmentation_of((masks.shape[2], masks.shape[1]), [masks]) for masks in found]

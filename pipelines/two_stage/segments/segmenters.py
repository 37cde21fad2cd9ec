"""Segmenters, which cut images into regions: superpixels at several scales, or a model's masks.

    slic        k-means in colour and place (Achanta et al. 2012), in CIELAB
    watershed   basins of the gradient, compact (Neubert and Protzel 2014), from markers on a regular grid

Both from scikit-image, called as the classic segmentation + CLIP pipeline calls them, except that the gradient is the
strongest of the three channels', so that an edge between two colours of one brightness counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from skimage.color import rgb2lab
from skimage.filters import gaussian, sobel
from skimage.segmentation import slic, watershed

from bench.grounding import ImageArray, LoadedScene, PipelineContext
from bench.settings import Table, parse_table
from pipelines.two_stage.segments.segmentation import Segmentation, segmentation_of

if TYPE_CHECKING:
    from pipelines.two_stage.segments.masks import MaskModel

Labels = NDArray[np.intp]  # (h, w), regions 0..R-1
COMPACTNESS = {"slic": 10.0, "watershed": 0.001}
THREADS = min(8, os.cpu_count() or 1)


class SegmentOptions(Table):
    """[pipelines.*.segments]."""

    method: Literal["slic", "watershed", "masks"] = "slic"
    levels: tuple[Annotated[int, Field(ge=2)], ...] = Field((4, 8, 16, 32), min_length=1, description="superpixels")
    compactness: float | None = Field(None, ge=0, description="superpixels; None = 10 for slic, 0.001 for watershed")
    sigma: float = Field(1.0, ge=0, description="superpixels: pixels by which the image is smoothed first")
    long_side: int = Field(0, ge=0, description="superpixels: larger images are reduced to it; 0 = never")
    masks: dict[str, Any] = Field(default_factory=dict, description="masks: which model, see segments/masks.py")


Segmenter = Callable[[Sequence[LoadedScene]], list[Segmentation]]  # each image independent of the others


def open_segmenter(options: SegmentOptions, where: str, context: PipelineContext) -> tuple[Segmenter, MaskModel | None]:
    """Open the segmenter that the table declares, and its model if it has one; `where` names it in messages.

    Raises SettingsError, WeightsError.
    """
    if options.method != "masks":
        return partial(_superpixels, options), None
    from pipelines.two_stage.segments.masks import MaskModel, MaskOptions

    model = MaskModel(parse_table(MaskOptions, options.masks, f"{where}.masks"), context)

    def segment(scenes: Sequence[LoadedScene]) -> list[Segmentation]:
        levels = [np.asarray(model.find(scene.image).masks, bool) for scene in scenes]
        return [segmentation_of((masks.shape[2], masks.shape[1]), [masks]) for masks in levels]

    return segment, model


def _superpixels(options: SegmentOptions, scenes: Sequence[LoadedScene]) -> list[Segmentation]:
    """Cut at every level, an image a thread: scikit-image releases the interpreter's lock."""

    def cut(scene: LoadedScene) -> Segmentation:
        assert options.method != "masks"
        small = reduced(scene.image, options.long_side)
        levels = superpixels(small, options.method, options.levels, options.compactness, options.sigma)
        return segmentation_of((scene.image.shape[1], scene.image.shape[0]), levels)

    with ThreadPoolExecutor(min(THREADS, max(1, len(scenes)))) as pool:
        return list(pool.map(cut, scenes))


def reduced(image: ImageArray, long_side: int) -> ImageArray:
    """Shrink RGB uint8 (H, W, 3) to a long side of at most `long_side` (0 = never)."""
    height, width = image.shape[:2]
    if not 0 < long_side < max(height, width):
        return image
    scale = long_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def superpixels(
    image: ImageArray,
    method: Literal["slic", "watershed"],
    counts: Sequence[int],
    compactness: float | None,
    sigma: float,
) -> list[Labels]:
    """Cut RGB uint8 (h, w, 3) -> for each of `counts` labels (h, w) of about so many regions, at times of only one.

    `compactness` None is the method's usual one (COMPACTNESS); `sigma` smooths the image first, in pixels.
    """
    weight = COMPACTNESS[method] if compactness is None else compactness
    counts = [min(count, image.shape[0] * image.shape[1]) for count in counts]
    levels: list[Any]
    if method == "slic":
        lab = rgb2lab(image)
        levels = [slic(lab, n, weight, sigma=sigma, convert2lab=False, start_label=0, channel_axis=2) for n in counts]
    else:
        smooth = gaussian(image / 255, sigma, channel_axis=2)
        gradient = np.max([sobel(smooth[..., channel]) for channel in range(3)], axis=0)
        levels = [watershed(gradient, markers=n, compactness=weight) for n in counts]
    # Numbered from 0 without gaps.
    return [np.unique(labels, return_inverse=True)[1].reshape(image.shape[:2]) for labels in levels]

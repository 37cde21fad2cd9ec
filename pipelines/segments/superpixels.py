"""Superpixels: a picture cut into regions that follow its own edges, at several scales. Nothing here is trained.

    slic        k-means in colour and place (Achanta et al. 2012), in CIELAB
    watershed   basins of the gradient, compact (Neubert and Protzel 2014), from markers on a regular grid

Both from scikit-image, called as the classic segmentation + CLIP pipeline calls them (spec/pipelines.md 1.2), except
that the gradient is the strongest of the three channels', so that an edge between two colours of one brightness counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab
from skimage.filters import gaussian, sobel
from skimage.segmentation import slic, watershed

from bench.grounding import Picture

Labels = NDArray[np.intp]  # (h, w), regions 0..R-1
COMPACTNESS = {"slic": 10.0, "watershed": 0.001}


def reduced(picture: Picture, long_side: int) -> Picture:
    """RGB uint8 (H, W, 3) with the long side at most `long_side` (0 = as it is): segmenting costs by the pixel."""
    height, width = picture.shape[:2]
    if not 0 < long_side < max(height, width):
        return picture
    scale = long_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def superpixels(
    picture: Picture,
    method: Literal["slic", "watershed"],
    counts: Sequence[int],
    compactness: float | None,
    sigma: float,
) -> list[Labels]:
    """RGB uint8 (h, w, 3) -> for each of `counts` labels (h, w) of about so many regions, at times of only one.

    `compactness` None is the method's usual one (COMPACTNESS); `sigma` smooths the picture first, in pixels.
    """
    weight = COMPACTNESS[method] if compactness is None else compactness
    counts = [min(count, picture.shape[0] * picture.shape[1]) for count in counts]
    found: list[Any]
    if method == "slic":
        lab = rgb2lab(picture)
        found = [slic(lab, n, weight, sigma=sigma, convert2lab=False, start_label=0, channel_axis=2) for n in counts]
    else:
        smooth = gaussian(picture / 255, sigma, channel_axis=2)
        gradient = np.max([sobel(smooth[..., channel]) for channel in range(3)], axis=0)
        found = [watershed(gradient, markers=n, compactness=weight) for n in counts]
    # Numbered from 0 without gaps.
    return [np.unique(labels, return_inverse=True)[1].reshape(picture.shape[:2]) for labels in found]

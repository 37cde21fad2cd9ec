"""A picture as a processor of transformers takes it, with its freaks made harmless."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bench.grounding import Picture

THIN = 8  # times longer than wide: beyond it some models have fewer places to look at than queries to place


def for_processor(picture: Picture) -> Image.Image:
    """RGB uint8 (H, W, 3) -> a picture no thinner than 1:8, widened at the right or the bottom with its mean colour.

    Coordinates stay those of the original. An image object leaves a processor no doubt which axis holds the channels,
    which it would guess wrongly of an array with one or three rows.
    """
    height, width = picture.shape[:2]
    canvas = (max(height, -(-width // THIN)), max(width, -(-height // THIN)))
    if canvas == (height, width):
        return Image.fromarray(picture)
    wide = np.empty((*canvas, 3), np.uint8)
    wide[:] = picture.mean(axis=(0, 1)).round()
    wide[:height, :width] = picture
    return Image.fromarray(wide)


def reduced(image: Image.Image, longest: int) -> Image.Image:
    """The picture with its long side at `longest` at most; for processors that blur before they shrink, whose time
    grows with the fourth power of a picture's side.
    """
    share = longest / max(image.size)
    if share >= 1:
        return image
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), Image.Resampling.BOX)

"""Images for models of others: never too thin, never larger than a processor can bear, and as data URLs."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from bench.grounding import ImageArray

THIN = 8  # times longer than wide: beyond it some models have fewer places in the image than queries


def for_processor(image: ImageArray) -> Image.Image:
    """Make an image no thinner than 1:8 of RGB uint8 (H, W, 3), widened at the right or bottom by its mean colour.

    Coordinates stay those of the original. Of an array with one or three rows a processor would guess the wrong axis of
    channels; of an image object it need not guess.
    """
    height, width = image.shape[:2]
    canvas = (max(height, -(-width // THIN)), max(width, -(-height // THIN)))
    if canvas == (height, width):
        return Image.fromarray(image)
    wide = np.empty((*canvas, 3), np.uint8)
    wide[:] = image.mean(axis=(0, 1)).round()
    wide[:height, :width] = image
    return Image.fromarray(wide)


def reduced(image: Image.Image, longest: int) -> Image.Image:
    """Reduce an image to a long side of at most `longest`.

    Processors that blur before they shrink take time by the fourth power of an image's side.
    """
    share = longest / max(image.size)
    if share >= 1:
        return image
    return image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))), Image.Resampling.BOX)


def data_url(image: Image.Image, kind: str, quality: int = 95) -> str:
    """Encode an image as the data URL of a PNG or a JPEG, whose colours are kept at full size."""
    out = io.BytesIO()
    if kind == "jpeg":
        image.save(out, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(out, "PNG")
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"

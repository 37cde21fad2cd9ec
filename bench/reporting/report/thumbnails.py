"""Shrink a split's images to JPEG: each once, however many expressions are about it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from bench.errors import BenchError, UsageError
from bench.grounding import ImageSource, Scene

SIZES = (640, 480, 400, 320, 240, 160)  # pixels of the longer side, the largest that fits is taken
ROOM = 17_000_000  # bytes of JPEG in a file; base64 makes 22.7 million letters of them
SAMPLE = 24  # images that are looked at before a size is chosen
QUALITY = 82
LEAST, MOST = 64, 2048


# One image: its true width and height, None if unknown, and the bytes of a small JPEG, or why there are none.
Thumbnail = tuple[int | None, int | None, bytes | str]


def thumbnails(scenes: Sequence[Scene], images: ImageSource, pixels: int | None = None) -> tuple[list[Thumbnail], int]:
    """Shrink the scenes' images to a longer side of at most `pixels`, never enlarged, and that size.

    Without `pixels` the largest of SIZES at which all of them will likely stay within ROOM. An image that cannot be
    read is no error here: it says why. Raises UsageError for a size out of range.
    """
    if pixels is not None and not LEAST <= pixels <= MOST:
        raise UsageError(f"--thumbnail {pixels}: the longer side of a small image is {LEAST} to {MOST} pixels")
    # Two threads more than processors: images wait for the disk, too.
    with ThreadPoolExecutor((os.cpu_count() or 1) + 2) as pool:
        if pixels is None:
            # The largest size at which a sample's bytes, scaled up, stay within ROOM.
            step = max(1, len(scenes) // SAMPLE)
            sample = pool.map(lambda scene: _read(scene, images)[0], scenes[::step][:SAMPLE])
            samples = [image for image in sample if image is not None]
            room = ROOM / max(1, len(scenes)) * len(samples)
            pixels = next((size for size in SIZES if sum(len(_jpeg(i, size)) for i in samples) <= room), SIZES[-1])
        made = list(pool.map(lambda scene: _thumbnail(scene, images, pixels), scenes))
    return made, pixels


def _thumbnail(scene: Scene, images: ImageSource, pixels: int) -> Thumbnail:
    image, why = _read(scene, images)
    if image is None:
        return scene.width, scene.height, why
    return *image.size, _jpeg(image, pixels)


def _read(scene: Scene, images: ImageSource) -> tuple[Image.Image | None, str]:
    try:
        return Image.fromarray(images.load(scene)), ""
    except BenchError as error:
        return None, str(error)


def _jpeg(image: Image.Image, pixels: int) -> bytes:
    scale = pixels / max(image.size)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY, optimize=True)
    return out.getvalue()

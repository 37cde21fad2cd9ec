"""Files that were made elsewhere, of scene graphs or of captions: found, and held against the pictures of a job."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from bench import hashing
from bench.boxes import clip_xyxy
from bench.datasets.fingerprint import picture_key
from bench.errors import DataError, PictureError
from bench.grounding import Box, PipelineContext, Scene
from bench.labelling import LabelJob

log = logging.getLogger("bench.label")
SHOWN = 3  # pictures named in a message


def find_file(name: str, context: PipelineContext, where: str) -> Path:
    """The file an option names, {dataset} in it standing for the data set. Raises DataError with the places."""
    name = name.replace("{dataset}", context.dataset)
    path = hashing.find_file(name, context)
    if path is None:
        places = ", ".join(map(str, hashing.places_of(name, context)))
        raise DataError(f"{where}: there is no file {name!r} (looked at {places})")
    return path


def spoken_of(job: LabelJob, path: Path, held: Collection[str]) -> list[Scene]:
    """The scenes of the job whose picture key is in `held`; the rest are counted on the log.

    Raises DataError when it is none of them.
    """
    there = [scene for scene in job.scenes if picture_key(scene.file) in held]
    if job.scenes and not there:
        raise DataError(
            f"{path}: has nothing about any of the {len(job.scenes):,} pictures, such as {job.scenes[0].file}; it "
            f"names {', '.join(list(held)[:SHOWN])}, ... Is it of another data set?"
        )
    if len(there) < len(job.scenes):
        log.warning("%s: has nothing about %d of %d pictures", path.name, len(job.scenes) - len(there), len(job.scenes))
    return there


def inside_picture(job: LabelJob, scene: Scene, box: Box, where: str) -> Box | None:
    """The part of a box inside its picture, whose size is looked up where it is not annotated; None where the picture
    cannot be read, which the log says. Raises DataError, beginning with `where`, for a box that misses its picture.
    """
    width, height = scene.width, scene.height
    if width is None or height is None:
        try:
            height, width = job.pictures.load(scene).shape[:2]
        except PictureError as error:
            log.warning("no label: %s", error)
            return None
    x1, y1, x2, y2 = clip_xyxy(box, width, height).tolist()
    if x2 <= x1 or y2 <= y1:
        raise DataError(
            f"{where}: the box {', '.join(f'{v:g}' for v in box)} (left, top, right, bottom) lies outside the picture "
            f"{scene.file} of {width} x {height} pixels; correct or drop the row"
        )
    return (x1, y1, x2, y2)

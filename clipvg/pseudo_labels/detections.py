"""What is in each image: named boxes from any proposer, or from files in Pseudo-Q's format.

Every source of pseudo-labels begins with `looked_at`. Images are decoded ahead and looked at in batches, and nothing
but images is seen: the scenes have no expressions, and a proposer is asked without any.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from pydantic import Field

from bench.boxes import box_area_xyxy, clip_xyxy
from bench.datasets.fingerprint import image_key
from bench.errors import DataError, SettingsError
from bench.evaluation.answering import decoded_ahead
from bench.grounding import Boxes, ImageArray, LoadedScene, PipelineContext, Scene
from bench.labelling import LabelJob
from bench.settings import Table
from clipvg.pseudo_labels.attributes import AttributeOptions, Described, Describer, open_describer
from clipvg.pseudo_labels.given_files import SHOWN, known_scenes
from clipvg.pseudo_labels.pseudo_q_files import Detection, names_of_files, read_detections
from pipelines.two_stage.proposers.proposals import open_proposer

log = logging.getLogger("bench.label")


class DetectionOptions(Table):
    """[label.SOURCE.objects]: what finds the objects, and what says how they look."""

    proposer: dict[str, Any] = Field(default_factory=dict, description="as a pipeline's: kind = yolo, detr, ssd, ...")
    detections: str | tuple[str, ...] = Field((), description="files in Pseudo-Q's format, in the proposer's stead")
    attributes: AttributeOptions = AttributeOptions()
    batch_size: int = Field(16, ge=1, description="images in one call of the detector")
    threads: int = Field(4, ge=1, description="that decode images ahead")


@dataclass(frozen=True, slots=True)
class Looked:
    """A scene, its image, what was found in it, most confident first, and the name of what found it."""

    scene: Scene
    image: ImageArray
    detections: list[Detection]
    detector: str


Finder = Callable[[Sequence[tuple[Scene, ImageArray]]], list[list[Detection]]]  # named boxes of each image of a batch


def looked_at(job: LabelJob, options: DetectionOptions, where: str) -> Iterator[Looked]:
    """Every scene of the job whose image can be read, in order, with its detections.

    The files and the proposer are opened here, not at the first scene; `where` is how messages name the options' table.
    Images that cannot be read are left out, counted and named on the log, as are boxes without a class name. Raises
    SettingsError, WeightsError, MissingPackage, DataError for a detection file, and DataError when no image is there.
    """
    find, name = _open(job, options, where)
    describe = open_describer(options.attributes, f"{where}.attributes", job.context)
    return _looked_at(job, options, find, name, describe)


def _looked_at(
    job: LabelJob, options: DetectionOptions, find: Finder, name: str, describe: Describer | None
) -> Iterator[Looked]:
    unreadable: list[str] = []
    ahead = options.threads + 2 * options.batch_size
    decoded = decoded_ahead(job.scenes, job.images, options.threads, ahead)
    nameless = 0
    while batch := list(islice(decoded, options.batch_size)):
        errors = [d.error for d in batch if d.image is None]
        # At the first bad image: that not one is there is a set-up mistake, not so many bad images.
        if errors and not unreadable and len(job.images.missing(job.scenes)) == len(job.scenes):
            raise DataError(f"none of the {len(job.scenes):,} images is there; the first one: {errors[0]}")
        unreadable += errors
        images = [(d.scene, d.image) for d in batch if d.image is not None]
        found = find(images) if images else []
        nameless += sum(not row.name for rows in found for row in rows)
        seen = [_inside(rows, image) for rows, (_, image) in zip(found, images, strict=True)]
        if describe is not None:
            seen = _described(describe, images, seen)
        for (scene, image), detections in zip(images, seen, strict=True):
            yield Looked(scene, image, detections, name)
    if nameless:
        log.warning("%s: %s boxes without a class name are left out", name, f"{nameless:,}")
    if unreadable and len(unreadable) == len(job.scenes):
        raise DataError(f"none of the {len(job.scenes):,} images can be read; the first one: {unreadable[0]}")
    if unreadable:
        shown = "; ".join(unreadable[:SHOWN]) + ("; ..." if len(unreadable) > SHOWN else "")
        log.warning("%d of %d images cannot be read and get no label: %s", len(unreadable), len(job.scenes), shown)


def _inside(found: Sequence[Detection], image: ImageArray) -> list[Detection]:
    """Named boxes clipped to the image, those with anything left of them, most confident first."""
    named = [row for row in found if row.name]
    height, width = image.shape[:2]
    boxes = clip_xyxy(np.array([row.box for row in named], np.float64).reshape(-1, 4), width, height)
    order = np.argsort([-row.confidence for row in named], kind="stable")
    real = box_area_xyxy(boxes) >= 1.0
    out = []
    for i in order[real[order]] if len(named) else ():
        x1, y1, x2, y2 = boxes[i].tolist()
        out.append(replace(named[i], box=(x1, y1, x2, y2)))
    return out


def _described(
    describe: Describer, images: Sequence[tuple[Scene, ImageArray]], seen: Sequence[list[Detection]]
) -> list[list[Detection]]:
    asked = [
        Described(image_key(scene.file), image, [detection.name for detection in detections], boxes_of(detections))
        for (scene, image), detections in zip(images, seen, strict=True)
    ]
    return [
        [replace(d, attribute=a.words, attribute_score=a.score) for d, a in zip(detections, said, strict=True)]
        for detections, said in zip(seen, describe(asked), strict=True)
    ]


def _open(job: LabelJob, options: DetectionOptions, where: str) -> tuple[Finder, str]:
    """Open what finds the objects -> it, and its name for provenance."""
    files = (options.detections,) if isinstance(options.detections, str) else options.detections
    if files:
        return _of_files(files, job)
    if not options.proposer:
        raise SettingsError(
            f'{where}: nothing finds the objects; name a proposer, such as proposer = {{ kind = "yolo" }}, or files '
            "of detections in Pseudo-Q's format, detections = [...]"
        )
    return _of_proposer(options.proposer, f"{where}.proposer", job.context)


def _of_proposer(table: Mapping[str, Any], where: str, context: PipelineContext) -> tuple[Finder, str]:
    """Open a proposer, without the whole image as a proposal: that has no class name."""
    try:
        proposer = open_proposer({**table, "whole_image": False}, where, context)
    except SettingsError as error:
        if "whole_image" not in str(error):
            raise
        proposer = open_proposer(table, where, context)  # another's proposer, which has no such option

    def find(batch: Sequence[tuple[Scene, ImageArray]]) -> list[list[Detection]]:
        return [
            [
                Detection(label, (x1, y1, x2, y2), float(score))
                for (x1, y1, x2, y2), score, label in zip(p.boxes.tolist(), p.scores, p.labels, strict=True)
            ]
            for p in proposer.propose([LoadedScene(scene.id, image, ()) for scene, image in batch])
        ]

    return find, ", ".join(proposer.sha256) or str(table["kind"])


def _of_files(files: Sequence[str], job: LabelJob) -> tuple[Finder, str]:
    """Read files of detections; an image that they do not name has none. Raises DataError when they name no image."""
    paths = names_of_files(files, job.context)
    name = ", ".join(path.name for path in paths)
    found = read_detections(paths)
    known_scenes(job, name, found, "has no row for")
    return lambda batch: [found.get(image_key(scene.file), []) for scene, _ in batch], name


def boxes_of(detections: Sequence[Detection]) -> Boxes:
    """Stack the boxes of detections -> (N, 4) xyxy pixels."""
    return np.array([detection.box for detection in detections], np.float64).reshape(-1, 4)

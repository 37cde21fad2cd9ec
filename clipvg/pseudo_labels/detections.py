"""Detect objects in images: named boxes from any proposer, or from files in Pseudo-Q's format.

Every source of pseudo-labels starts with `detect`. Images are decoded ahead and processed in batches. Only images are
used: the scenes have no expressions, and a proposer gets none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from bench.boxes import box_area_xyxy, clip_xyxy
from bench.datasets.fingerprint import image_key
from bench.errors import DataError, SettingsError
from bench.evaluation.decoding import decoded_ahead
from bench.grounding import ImageArray, LoadedScene, PipelineContext, Scene
from bench.labelling import LabelJob
from bench.settings import Table
from clipvg.pseudo_labels.attributes import AttributeOptions, Describe, open_attributes
from clipvg.pseudo_labels.detection_files import Detection, ImageDetections, boxes_of, find_files, read_detections
from clipvg.pseudo_labels.given_files import NAMED, known_scenes
from pipelines.two_stage.proposers.proposals import open_proposer

log = logging.getLogger("bench.label")


class DetectionOptions(Table):
    """[label.SOURCE.objects]: what detects the objects, and what describes them."""

    proposer: dict[str, Any] = Field(default_factory=dict, description="as a pipeline's: kind = yolo, detr, ssd, ...")
    detections: str | tuple[str, ...] = Field((), description="files in Pseudo-Q's format, in the proposer's stead")
    attributes: AttributeOptions = AttributeOptions()
    batch_size: int = Field(16, ge=1, description="images in one call of the detector")
    threads: int = Field(4, ge=1, description="that decode images ahead")


Images = Sequence[tuple[Scene, ImageArray]]
Detector = Callable[[Images], list[list[Detection]]]  # named boxes of each image of a batch


def detect(job: LabelJob, options: DetectionOptions, where: str) -> Iterator[ImageDetections]:
    """Detect the objects of every readable image of the job, in order.

    The files and the proposer are opened here, not at the first scene; `where` is how messages name the options' table.
    Images that cannot be read are left out, counted and named on the log, as are boxes without a class name. Raises
    SettingsError, WeightsError, MissingPackage, DataError for a detection file, and DataError when no image is there.
    """
    files = (options.detections,) if isinstance(options.detections, str) else options.detections
    if files:
        detector, name = _from_files(files, job)
    elif options.proposer:
        detector, name = _from_proposer(options.proposer, f"{where}.proposer", job.context)
    else:
        raise SettingsError(
            f'{where}: nothing detects the objects; name a proposer, such as proposer = {{ kind = "yolo" }}, or files '
            "of detections in Pseudo-Q's format, detections = [...]"
        )
    describe = open_attributes(options.attributes, f"{where}.attributes", job.context)
    return _detect(job, options, detector, name, describe)


def _detect(
    job: LabelJob, options: DetectionOptions, detector: Detector, name: str, describe: Describe | None
) -> Iterator[ImageDetections]:
    unreadable: list[str] = []
    nameless = 0
    ahead, size = options.threads + 2 * options.batch_size, options.batch_size
    for batch in decoded_ahead(job.scenes, job.images, options.threads, ahead, lambda: size):
        # 1. Images. If not one file exists, the first error says so: that is a set-up mistake, not so many bad images.
        errors = [d.error for d in batch if d.image is None]
        if errors and not unreadable and len(job.images.missing(job.scenes)) == len(job.scenes):
            raise DataError(f"none of the {len(job.scenes):,} images is there; the first one: {errors[0]}")
        unreadable += errors
        images = [(d.scene, d.image) for d in batch if d.image is not None]
        # 2. Boxes, clipped to their image; those without a name are dropped.
        raw = detector(images) if images else []
        nameless += sum(not detection.name for rows in raw for detection in rows)
        scenes = [
            ImageDetections(scene, image, _inside(rows, image), name)
            for (scene, image), rows in zip(images, raw, strict=True)
        ]
        # 3. Attributes, for the whole batch at once.
        for scene, attributes in zip(scenes, describe(scenes), strict=True) if describe else ():
            pairs = zip(scene.detections, attributes, strict=True)
            scene.detections[:] = [replace(d, attribute=words, attribute_score=score) for d, (words, score) in pairs]
        yield from scenes
    if nameless:
        log.warning("%s: %s boxes without a class name are left out", name, f"{nameless:,}")
    if unreadable and len(unreadable) == len(job.scenes):
        raise DataError(f"none of the {len(job.scenes):,} images can be read; the first one: {unreadable[0]}")
    if unreadable:
        some = "; ".join(unreadable[:NAMED]) + ("; ..." if len(unreadable) > NAMED else "")
        log.warning("%d of %d images cannot be read and get no label: %s", len(unreadable), len(job.scenes), some)


def _inside(detections: Sequence[Detection], image: ImageArray) -> list[Detection]:
    """Named boxes clipped to the image, those with anything left of them, most confident first."""
    named = [detection for detection in detections if detection.name]
    height, width = image.shape[:2]
    boxes = clip_xyxy(boxes_of(named), width, height)
    order = np.argsort([-detection.confidence for detection in named], kind="stable")
    real = box_area_xyxy(boxes) >= 1.0
    out = []
    for i in order[real[order]] if len(named) else ():
        x1, y1, x2, y2 = boxes[i].tolist()
        out.append(replace(named[i], box=(x1, y1, x2, y2)))
    return out


def _from_proposer(table: Mapping[str, Any], where: str, context: PipelineContext) -> tuple[Detector, str]:
    """Open a proposer, without the whole image as a proposal: that has no class name."""
    try:
        proposer = open_proposer({**table, "whole_image": False}, where, context)
    except SettingsError as error:
        if "whole_image" not in str(error):
            raise
        proposer = open_proposer(table, where, context)  # another's proposer, which has no such option

    def detector(images: Images) -> list[list[Detection]]:
        return [
            [
                Detection(label, (x1, y1, x2, y2), float(score))
                for (x1, y1, x2, y2), score, label in zip(p.boxes.tolist(), p.scores, p.labels, strict=True)
            ]
            for p in proposer.propose([LoadedScene(scene.id, image, ()) for scene, image in images])
        ]

    return detector, ", ".join(proposer.sha256) or str(table["kind"])


def _from_files(files: Sequence[str], job: LabelJob) -> tuple[Detector, str]:
    """Read files of detections; an image that they do not name has none. Raises DataError when they name no image."""
    paths = find_files(files, job.context)
    name = ", ".join(path.name for path in paths)
    table = read_detections(paths)
    known_scenes(job, name, table, "has no row for")
    return lambda images: [table.get(image_key(scene.file), []) for scene, _ in images], name

"""The objects of a split, as a detector's training and its validation use them.

A split that knows every object of its images (`shapes`) provides them. Of others only the referred objects are known:
every other object is then trained as background, so published weights are the better proposer there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from bench.boxes import iou_pairwise
from bench.errors import DataError
from bench.grounding import Box, ImageArray, LoadedScene, Scene
from bench.training.task import Batch, TrainingJob
from pipelines.two_stage.proposers.proposals import Proposer

log = logging.getLogger("bench.train")
T = TypeVar("T")  # of a sample
AT_ONCE = 32  # images in a validation batch


def scene_objects(scene: Scene) -> list[tuple[str, Box]]:
    """Return (class name, xyxy box) of every known object of a scene: all where the split knows, else the referred."""
    known = [(one.category, one.box) for one in scene.objects]
    return known or sorted({(e.category or "object", e.box) for e in scene.expressions})


def scene_descriptions(scene: Scene) -> list[str]:
    """Return a description of each object of a scene, in order; nothing where the split has none."""
    return [one.description for one in scene.objects if one.description]


def referent(scene: Scene, number: int, objects: Sequence[Box]) -> int:
    """Return which object expression `number` of a scene refers to. Raises DataError where it is none of them."""
    expression = scene.expressions[number]
    if expression.box not in objects:
        raise DataError(
            f"{scene.file}, expression {expression.id}: its box {expression.box} is that of no annotated object of the "
            "image, and this training contrasts an image's objects; correct the box or the objects"
        )
    return list(objects).index(expression.box)


def class_names(scenes: Sequence[Scene]) -> list[str]:
    """Return every class name among the objects of the scenes, sorted. Raises DataError when there is no object."""
    names = sorted({name for scene in scenes for name, _ in scene_objects(scene)})
    if not names:
        raise DataError("no object to train a detector on: the split has no expressions")
    if not any(scene.objects for scene in scenes):
        log.warning("only the referred objects of an image are known: all others are trained as background")
    return names


@dataclass(frozen=True, slots=True)
class Objects(Batch):
    """Images (B, 3, H, W) uint8, their pixels (B, H, W) where they are padded; for each image its objects' xyxy boxes
    (n, 4) in shares of its sides, and class indices (n,)."""

    pixels: Tensor
    mask: Tensor | None
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]


Sample = tuple[Tensor, Tensor, Tensor]  # one image of `Objects`


class SceneSamples(Generic[T]):
    """The training samples of scenes: `load` makes a scene's sample, `augment` varies it.

    The random numbers of `augment` depend on seed, epoch and index alone. With `in_memory` loaded samples are kept.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        seed: int,
        load: Callable[[Scene], T],
        augment: Callable[[T, np.random.Generator], T] | None,
        in_memory: bool = False,
    ) -> None:
        self.scenes, self.seed, self.in_memory = scenes, seed, in_memory
        self._load, self._augment = load, augment
        self._kept: dict[int, T] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        """Return the scene's id."""
        return self.scenes[index].id

    def sample(self, epoch: int, index: int) -> T:
        """Return a scene's sample in an epoch. Raises ImageError, DataError."""
        sample = self._kept[index] if index in self._kept else self._load(self.scenes[index])
        if self.in_memory:
            self._kept[index] = sample
        rng = np.random.default_rng([self.seed, epoch, index])
        return self._augment(sample, rng) if self._augment else sample


def object_dataset(
    job: TrainingJob,
    names: Sequence[str],
    resize: Callable[[ImageArray], Tensor],
    mirror: bool = True,
    in_memory: bool = False,
) -> SceneSamples[Sample]:
    """Make the dataset of a job's images with their objects, half of them mirrored.

    `resize` makes an image (3, h, w) uint8, as the detector gets it; `names` gives each class its index.
    """
    classes = {name: number for number, name in enumerate(names)}

    def load(scene: Scene) -> Sample:
        image, objects = job.images.load(scene), scene_objects(scene)
        height, width = image.shape[:2]
        boxes = torch.tensor([box for _, box in objects]).reshape(-1, 4) / torch.tensor([width, height] * 2)
        return resize(image), boxes, torch.tensor([classes[name] for name, _ in objects])

    def mirrored(sample: Sample, rng: np.random.Generator) -> Sample:
        pixels, boxes, labels = sample
        if rng.random() < 0.5:
            pixels = pixels.flip(-1)
            boxes = torch.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], dim=1)
        return pixels, boxes, labels

    scenes = [scene for scene in job.scenes if scene_objects(scene)]
    return SceneSamples(scenes, job.context.seed, load, mirrored if mirror else None, in_memory)


def collate(samples: Sequence[Sample]) -> Objects:
    """Join images into a batch; those of unequal sizes are padded at the right and the bottom.

    A lone image is taken twice: batch normalisation of a map of one pixel needs two values.
    """
    images, boxes, labels = zip(*(samples if len(samples) > 1 else [*samples, *samples]), strict=True)
    if len({image.shape for image in images}) == 1:
        return Objects(torch.stack(images), None, boxes, labels)
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    mask = torch.zeros(len(images), height, width, dtype=torch.long)
    for number, image in enumerate(images):
        pixels[number, :, : image.shape[1], : image.shape[2]] = image
        mask[number, : image.shape[1], : image.shape[2]] = 1
    return Objects(pixels, mask, boxes, labels)


def recall(proposer: Proposer, job: TrainingJob) -> dict[str, float]:
    """Measure what a proposer is worth to a ranker, over the validation expressions.

    Returns the share of them with a proposal at IoU 0.5 and 0.75, the mean best IoU, and the proposals per image.
    `proposer` must not append the whole image, which is no detection.
    """
    best, count = [np.zeros(0)], 0
    for start in range(0, len(job.validation), AT_ONCE):
        scenes = job.validation[start : start + AT_ONCE]
        loaded = [LoadedScene(scene.id, job.validation_images.load(scene), ()) for scene in scenes]
        proposals = proposer.propose(loaded)
        count += sum(map(len, proposals))
        best += [
            iou_pairwise([e.box for e in scene.expressions], mine.boxes.reshape(-1, 4)).max(axis=1, initial=0.0)
            for scene, mine in zip(scenes, proposals, strict=True)
        ]
    overlap = np.concatenate(best)
    total = max(1, len(overlap))
    return {
        "recall@0.5": float((overlap >= 0.5).sum() / total),
        "recall@0.75": float((overlap >= 0.75).sum() / total),
        "mean_iou": round(float(overlap.sum() / total), 4),
        "proposals_per_image": count / max(1, len(job.validation)),
    }

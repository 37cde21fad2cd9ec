"""The objects of a split's pictures as a detector's training sees them: resized once, in memory, mirrored at random.

A split that knows every object of its pictures (`shapes`) lends them; of others only the referred objects are known,
which is a poor teacher for a detector: take published weights there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.errors import DataError
from bench.grounding import Box, Picture, PictureSource, Scene


def scene_objects(scene: Scene, pictures: PictureSource) -> list[tuple[str, Box]]:
    """(class name, xyxy box) of every known object of a scene: all where the source knows, else the referred."""
    if scene.objects:
        return [(each.category, each.box) for each in scene.objects]
    return sorted({(e.category or "object", e.box) for e in scene.expressions})


def class_names(objects: Sequence[Sequence[tuple[str, Box]]]) -> list[str]:
    """Every class name among the objects, sorted. Raises DataError when there is no object at all."""
    names = sorted({name for scene in objects for name, _ in scene})
    if not names:
        raise DataError("no object to train a detector on: the split has no expressions")
    return names


@dataclass(frozen=True)
class Objects:
    """Pictures (N, 3, S, S) uint8; for each, xyxy boxes (n, 4) in shares of its sides and labels (n,) into `names`."""

    pictures: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    names: list[str]

    def batches(
        self, epochs: int, size: int, dice: torch.Generator
    ) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """`epochs` times all pictures in random order, each mirrored every other time; the last short batch is left out
        unless it is the only one.
        """
        size = min(size, len(self.pictures))
        for _ in range(epochs):
            for some in torch.randperm(len(self.pictures), generator=dice).split(size):
                if len(some) < size:
                    continue
                mirrored = torch.rand(size, generator=dice) < 0.5
                pictures = self.pictures[some]
                pictures[mirrored] = pictures[mirrored].flip(-1)
                boxes = [
                    torch.stack([1 - b[:, 2], b[:, 1], 1 - b[:, 0], b[:, 3]], dim=1) if m else b
                    for b, m in zip((self.boxes[i] for i in some), mirrored, strict=True)
                ]
                yield pictures, boxes, [self.labels[i] for i in some]

    def steps(self, epochs: int, size: int) -> int:
        """How many batches `batches` gives."""
        return epochs * max(1, len(self.pictures) // size)


def gather(scenes: Sequence[Scene], pictures: PictureSource, resize: Callable[[Picture], Tensor]) -> Objects:
    """Load every picture once; `resize` makes it (3, S, S) uint8, as the detector will see it. Raises DataError."""
    known = [scene_objects(scene, pictures) for scene in scenes]
    names = class_names(known)
    resized, boxes, labels = [], [], []
    for scene, found in zip(scenes, known, strict=True):
        picture = pictures.load(scene)
        height, width = picture.shape[:2]
        resized.append(resize(picture))
        boxes.append(torch.tensor([box for _, box in found]).reshape(-1, 4) / torch.tensor([width, height] * 2))
        labels.append(torch.tensor([names.index(name) for name, _ in found], dtype=torch.long))
    return Objects(torch.stack(resized), boxes, labels, names)

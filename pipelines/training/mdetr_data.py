"""What MDETR's training is shown: scenes whose pictures share a size, so that nothing is ever padded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert

from bench.errors import DataError
from bench.grounding import Box, PictureSource, Scene
from pipelines.mdetr.preprocessing import normalised, resized, target_size


@dataclass(frozen=True)
class Scenes:
    """A split's scenes with their pictures, resized as the pipeline does it.

    `keep` holds the resized pictures in memory (uint8); without it they are read anew in every epoch, ahead of need.
    """

    scenes: Sequence[Scene]
    pictures: PictureSource
    sizes: tuple[int, int]
    keep: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kept", {})
        if not any(scene.expressions for scene in self.scenes):
            raise DataError("no expression to train on")

    def steps(self, batch: int) -> int:
        """Batches in an epoch."""
        return sum(-(-len(group) // batch) for group in self._groups().values())

    def batches(self, epochs: int, batch: int, dice: torch.Generator) -> Iterator[tuple[list[Scene], Tensor]]:
        """Scenes of one size and their pictures (B, 3, h, w), normalised: all of them in every epoch, shuffled."""
        groups = list(self._groups().values())
        with ThreadPoolExecutor(2) as pool:
            for _ in range(epochs):
                order = []
                for group in groups:
                    shuffled = [group[i] for i in torch.randperm(len(group), generator=dice).tolist()]
                    order += [shuffled[i : i + batch] for i in range(0, len(shuffled), batch)]
                order = [order[i] for i in torch.randperm(len(order), generator=dice).tolist()]
                ahead = pool.submit(self.stack, order[0])
                for now, following in zip(order, [*order[1:], None], strict=True):
                    stacked = ahead.result()
                    if following is not None:
                        ahead = pool.submit(self.stack, following)
                    yield now, stacked

    def stack(self, scenes: Sequence[Scene]) -> Tensor:
        """(B, 3, h, w), normalised."""
        return normalised(torch.stack([self._picture(scene) for scene in scenes]))

    def _picture(self, scene: Scene) -> Tensor:
        kept: dict[str, Tensor] = self._kept  # type: ignore[attr-defined]
        if scene.id in kept:
            return kept[scene.id]
        pixels = resized(self.pictures.load(scene), *self.sizes)
        if self.keep:
            kept[scene.id] = pixels
        return pixels

    def _groups(self) -> dict[tuple[int, int], list[Scene]]:
        groups: dict[tuple[int, int], list[Scene]] = defaultdict(list)
        for scene in self.scenes:
            if scene.expressions:
                width, height = annotated_size(scene, self.pictures)
                groups[target_size(width, height, *self.sizes)].append(scene)
        return groups


def annotated_size(scene: Scene, pictures: PictureSource) -> tuple[int, int]:
    """Width and height in pixels; of a scene that is not annotated with it, its picture's."""
    if scene.width and scene.height:
        return scene.width, scene.height
    height, width = pictures.load(scene).shape[:2]
    return width, height


def normalised_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """xyxy pixels of a (width, height) picture -> (N, 4) cxcywh in 0..1."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) / torch.tensor([*size, *size])
    out: Tensor = box_convert(corners, "xyxy", "cxcywh")
    return out

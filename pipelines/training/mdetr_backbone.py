"""A first lesson for a backbone that starts from nothing: at every place, which words fit what is there, and its box.

Published MDETRs begin with a backbone that ImageNet has taught to see. A small one learns it here, from a source of
pictures that can name and describe its objects: each place that an object covers says that object's words (one yes or
no for each word) and its box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.grounding import Box, PictureSource, Scene
from pipelines.mdetr.model import Mdetr
from pipelines.training.mdetr_data import annotated_size, normalised_boxes
from pipelines.training.objects import scene_objects
from pipelines.training.places import PlaceReader, covered


class FirstLesson(nn.Module):
    """The backbone, its projection, and a reader of places: what is optimised."""

    def __init__(self, model: Mdetr, scenes: Sequence[Scene], pictures: PictureSource) -> None:
        super().__init__()
        self.backbone, self.input_proj = model.backbone, model.input_proj
        self.pictures = pictures
        self.words = sorted({word for scene in scenes for words, _ in described(scene, pictures) for word in words})
        self.reader = PlaceReader(model.config.hidden, len(self.words) + 1)

    def loss(self, scenes: Sequence[Scene], pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Scenes and their pictures (B, 3, H, W) -> scalar: words where something is, whether something is, its box."""
        with torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            features = self.input_proj(self.backbone[0](pixels))  # (B, d, h, w)
        return self.loss_on(features.float().permute(0, 2, 3, 1), scenes)

    def loss_on(self, features: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """The same for features (B, h, w, d) that were computed already."""
        said, boxes = self.reader(features)
        words, wanted = (t.to(features.device) for t in self.targets(scenes, (said.shape[1], said.shape[2])))
        something = words[..., -1] > 0
        named = F.binary_cross_entropy_with_logits(said[something], words[something])
        anything = F.binary_cross_entropy_with_logits(said[..., -1], words[..., -1])
        loss: Tensor = 3 * named + anything + 5 * (boxes[something] - wanted[something]).abs().mean()
        return loss

    def targets(self, scenes: Sequence[Scene], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Words (B, h, w, W + 1) in {0, 1}, the last "something is here", and its box (B, h, w, 4) cxcywh."""
        words = torch.zeros(len(scenes), *grid, len(self.words) + 1)
        boxes = torch.zeros(len(scenes), *grid, 4)
        for index, scene in enumerate(scenes):
            known = described(scene, self.pictures)
            places = normalised_boxes([box for _, box in known], annotated_size(scene, self.pictures))
            for (names, _), place, cells in zip(known, places, covered(places, grid), strict=True):
                words[index][cells] = self._vector(names)  # what stands in front comes later, and stays
                boxes[index][cells] = place
        return words, boxes

    def _vector(self, names: Sequence[str]) -> Tensor:
        out = torch.zeros(len(self.words) + 1)
        out[[*(self.words.index(name) for name in names), -1]] = 1
        return out


def described(scene: Scene, pictures: PictureSource) -> list[tuple[list[str], Box]]:
    """(words, xyxy box) of every known object: its description's where the source has one, else its class name's."""
    objects = scene_objects(scene, pictures)
    texts = [each.description for each in scene.objects] or [name for name, _ in objects]
    return [(text.split(), box) for text, (_, box) in zip(texts, objects, strict=True)]

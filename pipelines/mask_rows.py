"""Rows of a training with the mask of each expression, and the losses that compare a map of logits with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import DataError, SettingsError
from bench.masks import decode, of_box
from bench.training.task import TrainingJob
from pipelines.augmentation import Augment
from pipelines.canvas import Style, mask_on
from pipelines.rows import Row, RowBatch, Rows, collate

ALPHA = 0.25  # the focal loss's weight of pixels inside, against 1 - ALPHA outside
MaskedRow = tuple[Row, NDArray[np.bool_]]  # a row with its mask on the canvas (S, S)


@dataclass(frozen=True, slots=True)
class MaskBatch(RowBatch):
    """Rows with their masks on the canvas, (B, S, S) of bool, where masks are trained."""

    masks: Tensor | None = None


class MaskRows(Rows):
    """Rows with the ground-truth mask of each, or where `source` is "boxes" with its box as a mask."""

    def __init__(
        self, job: TrainingJob, size: int, style: Style, augment: Augment | None,
        source: Literal["segmentation", "boxes"] = "segmentation",
    ) -> None:  # fmt: skip
        super().__init__(job, size, style, augment)
        self.source = source

    def sample(self, epoch: int, index: int) -> MaskedRow:  # type: ignore[override]
        """Return the row as that epoch shows it. Raises ImageError, DataError."""
        return self._masked(super().sample(epoch, index), index)

    def samples(self, epoch: int, indices: Sequence[int]) -> list[MaskedRow]:  # type: ignore[override]
        """Return rows as that epoch shows them, those of one image on one canvas."""
        rows = super().samples(epoch, indices)
        return [self._masked(row, index) for row, index in zip(rows, indices, strict=True)]

    def _masked(self, row: Row, index: int) -> MaskedRow:
        scene, expression = self.expression(index)
        mask = expression.mask
        if self.source == "boxes":
            height, width = scene.height, scene.width
            if not height or not width:
                height, width = self.images.load(scene).shape[:2]
            mask = of_box(expression.box, height, width)
        if mask is None:
            raise DataError(f"{scene.file}, expression {expression.id}: it has no mask to train on; leave it out")
        return row, mask_on(row[0], decode(mask))


def collate_masked(samples: Sequence[MaskedRow]) -> MaskBatch:
    """Join rows and their masks into a batch."""
    plain = collate([row for row, _ in samples])
    masks = torch.from_numpy(np.stack([mask for _, mask in samples]))
    return MaskBatch(plain.images, plain.edges, plain.targets, plain.texts, plain.owners, masks)


def refuse_flips(augment: Augment, job: TrainingJob) -> None:
    """Raise SettingsError for an augmentation that mirrors: masks are not mirrored."""
    if augment.flip_share:
        raise SettingsError(f"bench.toml [train.{job.context.name}]: augment.flip_share: masks are not mirrored")


def refuse_without_masks(job: TrainingJob, parts: Sequence[str], setting: str) -> None:
    """Raise DataError where a split of `parts` ("train", "validation") has no masks, which `setting` needs."""
    for part, scenes in (("train", job.scenes), ("validation", job.validation)):
        if part in parts and not any(e.mask is not None for scene in scenes for e in scene.expressions):
            raise DataError(f"the {part} split has no masks; prepare it from files that have them, for --set {setting}")


def focal(logits: Tensor, inside: Tensor) -> Tensor:
    """Compute the mean focal loss of each sample's pixels, (B, ...) twice -> (B,) (Lin et al. 2017)."""
    truth, p = inside.float(), logits.sigmoid()
    right = p * truth + (1 - p) * (1 - truth)
    share = ALPHA * truth + (1 - ALPHA) * (1 - truth)
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (share * (1 - right) ** 2 * cross).flatten(1).mean(dim=1)


def dice(logits: Tensor, inside: Tensor) -> Tensor:
    """Compute the dice loss of each sample, (B, ...) twice -> (B,)."""
    truth, p = inside.float().flatten(1), logits.sigmoid().flatten(1)
    return 1 - (2 * (p * truth).sum(dim=1) + 1) / (p.sum(dim=1) + truth.sum(dim=1) + 1)

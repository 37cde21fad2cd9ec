"""Fine-tuning OneRef for boxes (REC) or masks (RES), as the official code does (recipe.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.settings import parse_table, takes
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.canvas import covered, normalised
from pipelines.mask_rows import MaskBatch, MaskRows, collate_masked, dice, focal, refuse_flips, refuse_without_masks
from pipelines.oneref import checkpoint
from pipelines.oneref.pipeline import OneRefOptions, OneRefPipeline
from pipelines.oneref.recipe import OneRefTraining, start
from pipelines.rows import RowBatch, Rows, collate

UNTRAINED = {"boxes": (), "masks": ("bbox_embed.", "visu_proj.", "vision_head.")}  # they get no gradient there


class OneRefTask(GrounderTask):
    """A OneRef in training."""

    config: OneRefTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.config = config = parse_table(OneRefTraining, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
        self.boxes = config.head == "boxes"
        self.loss_weights = {"l1": config.l1, "giou": config.giou} if self.boxes else {}
        share = config.constraint if self.boxes else 1.0
        if share:
            self.loss_weights |= {"focal": share * config.focal, "dice": share * config.dice}
        if not self.boxes:
            self.metric = "mask_miou"
            refuse_flips(config.augment, job)
            refuse_without_masks(job, ("train", "validation"), "head=masks")
        self.loaded, self.taken = start(config, job)
        self.model: Any = self.loaded.network.requires_grad_(True).to(job.context.device)
        self.cut = self.count_cut(self.loaded.tokenizer.cut, self.model.config.text)

    def dataset(self, augment: bool = True) -> Rows:
        """Return one sample an expression."""
        size, moves = self.model.config.image_size, self.config.augment if augment else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        return (Rows if self.boxes else MaskRows)(self.job, size, "official", moves)

    def collate(self, samples: Sequence[Any]) -> RowBatch:
        """Join rows into a batch."""
        if self.boxes:
            return collate(samples)
        return collate_masked(samples)

    def losses(self, batch: RowBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of each row, (B,); for boxes also the boxes, cxcywh in 0..1 of the canvas."""
        network, device = self.model, batch.images.device
        assert batch.edges is not None
        # 1. Image and text through the encoder; each image is embedded once.
        with torch.autocast(device.type, enabled=False):
            pixels = normalised(batch.images, covered(batch.edges, batch.images.shape[1]), "official")
            ids, padding = (part.to(device) for part in self.loaded.tokenizer(batch.texts))
        image = network.embed_image(pixels)
        if batch.owners is not None:
            image = image[batch.owners]
        image, text = network.encode(image, ids, padding)
        patches, words = image[:, 1:], network.words(text[:, 0])
        # 2. RES: the mask head against the mask of the canvas.
        if not self.boxes:
            assert isinstance(batch, MaskBatch)
            assert batch.masks is not None
            grid = network.mask(patches, words)[:, None].float()
            logits = F.interpolate(grid, size=batch.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            return {"focal": focal(logits, batch.masks), "dice": dice(logits, batch.masks)}
        # 3. REC: the box, and the similarity of each patch against the box.
        cosines = network.similarity(patches, words)
        boxes = network.box(cosines, patches)
        iou, _ = layers.giou(boxes, batch.targets)
        terms = {"l1": layers.l1(boxes, batch.targets), "giou": 1 - iou}
        if "focal" in self.loss_weights:
            inside = patches_in(batch.targets, network.side, network.config.patch)
            terms |= {"focal": focal(cosines.float(), inside), "dice": dice(cosines.float(), inside)}
        return terms | {"boxes": boxes, "targets": batch.targets}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group: everything that the head uses, or without the encoder where it is frozen."""
        left = UNTRAINED[self.config.head] + (("beit3.",) if self.config.freeze else ())
        named = self.model.named_parameters()
        return [ParameterGroup({name: parameter for name, parameter in named if not name.startswith(left)})]

    def pipeline(self) -> OneRefPipeline:
        """Return the pipeline of the network in training."""
        self.model.eval()
        return OneRefPipeline(OneRefOptions(), self.job.context, self.loaded)

    def options(self, path: Path) -> dict[str, Any]:
        """Return the options that open the weights, with the tokenizer that they were trained with."""
        own = {} if self.loaded.pieces else {"tokenizer": self.config.tokenizer}
        return super().options(path) | own

    def save(self, path: Path) -> None:
        """Write the network in float16, with its sizes and the tokenizer's pieces."""
        checkpoint.save(path, self.loaded, self.config.model_dump(mode="json"))

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"texts_cut": self.cut} | ({"beit3": self.taken} if self.taken else {})


def patches_in(boxes: Tensor, side: int, patch: int) -> Tensor:
    """Mark the patches whose first pixel lies in boxes (B, 4), cxcywh in 0..1 -> (B, side * side) of bool."""
    at = (torch.arange(side, device=boxes.device) * patch + 0.5) / (side * patch)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    columns, rows = ((at >= low[:, i, None]) & (at < high[:, i, None]) for i in (0, 1))
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


@takes(OneRefTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return oneref's one part."""
    return {"network": partial(OneRefTask, job)}

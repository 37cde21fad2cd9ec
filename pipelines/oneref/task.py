"""Fine-tuning OneRef for boxes (REC) or masks (RES), as the official code does (recipe.py)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.settings import parse_table
from bench.training.task import GrounderTask, ParameterGroup, TrainingJob
from pipelines import layers
from pipelines.canvas import covered, normalised
from pipelines.mask_rows import MaskBatch, MaskRows, collate_masked, dice, focal, refuse_flips, refuse_without_masks
from pipelines.oneref import checkpoint
from pipelines.oneref.pipeline import OneRefOptions, OneRefPipeline
from pipelines.oneref.recipe import OneRefTraining, start
from pipelines.rows import RowBatch, Rows, collate

NO_BOX = ("bbox_embed.", "visu_proj.")  # trained by the loss of boxes alone


class OneRefTask(GrounderTask):
    """A OneRef in training."""

    Config: ClassVar[type[OneRefTraining]] = OneRefTraining
    config: OneRefTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.config = config = parse_table(self.Config, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
        self.boxes, self.masks = config.head in ("boxes", "both"), config.head in ("masks", "both")
        self.loss_weights: dict[str, float] = {}
        if self.boxes:
            self.loss_weights |= {"l1": config.l1, "giou": config.giou}
        if config.head != "masks" and config.constraint:
            share = config.constraint
            self.loss_weights |= {"patch_focal": share * config.focal, "patch_dice": share * config.dice}
        if self.masks:
            self.loss_weights |= {"focal": config.focal, "dice": config.dice}
            refuse_flips(config.augment, job)
            refuse_without_masks(job, ("train", "validation"), f"head={config.head}")
        if config.head == "masks":
            self.metric = "mask_miou"
        self.loaded, self.taken = start(config, job, self.codes())
        self.model: Any = self.loaded.network.requires_grad_(True).to(job.context.device)
        self.cut = self.count_cut(self.loaded.tokenizer.cut, self.model.config.text)

    def codes(self) -> int:
        """Return how many visual tokens the heads of the pre-training predict: here there are no such heads."""
        return 0

    def dataset(self, augment: bool = True) -> Rows:
        """Return one sample an expression."""
        size, moves = self.model.config.image_size, self.config.augment if augment else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        return (MaskRows if self.masks else Rows)(self.job, size, "official", moves)

    def collate(self, samples: Sequence[Any]) -> RowBatch:
        """Join rows into a batch."""
        return collate_masked(samples) if self.masks else collate(samples)

    def losses(self, batch: RowBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the terms of each row, (B,); for boxes also the boxes, cxcywh in 0..1 of the canvas."""
        network = self.model
        # 1. Image and text through the encoder; each image is embedded once.
        pixels, ids, padding = self.inputs(batch)
        image = network.embed_image(pixels)
        if batch.owners is not None:
            image = image[batch.owners]
        image, text = network.encode(image, ids, padding)
        return self.terms(image, text, batch)

    def inputs(self, batch: RowBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised pixels of the images, ids (B, L) and padding (B, L) of the texts, in float32."""
        device = batch.images.device
        assert batch.edges is not None
        with torch.autocast(device.type, enabled=False):
            pixels = normalised(batch.images, covered(batch.edges, batch.images.shape[1]), "official")
            ids, padding = (part.to(device) for part in self.loaded.tokenizer(batch.texts))
        return pixels, ids, padding

    def terms(self, image: Tensor, text: Tensor, batch: RowBatch) -> dict[str, Tensor]:
        """Return the losses of encoded images (B, 1 + P, D) and texts (B, L, D), as `losses` does."""
        network, config, terms = self.model, self.config, dict[str, Tensor]()
        patches, words = image[:, 1:], network.words(text[:, 0])
        # 2. RES: the mask head against the mask of the canvas.
        if self.masks:
            assert isinstance(batch, MaskBatch)
            assert batch.masks is not None
            some = math.ceil(config.mask_share * len(words))
            grid = network.mask(patches[:some], words[:some])[:, None].float() / config.temperature
            logits = F.interpolate(grid, size=batch.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
            for name, loss in (("focal", focal), ("dice", dice)):
                each = loss(logits, batch.masks[:some]) * (len(words) / some)
                terms[name] = F.pad(each, (0, len(words) - some))
        # 3. REC: the box, and the similarity of each patch against the box.
        if not self.boxes:
            return terms
        cosines = network.similarity(patches, words)
        boxes = network.box(cosines, patches)
        iou, _ = layers.giou(boxes, batch.targets)
        terms |= {"l1": layers.l1(boxes, batch.targets), "giou": 1 - iou}
        if config.constraint:
            terms |= self.constraint(cosines, batch.targets)
        return terms | {"boxes": boxes, "targets": batch.targets}

    def inside(self, targets: Tensor) -> Tensor:
        """Mark the patches of boxes (B, 4), cxcywh in 0..1 -> (B, P) of bool."""
        return patches_in(targets, self.model.side, self.model.config.patch)

    def constraint(self, cosines: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Compare cosines of patches (B, P), as logits, with boxes (B, 4) as masks -> the losses of each row."""
        inside = self.inside(targets)
        logits = cosines.float() / self.config.temperature
        return {"patch_focal": focal(logits, inside), "patch_dice": dice(logits, inside)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group: everything that the head uses, or without the encoder where it is frozen."""
        left = self.untrained() + (("beit3.",) if self.config.freeze else ())
        named = self.model.named_parameters()
        return [ParameterGroup({name: parameter for name, parameter in named if not name.startswith(left)})]

    def untrained(self) -> tuple[str, ...]:
        """Return what begins the names of parameters that get no gradient."""
        return (*NO_BOX, "vision_head.") if self.config.head == "masks" else ()

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

"""Training TransVG: L1 and GIoU on the box of [REG], from a DETR and a BERT (Deng et al. 2021, section 4.2).

Numbers are those of the official code (recipe.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.settings import parse_table, takes
from bench.training.task import GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.augmentation import Augment
from pipelines.backbones import RESNETS
from pipelines.rows import RowBatch, Rows, collate
from pipelines.transvg import checkpoint
from pipelines.transvg.branches import TEXT, VISUAL, Branches
from pipelines.transvg.network import TransVG
from pipelines.transvg.pipeline import BranchesPipeline, TransVGPipeline
from pipelines.transvg.recipe import TransVGTraining, add_deconfounder, start


class TransVGTask(GrounderTask):
    """A TransVG in training; a subclass trains another network of the family."""

    Config: ClassVar[type[TransVGTraining]] = TransVGTraining
    Pipeline: ClassVar[type[BranchesPipeline]] = TransVGPipeline
    kind: ClassVar[type[Branches]] = TransVG
    config: TransVGTraining

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        self.config = config = parse_table(self.Config, dict(job.recipe), f"bench.toml [train.{job.context.name}]")
        self.loss_weights = {"l1": config.l1, "giou": config.giou}
        self.loaded, self.taken = self.start()
        self.model: Any = self.loaded.network.to(job.context.device)
        add_deconfounder(self.loaded, config, job)
        self.cut = self.count_cut(self.loaded.tokenizer.cut, self.model.config.tokens)

    def start(self) -> tuple[checkpoint.Loaded, dict[str, Any]]:
        """Return the network to train, and what its image branch took of a DETR. Raises WeightsError."""
        return start(self.kind, self.config, self.job)

    def dataset(self, augment: bool = True) -> Rows:
        """Return one sample an expression."""
        size, moves = self.model.config.image_size, self.augmentation if augment else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        return Rows(self.job, size, self.loaded.style, moves)

    @property
    def augmentation(self) -> Augment:
        """`augment`; where it leaves them open, clean preprocessing takes whole words and keeps the referent."""
        augment, clean = self.config.augment, {"crop": "safe", "flip_words": "whole"}
        if self.loaded.style == "clean":
            left_open = clean.keys() - augment.model_fields_set
            return augment.model_copy(update={key: clean[key] for key in left_open})
        return augment

    def collate(self, samples: Sequence[Any]) -> RowBatch:
        """Join rows into a batch."""
        return collate(samples)

    def losses(self, batch: RowBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return L1 and 1 - GIoU of each row, (B,); and the boxes, cxcywh in 0..1 of the canvas."""
        boxes = self.model.boxes(*self.encoded(batch))
        giou, _ = layers.giou(boxes, batch.targets)
        return {"l1": layers.l1(boxes, batch.targets), "giou": 1 - giou, "boxes": boxes, "targets": batch.targets}

    def encoded(self, batch: RowBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return image tokens (B, P, d), masked cells (B, P), text tokens (B, L, d), True on padding (B, L)."""
        network, device = self.model, batch.images.device
        assert batch.edges is not None
        # 1. Inputs, in float32 whatever the step computes in.
        with torch.autocast(device.type, enabled=False):
            pixels, masked = network.inputs(batch.images, batch.edges, self.loaded.style)
            ids, padding = (part.to(device) for part in self.loaded.tokenizer(batch.texts))
        # 2. Both branches; each image goes through its own once, and every row takes the tokens of its image.
        image, text = network.encode_image(pixels, masked), network.encode_text(ids, padding)
        if batch.owners is not None:
            image, masked = image[batch.owners], masked[batch.owners]
        return image, masked, text, padding

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return fusion and heads, then what `shares` names; what is `frozen` is in none."""
        named = {n: p for n, p in self.model.named_parameters() if not n.startswith(self.frozen)}
        groups = []
        for prefix, share in self.shares:
            groups.append(ParameterGroup({n: named.pop(n) for n in list(named) if n.startswith(prefix)}, share))
        groups.insert(0, ParameterGroup(named))
        return [group for group in groups if group.lr_scale]

    @property
    def frozen(self) -> tuple[str, ...]:
        """Return the starts of the names that are not trained: a ResNet's first layers, and BERT's pooler."""
        first = (f"{VISUAL}backbone.0.body.conv1.", f"{VISUAL}backbone.0.body.layer1.")
        return (f"{TEXT}pooler.", *(first if self.model.config.backbone in RESNETS.values() else ()))

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """Return the starts of names and their shares of the learning rate: ResNet, DETR's encoder, BERT."""
        config = self.config
        resnet = (f"{VISUAL}backbone.", config.backbone_share)
        return (resnet, (VISUAL, config.encoder_share), (TEXT, config.text_share))

    def pipeline(self) -> BranchesPipeline:
        """Return the pipeline of the network in training."""
        self.model.eval()
        return self.Pipeline(self.Pipeline.Options(), self.job.context, self.loaded)

    def options(self, path: Path) -> dict[str, Any]:
        """Return the options that open the weights, with the tokenizer that they were trained with."""
        return super().options(path) | {"tokenizer": self.config.tokenizer}

    def save(self, path: Path) -> None:
        """Write the network in float16, with sizes, tokenizer and preprocessing."""
        checkpoint.save(path, self.loaded, self.config.model_dump(mode="json"))

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"texts_cut": self.cut} | ({"detr": self.taken} if self.taken else {})


@takes(TransVGTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return transvg's one part."""
    return {"network": partial(TransVGTask, job)}

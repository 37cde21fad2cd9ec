"""Training the head that denoises boxes, over a network that stays as it is.

Each row's box is noised K times, each time to another u; the head predicts it back. L1 and GIoU count after every
block, and the logit of a sample learns the IoU that it reached. Where nothing augments, each image and each text is
encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from bench.errors import SettingsError
from bench.settings import parse_table, takes
from bench.training.config import TrainConfig
from bench.training.task import GrounderTask, MapDataset, ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.augmentation import Augment
from pipelines.diffusion import checkpoint
from pipelines.diffusion.network import DiffusionConfig, DiffusionHead, HeadOptions
from pipelines.diffusion.pipeline import DiffusionOptions, DiffusionPipeline
from pipelines.diffusion.rows import DiffusionBatch, FrozenRows
from pipelines.diffusion.sampling import noised, to_boxes


class DiffusionTraining(TrainConfig):
    """[train.diffusion]; the network below is that of [pipelines.diffusion]."""

    name: str = Field("diffusion", pattern=r"^[\w.-]+$", description="name of the files that are written")
    head: HeadOptions = HeadOptions()
    samples: int = Field(16, ge=1, description="noised boxes of a row in a step")
    cache_features: bool = Field(True, description="encode each image and each text once: nothing may augment")
    cache_tokens: bool = Field(False, description="keep the fused tokens of each row, too: much memory, and faster")
    augment: Augment = Field(Augment(), description="where cache_features is off")
    epochs: int = Field(20, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    clip_norm: float = Field(1.0, ge=0, description="of the gradient; 0 = off")
    l1: float = Field(5.0, ge=0)
    giou: float = Field(2.0, ge=0)
    score: float = Field(1.0, ge=0, description="weight of the logit's loss")


class DiffusionTask(GrounderTask):
    """A head in training."""

    config: DiffusionTraining
    loaded: checkpoint.Loaded

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        where = f"bench.toml [train.{job.context.name}]"
        self.config = config = parse_table(DiffusionTraining, dict(job.recipe), where)
        if config.cache_tokens and not config.cache_features:
            raise SettingsError("cache_tokens keeps what cache_features encodes once: switch that on, too")
        self.loss_weights = {"l1": config.l1, "giou": config.giou, "score": config.score}
        self.device = torch.device(job.context.device)
        # 1. The head: from a file, or from nothing.
        network = parse_table(
            DiffusionOptions, job.context.options, f"bench.toml [pipelines.{job.context.name}]"
        ).network
        if config.start_from:
            self.loaded = checkpoint.open_head(config.start_from, network, job.context)
        else:
            source, kind = checkpoint.open_source(network, job.context)
            sizes = DiffusionConfig(**config.head.model_dump(), width=source.width, side=source.side)
            torch.manual_seed(job.context.seed)
            self.loaded = checkpoint.Loaded(DiffusionHead(sizes), source, kind)
        self.source = self.loaded.source
        self.model: Any = self.loaded.head.to(self.device)
        # 2. What the network below makes of texts and images.
        moves = None if config.cache_features else config.augment
        self.rows = FrozenRows(job, self.source, moves, config.cache_tokens)
        self.cut = sum(bool(self.source.cut(e.text)) for s in job.scenes for e in s.expressions)

    def dataset(self, augment: bool = True) -> MapDataset:
        """Return one sample an expression."""
        return self.rows.dataset(augment)

    def collate(self, samples: Sequence[Any]) -> DiffusionBatch:
        """Join rows into a batch."""
        return self.rows.collate(samples)

    def losses(self, batch: DiffusionBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return L1, 1 - GIoU and the logit's loss of each row, (B,), means over its samples and all blocks."""
        # 1. Tokens of the frozen network, as in inference.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            fused = self.rows.fused(batch)
        # 2. The box, noised to another u in each sample.
        shape, target = (len(batch.targets), self.config.samples), batch.targets[:, None]
        u = torch.rand(shape, generator=rng, device=self.device)
        noise = torch.randn((*shape, 4), generator=rng, device=self.device)
        noisy = to_boxes(noised(target, u[..., None], noise))
        # 3. The box, predicted back.
        boxes, logits = self.model(fused, noisy, u)
        giou, _ = layers.giou(boxes, target)
        iou = layers.giou(boxes[-1], target)[1].detach()
        return {
            "l1": layers.l1(boxes, target).mean(dim=(0, 2)),
            "giou": 1 - giou.mean(dim=(0, 2)),
            "score": F.binary_cross_entropy_with_logits(logits.float(), iou, reduction="none").mean(dim=1),
            "boxes": boxes[-1, :, 0],
            "targets": batch.targets,
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the whole head."""
        return [ParameterGroup(dict(self.model.named_parameters()))]

    def pipeline(self) -> DiffusionPipeline:
        """Return the pipeline of the head in training."""
        self.model.eval()
        return DiffusionPipeline(DiffusionOptions(), self.job.context, self.loaded)

    def options(self, path: Path) -> dict[str, Any]:
        """Return the options that open the weights, with the network below them."""
        network = self.job.context.options.get("network")
        return super().options(path) | ({"network": network} if network else {})

    def save(self, path: Path) -> None:
        """Write the head in float16."""
        checkpoint.save(path, self.loaded, self.config.model_dump(mode="json"))

    @property
    def identity(self) -> Mapping[str, str]:
        return {part: each[:12] for part, each in self.source.card.sha256.items()}

    @property
    def notes(self) -> Mapping[str, Any]:
        return {"texts_cut": self.cut, "network": dict(self.source.card.sha256)}


@takes(DiffusionTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return diffusion's one part."""
    return {"head": partial(DiffusionTask, job)}

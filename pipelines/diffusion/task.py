"""Training the head that denoises boxes, over a network that stays as it is.

Each row's box is noised K times, each time to another u; the head predicts it back. L1 and GIoU count after every
block, and the logit of a sample learns the IoU that it reached. Where nothing augments, each image and each text is
encoded once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.errors import SettingsError
from bench.settings import parse_table, takes
from bench.training.config import TrainConfig
from bench.training.feature_cache import ImageFeatureCache, TextFeatureCache
from bench.training.task import Batch, GrounderTask, ParameterGroup, TaskFactory, TrainingJob
from pipelines import layers
from pipelines.augmentation import Augment
from pipelines.canvas import Canvas, letterboxed
from pipelines.diffusion import checkpoint
from pipelines.diffusion.network import DiffusionConfig, DiffusionHead, HeadOptions
from pipelines.diffusion.pipeline import DiffusionOptions, DiffusionPipeline
from pipelines.diffusion.sampling import noised, to_boxes
from pipelines.engine import Rows as Encoded
from pipelines.engine import joined, sequences
from pipelines.on_canvas import Fused
from pipelines.rows import CachedFeatures, Rows, without_pixels

log = logging.getLogger("bench.train")


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


@dataclass(frozen=True, slots=True)
class DiffusionBatch(Batch):
    """Rows, targets (B, 4) cxcywh in 0..1, texts, the different images, and which of them is each row's.

    An image is its number in the feature cache, or its canvas; a row is its number there, too.
    """

    rows: tuple[int, ...]
    targets: Tensor
    texts: tuple[str, ...]
    images: tuple[Any, ...]
    owners: tuple[int, ...]


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
        self.texts = TextFeatureCache((e.text for s in job.scenes for e in s.expressions), self._encode_texts)
        self.images: ImageFeatureCache[Canvas] = ImageFeatureCache()
        self.encoded: list[Encoded] = []  # of each image in the cache
        self.cut = sum(bool(self.source.cut(e.text)) for s in job.scenes for e in s.expressions)

    def dataset(self, augment: bool = True) -> Rows | CachedFeatures:
        """Return one sample an expression."""
        config, size, style = self.config, self.source.size, self.source.style
        moves = config.augment if augment and not config.cache_features else None
        if moves is not None:
            moves.long_sides(size)  # refused here, not by a worker
        rows = Rows(self.job, size, style, moves)
        if not config.cache_features:
            return rows
        scenes = {scene.file: scene for scene in rows.scenes}
        log.info("%s: encoding %s images once", self.job.context.name, f"{len(scenes):,}")
        self.images.fill(
            list(scenes), lambda file: letterboxed(rows.load(scenes[file]), size, style), self._keep_encoded,
            without_pixels,
        )  # fmt: skip
        self.cached = CachedFeatures(rows, self.images)
        self.tokens = TextFeatureCache(map(str, range(len(rows))), self._fuse_rows)
        return self.cached

    def collate(self, samples: Sequence[Any]) -> DiffusionBatch:
        """Join rows into a batch."""
        if self.config.cache_features:
            batch = self.cached.collate(samples)
            targets, texts = batch.targets, batch.texts
            keys = images = batch.images.tolist()
        else:
            canvases, drawn, texts = zip(*samples, strict=True)
            targets, images = torch.tensor(np.stack(drawn), dtype=torch.float32), list(canvases)
            keys = [id(canvas) for canvas in images]
        different = dict(zip(keys, images, strict=True))
        place = {key: at for at, key in enumerate(different)}
        rows = tuple(samples) if self.config.cache_features else ()
        return DiffusionBatch(rows, targets, texts, tuple(different.values()), tuple(place[key] for key in keys))

    def losses(self, batch: DiffusionBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return L1, 1 - GIoU and the logit's loss of each row, (B,), means over its samples and all blocks."""
        # 1. Tokens of the frozen network, as in inference.
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            fused = self.fused(batch)
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

    def fused(self, batch: DiffusionBatch) -> Fused:
        """Fuse the tokens of each row, or take them from the cache."""
        rows, padding = self.joint(batch)
        if not self.config.cache_tokens:
            out: Fused = self.source.fused(rows, padding)
            return out
        tokens, cells, boxes = zip(*self.tokens([str(row) for row in batch.rows]), strict=True)
        return Fused(
            pad_sequence([each.float() for each in tokens], batch_first=True),
            rows[0],
            pad_sequence(list(cells), batch_first=True, padding_value=-1),
            padding,
            torch.stack(boxes),
        )

    def _fuse_rows(self, names: list[str]) -> list[Encoded]:
        """Fuse a settled run of rows -> the tokens of each in float16 (1 + L, d), their cells (L,), its box (4,)."""
        batch = self.collate([int(name) for name in names])
        fused = self.source.fused(*self.joint(batch))
        tokens, cells = fused.tokens.half(), fused.cells
        lengths = [cells.shape[1]] * len(names)
        if fused.ignored is not None:
            lengths = (~fused.ignored).sum(dim=1).tolist()
        return [(tokens[at, : 1 + n].clone(), cells[at, :n].clone(), fused.boxes[at]) for at, n in enumerate(lengths)]

    def joint(self, batch: DiffusionBatch) -> tuple[Encoded, Tensor | None]:
        """Lay out the text and image tokens of each row in one sequence, and its padding."""
        texts = self.texts(batch.texts)
        if self.config.cache_features:
            images = [_floats(self.encoded[number], torch.float32) for number in batch.images]
        else:
            images = self.source.engine.encode_images(batch.images)
        both = np.stack([np.arange(len(texts)), len(texts) + np.array(batch.owners)], axis=1)
        return sequences(*joined([*texts, *images]), both, self.device)

    def _encode_texts(self, texts: list[str]) -> list[Encoded]:
        """Encode a settled run of texts; what validation left in the engine's cache was in other runs."""
        self.source.engine.forget_texts()
        return list(self.source.engine.encode_texts(texts).values())

    def _keep_encoded(self, canvases: Sequence[Canvas]) -> tuple[Tensor]:
        """Encode images and keep their tokens, in float16, which differ in number; return how many each has."""
        rows = self.source.engine.encode_images(canvases)
        self.encoded += [_floats(row, torch.float16) for row in rows]
        return (torch.tensor([len(row[0]) for row in rows]),)

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


def _floats(rows: Encoded, dtype: torch.dtype) -> Encoded:
    """Return an image's rows with their floats in another type."""
    return tuple(part.to(dtype) if part.is_floating_point() else part for part in rows)


@takes(DiffusionTraining)
def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return diffusion's one part."""
    return {"head": partial(DiffusionTask, job)}

"""CLIP-VG for `shapes`: the product's training, with a start in CLIP's space and a loss on patches.

At random, the V-L transformer first has to find out that a word and the patches it fits are alike, which CLIP knows.
Here the projections start as CLIP's own (as HiVG's do), and queries and keys of every layer as one rotation: attention
starts by comparing. With L1 and GIoU alone a small network stays at the mean box for thousands of steps; the patch loss
points [REG] at the target. Neither is part of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench.training.task import TaskFactory, TrainingJob
from clipvg.network import ClipVG, Packing, multi_level_features
from clipvg.recipe import ClipVGTraining
from clipvg.task import ClipVGBatch, ClipVGTask
from pipelines import layers as loss
from pipelines.canvas import normalise_and_mask
from pipelines.rows import Rows, collate

CALIBRATION = 64  # rows that set the scale of the start
KEPT = 0.3  # share of the random weights that stays where CLIP's are added
POSITIONS = 0.2  # of the random position embeddings: at first content counts for more than place


class TinyClipVGTraining(ClipVGTraining):
    """[clipvg] of shapes.toml."""

    start: Literal["random", "clip"] = Field("random", description="clip: words and patches start in CLIP's space")
    auxiliary: float = Field(0.0, ge=0, description="weight of the patch loss; 0 = off")


class TinyClipVGTask(ClipVGTask):
    """A CLIP-VG in training, with the patch loss."""

    Config = TinyClipVGTraining
    config: TinyClipVGTraining
    model: ClipVG

    def __init__(self, job: TrainingJob) -> None:
        super().__init__(job)
        if self.config.auxiliary:
            self.loss_weights = {**self.loss_weights, "auxiliary": self.config.auxiliary}
        if self.config.start == "clip" and not self.config.start_from:
            self._start_in_clip_space()

    def losses(self, batch: ClipVGBatch, rng: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of ClipVGTask, and the auxiliary one, (B,)."""
        if not self.config.auxiliary:
            return super().losses(batch, rng)
        fused, packing = self.fused(batch, only_first=False)
        register = fused[packing.rows[:, 0]]
        patches, masked = self._patches(fused, packing)
        boxes = self.model.box(register)
        terms = {"l1": loss.l1(boxes, batch.targets), "giou": 1 - loss.giou(boxes, batch.targets)[0]}
        auxiliary = patch_loss(register, patches, masked, batch.targets)
        auxiliary = auxiliary + self._patch_boxes(patches, masked, batch.targets)
        return {**terms, "auxiliary": auxiliary, "boxes": boxes, "targets": batch.targets}

    def _patches(self, fused: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """The tokens (B, P, d) of all patches, 0 where they are masked, and which of them are (B, P)."""
        network, (rows, length) = self.model, packing.rows.shape
        place = packing.slots - (2 + network.context)
        kept = place >= 0
        index = (packing.places // length * network.side**2 + place)[kept]
        patches = fused.new_zeros(rows * network.side**2, fused.shape[1]).index_copy(0, index, fused[kept])
        masked = torch.ones(len(patches), dtype=torch.bool, device=fused.device).index_fill(0, index, False)
        return patches.unflatten(0, (rows, -1)), masked.unflatten(0, (rows, -1))

    def _patch_boxes(self, patches: Tensor, masked: Tensor, targets: Tensor) -> Tensor:
        """The loss (B,) of the box head on every patch of the target: each is to give the target's box, as [REG] is."""
        own = on_target(coverage(targets, self.model.side)) & ~masked
        rows, _ = own.nonzero(as_tuple=True)
        boxes, wanted = self.model.box(patches[own]), targets[rows]
        each = loss.l1(boxes, wanted) + 1 - loss.giou(boxes, wanted)[0]
        share = 1 / own.sum(dim=1).clamp(min=1)
        return torch.zeros_like(share).index_add(0, rows, each * share[rows])

    def _start_in_clip_space(self) -> None:
        """Measure features of some rows, drawn as in evaluation, and start from their scale."""
        size = self.model.config.image_size
        rows = Rows(self.job, size, self.style, None)
        drawn = [rows.sample(0, row) for row in range(0, len(rows), -(-len(rows) // CALIBRATION))]
        batch = collate(drawn)
        batch = batch.to(self.device)
        assert batch.edges is not None
        pixels, _ = normalise_and_mask(batch.images, batch.edges, self.patch, self.style)
        with torch.no_grad():
            features = multi_level_features(self.model.clip.visual, pixels, self.model.config.taps)
        words = pad_sequence([tokens for tokens, _ in self.texts(batch.texts)], batch_first=True)
        start_in_clip_space(self.model, features, words)


@torch.no_grad()
def start_in_clip_space(network: ClipVG, features: Tensor, words: Tensor) -> None:
    """Change a network's projections and attention in place, to start in the space that CLIP's words and patches share.

    `features` (B, 1 + P, W * taps) of some images and `words` (B, L, E) of some texts set the scale: both start with
    about unit variance.
    """
    # 1. CLIP's own projection of patches; the stream's mean and scale are left out.
    visual = network.clip.visual
    projection = visual.ln_post.weight[:, None] * visual.proj  # (W, E)
    width, shared = projection.shape
    shared = min(shared, network.config.hidden)
    projected = features[:, 1:, -width:].float() @ projection.float()
    image, text = network.ml_visu_proj.weight, network.text_proj.weight
    image[:shared] *= KEPT
    image[:shared, -width:] += (projection.T / projected.std())[:shared]
    # 2. Words are in that space already.
    text[:shared] *= KEPT
    text[:shared] += torch.eye(*text.shape, device=text.device)[:shared] / words.float().std()
    network.vl_pos_embed.weight *= POSITIONS
    network.reg_token.weight *= POSITIONS
    # 3. Queries and keys under one rotation: a product is then a similarity.
    d = network.config.hidden
    for layer in network.vl_transformer.encoder.layers:
        attention: Any = layer.self_attn
        rotation = torch.linalg.qr(torch.randn(d, d))[0].to(text.device)
        attention.in_proj_weight[: 2 * d] = torch.cat([rotation, rotation])


def patch_loss(register: Tensor, patches: Tensor, masked: Tensor, targets: Tensor) -> Tensor:
    """Return (B,): how far [REG] (B, d) is from pointing at the patches (B, P, d) of the target (B, 4) cxcywh.

    Cross-entropy of the products of [REG] with the patches against each patch's share of the target.
    """
    logits = (patches @ register[:, :, None]).squeeze(2).float() / math.sqrt(register.shape[1])
    logits = logits.masked_fill(masked, torch.finfo(logits.dtype).min)
    share = coverage(targets, math.isqrt(patches.shape[1])).masked_fill(masked, 0)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return -(share * F.log_softmax(logits, dim=1)).sum(dim=1)


def on_target(shares: Tensor) -> Tensor:
    """Return the patches (B, P) of a target that covers them by (B, P): those it covers by more than half, and of a
    small target the one it covers most."""
    return (shares > 0.5) | ((shares >= shares.amax(dim=1, keepdim=True)) & (shares > 0))


def coverage(boxes: Tensor, side: int) -> Tensor:
    """Return the part of each patch (B, side * side), row by row, that a box (B, 4) cxcywh in 0..1 covers."""
    edges = torch.arange(side, device=boxes.device, dtype=boxes.dtype) / side
    low, high = (boxes[:, :2] - boxes[:, 2:] / 2)[..., None], (boxes[:, :2] + boxes[:, 2:] / 2)[..., None]
    inside = (torch.minimum(high, edges + 1 / side) - torch.maximum(low, edges)).clamp(min=0) * side  # (B, 2, side)
    return (inside[:, 1, :, None] * inside[:, 0, None, :]).flatten(1)


def tasks(job: TrainingJob) -> Mapping[str, TaskFactory]:
    """Return the one part, for `train_pipeline(..., tasks=tasks)`."""
    return {"network": lambda: TinyClipVGTask(job)}

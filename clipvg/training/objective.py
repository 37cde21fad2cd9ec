"""The network with its loss: what a process computes in one forward pass of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipvg import loss
from clipvg.model.network import ClipVG
from clipvg.training.recipe import ClipVGRecipe
from pipelines import box_losses


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one forward pass, on the device.

    `seen` is either pixels (B, 3, S, S) or, kept from before, features of the tapped blocks (B, 1 + P, W * taps);
    `masked` (B, P), `words` CLIP's tokens (B, L, E), `padding` (B, L), `targets` (B, 4) cxcywh of the canvas.
    """

    seen: Tensor
    masked: Tensor
    words: Tensor
    padding: Tensor
    targets: Tensor

    def part(self, rows: slice) -> Batch:
        """Some of its rows."""
        return Batch(*(getattr(self, name)[rows] for name in Batch.__slots__))


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of each row, (B,), the weighted sum of them, and the boxes (B, 4) cxcywh."""

    loss: Tensor
    l1: Tensor
    giou: Tensor
    auxiliary: Tensor
    iou: Tensor
    boxes: Tensor


class Objective(nn.Module):
    """Everything that a step differentiates. Only parameters that are trained require gradients."""

    def __init__(self, network: ClipVG, recipe: ClipVGRecipe) -> None:
        super().__init__()
        self.network, self.recipe = network, recipe
        network.recompute = recipe.recompute
        network.requires_grad_(True)
        network.clip.requires_grad_(False)
        network.clip.visual.positional_embedding.requires_grad_(recipe.train_positions)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by the names of the official checkpoints."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}

    def train(self, mode: bool = True) -> Objective:
        """CLIP stays as it is: it has nothing that differs between training and evaluation."""
        super().train(mode)
        self.network.clip.eval()
        return self

    def forward(self, batch: Any) -> Terms:
        """The terms of a Batch's rows."""
        network, recipe = self.network, self.recipe
        seen = network.encode_image(batch.seen) if batch.seen.ndim == 4 else network.project(batch.seen)
        said = network.text_proj(batch.words.to(network.text_proj.weight.dtype))
        told = recipe.auxiliary == "patches"
        fused = network.fuse(seen, batch.masked, said, batch.padding, only_first=not told)
        boxes = network.box(fused[:, 0])
        l1 = box_losses.l1(boxes, batch.targets)
        giou, iou = box_losses.giou(boxes, batch.targets)
        auxiliary = torch.zeros_like(l1)
        if told:
            patches = fused[:, -batch.masked.shape[1] :]
            auxiliary = loss.patch_loss(fused[:, 0], patches, batch.masked, batch.targets)
            auxiliary = auxiliary + self._patch_boxes(patches, batch)
        total = recipe.l1 * l1 + recipe.giou * (1 - giou) + recipe.auxiliary_weight * auxiliary
        return Terms(total, l1, 1 - giou, auxiliary, iou, boxes)

    def _patch_boxes(self, patches: Tensor, batch: Any) -> Tensor:
        """(B,): the box head asked of every patch of the target, as it is of [REG]: each is to say the target's box."""
        own = loss.on_target(loss.coverage(batch.targets, self.network.side)) & ~batch.masked
        rows, _ = own.nonzero(as_tuple=True)
        boxes, targets = self.network.box(patches[own]), batch.targets[rows]
        away = box_losses.l1(boxes, targets) + 1 - box_losses.giou(boxes, targets)[0]
        share = 1 / own.sum(dim=1).clamp(min=1)
        return torch.zeros_like(share).index_add(0, rows, away * share[rows])

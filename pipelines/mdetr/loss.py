"""Losses of MDETR: Hungarian matching, then soft token prediction, L1 and GIoU (Kamath et al. 2021, 3.2).

Boxes are cxcywh in 0..1. A target is a box with the tokens that refer to it; a query that is matched to it must put
an equal share of its probability on each of them, every other query all of it on "no object".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipelines.box_losses import giou, l1
from pipelines.mdetr.model import Output


@dataclass(frozen=True, slots=True)
class Targets:
    """Hold all targets of a batch: boxes (M, 4) cxcywh, positive maps (M, S) whose rows sum to 1, owners (M,).

    `owner` is the index of the expression a target belongs to, in ascending order.
    """

    boxes: Tensor
    positive: Tensor
    owner: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Weigh the terms of the matching cost and of the loss; `no_object` is DETR's eos weight."""

    token: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1


def set_loss(output: Output, targets: Targets, weights: Weights) -> dict[str, Tensor]:
    """Compute the three terms: sums over targets by their number, averaged over the decoder's layers."""
    both = zip(output.logits, output.boxes, strict=True)
    layers = [_layer_loss(logits, boxes, targets, weights) for logits, boxes in both]
    return {name: torch.stack([layer[name] for layer in layers]).mean() for name in layers[0]}


def weighted(terms: dict[str, Tensor], weights: Weights) -> Tensor:
    """Sum the terms by their weights."""
    return weights.token * terms["token"] + weights.l1 * terms["l1"] + weights.giou * terms["giou"]


def _layer_loss(logits: Tensor, boxes: Tensor, targets: Targets, weights: Weights) -> dict[str, Tensor]:
    """Compute the terms of one decoder layer: logits (B, N, S + 1), boxes (B, N, 4)."""
    queries = match(logits, boxes, targets, weights)
    matched = boxes[targets.owner, queries]  # (M, 4)
    wanted = torch.zeros_like(logits)
    wanted[..., -1] = 1
    wanted[targets.owner, queries] = F.pad(targets.positive, (0, 1)).to(logits.dtype)
    weight = logits.new_full(logits.shape[:2], weights.no_object)
    weight[targets.owner, queries] = 1
    token = -(logits.log_softmax(-1) * wanted).sum(-1) * weight
    count = max(1, len(targets.boxes))
    return {
        "token": token.sum() / count,
        "l1": l1(matched, targets.boxes).sum() / count,
        "giou": (1 - giou(matched, targets.boxes)[0]).sum() / count,
    }


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Targets, weights: Weights) -> Tensor:
    """Match a query to each target, (M,): the cheapest assignment within each expression.

    The cost is the weighted sum of minus the probability on the target's tokens, L1 and minus GIoU. Raises ValueError
    when an expression has more targets than there are queries.
    """
    mine = boxes[targets.owner]  # (M, N, 4)
    wanted = targets.boxes[:, None]
    cost = weights.l1 * l1(mine, wanted) - weights.giou * giou(mine, wanted)[0]
    chance = logits[targets.owner].softmax(-1)[..., :-1]
    cost = cost - weights.token * (chance * targets.positive[:, None]).sum(-1)  # (M, N)
    out = cost.argmin(dim=1)  # right wherever an expression has one target, which is the rule
    _, counts = targets.owner.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    for start, count in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
        if count > cost.shape[1]:
            raise ValueError(f"{count} targets for {cost.shape[1]} queries")
        rows, columns = linear_sum_assignment(cost[start : start + count].float().cpu().numpy())
        out[start + torch.as_tensor(rows)] = torch.as_tensor(columns, device=out.device)
    return out

"""What MDETR is trained by: Hungarian matching, then soft token prediction, L1 and GIoU (Kamath et al. 2021, 3.2).

Boxes are cxcywh in 0..1. A target is a box with the tokens that speak of it; a query that is matched to it must put an
equal share of its probability on each of them, every other query all of it on "no object".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert

from pipelines.mdetr.model import Found


@dataclass(frozen=True, slots=True)
class Targets:
    """All targets of a batch: boxes (M, 4) cxcywh, positive maps (M, S) whose rows sum to 1, owners (M,).

    `owner` is the index of the expression a target belongs to, in ascending order.
    """

    boxes: Tensor
    positive: Tensor
    owner: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each term counts, in the matching's cost and in the loss alike; `no_object` is DETR's eos weight."""

    token: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1


def set_loss(found: Found, targets: Targets, weights: Weights) -> dict[str, Tensor]:
    """The three terms, unweighted sums over targets divided by their number, averaged over the decoder's layers."""
    both = zip(found.logits, found.boxes, strict=True)
    layers = [_layer_loss(logits, boxes, targets, weights) for logits, boxes in both]
    return {name: torch.stack([layer[name] for layer in layers]).mean() for name in layers[0]}


def weighted(terms: dict[str, Tensor], weights: Weights) -> Tensor:
    """The sum that is minimised."""
    return weights.token * terms["token"] + weights.l1 * terms["l1"] + weights.giou * terms["giou"]


def _layer_loss(logits: Tensor, boxes: Tensor, targets: Targets, weights: Weights) -> dict[str, Tensor]:
    """Logits (B, N, S + 1) and boxes (B, N, 4) of one decoder layer."""
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
        "l1": (matched - targets.boxes).abs().sum() / count,
        "giou": (1 - giou(matched, targets.boxes)).sum() / count,
    }


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Targets, weights: Weights) -> Tensor:
    """The query (M,) of each target: the assignment within each expression that costs least in all.

    The cost is the weighted sum of minus the probability on the target's tokens, L1 and minus GIoU. Raises ValueError
    when an expression has more targets than there are queries.
    """
    mine = boxes[targets.owner]  # (M, N, 4)
    wanted = targets.boxes[:, None]
    cost = weights.l1 * (mine - wanted).abs().sum(-1) - weights.giou * giou(mine, wanted)
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


def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of cxcywh boxes, elementwise over broadcast leading dimensions (Rezatofighi et al. 2019)."""
    a, b = (box_convert(x, "cxcywh", "xyxy") for x in (a, b))
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp_min(0).prod(-1) for x in (a, b))
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp_min(0).prod(-1)
    union = area_a + area_b - shared
    tiny = torch.finfo(union.dtype).tiny
    return shared / union.clamp_min(tiny) - (hull - union) / hull.clamp_min(tiny)

"""Losses of MDETR's fine-tuning: soft tokens, L1, GIoU and contrastive alignment (Kamath et al. 2021, section 3.2).

Boxes are cxcywh in 0..1. A sample is one expression with its image, and has one target: Hungarian matching then picks
the object query of least cost. Each loss is one number a sample, (B,), summed over the decoder's layers, each of which
is matched anew. The official code divides sums over a batch by the number of its boxes, over all processes; with one
box a sample that is the mean over samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.layers import giou, l1
from pipelines.mdetr.model import Output

TEMPERATURE = 0.07


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weigh the losses, and token, l1 and giou in the matching cost alike; `no_object` is DETR's eos weight."""

    token: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    contrastive: float = 1.0
    no_object: float = 0.1


def set_losses(
    output: Output, targets: Tensor, positive: Tensor, text_padding: Tensor, weights: LossWeights
) -> dict[str, Tensor]:
    """Compute "token", "l1", "giou" and "contrastive", (B,) each.

    Targets (B, 4), `positive` (B, T) True on the tokens that refer to the target, `text_padding` (B, T).
    """
    shares = shares_of(positive, output.logits.shape[-1] - 1)
    rows = torch.arange(len(targets), device=targets.device)
    sums: dict[str, Tensor] = {}
    for logits, boxes, queries in zip(output.logits, output.boxes, output.queries, strict=True):
        matched = match(logits, boxes, targets, shares, weights)
        box = boxes[rows, matched]
        layer = {
            "token": token_loss(logits, matched, shares, weights.no_object),
            "l1": l1(box, targets),
            "giou": 1 - giou(box, targets)[0],
            "contrastive": contrastive_loss(queries, output.text, matched, positive, text_padding),
        }
        sums = {name: sums[name] + loss if sums else loss for name, loss in layer.items()}
    return sums


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Tensor, shares: Tensor, weights: LossWeights) -> Tensor:
    """Find the query (B,) of least cost: logits (B, N, S + 1), boxes (B, N, 4), targets (B, 4), shares (B, S).

    The cost is the weighted sum of minus the probability on the target's tokens, L1 and minus GIoU.
    """
    wanted = targets[:, None]
    probability = (logits.softmax(dim=-1)[..., :-1] * shares[:, None]).sum(dim=-1)
    cost = weights.l1 * l1(boxes, wanted) - weights.giou * giou(boxes, wanted)[0] - weights.token * probability
    return cost.argmin(dim=1)


def token_loss(logits: Tensor, matched: Tensor, shares: Tensor, no_object: float) -> Tensor:
    """Compute the soft token prediction loss (B,), a cross-entropy of every query's logits (B, N, S + 1).

    The matched query (B,) is to put equal shares (B, S) on the target's tokens, any other all of it on "no object",
    which weighs `no_object`.
    """
    rows = torch.arange(len(logits), device=logits.device)
    wanted = torch.zeros_like(logits)
    wanted[..., -1] = 1
    wanted[rows, matched] = F.pad(shares, (0, 1)).to(logits.dtype)
    weight = logits.new_full(logits.shape[:2], no_object)
    weight[rows, matched] = 1
    return (-(logits.log_softmax(dim=-1) * wanted).sum(dim=-1) * weight).sum(dim=-1)


def contrastive_loss(queries: Tensor, text: Tensor, matched: Tensor, positive: Tensor, padding: Tensor) -> Tensor:
    """Compute the contrastive alignment (B,) of unit vectors of queries (B, N, c) and tokens (B, T, c).

    The mean of two directions: the matched query against all tokens, and each of its tokens, summed, against all
    queries. The official code leaves padding among the tokens, which lets a loss depend on the batch; here it is out.
    """
    similarity = queries @ text.transpose(1, 2) / TEMPERATURE  # (B, N, T)
    rows = torch.arange(len(queries), device=queries.device)
    own = similarity[rows, matched]  # (B, T)
    own_positive = (own * positive).sum(dim=1)
    count = positive.sum(dim=1)
    to_tokens = own.masked_fill(padding, -torch.inf).logsumexp(dim=1) - own_positive / count.clamp(min=1)
    to_queries = (similarity.logsumexp(dim=1) * positive).sum(dim=1) - own_positive
    return (to_tokens * (count > 0) + to_queries) / 2


def shares_of(positive: Tensor, slots: int) -> Tensor:
    """Give each positive token (B, T) an equal share (B, slots); tokens beyond the slots have none."""
    kept = F.pad(positive[:, :slots].float(), (0, max(0, slots - positive.shape[1])))
    return kept / kept.sum(dim=1, keepdim=True).clamp(min=1)

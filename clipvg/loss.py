"""An auxiliary loss of CLIP-VG for small networks: [REG] points at the patches of the target.

One number a row, (B,): averages are taken over a whole step, however it is cut into batches.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_loss(register: Tensor, patches: Tensor, masked: Tensor, targets: Tensor) -> Tensor:
    """(B,): how far [REG] (B, d) is from pointing at the patches (B, P, d) that the target (B, 4) cxcywh covers.

    Cross-entropy of the products of [REG] with the patches against each patch's share of the target. With L1 and GIoU
    alone a small network stays at the mean box for thousands of steps; told where to look, it leaves.
    """
    logits = (patches @ register[:, :, None]).squeeze(2).float() / math.sqrt(register.shape[1])
    logits = logits.masked_fill(masked, torch.finfo(logits.dtype).min)
    share = coverage(targets, math.isqrt(patches.shape[1])).masked_fill(masked, 0)
    share = share / share.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return -(share * F.log_softmax(logits, dim=1)).sum(dim=1)


def on_target(shares: Tensor) -> Tensor:
    """Shares of patches that a target covers (B, P) -> the patches that are its own (B, P): those it covers by more
    than half, and of a small target the one it covers most.
    """
    return (shares > 0.5) | ((shares >= shares.amax(dim=1, keepdim=True)) & (shares > 0))


def coverage(boxes: Tensor, side: int) -> Tensor:
    """(B, 4) cxcywh in 0..1 -> (B, side * side): the part of each patch that the box covers, row by row."""
    edges = torch.arange(side, device=boxes.device, dtype=boxes.dtype) / side
    low, high = (boxes[:, :2] - boxes[:, 2:] / 2)[..., None], (boxes[:, :2] + boxes[:, 2:] / 2)[..., None]
    inside = (torch.minimum(high, edges + 1 / side) - torch.maximum(low, edges)).clamp(min=0) * side  # (B, 2, side)
    return (inside[:, 1, :, None] * inside[:, 0, None, :]).flatten(1)

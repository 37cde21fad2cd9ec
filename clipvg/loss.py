"""CLIP-VG's losses: L1 and GIoU, both with weight 1 (paper section III-C).

Every term is one number a row, (B,): averages are taken over a whole step, however it is cut into batches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def l1(boxes: Tensor, targets: Tensor) -> Tensor:
    """(B, 4) cxcywh twice -> (B,): the four differences, summed."""
    return (boxes - targets).abs().sum(dim=1)


def giou(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 4) cxcywh twice -> generalised IoU and IoU of each pair, (B,). A target without area counts as IoU 0."""
    a, b = (box_convert(x, "cxcywh", "xyxy") for x in (boxes, targets))
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    union = boxes[:, 2:].prod(dim=1) + targets[:, 2:].prod(dim=1) - inner
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(dim=1)
    tiny = torch.finfo(boxes.dtype).tiny
    iou = inner / union.clamp(min=tiny)
    return iou - (hull - union) / hull.clamp(min=tiny), iou

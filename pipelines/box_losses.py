"""Box regression losses of every network: L1 and generalised IoU, on cxcywh boxes in 0..1.

One number a pair of boxes, so that each trainer takes its own means. Leading dimensions are broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_convert


def l1(boxes: Tensor, targets: Tensor) -> Tensor:
    """Sum the four absolute differences, (..., 4) twice -> (...)."""
    return (boxes - targets).abs().sum(dim=-1)


def giou(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute generalised IoU and IoU of cxcywh boxes, (..., 4) twice -> (...) twice.

    A box without area has IoU 0; values and gradients stay finite. (Rezatofighi et al., CVPR 2019.)
    """
    a, b = (box_convert(x, "cxcywh", "xyxy") for x in (boxes, targets))
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = boxes[..., 2:].prod(dim=-1) + targets[..., 2:].prod(dim=-1) - inner
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    # The smallest normal number keeps the divisions of boxes without area finite.
    tiny = torch.finfo(boxes.dtype).tiny
    iou = inner / union.clamp(min=tiny)
    return iou - (hull - union) / hull.clamp(min=tiny), iou

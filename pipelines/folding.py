"""Folding of batch norms into the convolutions before them, for inference.

    scale = weight / sqrt(running_var + eps)
    norm(conv(x)) = (scale * kernel) * x + scale * (conv.bias - running_mean) + bias

The function stays the same without the norm's own passes over the features, and in 16 bits a frozen norm is not rounded
on its own. Never for a network that is trained or saved: its parameters have other names and values afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

EPS = 1e-5  # of norms that do not name theirs, as those of transformers' DETR


def fold_norms(module: nn.Module) -> int:
    """Fold each batch norm that directly follows a convolution, in place; count them.

    "Follows" is the order in which a module's children are defined: only for architectures of which a test shows that
    they compute in this order. What a norm does beside normalising, timm's activation, stays in its place. Call it in
    eval mode, before any cast.
    """
    folded = 0
    before: nn.Module | None = None
    child: Any
    for name, child in list(module.named_children()):
        if isinstance(before, nn.Conv2d) and _is_norm(child) and len(child.running_mean) == before.out_channels:
            _fold(before, child)
            rest = [child.drop, child.act] if hasattr(child, "act") else []
            setattr(module, name, nn.Sequential(*rest) if rest else nn.Identity())
            folded += 1
        else:
            folded += fold_norms(child)
        before = child
    return folded


def _is_norm(module: nn.Module) -> bool:
    """Tell whether a module is a batch norm with fixed statistics, with an activation after it or without."""
    frozen = isinstance(module, FrozenBatchNorm2d) or type(module).__name__.endswith("FrozenBatchNorm2d")
    fixed = isinstance(module, nn.BatchNorm2d) and not module.training and module.track_running_stats and module.affine
    return frozen or fixed


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: Any) -> None:
    weight, bias, mean, var = (t.double() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var))
    scale = weight * (var + getattr(norm, "eps", EPS)).rsqrt()
    old: Tensor = conv.weight
    shift = bias - mean * scale if conv.bias is None else bias + (conv.bias.double() - mean) * scale
    conv.weight = nn.Parameter((old.double() * scale.view(-1, 1, 1, 1)).to(old.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(old.dtype), requires_grad=False)

"""Image features of CLIP-VG: the residual stream of CLIP's image tower at several depths.

(Paper section III-B, "multi-level features".) The stream is taken raw: no ln_post, no projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def multi_level_features(visual: Any, pixels: Tensor, taps: Sequence[int], recompute: bool = False) -> Tensor:
    """Concatenate the outputs of the tapped blocks, (B, 3, S, S) -> (B, 1 + P, W * len(taps)).

    The class token comes first. `recompute` keeps no activations and computes them again in the backward pass.
    """
    x = visual.conv1(pixels.to(visual.conv1.weight.dtype))
    x = x.flatten(2).transpose(1, 2)  # (B, P, W)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (B, 1 + P, W)
    x = visual.ln_pre(x + visual.positional_embedding.to(x.dtype))
    levels = []
    for number, block in enumerate(visual.transformer.resblocks[: max(taps) + 1]):
        x = checkpoint(block, x, use_reentrant=False) if recompute and torch.is_grad_enabled() else block(x)
        if number in taps:
            levels.append(x)
    return torch.cat(levels, dim=-1)


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Resize position embeddings, (1 + P, W) -> (1 + side * side, W); the class token's row stays as it is."""
    first, grid = positions[:1], positions[1:]
    before = round(len(grid) ** 0.5)
    if before == side:
        return positions
    square = grid.float().reshape(1, before, before, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, square.permute(0, 2, 3, 1).flatten(0, 2).to(grid.dtype)])

"""QuickGELU, the activation of OpenAI's CLIPs: which models have it, and how it becomes one operation."""

from __future__ import annotations

from typing import Any

from torch import nn

from bench import imports

with imports.lean():
    from open_clip.transformer import QuickGELU


def has_quick_gelu(model: nn.Module) -> bool:
    """Tell whether any block of a model has QuickGELU."""
    return any(isinstance(module, QuickGELU) for module in model.modules())


def fold_quick_gelu(model: nn.Module) -> int:
    """Make QuickGELU one operation, in place; return how many there were. For inference, on a network nobody saves.

    x * sigmoid(1.702 x) is SiLU(1.702 x) / 1.702: the layer before is scaled by 1.702, the one behind by 1 / 1.702.
    Rounding moves float32 boxes by up to 0.002 pixels, so only networks for 16 bits are folded, before the cast.
    """
    count = 0
    for block in model.modules():
        mlp: Any = getattr(block, "mlp", None)
        if isinstance(getattr(mlp, "gelu", None), QuickGELU):
            for parameter, factor in ((mlp.c_fc.weight, 1.702), (mlp.c_fc.bias, 1.702), (mlp.c_proj.weight, 1 / 1.702)):
                parameter.data = parameter.data * factor
            mlp.gelu = nn.SiLU()
            count += 1
    return count

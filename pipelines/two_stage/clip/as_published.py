"""What published weights have otherwise than open_clip's table of their model: QuickGELU, and statistics of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bench import imports
from bench.errors import WeightsError
from bench.inputs import is_number

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


def statistics(made: Mapping[str, Any], path: Path) -> dict[str, list[float]]:
    """Return the mean and the deviation of pixels that a file names, if any. Raises WeightsError."""
    named = made.get("preprocess", {})
    if (
        not isinstance(named, dict)
        or not named.keys() <= {"mean", "std"}
        or not all(
            isinstance(three, list) and len(three) == 3 and all(map(is_number, three)) for three in named.values()
        )
    ):
        raise WeightsError(
            f'{path}: its metadata has {named!r:.80} for "preprocess"; expected mean and std, 3 numbers each'
        )
    return named

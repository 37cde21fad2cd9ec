"""Low-rank adapters on the attention of both towers, merged into the weights when these are saved.

LoRA (Hu et al., ICLR 2022): W + alpha / r * B A, on q, k, v and out of every block; only A and B are trained.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from bench.errors import SettingsError

# Weights of attention as open_clip, timm and transformers call them; those of q, k and v may be one.
ATTENTION = re.compile(
    r"(?P<owner>.*(?:attn|attention|self)(?:\.(?:out_proj|qkv|proj|[qkv]_proj|query|key|value|output\.dense))?)"
    r"\.(?P<weight>weight|in_proj_weight)"
)


class Adapter(nn.Module):
    """B A beside a weight (O, I); `parts` weights of equal size that are one have an adapter each."""

    def __init__(self, weight: Tensor, parts: int, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.down = nn.Parameter(torch.randn(parts, rank, inputs, device=weight.device) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(parts, outputs // parts, rank, device=weight.device))
        self.scale, self.dropout = alpha / max(rank, 1), dropout

    def forward(self, weight: Tensor) -> Tensor:
        """Add B A; in training it takes only some of the input features, the same for a whole step."""
        features = F.dropout(weight.new_ones(weight.shape[1]), self.dropout, self.training)
        return weight + self.scale * (self.up @ (self.down * features)).flatten(0, 1)


def adapt(model: Any, name: str, rank: int, alpha: float, dropout: float) -> dict[str, nn.Parameter]:
    """Put adapters into a CLIP of open_clip, called `name`; return their parameters. Raises SettingsError."""
    matches = [match for match in map(ATTENTION.fullmatch, dict(model.named_parameters())) if match]
    if not any(match["owner"].startswith("visual.") for match in matches):
        raise SettingsError(f"{name}: its image tower has no attention for train = lora; train = last would do")
    out = dict[str, nn.Parameter]()
    for match in matches:
        owner = model.get_submodule(match["owner"])
        joined = match["weight"] == "in_proj_weight" or match["owner"].endswith("qkv")
        adapter = Adapter(getattr(owner, match["weight"]), 3 if joined else 1, rank, alpha, dropout)
        parametrize.register_parametrization(owner, match["weight"], adapter)
        out |= {f"{match['owner']}.lora_{which}": getattr(adapter, which) for which in ("up", "down")}
    return out


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights with the adapters in them, under the names they had without."""
    training, out = model.training, dict[str, Tensor]()
    model.eval()  # no dropout
    for key, tensor in model.state_dict().items():
        owner, _, rest = key.partition(".parametrizations.")
        if not rest:
            out[key] = tensor
        elif rest.endswith(".original"):
            weight = rest.removesuffix(".original")
            out[f"{owner}.{weight}"] = getattr(model.get_submodule(owner), weight).detach()
    model.train(training)
    return out

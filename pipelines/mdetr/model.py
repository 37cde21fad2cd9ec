"""MDETR: modulated detection for end-to-end multi-modal understanding (Kamath et al., ICCV 2021).

    picture ─► backbone ─► 1x1 conv ─► P tokens ─┐
    text ─► RoBERTa ─► resizer ─► T tokens ──────┴─► joint encoder ─► memory ─► decoder, N queries ─► boxes, token slots

The parameter names are the official checkpoints'. A picture's features are computed once for all its expressions.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.mdetr.backbone import Backbone
from pipelines.mdetr.config import MdetrConfig
from pipelines.mdetr.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Seen:
    """What does not depend on the text: (B, P, d) picture tokens, their positions, and (B, P) padding."""

    tokens: Tensor
    position: Tensor
    padding: Tensor

    def repeated(self, times: Tensor) -> Seen:
        """(B,) counts -> each picture as often as it has expressions."""
        parts = (self.tokens, self.position, self.padding)
        return Seen(*(part.repeat_interleave(times, dim=0) for part in parts))


@dataclass(frozen=True, slots=True)
class Found:
    """Logits (L, B, N, tokens + 1) over token slots, the last one no object; boxes (L, B, N, 4) cxcywh in 0..1.

    L is the number of decoder layers in training, else 1. `queries` (L, B, N, c) and `text` (B, T, c) are the unit
    vectors of the contrastive alignment, `memory` (B, P + T, d) the encoder's output.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor
    text: Tensor
    memory: Tensor


class Mdetr(nn.Module):
    """The network; `see` a picture once, then `find` in it what any number of texts say."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden
        self.backbone = nn.ModuleList([Backbone(config)])  # the official list's second entry has no weights
        self.input_proj = nn.Conv2d(self.backbone[0].channels, d, kernel_size=1)  # type: ignore[arg-type]
        self.transformer = Transformer(config)
        self.query_embed = nn.Embedding(config.queries, d)
        self.class_embed = nn.Linear(d, config.tokens + 1)
        self.bbox_embed = MLP(d, d, 4, 3)
        self.contrastive_align_projection_image = nn.Linear(d, config.contrastive)
        self.contrastive_align_projection_text = nn.Linear(d, config.contrastive)

    def see(self, pixels: Tensor, padding: Tensor | None = None) -> Seen:
        """(B, 3, H, W) normalised pictures, (B, H, W) True on padding (None: there is none) -> their tokens."""
        features = self.input_proj(self.backbone[0](pixels))  # (B, d, h, w)
        if padding is None:
            small = torch.zeros(len(features), *features.shape[-2:], dtype=torch.bool, device=features.device)
        else:
            small = F.interpolate(padding[None].float(), size=features.shape[-2:])[0].bool()
        position = sine_position(small, self.config.hidden).to(features.dtype)
        return Seen(features.flatten(2).transpose(1, 2), position.flatten(1, 2), small.flatten(1))

    def find(self, seen: Seen, tokens: Tensor, padding: Tensor) -> Found:
        """As many pictures as texts: (B, T) token ids, (B, T) True on padding."""
        text = self.transformer.read(tokens, padding)  # (B, T, d)
        queries = self.query_embed.weight
        hs, memory = self.transformer(seen.tokens, seen.position, seen.padding, text, padding, queries)  # (L, B, N, d)
        hs, text = (x.to(self.class_embed.weight.dtype) for x in (hs, text))  # heads may be kept finer than the rest
        return Found(
            self.class_embed(hs),
            self.bbox_embed(hs).sigmoid(),
            F.normalize(self.contrastive_align_projection_image(hs), dim=-1),
            F.normalize(self.contrastive_align_projection_text(text), dim=-1),
            memory,
        )

    def forward(self, pixels: Tensor, tokens: Tensor, text_padding: Tensor, padding: Tensor | None = None) -> Found:
        """The plain way: a picture for every text."""
        return self.find(self.see(pixels, padding), tokens, text_padding)


class MLP(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self, width: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [width] + [hidden] * (depth - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def sine_position(padding: Tensor, width: int) -> Tensor:
    """(B, h, w) True on padding -> (B, h, w, width): rows in the first half, columns in the second (DETR, appendix).

    Places count from 1 to 2 pi over the part that is picture; even channels are sines, odd ones cosines.
    """
    half = width // 2
    channel = torch.arange(half, dtype=torch.float32, device=padding.device)
    wavelength = 10_000 ** (2 * (channel // 2) / half)

    def along(axis: int) -> Tensor:
        place = (~padding).cumsum(axis, dtype=torch.float32)
        last = place.select(axis, -1).unsqueeze(axis)
        angle = (place / (last + 1e-6) * 2 * math.pi)[..., None] / wavelength
        return torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1).flatten(-2)

    return torch.cat([along(1), along(2)], dim=-1)

"""The V-L transformer: [REG], words and patches in one sequence (paper section III-B; spec clipvg.md 1.1).

DETR's encoder: post-norm, no final norm, positions added to queries and keys in every layer, never to values.
Batch first, (B, L, d); a `padding` mask is True where a token is to be ignored. Names are the official checkpoints'.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from clipvg.model.config import ClipVGConfig


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward of ReLU."""

    def __init__(self, config: ClipVGConfig) -> None:
        super().__init__()
        d = config.hidden
        self.self_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, config.feedforward), nn.Linear(config.feedforward, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None, only_first: bool = False) -> Tensor:
        """(B, L, d) twice and (B, L) -> (B, L, d); with `only_first` (B, 1, d), what becomes of the first token."""
        placed = x + position
        asking, x_asking = (placed[:, :1], x[:, :1]) if only_first else (placed, x)
        seen = self.self_attn(asking, placed, x, key_padding_mask=padding, need_weights=False)[0]
        y = self.norm1(x_asking + self.dropout(seen))
        inner = self.linear2(self.dropout(F.relu(self.linear1(y))))
        out: Tensor = self.norm2(y + self.dropout(inner))
        return out


class Encoder(nn.Module):
    """`config.layers` layers."""

    def __init__(self, config: ClipVGConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None, only_first: bool = False) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x, position, padding)
        out: Tensor = self.layers[-1](x, position, padding, only_first)
        return out


class VLTransformer(nn.Module):
    """The encoder; every matrix begins as xavier-uniform."""

    def __init__(self, config: ClipVGConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None, only_first: bool = False) -> Tensor:
        """(B, L, d) -> (B, L, d). Only [REG] is asked for its box, so with `only_first` the last layer works for the
        first token alone: (B, 1, d), the same numbers.
        """
        out: Tensor = self.encoder(x, position, padding, only_first)
        return out


class BoxHead(nn.Module):
    """Three linear layers, two ReLUs: [REG] -> a box before its sigmoid."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 4)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, d) -> (B, 4)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out

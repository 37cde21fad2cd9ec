"""Network parts that several grounders share: positions, the encoder, the box head and the box losses.

Batch first, (B, L, d); a `padding` mask is True where a token is ignored. Parameter names are those of DETR's family,
so that official checkpoints load as they are (Carion et al. 2020, appendix A).
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Packed(NamedTuple):
    """Sequences of unlike length in one table (T, d), without padding: where each token of B times L places lies."""

    rows: Tensor  # (B, L): the token's row in the table; any row where the sequence has ended
    places: Tensor  # (T,): the place in B * L of each row
    kept: Tensor | None  # (B, L), False where the sequence has ended; None where no one ends early


class EncoderLayer(nn.Module):
    """Apply self-attention, then a feed-forward network with ReLU.

    Positions are added to queries and keys, never to values; each half ends in a norm.
    """

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(hidden, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(hidden, feedforward), nn.Linear(feedforward, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | Packed | None, only_first: bool = False) -> Tensor:
        """(B, L, d) twice and (B, L) -> (B, L, d); with `only_first` (B, 1, d), the output of the first token.

        Packed sequences are (T, d) twice -> (T, d), or (B, d).
        """
        key = query = x + position
        residual = x
        if only_first:
            query, residual = first_tokens(key, padding), first_tokens(x, padding)
        y = self.norm1(residual + self.dropout(attend(self.self_attn, query, key, x, padding)))
        inner = self.linear2(self.dropout(F.relu(self.linear1(y))))
        out: Tensor = self.norm2(y + self.dropout(inner))
        return out


class PreNormLayer(EncoderLayer):
    """Apply the same two halves, each with its norm before it."""

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | Packed | None, only_first: bool = False) -> Tensor:
        """As the layer with the norms behind."""
        normed = self.norm1(x)
        key = query = normed + position
        residual = x
        if only_first:
            query, residual = first_tokens(key, padding), first_tokens(x, padding)
        y = residual + self.dropout(attend(self.self_attn, query, key, normed, padding))
        out: Tensor = y + self.dropout(self.linear2(self.dropout(F.relu(self.linear1(self.norm2(y))))))
        return out


class Encoder(nn.Module):
    """Apply `depth` encoder layers, and a final norm where the layers begin with theirs."""

    def __init__(
        self, depth: int, hidden: int, heads: int, feedforward: int, dropout: float, pre_norm: bool = False
    ) -> None:
        super().__init__()
        kind = PreNormLayer if pre_norm else EncoderLayer
        self.layers = nn.ModuleList(kind(hidden, heads, feedforward, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden) if pre_norm else nn.Identity()

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | Packed | None, only_first: bool = False) -> Tensor:
        """As a layer; with `only_first` the last layer computes the first token alone, the same numbers."""
        x, padding = self._below(x, position, padding)
        out: Tensor = self.norm(self.layers[-1](x, position, padding, only_first))
        return out

    def first_with_attention(self, x: Tensor, position: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply all layers, the last to the first token -> it, (B, 1, d), and how it attends to all tokens, (B, L).

        The attention is the mean of the last layer's heads; layers with their norms behind only.
        """
        x, ignored = self._below(x, position, padding)
        key, last = x + position, self.layers[-1]
        weights: Tensor = last.self_attn(key[:, :1], key, x, key_padding_mask=ignored)[1]  # type: ignore[operator]
        return self.norm(last(x, position, ignored, True)), weights[:, 0]

    def _below(
        self, x: Tensor, position: Tensor, padding: Tensor | Packed | None
    ) -> tuple[Tensor, Tensor | Packed | None]:
        """Apply all layers but the last -> its input, and the padding as it takes it."""
        if isinstance(padding, Tensor):  # as the attention adds it to its scores, made once for all layers
            padding = torch.zeros_like(padding, dtype=x.dtype).masked_fill_(padding, -torch.inf)
        for layer in self.layers[:-1]:
            x = layer(x, position, padding)
        return x, padding


class MLP(nn.Module):
    """Apply linear layers with ReLU between; the box head of DETR's family is `MLP(d, d, 4, 3)`."""

    def __init__(self, width: int, hidden: int, out: int, depth: int) -> None:
        super().__init__()
        widths = [width] + [hidden] * (depth - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., out)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        return out


def first_tokens(x: Tensor, padding: Tensor | Packed | None) -> Tensor:
    """Take the first token of each sequence, (B, L, d) -> (B, 1, d), or packed (T, d) -> (B, d)."""
    return x.index_select(0, padding.rows[:, 0]) if isinstance(padding, Packed) else x[:, :1]


def attend(
    attention: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | Packed | None
) -> Tensor:
    """Apply an attention, (B, L, d) each; `q` may have fewer tokens than `k` and `v`.

    `padding` is (B, L), True on padding or what is added to the scores. Packed sequences are (T, d) each, where `q` may
    be the first tokens alone, (B, d). What the module itself computes, without the weights: it transposes twice, and
    its first call imports a package for symbolic shapes.
    """
    # 1. Queries, keys and values of the tokens.
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    parts = tuple(F.linear(x, weight, bias) for x, weight, bias in zip((q, k, v), weights, biases, strict=True))
    # 2. Each sequence apart: only the products of queries and keys have padding.
    if isinstance(padding, Packed):
        shape, every = padding.rows.shape, padding.rows.flatten()
        parts = tuple(x.index_select(0, every).unflatten(0, shape) if len(x) != shape[0] else x[:, None] for x in parts)
        mask = padding.kept
    else:
        mask = ~padding if padding is not None and padding.dtype == torch.bool else padding
    # 3. Each head apart.
    queries, keys, values = (x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for x in parts)
    mask = None if mask is None else mask[:, None, None]
    dropout = attention.dropout if attention.training else 0.0
    out = F.scaled_dot_product_attention(queries, keys, values, mask, dropout).transpose(1, 2).flatten(2)
    # 4. Packed ones back into the table.
    if isinstance(padding, Packed):
        out = out.flatten(0, 1)
        out = out.index_select(0, padding.places) if len(q) != shape[0] else out
    joined: Tensor = attention.out_proj(out)
    return joined


def sine_position(padding: Tensor, width: int) -> Tensor:
    """Compute sine positions, (B, h, w) True on padding -> (B, h, w, width) (DETR, appendix).

    Rows are in the first half, columns in the second. Places count up to 2 pi over the part that is image; even
    channels are sines, odd ones cosines.
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


def xavier(module: nn.Module) -> None:
    """Draw every matrix of a module anew, xavier-uniform."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)


def l1(boxes: Tensor, targets: Tensor) -> Tensor:
    """Sum the four absolute differences of boxes, (..., 4) twice, which broadcast -> (...)."""
    return (boxes - targets).abs().sum(dim=-1)


def giou(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute generalised IoU and IoU of cxcywh boxes, (..., 4) twice -> (...) twice.

    A box without area has IoU 0; values and gradients stay finite. (Rezatofighi et al., CVPR 2019.)
    """
    a, b = (torch.cat((x[..., :2] - x[..., 2:] / 2, x[..., :2] + x[..., 2:] / 2), dim=-1) for x in (boxes, targets))
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = boxes[..., 2:].prod(dim=-1) + targets[..., 2:].prod(dim=-1) - inner
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    # The smallest normal number keeps the divisions of boxes without area finite.
    tiny = torch.finfo(boxes.dtype).tiny
    iou = inner / union.clamp(min=tiny)
    return iou - (hull - union) / hull.clamp(min=tiny), iou

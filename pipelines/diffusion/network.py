"""A head that denoises boxes over the tokens of a frozen network (pipelines/on_canvas.py, Fused).

    tokens fused | before, (N, L, 2 d) -> memory (N, L, h)            noisy boxes (N, K, 4), u -> queries (N, K, h)

    each block:  queries attend to the text and [REG], then to the cells
                 + the map under a grid of points on each box, + feed-forward, scaled and shifted by u
                 box = sigmoid(MLP + share * logit of the network's own box), MLP and share of the query;
                 the next block goes on from there

The samples of an expression do not attend to each other. In training all of them are one box with different noise:
a mean over them would give it away, and at test there is nothing of the kind.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.settings import Table
from pipelines.layers import MLP
from pipelines.on_canvas import Fused

POINTS = 3  # along each side of a box
NEAR = 1e-3  # of 0 and 1, where the logits of a box end
KEPT = 5.0  # logit of the share of the network's own box at the start


class HeadOptions(Table):
    """[train.diffusion.head]: the sizes of a head from nothing."""

    hidden: int = Field(256, ge=8, multiple_of=8)
    heads: int = Field(8, ge=1)
    blocks: int = Field(4, ge=1)
    feedforward: int = Field(512, ge=8)


class DiffusionConfig(HeadOptions):
    """Sizes of a head over a network whose tokens have `width` numbers, of a canvas of `side` by `side` cells."""

    width: int = Field(ge=1)
    side: int = Field(ge=1)


Keys = tuple[Tensor, Tensor]  # keys and values (N, heads, L, h / heads) of an attention


class Memory(NamedTuple):
    """What the samples of N expressions are denoised with; the same in every step.

    `register` (N, 1, h) is [REG] with the place of the network's own box, `own` (N, 1, 4) the logits of that; `keys`
    are those of each block's two attentions over all tokens; `text` and `cells` (N, 1, 1, L) are True where a token is
    one; `map` (N, c, side, side) is the canvas, 0 in cells without a token.
    """

    register: Tensor
    own: Tensor
    keys: tuple[tuple[Keys, Keys], ...]
    text: Tensor
    cells: Tensor
    map: Tensor


class Block(nn.Module):
    """One round: what the text asks for, where it is, and the box's own surroundings."""

    def __init__(self, c: DiffusionConfig) -> None:
        super().__init__()
        h = c.hidden
        self.text, self.image = (nn.MultiheadAttention(h, c.heads, batch_first=True) for _ in range(2))
        self.under = nn.Linear(POINTS**2 * (h // 4), h)
        self.linear1, self.linear2 = nn.Linear(h, c.feedforward), nn.Linear(c.feedforward, h)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(h), nn.LayerNorm(h), nn.LayerNorm(h)

    def keys(self, tokens: Tensor, positions: Tensor) -> tuple[Keys, Keys]:
        """Project tokens and their positions (N, L, h) once, for every step."""
        return keys_of(self.text, tokens + positions, tokens), keys_of(self.image, tokens + positions, tokens)

    def forward(
        self, query: Tensor, place: Tensor, under: Tensor, film: tuple[Tensor, Tensor], keys: tuple[Keys, Keys],
        text: Tensor, cells: Tensor,
    ) -> Tensor:  # fmt: skip
        """Queries and their places (N, K, h), the map under each box (N, K, 9 c), scale and shift -> queries."""
        query = query + attend(self.text, self.norm1(query) + place, keys[0], text)
        query = query + attend(self.image, self.norm2(query) + place, keys[1], cells) + self.under(under)
        scale, shift = film
        inner = self.norm3(query) * (1 + scale) + shift
        out: Tensor = query + self.linear2(F.gelu(self.linear1(inner)))
        return out


class DiffusionHead(nn.Module):
    """Predict boxes of noisy ones, and a logit of how good each is."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config, h = config, config.hidden
        self.fused_norm, self.before_norm = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.project = nn.Linear(2 * config.width, h)
        self.kinds = nn.Embedding(3, h)  # [REG], text, cell
        self.map = nn.Linear(h, h // 4)
        self.place = nn.Linear(2 * h, h)
        self.time: Any = nn.Sequential(nn.Linear(h, h), nn.SiLU(), nn.Linear(h, 2 * h))
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(h)
        self.box, self.keep, self.score = MLP(h, h, 4, 2), nn.Linear(h, 1), nn.Linear(h, 1)
        lasts: tuple[Any, ...] = (self.box.layers[-1], self.time[-1], self.keep)
        for last in lasts:  # at first boxes are nearly the network's own, and u has no say
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(self.keep.bias, KEPT)

    def forward(self, fused: Fused, noisy: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, K, 4) cxcywh in 0..1 and u (N, K) -> every block's boxes (blocks, N, K, 4), logits (N, K)."""
        return self.predict(self.memory(fused), noisy, u)

    def memory(self, fused: Fused) -> Memory:
        """Bring the tokens of the network below into the head's own space."""
        side, cells = self.config.side, F.pad(fused.cells, (1, 0), value=-1)
        count, length = cells.shape
        # 1. Each token beside what it was before fusion; [REG] was nothing.
        before = F.pad(self.before_norm(fused.before.float()), (0, 0, 1, 0))
        tokens = self.project(torch.cat([self.fused_norm(fused.tokens.float()), before], dim=-1))
        first = torch.zeros(length, dtype=torch.long, device=cells.device)
        first[1:] = 1
        tokens = tokens + self.kinds(first + (cells >= 0))
        # 2. Where each is; text is nowhere.
        at = torch.stack([cells % side, cells.div(side, rounding_mode="floor")], dim=-1)
        positions = sines((at + 0.5) / side, self.config.hidden // 2) * (cells >= 0)[..., None]
        ignored = torch.zeros_like(cells, dtype=torch.bool)
        if fused.ignored is not None:
            ignored[:, 1:] = fused.ignored
        # 3. The canvas; what is of no cell goes to a cell that is cut off.
        slots = (cells + 1).clamp(min=0).masked_fill(ignored, 0)
        channels = self.map(tokens)
        table = channels.new_zeros(count, 1 + side * side, channels.shape[-1])
        table = table.scatter(1, slots[..., None].expand_as(channels), channels)
        canvas = table[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        keys = tuple(block.keys(tokens, positions) for block in self.blocks)
        text, image = (~ignored & (cells < 0))[:, None, None], (~ignored & (cells >= 0))[:, None, None]
        # 4. The box that the network below gives.
        own = fused.boxes.float()[:, None]
        register = tokens[:, :1] + self.place(sines(own, self.config.hidden // 2))
        return Memory(register, torch.logit(own, NEAR), keys, text, image, canvas)

    def predict(self, memory: Memory, noisy: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, with what `memory` gave."""
        h = self.config.hidden
        scale, shift = self.time(sines(u[..., None], h)).chunk(2, dim=-1)
        boxes, every = noisy, []
        query = memory.register.expand(-1, noisy.shape[1], -1)
        for block, keys in zip(self.blocks, memory.keys, strict=True):
            place, film = self.place(sines(boxes, h // 2)), (scale, shift)
            query = block(query + place, place, under(memory.map, boxes), film, keys, memory.text, memory.cells)
            out = self.norm(query)
            every.append((self.box(out) + self.keep(out).sigmoid() * memory.own).sigmoid())
            boxes = every[-1].detach()
        return torch.stack(every), self.score(self.norm(query))[..., 0]


def keys_of(attention: nn.MultiheadAttention, keys: Tensor, values: Tensor) -> Keys:
    """Project keys and values (N, L, h) -> (N, heads, L, h / heads) each."""
    weights, biases = attention.in_proj_weight.chunk(3)[1:], attention.in_proj_bias.chunk(3)[1:]
    pairs = zip((keys, values), weights, biases, strict=True)
    key, value = (F.linear(x, w, b).unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for x, w, b in pairs)
    return key, value


def attend(attention: nn.MultiheadAttention, query: Tensor, keys: Keys, kept: Tensor) -> Tensor:
    """Attend with queries (N, K, h) to what is kept (N, 1, 1, L) of projected keys -> (N, K, h)."""
    weight, bias = attention.in_proj_weight.chunk(3)[0], attention.in_proj_bias.chunk(3)[0]
    q = F.linear(query, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, *keys, attn_mask=kept).transpose(1, 2).flatten(2)
    out: Tensor = attention.out_proj(mixed)
    return out


def under(canvas: Tensor, boxes: Tensor) -> Tensor:
    """Take a map (N, c, S, S) at a grid of points on each box (N, K, 4), corners among them -> (N, K, points * c)."""
    line = torch.linspace(-1, 1, POINTS, device=boxes.device)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).flatten(0, 1)  # (points, 2)
    places = 2 * (boxes[..., None, :2] + grid * boxes[..., None, 2:] / 2) - 1
    taken = F.grid_sample(canvas, places, align_corners=False)  # (N, c, K, points)
    return taken.permute(0, 2, 3, 1).flatten(2)


def sines(values: Tensor, width: int) -> Tensor:
    """Embed numbers of 0..1, (..., n) -> (..., n * width): sines and cosines of 1 to 64 waves."""
    waves = 2 * math.pi * 64 ** torch.linspace(0, 1, width // 2, device=values.device)
    angle = values[..., None].float() * waves
    return torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)

"""The visual tokenizer of BEiT v2 (VQ-KD): a ViT whose patches are named by the nearest of its codes.

What reconstructs features from the codes is in the file too, and is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import WeightsError
from bench.grounding import PipelineContext
from pipelines import weights

HOW = "vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7.pth is linked by the README of BEiT v2"
CODES = "quantize.embedding.weight"
READ = ("encoder.", "encode_task_layer.", CODES)
HEAD = 64  # width of an attention head
EPS = 1e-6
TIPPED = 0.1  # added to a side in patches before the positions are resized, as the official code does


class Block(nn.Module):
    """One pre-norm layer; keys have no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn: Any = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attn.q_bias, self.attn.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.mlp: Any = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + P, W) -> the same."""
        a = self.attn
        bias = torch.cat([a.q_bias, torch.zeros_like(a.q_bias), a.v_bias])
        parts = F.linear(self.norm1(x), a.qkv.weight, bias).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + a.proj(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))
        return out


class VisualTokenizer(nn.Module):
    """Name the patches of images by their codes."""

    def __init__(self, width: int, layers: int, patch: int, positions: int, codes: int, code: int) -> None:
        super().__init__()
        self.patch = patch
        self.encoder: Any = nn.Module()
        self.encoder.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.encoder.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.encoder.patch_embed = nn.Module()
        self.encoder.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.encoder.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.encoder.fc_norm = nn.LayerNorm(width, EPS)
        self.encode_task_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code))
        self.quantize: Any = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, code)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Name the patches of images (B, S, S, 3) uint8 -> (B, P) of int64, row by row."""
        parts = self.encoder
        x = parts.patch_embed.proj(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).flatten(2).transpose(1, 2)
        x = torch.cat([parts.cls_token.expand(len(x), -1, -1), x], dim=1) + self.positions(x.shape[1])
        for block in parts.blocks:
            x = block(x)
        features = F.normalize(self.encode_task_layer(parts.fc_norm(x[:, 1:])), dim=-1)
        table = self.quantize.embedding.weight
        # The nearest code; the square of the feature is the same for all of them.
        nearest: Tensor = (table.square().sum(dim=-1) - 2 * features @ table.T).argmin(dim=-1)
        return nearest

    def positions(self, patches: int) -> Tensor:
        """Return the table of positions (1, 1 + P, W) for so many patches, bicubic where it has others."""
        table: Tensor = self.encoder.pos_embed
        before, side = round((table.shape[1] - 1) ** 0.5), round(patches**0.5)
        if before == side:
            return table
        square = table[:, 1:].transpose(1, 2).unflatten(-1, (before, before))
        square = F.interpolate(square, scale_factor=((side + TIPPED) / before,) * 2, mode="bicubic")
        return torch.cat([table[:, :1], square.flatten(2).transpose(1, 2)], dim=1)


def open_tokenizer(name: str, context: PipelineContext) -> VisualTokenizer:
    """Open a file by name, frozen, float32. Raises WeightsError: what it is instead, or how it differs."""
    path = weights.find(name, context, HOW)
    return load(path).to(context.device)


def load(path: Path) -> VisualTokenizer:
    """Load a file, frozen, float32. Raises WeightsError: what it is instead, or how it differs."""
    given = weights.read_state_dict(path)
    state = {key: t.float() for key, t in given.items() if isinstance(key, str) and key.startswith(READ)}
    patch, table, codes = (
        state.get(key) for key in ("encoder.patch_embed.proj.weight", "encoder.pos_embed", CODES)
    )  # fmt: skip
    if patch is None or table is None or codes is None or (patch.ndim, table.ndim, codes.ndim) != (4, 3, 2):
        some = ", ".join(map(str, list(given)[:4]))
        raise WeightsError(f"{path}: not a visual tokenizer of BEiT v2: no encoder with codes (but {some}, ...); {HOW}")
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.blocks.")}
    with torch.device("meta"):
        network = VisualTokenizer(len(patch), len(layers), patch.shape[-1], table.shape[1], len(codes), codes.shape[1])
    weights.load_strictly(network, state, str(path), assign=True)
    return network.eval().requires_grad_(False)

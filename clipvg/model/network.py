"""CLIP-VG (Xiao et al., IEEE TMM 2023): a frozen CLIP, read at several depths, and a transformer that fuses it.

    picture (B, 3, 224, 224)                                 text ids (B, 77)
    CLIP image tower, blocks 0 3 7 11  (B, 197, 4 * 768)     CLIP text tower  (B, 77, 512)
    ml_visu_proj                       (B, 197, 512)         text_proj        (B, 77, 512)

                     [REG] | words | class token | patches   (B, 1 + 77 + 197, 512)
                     V-L transformer, vl_pos_embed           (B, 275, 512)
                     [REG] -> box head -> sigmoid            (B, 4)  cxcywh in 0..1 of the canvas

Sizes are those of ViT-B/16. Parameter names are the official checkpoints' (spec clipvg.md 1.1 and 6).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from clipvg.model.config import ClipVGConfig
from clipvg.model.fusion import BoxHead, VLTransformer
from clipvg.model.text import PAD, text_features
from clipvg.model.visual import multi_level_features, resized_positions

POSITIONS = "clip.visual.positional_embedding"  # the one part of CLIP that is trained (spec 1.2)


class ClipVG(nn.Module):
    """The network, on an open_clip model with OpenAI's kind of towers."""

    recompute = False  # activations of the image tower are computed again in the backward pass

    def __init__(self, config: ClipVGConfig, clip: Any) -> None:
        super().__init__()
        self.config, self.clip = config, clip
        width, patch = clip.visual.conv1.weight.shape[0], clip.visual.conv1.weight.shape[-1]
        self.side = config.image_size // patch  # patches along each side
        self.context = clip.positional_embedding.shape[0]
        clip.visual.positional_embedding = nn.Parameter(
            resized_positions(clip.visual.positional_embedding.data, self.side)
        )
        d = config.hidden
        self.ml_visu_proj = nn.Linear(width * len(config.taps), d)
        self.text_proj = nn.Linear(clip.text_projection.shape[1], d)
        self.reg_token = nn.Embedding(1, d)
        self.vl_pos_embed = nn.Embedding(1 + self.context + 1 + self.side**2, d)
        self.vl_transformer = VLTransformer(config)
        self.bbox_embed = BoxHead(d)

    def forward(self, pixels: Tensor, masked: Tensor, ids: Tensor) -> Tensor:
        """The plain way: pixels (B, 3, S, S), masked patches (B, P), ids (B, L) -> boxes (B, 4), cxcywh in 0..1."""
        return self.box(self.fuse(self.see(pixels), masked, self.read(ids), ids == PAD, only_first=True)[:, 0])

    def see(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + P, d)."""
        return self.project(multi_level_features(self.clip.visual, pixels, self.config.taps, self.recompute))

    def project(self, features: Tensor) -> Tensor:
        """The features of the tapped blocks, (B, 1 + P, W * taps) -> (B, 1 + P, d)."""
        out: Tensor = self.ml_visu_proj(features.to(self.ml_visu_proj.weight.dtype))
        return out

    def read(self, ids: Tensor) -> Tensor:
        """(B, L) -> (B, L, d)."""
        out: Tensor = self.text_proj(text_features(self.clip, ids).to(self.text_proj.weight.dtype))
        return out

    def fuse(self, seen: Tensor, masked: Tensor, said: Tensor, padding: Tensor, only_first: bool = False) -> Tensor:
        """Tokens of pictures (B, 1 + P, d) and of texts (B, L, d) -> [REG] | words | class | patches, fused."""
        slots = torch.cat([self.word_slots(said.shape[1]), self.picture_slots()])
        keep = torch.zeros(len(seen), 1, dtype=torch.bool, device=seen.device)
        ignored = torch.cat([keep, padding, keep, masked], dim=1)
        return self.fuse_tokens(torch.cat([said, seen], dim=1), slots.expand(len(seen), -1), ignored, only_first)

    def fuse_tokens(self, tokens: Tensor, slots: Tensor, ignored: Tensor | None, only_first: bool = False) -> Tensor:
        """Any words and patches (B, L, d), each with its slot in vl_pos_embed (B, 1 + L), [REG]'s first; fused.

        Attention knows no order but that of the slots: tokens that are to be ignored may as well be left out.
        """
        register = self.reg_token.weight.expand(len(tokens), 1, -1)
        sequence = torch.cat([register, tokens], dim=1)
        out: Tensor = self.vl_transformer(sequence, self.vl_pos_embed(slots), ignored, only_first)
        return out

    def box(self, register: Tensor) -> Tensor:
        """[REG] (B, d) -> (B, 4), cxcywh in 0..1; in float32, for bfloat16 rounds to a 256th of the canvas."""
        with torch.autocast(register.device.type, enabled=False):
            out: Tensor = self.bbox_embed(register.to(next(self.bbox_embed.parameters()).dtype)).sigmoid()
        return out

    def word_slots(self, length: int) -> Tensor:
        """Slots of [REG] and of the first `length` words, (1 + length,)."""
        return torch.arange(1 + length, device=self.reg_token.weight.device)

    def picture_slots(self) -> Tensor:
        """Slots of the class token and the patches, (1 + P,)."""
        first = 1 + self.context
        return torch.arange(first, first + 1 + self.side**2, device=self.reg_token.weight.device)

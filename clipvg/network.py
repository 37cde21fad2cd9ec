"""CLIP-VG (Xiao et al., IEEE TMM 2023): a frozen CLIP, tapped at several depths, and a V-L transformer.

    image (B, 3, 224, 224)                                   text ids (B, 77)
    CLIP image tower, blocks 0 3 7 11  (B, 197, 4 * 768)     CLIP text tower  (B, 77, 512)
    ml_visu_proj                       (B, 197, 512)         text_proj        (B, 77, 512)

                     [REG] | text | class token | patches    (B, 1 + 77 + 197, 512)
                     V-L transformer, vl_pos_embed           (B, 275, 512)
                     [REG] -> box head -> sigmoid            (B, 4)  cxcywh in 0..1 of the canvas

Sizes are those of ViT-B/16. The V-L transformer is DETR's encoder: positions are added to queries and keys in every
layer. Parameter names are the official checkpoints' (section III-B of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.errors import WeightsError
from bench.settings import Table
from pipelines.deconfounder import NoDeconfounder
from pipelines.engine import joint_places, to_device
from pipelines.layers import MLP, Encoder, Packed, xavier
from pipelines.two_stage.clip.encoder import PAD, text_states

POSITIONS = "clip.visual.positional_embedding"  # the one part of CLIP that is trained
HEADS = ("bbox_embed",)  # kept in float32


class ClipVGConfig(Table):
    """Sizes of the network; the defaults are the paper's ViT-B/16."""

    clip: str = Field("ViT-B-16-quickgelu", description="a name of open_clip.list_models()")
    taps: tuple[int, ...] = Field((0, 3, 7, 11), min_length=1, description="visual blocks whose output is used, from 0")
    image_size: int = Field(224, ge=16, description="side of the square canvas in pixels")
    hidden: int = Field(512, ge=8)
    heads: int = Field(8, ge=1)
    feedforward: int = Field(2048, ge=8)
    layers: int = Field(6, ge=1, description="of the V-L transformer")
    dropout: float = Field(0.1, ge=0, lt=1)


OFFICIAL = {  # (vision width, patch) of a checkpoint -> the variant that `--model` of the official code selects
    (768, 16): ClipVGConfig(),
    (768, 32): ClipVGConfig(clip="ViT-B-32-quickgelu"),
    (1024, 14): ClipVGConfig(clip="ViT-L-14-quickgelu", taps=(0, 7, 15, 23), hidden=768),
}


class Packing(NamedTuple):
    """Where the tokens of B sequences lie, without padding: [REG] | text | class token | patches each, T in all.

    `image` (K,) are the rows of the images' 1 + P tokens each that are no padding; `source` (T,) counts [REG], then the
    texts' tokens, then those K. `slots` (T,) are places in vl_pos_embed; the rest is `Packed`.
    """

    image: Tensor
    source: Tensor
    slots: Tensor
    rows: Tensor
    places: Tensor
    kept: Tensor | None

    def to(self, device: torch.device) -> Packing:
        """Copy to a device; to a GPU without waiting for it."""
        return Packing._make(None if part is None else to_device(part, device) for part in self)


class ClipVG(nn.Module):
    """Compute boxes from images and texts, on an open_clip model with OpenAI's kind of towers."""

    recompute = False  # whether the backward pass computes the activations of the image tower again

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
        self.deconfounder: Any = NoDeconfounder()
        self.reg_token = nn.Embedding(1, d)
        self.vl_pos_embed = nn.Embedding(1 + self.context + 1 + self.side**2, d)
        encoder = Encoder(config.layers, d, config.heads, config.feedforward, config.dropout)
        self.vl_transformer: Any = nn.ModuleDict({"encoder": encoder})
        xavier(self.vl_transformer)
        self.bbox_embed = MLP(d, d, 4, 3)

    def forward(self, pixels: Tensor, masked: Tensor, ids: Tensor) -> Tensor:
        """Ground one text in one image a row, nothing shared.

        pixels (B, 3, S, S), masked patches (B, P), ids (B, L) -> boxes (B, 4), cxcywh in 0..1 of the canvas.
        """
        # 1. Both towers, projected into the V-L transformer's space.
        image_tokens, text_tokens = self.encode_image(pixels), self.encode_text(ids)
        # 2. [REG] | text | class token | patches, fused; padding is ignored.
        fused = self.fuse(image_tokens, masked, text_tokens, ids == PAD, only_first=True)
        # 3. The box of [REG].
        return self.box(fused[:, 0])

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Encode images, (B, 3, S, S) -> (B, 1 + P, d)."""
        return self.project(multi_level_features(self.clip.visual, pixels, self.config.taps, self.recompute))

    def project(self, features: Tensor) -> Tensor:
        """Project features of the tapped blocks, (B, 1 + P, W * taps) -> (B, 1 + P, d)."""
        out: Tensor = self.ml_visu_proj(features.to(self.ml_visu_proj.weight.dtype))
        return out

    def encode_text(self, ids: Tensor) -> Tensor:
        """Encode token ids, (B, L) -> (B, L, d)."""
        return self.project_text(text_features(self.clip, ids))

    def project_text(self, features: Tensor) -> Tensor:
        """Project features of text tokens, (..., E) -> (..., d)."""
        out: Tensor = self.deconfounder(self.text_proj(features.to(self.text_proj.weight.dtype)))
        return out

    def fuse(
        self, image_tokens: Tensor, masked: Tensor, text_tokens: Tensor, padding: Tensor, only_first: bool = False
    ) -> Tensor:
        """Fuse image tokens (B, 1 + P, d) and text tokens (B, L, d) -> [REG] | text | class token | patches.

        `masked` (B, P) and `padding` (B, L) are True where a patch or a text token is ignored.
        """
        slots = torch.cat([self.word_slots(text_tokens.shape[1]), self.image_slots()])
        keep = torch.zeros(len(image_tokens), 1, dtype=torch.bool, device=image_tokens.device)
        ignored = torch.cat([keep, padding, keep, masked], dim=1)
        tokens = torch.cat([text_tokens, image_tokens], dim=1)
        return self.fuse_tokens(tokens, slots.expand(len(tokens), -1), ignored, only_first)

    def fuse_tokens(self, tokens: Tensor, slots: Tensor, ignored: Tensor | None, only_first: bool = False) -> Tensor:
        """Fuse any text and image tokens (B, L, d), with [REG] first: (B, 1 + L, d).

        Each token brings its slot in vl_pos_embed, (B, 1 + L) with [REG]'s first; `ignored` (B, 1 + L). Attention
        knows no order but that of the slots, so tokens to be ignored may as well be left out.
        """
        register = self.reg_token.weight.expand(len(tokens), 1, -1)
        sequence = torch.cat([register, tokens], dim=1)
        out: Tensor = self.vl_transformer.encoder(sequence, self.vl_pos_embed(slots), ignored, only_first)
        return out

    def fuse_packed(self, tokens: Tensor, packing: Packing, only_first: bool = False) -> Tensor:
        """Fuse sequences of unlike length without padding, of text and image tokens (N, d) -> (T, d), or [REG] (B, d).

        The tokens are those that the packing counts behind [REG].
        """
        sequences = torch.cat([self.reg_token.weight.to(tokens.dtype), tokens]).index_select(0, packing.source)
        positions, packed = self.vl_pos_embed(packing.slots), Packed(packing.rows, packing.places, packing.kept)
        out: Tensor = self.vl_transformer.encoder(sequences, positions, packed, only_first)
        return out

    def box(self, register: Tensor) -> Tensor:
        """Compute boxes of [REG] tokens, (B, d) -> (B, 4) cxcywh in 0..1, in float32."""
        with torch.autocast(register.device.type, enabled=False):
            out: Tensor = self.bbox_embed(register.to(next(self.bbox_embed.parameters()).dtype)).sigmoid()
        return out

    def word_slots(self, length: int) -> Tensor:
        """List the slots of [REG] and of the first `length` text tokens, (1 + length,)."""
        return torch.arange(1 + length, device=self.reg_token.weight.device)

    def image_slots(self) -> Tensor:
        """List the slots of the class token and the patches, (1 + P,)."""
        first = 1 + self.context
        return torch.arange(first, first + 1 + self.side**2, device=self.reg_token.weight.device)


def pack(
    texts: Sequence[NDArray[np.int64]], patches: NDArray[np.bool_], owners: NDArray[np.int64], context: int
) -> Packing:
    """List where the tokens of B sequences lie, on the host.

    `texts` has the slots of each one's tokens, `patches` (U, P) marks those that are kept of each image, and `owners`
    (B,) names each sequence's image.
    """
    # 1. The table: [REG], the texts, and of each image the class token and the patches that are kept.
    here = np.pad(patches, ((0, 0), (1, 0)), constant_values=True)
    image = np.flatnonzero(here)
    slots = np.concatenate([[0], *texts, image % here.shape[1] + 1 + context])
    lengths = np.array([*map(len, texts), *here.sum(axis=1)])
    # 2. Each sequence: [REG], its text, its image.
    both = np.stack([np.arange(len(texts)), len(texts) + owners], axis=1)
    index, beyond = joint_places(lengths, both)
    index, kept = np.pad(index + 1, ((0, 0), (1, 0))), np.pad(~beyond, ((0, 0), (1, 0)), constant_values=True)
    # 3. The sequences one after the other.
    rows, flat = np.zeros_like(index), index[kept]
    rows[kept] = np.arange(len(flat))
    of = torch.from_numpy
    return Packing(
        of(image), of(flat), of(slots[flat]), of(rows), of(np.flatnonzero(kept)), None if kept.all() else of(kept)
    )


def check_clip(model: Any, name: str) -> None:
    """Check that a CLIP has OpenAI's kind of towers: residual blocks after a class token. Raises WeightsError."""
    visual = getattr(model, "visual", None)
    if not all(hasattr(visual, part) for part in ("conv1", "class_embedding", "ln_pre", "transformer")) or not all(
        hasattr(model, part) for part in ("token_embedding", "text_projection", "attn_mask")
    ):
        raise WeightsError(f"CLIP-VG needs a CLIP of two plain transformers, such as ViT-B-16; {name} is not one")


def text_features(clip: Any, ids: Tensor) -> Tensor:
    """Encode token ids (B, L), L up to the context length -> (B, L, E); padding is encoded too, and not masked."""
    x = clip.ln_final(text_states(clip, ids))
    out: Tensor = x @ clip.text_projection.to(x.dtype)
    return out


def multi_level_features(visual: Any, pixels: Tensor, taps: Sequence[int], recompute: bool = False) -> Tensor:
    """Concatenate the outputs of the tapped blocks, (B, 3, S, S) -> (B, 1 + P, W * len(taps)).

    The residual stream is used raw (section III-B, "multi-level features"): no ln_post, no projection; the class token
    comes first. `recompute` keeps no activations and computes them again in the backward pass.
    """
    # 1. Patches behind the class token, with positions.
    x = visual.conv1(pixels.to(visual.conv1.weight.dtype))
    x = x.flatten(2).transpose(1, 2)  # (B, P, W)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # (B, 1 + P, W)
    x = visual.ln_pre(x + visual.positional_embedding.to(x.dtype))
    # 2. Blocks, up to the last tapped one.
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

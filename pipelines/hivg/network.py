"""HiVG (Xiao et al., ACM MM 2024): a bridged CLIP, tapped at several depths, and a V-L transformer.

    text ids (B, 77)                                          image (B, 3, 224, 224)
    CLIP text tower   (B, 77, 512)  ── states ── bridge ──►   CLIP image tower, blocks 0 3 7 11  (B, 197, 4 * 768)
    text_proj         (B, 77, 512)                            ml_visual_projection, visu_proj    (B, 197, 512)

                     [REG] | class token | patches | text     (B, 1 + 197 + 77, 512)
                     V-L transformer, vl_pos_embed            (B, 275, 512)
                     [REG] -> box head -> sigmoid             (B, 4)  cxcywh in 0..1 of the canvas

Sizes are those of ViT-B/16. The V-L transformer has its norms before attention and feed-forward network, and one at its
end. Parameter names are the official checkpoints', without peft's `base_model.model.` and without the adapters, which
checkpoint.py merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.settings import Table
from pipelines.hivg.clip import Block, BridgedBlock, BridgedClip, FeedForward, ImageTower, TextTower
from pipelines.layers import MLP, Encoder, xavier

HEADS = ("bbox_embed",)  # kept in float32
PAD = 0  # padding's token id; also that of "!" inside a word, which the official code masks too


class HiVGConfig(Table):
    """Sizes of the network; the defaults are the paper's ViT-B/16."""

    patch: int = 16
    image_size: int = Field(224, description="side of the square canvas in pixels")
    vision: int = Field(768, description="width of the image tower")
    vision_layers: int = 12
    vision_heads: int = 12
    text: int = Field(512, description="width of the text tower")
    text_layers: int = 12
    text_heads: int = 8
    embed: int = Field(512, description="width of CLIP's common space")
    words: int = 49408
    context: int = 77
    taps: tuple[int, ...] = Field((0, 3, 7, 11), description="blocks of the image tower whose output is used")
    bridges: tuple[int, ...] = Field((0, 3, 7, 11), description="blocks that take in the text; none while warming up")
    states: tuple[int, ...] = Field((12,), description="states of the text tower in a bridge; none = text features")
    hidden: int = 512
    heads: int = 8
    feedforward: int = 2048
    layers: int = 6
    dropout: float = 0.1
    inner: int = Field(3072, description="width of the feed-forward network over patch tokens")
    mask_head: bool = True


OFFICIAL = {  # (width, patch) of the image tower -> the sizes of a variant
    (768, 16): HiVGConfig(),
    (1024, 14): HiVGConfig(
        patch=14, vision=1024, vision_layers=24, vision_heads=16, text=768, text_heads=12, embed=768, hidden=768,
        taps=(5, 11, 17, 23), bridges=(4, 10, 16, 22),
    ),
}  # fmt: skip


class Text(NamedTuple):
    """Texts encoded: what each bridge takes of them (N, bridges, 77, W), their tokens (N, 77, d), CLIP's (N, 77, E)."""

    memories: Tensor
    tokens: Tensor
    features: Tensor


class HiVG(nn.Module):
    """Compute boxes from images and texts; the image tower takes in the text, so each pair has its own pass."""

    def __init__(self, config: HiVGConfig) -> None:
        super().__init__()
        self.config = c = config
        self.side = c.image_size // c.patch  # patches along each side
        blocks = [
            BridgedBlock(c.vision, c.vision_heads, len(c.states), c.context, c.text)
            if number in c.bridges
            else Block(c.vision, c.vision_heads)
            for number in range(c.vision_layers)
        ]
        image = ImageTower(c.image_size, c.patch, c.vision, c.vision_heads, blocks, c.taps)
        text = TextTower(c.text, c.text_heads, c.text_layers, c.words, c.context)
        self.clip = BridgedClip(text, image, c.text, c.vision, c.embed)
        d = c.hidden
        if c.bridges and not c.states:
            self.condition_text_proj = nn.Linear(c.embed, c.vision)
        self.ml_visual_projection = nn.Linear(c.vision * len(c.taps), d)
        self.visu_proj, self.text_proj = nn.Linear(d, d), nn.Linear(c.embed, d)
        self.reg_token = nn.Embedding(1, d)
        self.vl_pos_embed = nn.Embedding(1 + 1 + self.side**2 + c.context, d)
        encoder = Encoder(c.layers, d, c.heads, c.feedforward, c.dropout, pre_norm=True)
        self.vl_transformer = nn.ModuleDict({"encoder": encoder})
        xavier(self.vl_transformer)
        self.bbox_embed = MLP(d, d, 4, 3)
        self.visu_token_norm, self.visu_token_mlp = nn.LayerNorm(d), FeedForward(d, c.inner)
        if c.mask_head:
            for n in (1, 2, 3):
                self.add_module(f"seg_conv{n}", nn.ConvTranspose2d(d, d, 2, 2, bias=False))

    def forward(self, pixels: Tensor, masked: Tensor, ids: Tensor) -> Tensor:
        """Ground one text in one image a row, nothing shared.

        pixels (B, 3, S, S), masked patches (B, P), ids (B, 77) -> boxes (B, 4), cxcywh in 0..1 of the canvas.
        """
        # 1. The text, and the image with what its bridges take of the text.
        text = self.encode_text(ids)
        image_tokens = self.encode_image(self.clip.vision_model.begin(pixels), text.memories)
        # 2. [REG] | class token | patches | text, fused; padding is ignored.
        fused = self.fuse(image_tokens, masked, text.tokens, ids == PAD, only_first=True)
        # 3. The box of [REG].
        return self.box(fused[:, 0])

    def encode_text(self, ids: Tensor) -> Text:
        """Encode token ids (N, 77), all of them: what stands behind the end of a text takes part in the bridges."""
        states, last = self.clip.text_model(ids)
        features = self.clip.text_projection(last)
        bridges = [self.clip.vision_model.encoder.layers[n] for n in self.config.bridges]
        if self.config.states:
            used = [states[n] for n in self.config.states]
            memories = [bridge.memory(used) for bridge in bridges]
        else:
            memories = [self.condition_text_proj(features)] * len(bridges) if bridges else []
        empty = features.new_empty(len(ids), 0, ids.shape[1], self.config.vision)
        return Text(torch.stack(memories, dim=1) if memories else empty, self.text_proj(features), features)

    def encode_image(self, begun: Sequence[Tensor], memories: Tensor) -> Tensor:
        """Encode images, (B, 1 + P, d), from what `begin` made of them.

        `memories` (B, bridges, 77, W) are what the bridges take of each image's text.
        """
        return self.encode_views(begun, memories)[0]

    def encode_views(self, begun: Sequence[Tensor], memories: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images as `encode_image` does -> that, and the last block's class tokens (B, W)."""
        *tapped, last = self.clip.vision_model.finish(begun, memories.unbind(dim=1))
        return self.visu_proj(self.ml_visual_projection(torch.cat(tapped, dim=-1))), last[:, 0]

    def compare(self, classes: Tensor, ends: Tensor) -> Tensor:
        """Compare images by their class tokens (B, W) with texts by CLIP's vectors of their ends (N, E) -> (N, B).

        Cosines, times the temperature that CLIP was trained with.
        """
        tower = self.clip.vision_model
        images = F.normalize(self.clip.visual_projection(tower.post_layernorm(classes)), dim=-1)
        out: Tensor = F.normalize(ends, dim=-1) @ images.T * self.clip.logit_scale.exp()
        return out

    def fuse(
        self, image_tokens: Tensor, masked: Tensor, text_tokens: Tensor, padding: Tensor, only_first: bool = False
    ) -> Tensor:
        """Fuse image tokens (B, 1 + P, d) with the first L text tokens (B, L, d) -> (B, 1 + 1 + P + L, d), [REG] first.

        `masked` (B, P) and `padding` (B, L) are True where a patch or a text token is ignored.
        """
        sequence, position, ignored = self.sequence(image_tokens, masked, text_tokens, padding)
        out: Tensor = self.vl_transformer["encoder"](sequence, position, ignored, only_first)
        return out

    def sequence(
        self, image_tokens: Tensor, masked: Tensor, text_tokens: Tensor, padding: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `fuse` fuses, (B, N, d), the positions (B, N, d), and which tokens are ignored (B, N)."""
        register = self.reg_token.weight.expand(len(image_tokens), 1, -1)
        sequence = torch.cat([register, image_tokens, text_tokens], dim=1)
        keep = masked.new_zeros(len(masked), 2)
        position = self.vl_pos_embed.weight[: sequence.shape[1]].expand(len(sequence), -1, -1)
        return sequence, position, torch.cat([keep, masked, padding], dim=1)

    def box(self, register: Tensor) -> Tensor:
        """Compute boxes of [REG] tokens, (B, d) -> (B, 4) cxcywh in 0..1, in float32."""
        with torch.autocast(register.device.type, enabled=False):
            out: Tensor = self.bbox_embed(register.to(next(self.bbox_embed.parameters()).dtype)).sigmoid()
        return out

    def similarity(self, fused: Tensor, ends: Tensor) -> Tensor:
        """Compare fused patches with the text's end -> logits of patches (B, P).

        `fused` are all tokens, `ends` (B,) the place of each text's end token.
        """
        patches, words = self._compared(fused, ends)
        out: Tensor = (self.visu_token_mlp(self.visu_token_norm(patches)) @ words[..., None])[..., 0]
        return out

    def mask(self, fused: Tensor, ends: Tensor) -> Tensor:
        """Compute the logits of the mask, (B, 8 S, 8 S) of S patches along a side; arguments as for `similarity`."""
        patches, words = self._compared(fused, ends)
        grid = patches.transpose(1, 2).unflatten(-1, (self.side, self.side))
        for n in (1, 2, 3):
            grid = self.get_submodule(f"seg_conv{n}")(grid)
        return torch.einsum("bdhw,bd->bhw", grid, words)

    def _compared(self, fused: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
        count = self.side**2
        words = fused[torch.arange(len(fused), device=fused.device), 2 + count + ends]
        return fused[:, 2 : 2 + count], F.normalize(words, dim=-1)

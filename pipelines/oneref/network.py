"""OneRef (Xiao et al., NeurIPS 2024): image and text through one BEiT-3 encoder, grounding by their similarity.

    image (B, 3, 384, 384) -> patches, class token first (B, 577, D)      text ids (B, L) -> embeddings (B, L, D)

                     joint encoder: one attention over both, everything else an expert for each of the two
                     s = cosine of <s> and each patch     (B, 576)
                     softmax(s) x patches -> box head     (B, 4)  cxcywh in 0..1 of the canvas
        RES files    patches, enlarged eight times, . <s> (B, 192, 192)  cosines, above 0 on the referent

A module of two experts has `.A` for the image and `.B` for the text, as official checkpoints name them. Padding of the
image is part of it: no patch is masked, and the boxes of official weights depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from bench.settings import Table
from pipelines.layers import MLP

HEADS = ("bbox_embed",)  # kept in float32
UNUSED = 2  # rows at the head of a table of positions that no token takes


class OneRefConfig(Table):
    """Sizes of the network; the defaults are the base model's."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    image_size: int = Field(384, description="side of the square canvas in pixels")
    patch: int = 16
    words: int = Field(64010, description="rows of the table of words; the tokenizer has 64,002")
    positions: int = Field(1024, description="rows of the text's table of positions")
    text: int = Field(64, description="tokens of a text, the two special ones included")
    masks: bool = Field(False, description="whether there is a mask head: a RES file")
    both: bool = Field(False, description="whether the box head is trained beside the mask head: no official file")
    codes: int = Field(
        0, ge=0, description="visual tokens that MRefM's heads predict; 0 = no such heads: a fine-tuned file"
    )


class Answers(NamedTuple):
    """Boxes (B, 4) cxcywh in 0..1 of the canvas; cosines of the mask (B, 8 S, 8 S), S patches a side, or None."""

    boxes: Tensor
    masks: Tensor | None


class Experts(nn.Module):
    """The same module twice: A for the image's tokens, B for the text's."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.A, self.B = make(), make()

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.A(image), self.B(text)


class JointAttention(nn.Module):
    """Attend over the tokens of image and text together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            Experts(lambda: nn.Linear(width, width)) for _ in range(4)
        )
        self.inner_attn_ln = Experts(lambda: nn.LayerNorm(width))

    def image_parts(self, image: Tensor) -> tuple[Tensor, ...]:
        """Project an image's tokens (B, I, D) -> its queries, keys and values, (B, I, D) each."""
        return tuple(project.A(image) for project in (self.q_proj, self.k_proj, self.v_proj))

    def forward(self, parts: Sequence[Tensor], text: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """`image_parts`, (B, L, D), and (B, 1, 1, I + L) True on what may be attended to -> (B, I, D), (B, L, D)."""
        projections = zip(parts, (self.q_proj, self.k_proj, self.v_proj), strict=True)
        joint = (torch.cat([image, project.B(text)], dim=1) for image, project in projections)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in joint)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2).flatten(2)
        count = parts[0].shape[1]
        pair = self.inner_attn_ln(out[:, :count], out[:, count:])
        both: tuple[Tensor, Tensor] = self.out_proj(*pair)
        return both


class FeedForward(nn.Module):
    """Two linear layers with GELU and a norm between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ffn_layernorm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))
        return out


class Layer(nn.Module):
    """One pre-norm layer of the joint encoder (torchscale's multiway layer with its inner norms).

    In training each of its two moves is left out of a sample with probability `drop`.
    """

    drop = 0.0

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = JointAttention(width, heads)
        self.self_attn_layer_norm = Experts(lambda: nn.LayerNorm(width))
        self.ffn = Experts(lambda: FeedForward(width))
        self.final_layer_norm = Experts(lambda: nn.LayerNorm(width))

    def begin(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute what no text takes part in, of an image's tokens (B, I, D)."""
        return self.self_attn.image_parts(self.self_attn_layer_norm.A(image))

    def forward(
        self, image: Tensor, text: Tensor, keep: Tensor | None, begun: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, I, D) and (B, L, D) -> the same; `begun` is what `begin` made of the image."""
        moved = self.self_attn(begun or self.begin(image), self.self_attn_layer_norm.B(text), keep)
        image, text = self._moved((image, text), moved)
        return self._moved((image, text), self.ffn(*self.final_layer_norm(image, text)))

    def _moved(self, pair: tuple[Tensor, Tensor], by: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.training and self.drop:  # of both experts alike: to torchscale they are one sequence
            kept = torch.rand(len(by[0]), 1, 1, device=by[0].device) >= self.drop
            by = (by[0] * kept / (1 - self.drop), by[1] * kept / (1 - self.drop))
        return pair[0] + by[0], pair[1] + by[1]


class OneRef(nn.Module):
    """Compute boxes, and masks where there is a mask head, from images and texts; each pair has its own pass."""

    def __init__(self, config: OneRefConfig) -> None:
        super().__init__()
        self.config = c = config
        self.side, d = c.image_size // c.patch, c.width
        positions: Any = nn.Module()
        positions.A = nn.Embedding(UNUSED + 1 + self.side**2, d)
        positions.B = nn.Embedding(c.positions, d)
        image: Any = nn.Module()
        image.cls_token = nn.Parameter(torch.zeros(1, 1, d))
        image.proj = nn.Conv2d(3, d, c.patch, c.patch)
        encoder: Any = nn.Module()
        encoder.embed_positions = positions
        encoder.layers = nn.ModuleList(Layer(d, c.heads) for _ in range(c.layers))
        encoder.layer_norm = Experts(lambda: nn.LayerNorm(d))
        self.beit3: Any = nn.Module()
        self.beit3.text_embed, self.beit3.vision_embed, self.beit3.encoder = nn.Embedding(c.words, d), image, encoder
        self.language_head, self.vision_head = (nn.Linear(d, d, bias=False) for _ in range(2))
        self.visu_proj, self.bbox_embed = nn.Linear(d, d), MLP(d, d, 4, 3)
        if c.masks:
            self.seg_conv1, self.seg_conv2, self.seg_conv3 = (
                nn.ConvTranspose2d(d, d, 2, 2, bias=False) for _ in range(3)
            )
            self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(d) for _ in range(3))
        if c.codes:
            image.mask_token = nn.Parameter(torch.zeros(1, 1, d))
            self.mim_head, self.mlm_head = nn.Linear(d, c.codes), nn.Linear(d, c.words)
            self.mim_vts_head, self.mlm_sts_head = MLP(d, d, 4, 3), MLP(d, d, 1, 3)

    def forward(self, pixels: Tensor, ids: Tensor, padding: Tensor) -> Answers:
        """Ground one text in one image a row: pixels (B, 3, S, S), ids (B, L), padding (B, L) True on pads."""
        # 1. One encoder over both.
        image, text = self.encode(self.embed_image(pixels), ids, padding)
        # 2. What of the image is like the text.
        return self.answer(image, text[:, 0])

    def embed_image(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Embed images, (B, 3, S, S) -> (B, 1 + P, D), the class token first: all that no text takes part in.

        Patches that are `hidden` (B, P) become the mask token.
        """
        parts = self.beit3.vision_embed
        patches = parts.proj(pixels.to(parts.proj.weight.dtype)).flatten(2).transpose(1, 2)
        if hidden is not None:
            patches = torch.where(hidden[..., None], parts.mask_token.to(patches.dtype), patches)
        tokens = torch.cat([parts.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        out: Tensor = tokens + self.beit3.encoder.embed_positions.A.weight[UNUSED : UNUSED + tokens.shape[1]]
        return out

    def begin(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute all that no text takes part in, of embedded images (B, 1 + P, D): the first layer's projections."""
        out: tuple[Tensor, ...] = self.beit3.encoder.layers[0].begin(image)
        return out

    def encode(
        self, image: Tensor, ids: Tensor, padding: Tensor, begun: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode embedded images (B, 1 + P, D) with token ids (B, L) -> the tokens of both, normed.

        `begun` is what `begin` made of the images.
        """
        encoder = self.beit3.encoder
        text = self.beit3.text_embed(ids) + encoder.embed_positions.B.weight[UNUSED : UNUSED + ids.shape[1]]
        text = text.masked_fill(padding[..., None], 0)
        keep = torch.cat([padding.new_ones(len(padding), image.shape[1]), ~padding], dim=1)[:, None, None]
        for layer in encoder.layers:
            image, text = layer(image, text, keep, begun)
            begun = None
        both: tuple[Tensor, Tensor] = encoder.layer_norm(image, text)
        return both

    def answer(self, image: Tensor, first: Tensor) -> Answers:
        """Ground encoded images (B, 1 + P, D) by the texts' first tokens (B, D)."""
        patches = image[:, 1:]
        words = self.words(first)
        boxes = self.box(self.similarity(patches, words), patches)
        return Answers(boxes, self.mask(patches, words) if self.config.masks else None)

    def words(self, first: Tensor) -> Tensor:
        """Project the texts' first tokens (B, D) -> unit vectors (B, D)."""
        return F.normalize(self.language_head(first), dim=-1)

    def similarity(self, patches: Tensor, words: Tensor) -> Tensor:
        """Compare patches with texts, (B, P, D) and unit vectors (B, D) -> cosines (B, P)."""
        return (F.normalize(self.vision_head(patches), dim=-1) @ words[..., None])[..., 0]

    def box(self, cosines: Tensor, patches: Tensor) -> Tensor:
        """Predict boxes from cosines (B, P) and patches (B, P, D) -> (B, 4) cxcywh in 0..1 of the canvas."""
        feature = (cosines.softmax(dim=-1)[:, None] @ self.visu_proj(patches))[:, 0]
        with torch.autocast(feature.device.type, enabled=False):
            boxes: Tensor = self.bbox_embed(feature.to(next(self.bbox_embed.parameters()).dtype)).sigmoid()
        return boxes

    def mask(self, patches: Tensor, words: Tensor) -> Tensor:
        """Compare enlarged patches with texts, (B, P, D) and unit vectors (B, D) -> cosines (B, 8 S, 8 S)."""
        grid = patches.transpose(1, 2).unflatten(-1, (self.side, self.side))
        grid = self.bn1(self.seg_conv1(grid)).relu()
        grid = self.bn2(self.seg_conv2(grid)).relu()
        grid = self.bn3(self.seg_conv3(grid))  # no ReLU: cosines may be negative
        return torch.einsum("bdhw,bd->bhw", F.normalize(grid, dim=1), words)

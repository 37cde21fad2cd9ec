"""MDETR: modulated detection for end-to-end multi-modal understanding (Kamath et al., ICCV 2021).

    image ─► backbone ─► 1x1 conv ─► P tokens ─┐
    text ─► RoBERTa ─► resizer ─► T tokens ────┴─► joint encoder ─► memory ─► decoder, N queries ─► boxes, token slots

The parameter names are the official checkpoints'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.backbones import Backbone
from pipelines.layers import MLP, sine_position
from pipelines.mdetr.config import MdetrConfig
from pipelines.mdetr.transformer import Transformer

ImageTokens = tuple[Tensor, Tensor, Tensor]
"""Image tokens (B, P, d), their positions (B, P, d), and True on padding (B, P)."""
ALIGNMENT = tuple(f"contrastive_align_projection_{kind}" for kind in ("image", "text"))
HEADS = ("class_embed", "bbox_embed", *ALIGNMENT)  # kept in float32


@dataclass(frozen=True, slots=True)
class Output:
    """Logits (L, B, N, tokens + 1) and boxes (L, B, N, 4), cxcywh in 0..1.

    Logits are over token slots, the last one no object. L is the number of decoder layers in training, else 1.
    `queries` (L, B, N, c) and `text` (B, T, c) are the unit vectors of the contrastive alignment, `memory`
    (B, P + T, d) the encoder's output.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor
    text: Tensor
    memory: Tensor


class Mdetr(nn.Module):
    """Compute boxes and token scores of object queries from images and texts."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        self.config = config
        d = config.hidden
        self.backbone = nn.ModuleList(
            [Backbone(config.backbone, config.widths)]
        )  # the official list's second entry has no weights
        self.input_proj = nn.Conv2d(self.backbone[0].channels, d, kernel_size=1)  # type: ignore[arg-type]
        self.transformer = Transformer(config)
        self.query_embed = nn.Embedding(config.queries, d)
        self.class_embed = nn.Linear(d, config.tokens + 1)
        self.bbox_embed = MLP(d, d, 4, 3)
        self.contrastive_align_projection_image = nn.Linear(d, config.contrastive)
        self.contrastive_align_projection_text = nn.Linear(d, config.contrastive)

    def forward(self, pixels: Tensor, tokens: Tensor, text_padding: Tensor, padding: Tensor | None = None) -> Output:
        """Ground one text in one image a row, nothing shared."""
        return self.fuse(self.encode_image(pixels, padding), self.encode_text(tokens, text_padding), text_padding)

    def encode_image(self, pixels: Tensor, padding: Tensor | None = None) -> ImageTokens:
        """Encode normalised images (B, 3, H, W), True on padding (B, H, W) or None."""
        features = self.input_proj(self.backbone[0](pixels))  # (B, d, h, w)
        if padding is None:  # all have the same positions
            small = torch.zeros(1, *features.shape[-2:], dtype=torch.bool, device=features.device)
        else:
            small = F.interpolate(padding[None].float(), size=features.shape[-2:])[0].bool()
        position = sine_position(small, self.config.hidden).to(features.dtype)
        count = len(features)
        place, ignored = position.flatten(1, 2).expand(count, -1, -1), small.flatten(1).expand(count, -1)
        return features.flatten(2).transpose(1, 2), place, ignored

    def encode_text(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Encode token ids (B, T), True on padding (B, T) -> (B, T, d)."""
        return self.transformer.encode_text(tokens, padding)

    def fuse(self, image: ImageTokens, text_tokens: Tensor, text_padding: Tensor) -> Output:
        """Fuse as many images as texts, (B, T, d) and True on padding (B, T)."""
        image_tokens, position, image_padding = image
        # 1. Joint encoder and decoder.
        hidden, memory = self.fuse_tokens(
            torch.cat([image_tokens, text_tokens], dim=1),
            torch.cat([position, torch.zeros_like(text_tokens)], dim=1),
            torch.cat([image_padding, text_padding], dim=1),
        )
        # 2. Unit vectors of the contrastive alignment.
        queries = F.normalize(self.contrastive_align_projection_image(hidden), dim=-1)
        # As in the official code, the text tokens that are aligned are the encoder's output, not its input.
        fused_text = memory[:, image_tokens.shape[1] :].to(hidden.dtype)
        text = F.normalize(self.contrastive_align_projection_text(fused_text), dim=-1)
        return Output(*self.predict(hidden), queries, text, memory)

    def fuse_tokens(self, tokens: Tensor, position: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Fuse joint sequences of image and text tokens (B, L, d), True on padding (B, L).

        `position` (B, L, d) is 0 for text. Returns object queries (layers, B, N, d), in the heads' precision, and the
        encoder's output (B, L, d).
        """
        hidden, memory = self.transformer(tokens, position, padding, self.query_embed.weight)
        return hidden.to(self.class_embed.weight.dtype), memory

    def predict(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Predict logits (..., tokens + 1) and boxes (..., 4) of object queries (..., d)."""
        return self.class_embed(hidden), self.bbox_embed(hidden).sigmoid()


def query_scores(logits: Tensor, slots: Tensor | None) -> Tensor:
    """Score the queries: (K, N, S + 1) logits over S token slots and no object -> (K, N) in 0..1.

    MDETR says of every query how its object is spread over the tokens of the text, with one more place for "no object".
    A referring expression means the one object that the whole text is about: the query that is least likely none. A
    phrase of a caption means the object of some of its tokens: the query that is likeliest one of them.

    `slots` are `token_slots`, None where every text stands alone. The score of a phrase is its most probable token's,
    as in the official evaluation; a phrase that has no token scores 0 everywhere.
    """
    chance = logits.float().softmax(dim=-1)
    alone = 1 - chance[..., -1]
    if slots is None:
        return alone
    return torch.where(slots[:, None, -1], alone, (chance * slots[:, None]).amax(dim=-1))


def token_slots(masks: Sequence[Tensor | None], width: int) -> Tensor | None:
    """Lay masks of phrases out over the `width` places of the logits -> (K, width) True on their tokens.

    A mask is (T,) True on the tokens of a phrase, or None for a text that stands alone, whose last place is True: no
    object, which is no token's. Tokens beyond the slots have none. None where every text stands alone.
    """
    if all(mask is None for mask in masks):
        return None
    slots = torch.zeros(len(masks), width, dtype=torch.bool)
    for row, mask in zip(slots, masks, strict=True):
        if mask is None:
            row[-1] = True
        else:
            row[: len(mask[: width - 1])] = mask[: width - 1]
    return slots

"""TransVG (Deng et al., ICCV 2021): one transformer over [REG], text and image tokens; [REG] gives the box.

                 [REG] | text | image                (B, 1 + 20 + 400, 256)
                 V-L transformer, vl_pos_embed       (B, 421, 256)
                 [REG] -> box head -> sigmoid        (B, 4)  cxcywh in 0..1 of the canvas

Positions are added to queries and keys in every layer, never to values. Sizes are those of the published models with
texts of 20 tokens (section 3 of the paper).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pipelines.backbones import count_modules
from pipelines.layers import Encoder, xavier
from pipelines.transvg.branches import Branches, BranchesConfig

FUSION = "vl_transformer.encoder.layers."


class TransVGConfig(BranchesConfig):
    """Sizes of the network; the defaults are the published models' on ResNet-50."""

    layers: int = Field(6, ge=1, description="of the V-L transformer")


class TransVG(Branches):
    """Compute boxes from images and texts."""

    Config = TransVGConfig
    title, format, registers = "TransVG", "bench-transvg", 1
    how = (
        "the authors' checkpoints are linked in the README of github.com/djiajunustc/TransVG; "
        "`bench train --pipeline transvg` makes one"
    )

    def __init__(self, config: TransVGConfig) -> None:
        super().__init__(config)
        d = config.hidden
        self.reg_token = nn.Embedding(1, d)
        encoder = Encoder(config.layers, d, config.heads, config.feedforward, config.dropout)
        self.vl_transformer: Any = nn.ModuleDict({"encoder": encoder})
        xavier(self.vl_transformer)

    @classmethod
    def own_sizes(cls, state: Mapping[str, Tensor], args: Namespace) -> dict[str, Any]:
        """Count the layers of the V-L transformer; they have the sizes of DETR's encoder. Raises KeyError."""
        return {"layers": count_modules(state, FUSION)}

    def boxes(self, image: Tensor, masked: Tensor, text: Tensor, padding: Tensor) -> Tensor:
        """Compute boxes (B, 4) cxcywh in 0..1 of the canvas from the token [REG]."""
        return self.box(self.fuse(image, masked, text, padding, only_first=True)[:, 0])

    def fuse(self, image: Tensor, masked: Tensor, text: Tensor, padding: Tensor, only_first: bool = False) -> Tensor:
        """Fuse image tokens (B, P, d) and text tokens (B, L, d) -> [REG] | text | image, (B, 1 + L + P, d).

        `masked` (B, P) and `padding` (B, L) are True where a token is ignored.
        """
        keep = torch.zeros(len(image), 1, dtype=torch.bool, device=image.device)
        ignored = torch.cat([keep, padding, masked], dim=1)
        slots = torch.cat([self.word_slots(text.shape[1]), self.image_slots()])
        tokens = torch.cat([text, image], dim=1)
        return self.fuse_tokens(tokens, slots.expand(len(tokens), -1), ignored, only_first)

    def fuse_tokens(self, tokens: Tensor, slots: Tensor, ignored: Tensor | None, only_first: bool = False) -> Tensor:
        """Fuse any text and image tokens (B, L, d), with [REG] first: (B, 1 + L, d).

        Each token brings its slot in vl_pos_embed, (B, 1 + L) with [REG]'s first; `ignored` (B, 1 + L).
        """
        out: Tensor = self.vl_transformer.encoder(*self._sequence(tokens, slots), ignored, only_first)
        return out

    def box_and_attention(self, tokens: Tensor, slots: Tensor, ignored: Tensor | None) -> Tensor:
        """Compute boxes (B, 4) and, beside them, how the last layer's [REG] attends to the canvas: (B, 4 + P).

        As `fuse_tokens`. The attention is the mean of the heads; a cell whose token was left out gets 0, and what went
        to the text is in no cell.
        """
        sequence = self._sequence(tokens, slots)
        first, weights = self.vl_transformer.encoder.first_with_attention(*sequence, ignored)
        table = weights.new_zeros(len(weights), self.vl_pos_embed.num_embeddings).scatter_add(1, slots, weights)
        cells = table[:, self.registers + self.config.tokens :]
        return torch.cat([self.box(first[:, 0]), cells.float()], dim=1)

    def _sequence(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        register = self.reg_token.weight.expand(len(tokens), 1, -1)
        return torch.cat([register, tokens], dim=1), self.vl_pos_embed(slots)

    def word_slots(self, length: int) -> Tensor:
        """List the slots of [REG] and of the first `length` text tokens, (1 + length,)."""
        return torch.arange(self.registers + length, device=self.reg_token.weight.device)

    def image_slots(self) -> Tensor:
        """List the slots of the cells, (P,)."""
        first = self.registers + self.config.tokens
        return torch.arange(first, first + self.side**2, device=self.reg_token.weight.device)

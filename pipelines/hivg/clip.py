"""CLIP's two towers under the names of the transformers library, with HiVG's bridge from the text into the image tower.

    x = x + self_attn(layer_norm1(x))
    x = x + cross_mlp(cross_attn(cross_norm(x), T))        in bridged blocks: T is what the block takes of the text
    x = x + mlp(layer_norm2(x))

The residual of the bridge goes around its attention and its feed-forward network together. T has all positions of the
text, those behind its end too, and none is masked: official weights have learned from them (section 3.2 of the paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Attend to `memory`, or to the tokens themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor | None = None, causal: bool = False) -> Tensor:
        """(B, L, d) and (B, M, d) -> (B, L, d)."""
        source = x if memory is None else memory
        parts = (self.q_proj(x), self.k_proj(source), self.v_proj(source))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        out: Tensor = self.out_proj(
            F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
        )
        return out


class FeedForward(nn.Module):
    """Apply two linear layers with QuickGELU between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        inner = self.fc1(x)
        out: Tensor = self.fc2(inner * torch.sigmoid(1.702 * inner))
        return out


class Block(nn.Module):
    """One pre-norm block of a tower."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return self.finish(self.attend(x, causal))

    def attend(self, x: Tensor, causal: bool = False) -> Tensor:
        """Compute the half that is the block's own attention."""
        out: Tensor = x + self.self_attn(self.layer_norm1(x), causal=causal)
        return out

    def finish(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Compute the other half."""
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class BridgedBlock(Block):
    """A block of the image tower that takes in the text.

    With `states` > 0 the block mixes so many of the text tower's states itself, each with learned weights (L, w).
    """

    def __init__(self, width: int, heads: int, states: int, context: int, text: int) -> None:
        super().__init__(width, heads)
        self.cross_norm, self.cross_attn = nn.LayerNorm(width), Attention(width, heads)
        self.cross_mlp = FeedForward(width, 4 * width)
        if states:
            self.cross_gate = nn.Linear(states * text, width)
            self.cross_adaptive_weights = nn.ModuleList(nn.Embedding(context, text) for _ in range(states))

    def memory(self, states: Sequence[Tensor]) -> Tensor:
        """Mix states of the text tower, (B, 77, w) each -> what the block takes of the text, (B, 77, d)."""
        tables: list[Any] = [table.weight for table in self.cross_adaptive_weights]
        scaled = [state * table + state for state, table in zip(states, tables, strict=True)]
        out: Tensor = self.cross_gate(torch.cat(scaled, dim=-1))
        return out

    def finish(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Take in the text, (B, 77, d), then compute the feed-forward network."""
        return super().finish(x + self.cross_mlp(self.cross_attn(self.cross_norm(x), memory)))


class Parts(nn.Module):
    """Parameters and modules under the names that checkpoints have."""

    def __init__(self, **parts: nn.Parameter | nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)


class TextTower(nn.Module):
    """CLIP's text tower: a word attends to none after it, and padding is computed as words are."""

    def __init__(self, width: int, heads: int, depth: int, words: int, context: int) -> None:
        super().__init__()
        self.embeddings: Any = Parts(
            token_embedding=nn.Embedding(words, width), position_embedding=nn.Embedding(context, width)
        )
        self.encoder: Any = Parts(layers=nn.ModuleList(Block(width, heads) for _ in range(depth)))
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode token ids (B, 77) -> the embeddings and every block's output, (B, 77, w) each; the normed last."""
        states = [self.embeddings.token_embedding(ids) + self.embeddings.position_embedding.weight]
        for block in self.encoder.layers:
            states.append(block(states[-1], causal=True))
        return states, self.final_layer_norm(states[-1])


class ImageTower(nn.Module):
    """CLIP's image tower, some of whose blocks are bridged. `taps` are the blocks whose output is used, from 0."""

    def __init__(
        self, image_size: int, patch: int, width: int, heads: int, blocks: Sequence[Block], taps: Sequence[int]
    ) -> None:
        super().__init__()
        self.taps = taps
        self.bridges = [n for n, block in enumerate(blocks) if isinstance(block, BridgedBlock)]
        self.shared = min(self.bridges, default=len(blocks))  # blocks that no text takes part in
        self.embeddings: Any = Parts(
            class_embedding=nn.Parameter(torch.randn(width) * 0.02),
            patch_embedding=nn.Conv2d(3, width, patch, patch, bias=False),
            position_embedding=nn.Embedding(1 + (image_size // patch) ** 2, width),
        )
        self.pre_layrnorm, self.post_layernorm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.encoder: Any = Parts(layers=nn.ModuleList(blocks))

    def begin(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Compute what no text takes part in, (B, 3, S, S) -> tokens (B, 1 + P, d), and those tapped so far.

        The tokens are those behind the attention of the first bridged block.
        """
        parts = self.embeddings
        patches = parts.patch_embedding(pixels.to(parts.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([parts.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        x = self.pre_layrnorm(x + parts.position_embedding.weight)
        tapped = []
        for number, block in enumerate(self.encoder.layers[: self.shared]):
            x = block(x)
            tapped += [x] if number in self.taps else []
        if self.bridges:
            x = self.encoder.layers[self.shared].attend(x)
        return (x, *tapped)

    def finish(self, begun: Sequence[Tensor], memories: Sequence[Tensor]) -> list[Tensor]:
        """Compute the rest -> the outputs of the tapped blocks and of the last one, (B, 1 + P, d) each.

        `memories` (B, 77, d) are what the bridged blocks take of the text.
        """
        x, *tapped = begun
        taken = iter(memories)
        for number, block in enumerate(self.encoder.layers[self.shared :], start=self.shared):
            x = x if number == self.shared else block.attend(x)
            x = block.finish(x, next(taken) if number in self.bridges else None)
            tapped += [x] if number in self.taps else []
        return [*tapped, x]


class BridgedClip(nn.Module):
    """Both towers and CLIP's projections."""

    def __init__(self, text: TextTower, image: ImageTower, text_width: int, image_width: int, embed: int) -> None:
        super().__init__()
        self.text_model, self.vision_model = text, image
        self.text_projection = nn.Linear(text_width, embed, bias=False)
        self.visual_projection = nn.Linear(image_width, embed, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(4.6052))  # 100, which training keeps

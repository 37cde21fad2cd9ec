"""MDETR's transformer: image and text tokens in one post-norm encoder, DETR's decoder over its output.

Batch first, (B, L, d) everywhere. A `padding` mask is True where a token is padding. Module names are the official
checkpoints'. (Kamath et al. 2021, section 3.1; Carion et al. 2020, appendix A.)
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from pipelines.layers import Encoder, attend, xavier
from pipelines.mdetr.config import MdetrConfig


class DecoderLayer(nn.Module):
    """Attend from queries to each other, then to the memory (no norm2, as in the official code)."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        d = config.hidden
        self.self_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.cross_attn_image = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, config.feedforward), nn.Linear(config.feedforward, d)
        self.norm1, self.norm3, self.norm4 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """(B, N, d) queries and their embedding, (B, L, d) memory and its positions -> (B, N, d)."""
        placed = x + query
        x = self.norm1(x + self.dropout(attend(self.self_attn, placed, placed, x, None)))
        attended = attend(self.cross_attn_image, x + query, memory + position, memory, padding)
        x = self.norm3(x + self.dropout(attended))
        inner = self.linear2(self.dropout(F.relu(self.linear1(x))))
        out: Tensor = self.norm4(x + self.dropout(inner))
        return out


class Decoder(nn.Module):
    """Apply the decoder layers, each layer's output through the one final norm."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """-> (layers, B, N, d); outside training only the last layer's, (1, B, N, d)."""
        outputs = []
        for layer in self.layers:
            x = layer(x, query, memory, position, padding)
            outputs.append(x)
        return torch.stack([self.norm(x) for x in (outputs if self.training else outputs[-1:])])


class Transformer(nn.Module):
    """Encode texts, fuse them with image tokens, and decode object queries."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        sizes = (config.hidden, config.heads, config.feedforward, config.dropout)
        self.encoder, self.decoder = Encoder(config.encoder_layers, *sizes), Decoder(config)
        self.text_encoder = RobertaModel(RobertaConfig(**config.text_encoder))  # random; a checkpoint brings its own
        # Text features to the transformer's width.
        norm = nn.LayerNorm(config.hidden, eps=1e-12)
        fc = nn.Linear(self.text_encoder.config.hidden_size, config.hidden)
        self.resizer = nn.Sequential(OrderedDict(fc=fc, layer_norm=norm, dropout=nn.Dropout(config.dropout)))
        xavier(self.encoder)
        xavier(self.decoder)

    def encode_text(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Encode token ids (B, T), True on padding (B, T) -> (B, T, d)."""
        # (B, 1, T, T) is taken as it is; of (B, T) transformers asks whether it is all ones, and waits for a GPU.
        mask = (~padding)[:, None, None].expand(-1, -1, padding.shape[1], -1)
        hidden = self.text_encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        out: Tensor = self.resizer(hidden)
        return out

    def forward(self, x: Tensor, position: Tensor, padding: Tensor | None, query: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse joint sequences of image and text tokens (B, L, d), in any order, with N queries (N, d).

        `position` (B, L, d) is 0 for text tokens, which have RoBERTa's own. Returns the decoder's output
        (layers, B, N, d) and the encoder's (B, L, d).
        """
        memory = self.encoder(x, position, padding)
        query = query.expand(len(x), -1, -1)
        return self.decoder(torch.zeros_like(query), query, memory, position, padding), memory

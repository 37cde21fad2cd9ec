"""MDETR's transformer: picture and text tokens in one post-norm encoder, DETR's decoder over the joint memory.

Batch first, (B, L, d) everywhere. A `padding` mask is True where a token is padding. Module names are the official
checkpoints'. (Kamath et al. 2021, section 3.1; Carion et al. 2020, appendix A.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaModel

from pipelines.mdetr.config import MdetrConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


class EncoderLayer(nn.Module):
    """Self-attention over picture and text together; positions are added to queries and keys, never to values."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        d = config.hidden
        self.self_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, config.feedforward), nn.Linear(config.feedforward, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """(B, L, d), (B, L, d), (B, L) -> (B, L, d)."""
        placed = x + position
        x = self.norm1(x + self.dropout(attend(self.self_attn, placed, placed, x, padding)))
        inner = self.linear2(self.dropout(F.relu(self.linear1(x))))
        out: Tensor = self.norm2(x + self.dropout(inner))
        return out


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the joint memory. (No norm2: the official text attention was taken out.)"""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        d = config.hidden
        self.self_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.cross_attn_image = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, config.feedforward), nn.Linear(config.feedforward, d)
        self.norm1, self.norm3, self.norm4 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """(B, N, d) queries and their embedding, (B, L, d) memory and its positions -> (B, N, d)."""
        placed = x + query
        x = self.norm1(x + self.dropout(attend(self.self_attn, placed, placed, x, None)))
        seen = attend(self.cross_attn_image, x + query, memory + position, memory, padding)
        x = self.norm3(x + self.dropout(seen))
        inner = self.linear2(self.dropout(F.relu(self.linear1(x))))
        out: Tensor = self.norm4(x + self.dropout(inner))
        return out


def attend(attention: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None) -> Tensor:
    """One attention without its weights, which lets torch take the fused kernel."""
    out: Tensor = attention(q, k, v, key_padding_mask=padding, need_weights=False)[0]
    return out


class Encoder(nn.Module):
    """`encoder_layers` layers; post-norm, so there is no final norm."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, x: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, position, padding)
        return x


class Decoder(nn.Module):
    """`decoder_layers` layers, each layer's output through the one final norm (the auxiliary losses read them all)."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.hidden)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, position: Tensor, padding: Tensor) -> Tensor:
        """-> (layers, B, N, d); outside training only the last layer's, (1, B, N, d)."""
        outputs = []
        for layer in self.layers:
            x = layer(x, query, memory, position, padding)
            outputs.append(x)
        return torch.stack([self.norm(x) for x in (outputs if self.training else outputs[-1:])])


class FeatureResizer(nn.Module):
    """Text features to the transformer's width: Linear, LayerNorm (eps 1e-12), dropout."""

    def __init__(self, width: int, config: MdetrConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(width, config.hidden)
        self.layer_norm = nn.LayerNorm(config.hidden, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.layer_norm(self.fc(x)))
        return out


class Transformer(nn.Module):
    """Text encoder, joint encoder, decoder."""

    def __init__(self, config: MdetrConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.text_encoder = text_encoder(config.text_encoder)
        self.resizer = FeatureResizer(self.text_encoder.config.hidden_size, config)
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def read(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """(B, T) token ids, (B, T) True on padding -> (B, T, d)."""
        hidden = self.text_encoder(input_ids=tokens, attention_mask=(~padding).long()).last_hidden_state
        out: Tensor = self.resizer(hidden)
        return out

    def forward(
        self, image: Tensor, position: Tensor, image_padding: Tensor, text: Tensor, text_padding: Tensor, query: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, P, d) picture tokens, their positions and padding, (B, T, d) text, (N, d) queries.

        -> the decoder's (layers, B, N, d), and the joint memory (B, P + T, d).

        Text tokens have no position here: RoBERTa has given them theirs.
        """
        x = torch.cat([image, text], dim=1)  # (B, P + T, d)
        position = torch.cat([position, torch.zeros_like(text)], dim=1)
        padding = torch.cat([image_padding, text_padding], dim=1)
        memory = self.encoder(x, position, padding)
        query = query.expand(len(x), -1, -1)
        return self.decoder(torch.zeros_like(query), query, memory, position, padding), memory


def text_encoder(sizes: Mapping[str, Any]) -> RobertaModel:
    """A RoBERTa of these sizes with random weights: nothing is fetched, a checkpoint brings its own."""
    return RobertaModel(RobertaConfig(**sizes))

"""Sizes of an MDETR's network, of the published models by default."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bench.settings import Table


class MdetrConfig(Table):
    """Sizes of the network (Kamath et al. 2021, section 3.1). The defaults are the published models'.

    `backbone` is "resnet101" (torchvision), a name of timm ("tf_efficientnet_b3"), or "small" with its `widths`.
    `text_encoder` holds keyword arguments of transformers' RobertaConfig; the defaults are roberta-base's.
    """

    backbone: str = "resnet101"
    widths: tuple[int, ...] = Field((), description='channels at strides 2, 4, 8, ... of the backbone "small"')
    hidden: int = 256
    heads: int = 8
    feedforward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 100
    tokens: int = Field(255, description="token slots of the soft token prediction; one more means no object")
    contrastive: int = 64
    dropout: float = 0.1
    text_encoder: dict[str, Any] = Field(default_factory=lambda: dict(ROBERTA_BASE))


ROBERTA_BASE: dict[str, Any] = {
    "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip

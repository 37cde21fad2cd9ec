"""Sizes of an MDETR: from its weights file, or from the shapes of an official checkpoint, which has no safe record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from bench.errors import WeightsError
from bench.settings import Table

BODY = "backbone.0.body."
TEXT = "transformer.text_encoder."
HEAD_WIDTH = 64  # of every RoBERTa
# Blocks in each stage, and whether a block is a bottleneck of three convolutions.
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}
# Channels and blocks of the last stage.
LAST = ((320, 1), (320, 2), (352, 2), (384, 2), (448, 2), (512, 3), (576, 3), (640, 4))
EFFICIENTNETS = {last: f"tf_efficientnet_b{number}" for number, last in enumerate(LAST)}


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
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}


def config_of(state: Mapping[str, Tensor], heads: int, path: Path) -> MdetrConfig:
    """The sizes of a state dict under the official key names. Raises WeightsError, naming `path`, when it is none.

    The number of attention heads leaves no trace in the shapes: `heads` is the transformer's, and the text encoder's
    heads are 64 channels wide, as in every published RoBERTa.
    """
    try:
        queries, hidden = state["query_embed.weight"].shape
        words, width = state[f"{TEXT}embeddings.word_embeddings.weight"].shape
        text = ROBERTA_BASE | {
            "vocab_size": words,
            "hidden_size": width,
            "num_hidden_layers": _count(state, f"{TEXT}encoder.layer."),
            "num_attention_heads": max(1, width // HEAD_WIDTH),
            "intermediate_size": len(state[f"{TEXT}encoder.layer.0.intermediate.dense.weight"]),
            "max_position_embeddings": len(state[f"{TEXT}embeddings.position_embeddings.weight"]),
            "type_vocab_size": len(state[f"{TEXT}embeddings.token_type_embeddings.weight"]),
        }
        return MdetrConfig(
            backbone=_backbone(state),
            widths=_small_widths(state),
            hidden=hidden,
            heads=heads,
            feedforward=len(state["transformer.encoder.layers.0.linear1.weight"]),
            encoder_layers=_count(state, "transformer.encoder.layers."),
            decoder_layers=_count(state, "transformer.decoder.layers."),
            queries=queries,
            tokens=len(state["class_embed.weight"]) - 1,
            contrastive=len(state["contrastive_align_projection_image.weight"]),
            text_encoder=text,
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not the weights of an MDETR, or only a part of them ({error})") from None


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbers follow `prefix` in the keys."""
    return len({key[len(prefix) :].partition(".")[0] for key in state if key.startswith(prefix)})


def _backbone(state: Mapping[str, Tensor]) -> str:
    """The backbone's name, from the names and shapes under it. Raises ValueError."""
    if f"{BODY}conv_stem.weight" in state:
        return _efficientnet(state)
    if _small_widths(state):
        return "small"
    blocks = tuple(_count(state, f"{BODY}layer{stage}.") for stage in (1, 2, 3, 4))
    found = RESNETS.get((blocks, f"{BODY}layer1.0.conv3.weight" in state))
    if found is None:
        raise ValueError(f"no known backbone under {BODY}: a ResNet of {blocks} blocks is none")
    return found


def _efficientnet(state: Mapping[str, Tensor]) -> str:
    """B0 to B7, told apart by the channels and the blocks of the last stage."""
    last = (state["input_proj.weight"].shape[1], _count(state, f"{BODY}blocks.6."))
    if last not in EFFICIENTNETS:
        raise ValueError(
            f"no known backbone under {BODY}: no EfficientNet ends in {last[1]} blocks of {last[0]} channels"
        )
    return EFFICIENTNETS[last]


def _small_widths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels of each stage of the small backbone; none for another one."""
    firsts = (f"{BODY}stages.0.0.weight", *(f"{BODY}stages.{i}.0.0.weight" for i in range(1, 8)))
    return tuple(len(state[key]) for key in firsts if key in state)

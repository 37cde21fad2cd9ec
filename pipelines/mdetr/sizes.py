"""How large an MDETR is, read off the shapes of its state dict: official checkpoints do not say it in a safe way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bench.errors import WeightsError
from pipelines.mdetr.config import ROBERTA_BASE, MdetrConfig

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
EFFICIENTNETS = {
    (320, 1): "b0",
    (320, 2): "b1",
    (352, 2): "b2",
    (384, 2): "b3",
    (448, 2): "b4",
    (512, 3): "b5",
    (576, 3): "b6",
    (640, 4): "b7",
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
    return f"tf_efficientnet_{EFFICIENTNETS[last]}"


def _small_widths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels of each stage of the small backbone; none for another one."""
    firsts = (f"{BODY}stages.0.0.weight", *(f"{BODY}stages.{i}.0.0.weight" for i in range(1, 8)))
    return tuple(len(state[key]) for key in firsts if key in state)
